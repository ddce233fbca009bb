"""Tests of proximal steps that rows have missed."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

from anchor_codes import steps, training


def rate_of(count):
  return 0.5 / (1 + count).astype(jnp.float32)


@pytest.mark.parametrize("rate", [0.25, rate_of])
@pytest.mark.parametrize("nonnegative", [True, False])
def test_missed_steps_are_the_steps(rate, nonnegative):
  options = {"l1": 0.1, "nonnegative": nonnegative}
  lazy = steps.lazy_proximal_l1(optax.sgd(rate), rate, **options)
  whole = optax.chain(optax.sgd(rate), training.proximal_l1(rate, **options))
  rows = jax.random.uniform(jax.random.key(0), (3, 4))
  rows = rows if nonnegative else rows - 0.5
  touched, ids = rows[:1], jnp.array([0])
  state, expected, whole_state = lazy.init(rows), rows, whole.init(rows)
  for _ in range(5):
    _, state = training.row_updates(
      lazy, touched, state, ids, jnp.zeros((1, 4)), num_embeddings=3
    )
    updates, whole_state = whole.update(0 * rows, whole_state, expected)
    expected = optax.apply_updates(expected, updates)
  np.testing.assert_array_equal(state.last[1:], 0)
  late = lazy.catch_up(rows[1:], state, jnp.array([1, 2]))
  np.testing.assert_allclose(late, expected[1:], rtol=1e-6, atol=1e-6)
  np.testing.assert_array_equal(late == 0, expected[1:] == 0)


@pytest.mark.parametrize("l1", [0.0, 0.1])
def test_rows_that_have_missed_nothing_stay_negative(l1):
  lazy = steps.lazy_proximal_l1(optax.sgd(0.5), 0.5, l1=l1)
  rows = -jnp.ones((2, 3))
  state = lazy.init(rows)
  np.testing.assert_array_equal(lazy.catch_up(rows, state, None), rows)
  late = lazy.catch_up(rows, state._replace(clock=jnp.int32(1)), None)
  np.testing.assert_array_equal(late, 0)


def test_touched_rows_are_up_to_date():
  lazy = steps.lazy_proximal_l1(optax.sgd(0.5), 0.5, l1=0.1)
  rows = jnp.ones((2, 3))
  _, state = lazy.update(rows, lazy.init(rows), rows)
  np.testing.assert_array_equal(lazy.catch_up(rows, state, None), rows)


def test_padding_stays_zero():
  lazy = steps.lazy_proximal_l1(optax.sgd(0.5), 0.5, l1=0.1)
  state = lazy.init(jnp.ones((2, 3)))._replace(clock=jnp.int32(7))
  late = lazy.catch_up(jnp.zeros((1, 3)), state, jnp.array([2]))
  np.testing.assert_array_equal(late, 0)


def test_steps_are_counted_exactly():
  """A sum of a million thresholds in float32 would be off by a hundredth."""
  lazy = steps.lazy_proximal_l1(optax.sgd(0.1), 0.1, l1=1e-4)
  state = lazy.init(jnp.ones((1, 1)))._replace(clock=jnp.int32(10**6))
  state = state._replace(last=jnp.array([10**6 - 3], jnp.int32))
  late = lazy.catch_up(jnp.ones((1, 1)), state, None)
  np.testing.assert_allclose(1 - late, 3e-5, rtol=1e-2)


def test_steps_are_counted_past_what_float32_counts():
  lazy = steps.lazy_proximal_l1(optax.sgd(0.5), 0.5, l1=0.25)
  rows, many = jnp.ones((2, 1)), 2**25
  state = lazy.init(rows)
  state = state._replace(clock=state.clock + many, last=state.last + many)
  for _ in range(3):
    _, state = training.row_updates(
      lazy, rows[:1], state, jnp.array([0]), 0 * rows[:1], num_embeddings=2
    )
  late = lazy.catch_up(rows, state, None)
  np.testing.assert_array_equal(late, [[1.0], [1 - 3 * 0.125]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rows_of_any_rank_keep_their_type(dtype):
  lazy = steps.lazy_proximal_l1(optax.sgd(0.5), 0.5, l1=0.25)
  rows = {"a": jnp.ones(3, dtype), "b": jnp.ones((3, 2, 2), dtype)}
  state = lazy.init(rows)
  state = state._replace(
    clock=jnp.int32(4), last=jax.tree.map(lambda last: last + 2, state.last)
  )
  late = lazy.catch_up(rows, state, None)
  assert {leaf.dtype for leaf in jax.tree.leaves(late)} == {jnp.dtype(dtype)}
  np.testing.assert_array_equal(late["a"], 0.75 * np.ones(3))
  np.testing.assert_array_equal(late["b"], 0.75 * np.ones((3, 2, 2)))


def test_settling_starts_the_clock_anew():
  lazy = steps.lazy_proximal_l1(optax.sgd(0.1), rate_of, l1=0.1)
  rows = jnp.ones((2, 3))
  _, state = lazy.update(rows, lazy.init(rows), rows)
  settled = lazy.settle(state)
  assert state.clock == 0.5
  assert settled.clock == 0
  assert settled.steps == state.steps == 1
  np.testing.assert_array_equal(settled.last, 0)


class Steps(steps.RowSteps):
  def select(self, model, batch, state, key):
    raise NotImplementedError


def test_missed_steps_have_no_factors():
  lazy = steps.lazy_proximal_l1(optax.sgd(0.1), 0.1, l1=0.1)
  tables = {"items": lazy, "users": optax.sgd(0.1)}
  options = {"optimizer": optax.sgd(0.1), "row_optimizers": tables}
  Steps(**options, penalties={"items": None, "users": object()})
  with pytest.raises(
    ValueError, match="the factors of table 'items' must be None"
  ):
    Steps(**options, penalties={"items": object()})


def test_penalties_are_non_negative():
  with pytest.raises(ValueError, match="`l1` must be non-negative, got -1"):
    steps.lazy_proximal_l1(optax.sgd(0.1), 0.1, l1=-1)
