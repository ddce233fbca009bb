"""Holds that rows that catch up are those of a step on the whole table."""

import hypothesis
import jax
import numpy as np
import optax
import pytest
from hypothesis import strategies as st
from jax import numpy as jnp

from anchor_codes import ops, training

NUM_ROWS, WIDTH, NUM_STEPS, LEARNING_RATE = 40, 6, 300, 0.01


def gradients_of(rng, step):
  """Returns the ids of a step, and their gradient."""
  ids = rng.choice(NUM_ROWS, 2, replace=False)
  return ids, rng.normal(0, 0.02, (2, WIDTH))


def dense_run(rows, l1, seed):
  """Takes every step on the whole table."""
  rng = np.random.default_rng(seed)
  optimizer = training.proximal_yogi(LEARNING_RATE, l1=l1)
  state = optimizer.init(rows)

  @jax.jit
  def move(rows, state, gradient):
    updates, state = optimizer.update(gradient, state, rows)
    return optax.apply_updates(rows, updates), state

  for step in range(NUM_STEPS):
    ids, gradient = gradients_of(rng, step)
    whole = jnp.zeros(rows.shape).at[ids].set(gradient)
    rows, state = move(rows, state, whole)
  return rows


def lazy_run(rows, l1, seed):
  """Takes each step on the rows that have a gradient alone."""
  rng = np.random.default_rng(seed)
  optimizer = training.proximal_yogi(LEARNING_RATE, l1=l1)
  sizes = ops.yogi_step_sizes(NUM_STEPS, learning_rate=LEARNING_RATE)
  state = optimizer.init(rows)
  mu, nu, last = state.mu, state.nu, jnp.zeros(NUM_ROWS, jnp.int32)

  def up_to_date(rows, mu, nu, last, now):
    return ops.yogi_catch_up(
      rows, mu, nu, last, now=now, step_sizes=sizes, l1=l1
    )

  @jax.jit
  def move(rows, mu, nu, last, ids, gradient, step):
    batch = up_to_date(rows[ids], mu[ids], nu[ids], last[ids], step)
    fade = 0.9 ** (step - last[ids]).astype(float)
    state = optax.ScaleByAdamState(step, mu[ids] * fade[:, None], nu[ids])
    updates, state = optimizer.update(gradient, state, batch)
    return (
      rows.at[ids].set(batch + updates),
      mu.at[ids].set(state.mu),
      nu.at[ids].set(state.nu),
      last.at[ids].set(step + 1),
    )

  for step in range(NUM_STEPS):
    ids, gradient = gradients_of(rng, step)
    rows, mu, nu, last = move(
      rows, mu, nu, last, ids, jnp.asarray(gradient), jnp.int32(step)
    )
  return up_to_date(rows, mu, nu, last, NUM_STEPS)


@pytest.mark.parametrize("l1", [2e-5, 1e-4, 2e-3])
def test_rows_that_catch_up_are_those_of_dense_steps(l1):
  with jax.enable_x64(True):
    rows = jnp.asarray(np.random.default_rng(1).random((NUM_ROWS, WIDTH)) * 0.1)
    dense, lazy = dense_run(rows, l1, 2), lazy_run(rows, l1, 2)
    np.testing.assert_allclose(lazy, dense, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(lazy == 0, dense == 0)
    # The penalty leaves some weights and takes others: the test can fail.
    assert 0 < int((dense > 0).sum()) < dense.size


def test_in_single_precision_too():
  rows = jnp.asarray(
    np.random.default_rng(1).random((NUM_ROWS, WIDTH)) * 0.1, jnp.float32
  )
  dense, lazy = dense_run(rows, 1e-4, 2), lazy_run(rows, 1e-4, 2)
  np.testing.assert_allclose(lazy, dense, rtol=0, atol=1e-6)


@hypothesis.given(
  moment=st.floats(-0.1, 0.1), last=st.integers(0, 20), more=st.integers(0, 600)
)
def test_one_row_against_a_loop(moment, last, more):
  now = last + more
  sizes = np.asarray(ops.yogi_step_sizes(620, learning_rate=0.1), np.float64)
  weight = 0.3
  for number in range(last, now):
    step = sizes[number] / (np.sqrt(0.04) + 1e-3)
    fade = 0.9 ** (number + 1 - last)
    weight = max(weight - step * (moment * fade + 1e-3), 0.0)
  found = ops.yogi_catch_up(
    jnp.full((1, 1), 0.3),
    jnp.full((1, 1), moment),
    jnp.full((1, 1), 0.04),
    jnp.array([last]),
    now=now,
    step_sizes=jnp.asarray(sizes, jnp.float32),
    l1=1e-3,
  )
  np.testing.assert_allclose(found[0, 0], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("b1", [0.0, 0.5, 0.99, 0.999])
def test_any_decay_fades_to_its_end(b1):
  sizes = ops.yogi_step_sizes(9000, learning_rate=0.01, b1=b1)
  found = ops.yogi_catch_up(
    jnp.full((1, 1), 9.0),
    jnp.full((1, 1), -0.5),
    jnp.zeros((1, 1)),
    jnp.array([7]),
    now=9000,
    step_sizes=sizes,
    l1=0.0,
    b1=b1,
    eps=1.0,
  )
  fades = b1 ** np.arange(1, 9000 - 7 + 1)
  drift = 0.5 * float((np.asarray(sizes, np.float64)[7:] * fades).sum())
  np.testing.assert_allclose(found[0, 0] - 9, drift, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("waited", [1, 10, 700])
def test_a_step_counts_as_much_after_a_million_others(waited):
  num_steps = 10**6
  zeros = jnp.zeros((1, 1))
  found = ops.yogi_catch_up(
    zeros + 1,
    zeros,
    zeros,
    jnp.array([num_steps - waited]),
    now=num_steps,
    step_sizes=ops.yogi_step_sizes(num_steps, learning_rate=0.001),
    l1=1.0,
    eps=1.0,
  )
  np.testing.assert_allclose(1 - found[0, 0], 0.001 * waited, rtol=1e-3)


def test_step_sizes_are_those_of_the_optimiser():
  # Without a first moment of the past, one step moves by size / (root + eps).
  optimizer = training.proximal_yogi(0.5, l1=0.0, initial_accumulator=1.0)
  params = jnp.array([0.1])
  updates, _ = optimizer.update(
    jnp.array([1.0]), optimizer.init(params), params
  )
  size = ops.yogi_step_sizes(1, learning_rate=0.5)[0]
  np.testing.assert_allclose(-updates[0], size * 0.1 / (1 + 1e-3), rtol=1e-5)


def test_there_is_at_least_one_step():
  with pytest.raises(ValueError, match="`num_steps` must be at least 1"):
    ops.yogi_step_sizes(0, learning_rate=1.0)
