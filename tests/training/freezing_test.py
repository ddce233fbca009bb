"""Weights that are zero, and what an optimiser may do to them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes import training

# With moments: what was taken out must not drift on.
MOMENTUM = optax.sgd(0.1, momentum=0.9)


def chain(*, active=True):
  return optax.chain(MOMENTUM, training.keep_zeros(active=active))


def make_params():
  weights = jax.random.normal(jax.random.key(0), (5, 4))
  return {
    "weights": jnp.where(weights > 0, weights, 0),
    "bias": jnp.array([0.0, -2.0]),
  }


def train(optimizer, params, *, num_steps=3, state=None):
  """Returns the parameters after steps with gradients without a zero."""
  state = optimizer.init(params) if state is None else state
  for _ in range(num_steps):
    gradients = jax.tree.map(lambda p: jnp.cos(p + 0.1), params)
    updates, state = optimizer.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def test_zeros_stay_zero_and_all_others_move():
  before = make_params()
  after, _ = train(chain(), before)
  for name, start in before.items():
    np.testing.assert_array_equal(after[name] == 0, start == 0)
    assert (after[name] != start)[start != 0].all()


def test_all_others_move_as_without_it():
  before = make_params()
  frozen, _ = train(chain(), before)
  free, _ = train(MOMENTUM, before)
  for name, start in before.items():
    expected = jnp.where(start == 0, 0, free[name])
    np.testing.assert_array_equal(frozen[name], expected)


def test_not_active_it_changes_nothing():
  before = make_params()
  chex.assert_trees_all_equal(
    train(chain(active=False), before)[0], train(MOMENTUM, before)[0]
  )


def test_negative_zero_is_zero():
  params = jnp.array([-0.0, 1e-30])
  updates, _ = training.keep_zeros().update(
    jnp.ones(2), optax.EmptyState(), params
  )
  np.testing.assert_array_equal(updates, [0, 1])


@given(
  st.tuples(*[st.sampled_from([-1.0, -0.0, 0.0, 1e-30, 2.0])] * 4),
  st.sampled_from([0.0, 1.0, -3.0, float("nan"), float("inf")]),
)
def test_any_update_of_a_zero_is_dropped(values, update):
  params = jnp.array(values, jnp.float32)
  updates, state = training.keep_zeros().update(
    jnp.full_like(params, update), optax.EmptyState(), params
  )
  expected = [0.0 if value == 0 else update for value in values]
  np.testing.assert_array_equal(updates, np.array(expected, np.float32))
  assert state == optax.EmptyState()


def test_types_and_shapes_stay():
  params = {
    "half": jnp.zeros((2, 3), jnp.bfloat16),
    "number": jnp.float32(1.0),
    "none": jnp.zeros((0, 4)),
  }
  updates = jax.tree.map(jnp.ones_like, params)
  kept, _ = training.keep_zeros().update(updates, optax.EmptyState(), params)
  chex.assert_trees_all_equal_shapes_and_dtypes(kept, params)
  assert float(kept["number"]) == 1.0
  assert not kept["half"].any()


def test_training_goes_on_with_the_state_of_the_other():
  before = make_params()
  free, frozen = chain(active=False), chain()
  chex.assert_trees_all_equal_structs(free.init(before), frozen.init(before))
  moved, state = train(free, before)
  # As after pruning: some of what has moved is taken out.
  pruned = jax.tree.map(lambda p: jnp.where(p > 0.5, p, 0), moved)
  after, state = train(frozen, pruned, state=state)
  chex.assert_trees_all_equal(
    *(jax.tree.map(lambda p: p != 0, tree) for tree in (after, pruned))
  )
  again, _ = train(free, after, state=state)
  assert all((p != 0).all() for p in jax.tree.leaves(again))


def test_the_proximal_step_before_it_may_make_more_zeros():
  prox = training.proximal_l1(1.0, l1=0.5)
  optimizer = optax.chain(optax.sgd(1.0), prox, training.keep_zeros())
  params = jnp.array([0.2, 0.0, 2.0])
  updates, _ = optimizer.update(
    jnp.array([0.0, -9.0, 0.0]), optimizer.init(params), params
  )
  np.testing.assert_array_equal(
    optax.apply_updates(params, updates), [0.0, 0.0, 1.5]
  )


def test_rows_of_a_batch_keep_their_zeros():
  rows = jnp.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
  optimizer = chain()
  ids = jnp.array([1, 2, 3])  # The last one stands for padding.
  after, _ = training.update_rows(
    optimizer, rows, optimizer.init(rows), ids, jnp.ones((3, 2))
  )
  np.testing.assert_array_equal(after == 0, rows == 0)
  np.testing.assert_array_equal(after[0], rows[0])
  assert (after[1:] != rows[1:]).sum() == 2


def test_parts_of_a_partition():
  optimizer = optax.partition(
    {"rows": chain(), "rest": MOMENTUM}, {"weights": "rows", "bias": "rest"}
  )
  before = make_params()
  after, _ = train(optimizer, before)
  np.testing.assert_array_equal(after["weights"] == 0, before["weights"] == 0)
  assert (after["bias"] != before["bias"]).all()


def test_compiled_once_and_to_the_same_values():
  optimizer, params = chain(), make_params()

  @jax.jit
  @chex.assert_max_traces(n=1)
  def step(params, state):
    updates, state = optimizer.update(params, state, params)
    return optax.apply_updates(params, updates), state

  state = optimizer.init(params)
  expected, _ = optimizer.update(params, state, params)
  first, state = step(params, state)
  chex.assert_trees_all_close(
    first, optax.apply_updates(params, expected), rtol=1e-6
  )
  second, _ = step(first, state)
  np.testing.assert_array_equal(second["weights"] == 0, params["weights"] == 0)


def test_without_parameters_it_tells_what_is_missing():
  optimizer = training.keep_zeros()
  message = r"keep_zeros looks at the parameters: .*state, params\), got no"
  with pytest.raises(ValueError, match=message):
    optimizer.update(jnp.ones(2), optax.EmptyState())
  # Not active, it needs none.
  updates, _ = training.keep_zeros(active=False).update(
    jnp.ones(2), optax.EmptyState()
  )
  np.testing.assert_array_equal(updates, [1, 1])
