"""Penalties that are scaled entry by entry."""

import math

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from anchor_codes import ops, training

RATE, L1 = 0.125, 0.5
V, K = 5, 3


def halving(count):
  return RATE * 0.5 ** count.astype(jnp.float32)


def tenth(count):
  return 0.1 * halving(count)


def chained(rate=RATE, **options):
  options = {"l1": L1, **options}
  return optax.chain(optax.sgd(rate), training.proximal_l1(rate, **options))


# The steps of Yogi are long, those on a gradient that is new above all.
def yogi(rate=0.1 * RATE, **options):
  return training.proximal_yogi(rate, **{"l1": 0.1 * L1, **options})


TRANSFORMATIONS = {
  "l1": chained,
  "l1_schedule": lambda **options: chained(halving, **options),
  "l1_signed": lambda **options: chained(nonnegative=False, **options),
  "yogi": yogi,
  "yogi_schedule": lambda **options: yogi(tenth, **options),
}
transformations = pytest.mark.parametrize("name", TRANSFORMATIONS)
nonnegative = pytest.mark.parametrize(
  "name", [name for name in TRANSFORMATIONS if name != "l1_signed"]
)


def uniform(*shape, low=0.0, high=1.0, seed=0):
  key = jax.random.key(seed)
  return jax.random.uniform(key, shape, minval=low, maxval=high)


def gradients_of(num_steps=4):
  return uniform(num_steps, V, K, low=-1.0, seed=1)


def run(transformation, params, gradients, **extra_args):
  """Takes a step for each gradient; returns the parameters after each."""
  state, history = transformation.init(params), []
  for gradient in gradients:
    updates, state = transformation.update(
      gradient, state, params, **extra_args
    )
    params = optax.apply_updates(params, updates)
    history.append(params)
  return history


@transformations
@pytest.mark.parametrize("shape", [(V, K), (V, 1), (1, K), (1, 1)])
def test_ones_are_the_plain_penalty(name, shape):
  transformation = TRANSFORMATIONS[name]()
  plain = run(transformation, uniform(V, K), gradients_of())
  ones = run(
    transformation, uniform(V, K), gradients_of(), multipliers=jnp.ones(shape)
  )
  chex.assert_trees_all_equal(plain, ones)


@transformations
def test_none_is_the_plain_penalty_of_a_leaf(name):
  transformation = TRANSFORMATIONS[name]()
  params = {"a": uniform(V, K), "b": uniform(K)}
  gradients = [jax.tree.map(jnp.ones_like, params)] * 2
  (*_, plain) = run(transformation, params, gradients)
  multipliers = {"a": None, "b": jnp.full(K, jnp.inf)}
  (*_, result) = run(transformation, params, gradients, multipliers=multipliers)
  np.testing.assert_array_equal(result["a"], plain["a"])
  np.testing.assert_array_equal(result["b"], np.zeros(K))


@transformations
@pytest.mark.parametrize("l1", [0.0, L1])
def test_infinity_bars_an_entry(name, l1):
  transformation = TRANSFORMATIONS[name](l1=l1)
  barred = np.arange(V * K).reshape(V, K) % 2 == 0
  multipliers = jnp.where(barred, jnp.inf, 1.0)
  history = run(
    transformation, uniform(V, K), gradients_of(), multipliers=multipliers
  )
  plain = run(transformation, uniform(V, K), gradients_of())
  chex.assert_tree_all_finite(history)
  for params, expected in zip(history, plain, strict=True):
    np.testing.assert_array_equal(params, np.where(barred, 0, expected))
  assert np.any(plain[-1])


@nonnegative
def test_zero_is_the_projected_step(name):
  (*_, free) = run(
    TRANSFORMATIONS[name](),
    uniform(V, K),
    gradients_of(),
    multipliers=jnp.zeros((V, 1)),
  )
  (*_, expected) = run(
    TRANSFORMATIONS[name](l1=0.0), uniform(V, K), gradients_of()
  )
  np.testing.assert_array_equal(free, expected)
  assert float(free.min()) >= 0


def test_zero_is_the_plain_step_where_signs_are_free():
  (*_, free) = run(
    chained(nonnegative=False),
    uniform(V, K),
    gradients_of(),
    multipliers=jnp.zeros((1, 1)),
  )
  (*_, expected) = run(optax.sgd(RATE), uniform(V, K), gradients_of())
  np.testing.assert_allclose(free, expected, rtol=1e-6, atol=1e-7)


def l1_by_hand(p, gradients, factor):
  """One entry in plain Python."""
  for gradient in gradients:
    p = p - RATE * gradient
    barred = math.isinf(factor)
    p = 0.0 if barred else max(p - RATE * L1 * factor, 0.0)
  return p


def yogi_by_hand(p, gradients, factor):
  m, v = 0.0, 1e-6
  for t, g in enumerate(gradients, 1):
    m = 0.9 * m + 0.1 * g
    v = v - 0.001 * np.sign(v - g**2) * g**2
    step = 0.1 * RATE * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t) / (v**0.5 + 1e-3)
    barred = math.isinf(factor)
    p = 0.0 if barred else max(p - step * m - 0.1 * step * L1 * factor, 0.0)
  return p


FACTORS = st.sampled_from([0.0, 1e-3, 0.5, 1.0, 7.0, math.inf])


@pytest.mark.parametrize(
  ("make", "by_hand"), [(chained, l1_by_hand), (yogi, yogi_by_hand)]
)
@hypothesis.given(
  rows=st.lists(FACTORS, min_size=V, max_size=V),
  columns=st.lists(FACTORS, min_size=K, max_size=K),
)
@hypothesis.settings(max_examples=10)
def test_thresholds_are_those_of_a_loop(make, by_hand, rows, columns):
  start = np.asarray(uniform(V, K), float)
  gradients = np.asarray(gradients_of(), float)
  tables = {
    "row": np.array(rows)[:, None],
    "column": np.array(columns)[None, :],
    "entry": np.minimum(np.array(rows)[:, None], np.array(columns)[None, :]),
  }
  for factors in tables.values():
    with jax.enable_x64(True):
      (*_, result) = run(
        make(),
        jnp.asarray(start, jnp.float64),
        jnp.asarray(gradients, jnp.float64),
        multipliers=jnp.asarray(factors),
      )
    every = np.broadcast_to(factors, (V, K))
    expected = [
      by_hand(start[index], gradients[(slice(None), *index)], every[index])
      for index in np.ndindex(V, K)
    ]
    np.testing.assert_allclose(np.ravel(result), expected, atol=1e-12)


@transformations
def test_types_of_parameters_are_kept(name):
  params = {"a": jnp.ones((V, K), jnp.bfloat16), "b": jnp.ones(())}
  multipliers = {"a": jnp.full((V, 1), jnp.inf), "b": jnp.float32(2)}
  gradients = [jax.tree.map(jnp.ones_like, params)]
  (result,) = run(
    TRANSFORMATIONS[name](), params, gradients, multipliers=multipliers
  )
  chex.assert_trees_all_equal_shapes_and_dtypes(result, params)


@transformations
def test_traces_once(name):
  chex.clear_trace_counter()
  transformation = TRANSFORMATIONS[name]()

  @jax.jit
  @chex.assert_max_traces(n=1)
  def step(gradient, state, params, multipliers):
    updates, state = transformation.update(
      gradient, state, params, multipliers=multipliers
    )
    return optax.apply_updates(params, updates), state

  params = uniform(V, K)
  state = transformation.init(params)
  for factor in (0.0, 1.0, math.inf):
    factors = jnp.full((V, 1), factor)
    params, state = step(jnp.ones((V, K)), state, params, factors)
  np.testing.assert_array_equal(params, np.zeros((V, K)))


@transformations
@pytest.mark.parametrize("masks_extra_args", [False, True])
def test_partitions_hand_multipliers_on(name, masks_extra_args):
  params = {"transform": uniform(V, K), "anchors": uniform(K, 2)}
  transformation = optax.partition(
    {"sparse": TRANSFORMATIONS[name](), "dense": optax.sgd(1.0)},
    {"transform": "sparse", "anchors": "dense"},
    mask_compatible_extra_args=masks_extra_args,
  )
  gradients = [jax.tree.map(jnp.ones_like, params)]
  rest = jnp.ones((1, 1)) if masks_extra_args else None
  (result,) = run(
    transformation,
    params,
    gradients,
    multipliers={"transform": jnp.full((V, 1), jnp.inf), "anchors": rest},
  )
  np.testing.assert_array_equal(result["transform"], np.zeros((V, K)))
  np.testing.assert_allclose(
    result["anchors"], params["anchors"] - 1, atol=1e-6
  )


@transformations
def test_other_extra_arguments_are_ignored(name):
  transformation, params = TRANSFORMATIONS[name](), uniform(V, K)
  plain = run(transformation, params, gradients_of(2))
  with_value = run(transformation, params, gradients_of(2), value=3.0)
  chex.assert_trees_all_equal(plain, with_value)


@transformations
@pytest.mark.parametrize("shape", [(K,), (), (V,), (1, V, K)])
def test_multipliers_have_the_rank_of_the_parameters(name, shape):
  with pytest.raises(AssertionError, match="rank"):
    run(
      TRANSFORMATIONS[name](),
      uniform(V, K),
      gradients_of(1),
      multipliers=jnp.ones(shape),
    )


@pytest.mark.parametrize("shape", [(K, V), (V, K + 1), (2, 1)])
def test_multipliers_broadcast_against_the_parameters(shape):
  with pytest.raises(AssertionError, match="broadcast"):
    run(chained(), uniform(V, K), gradients_of(1), multipliers=jnp.ones(shape))


def row_step(transformation, rows, ids, **extra_args):
  state = transformation.init(rows)
  unique, _ = training.unique_ids(ids, num_embeddings=V)
  gradients = jnp.zeros((unique.shape[0], K))
  rows, _ = training.update_rows(
    transformation, rows, state, unique, gradients, **extra_args
  )
  return unique, rows


@transformations
def test_rows_of_a_batch_have_multipliers_of_their_own(name):
  rows, ids = uniform(V, K, low=0.5), jnp.array([3, 1, 3])
  unique, _ = row_step(TRANSFORMATIONS[name](), rows, ids)
  by_row = jnp.array([0.0, jnp.inf, 1.0, 1.0, 1.0])[:, None]
  multipliers = training.gather_rows(by_row, unique)
  _, result = row_step(
    TRANSFORMATIONS[name](), rows, ids, multipliers=multipliers
  )
  np.testing.assert_array_equal(result[1], np.zeros(K))
  assert (result[3] < rows[3]).all()
  np.testing.assert_array_equal(result[:1], rows[:1])


def test_transformations_without_multipliers_ignore_them():
  rows, ids = uniform(V, K), jnp.array([3, 1])
  extra = {"multipliers": jnp.ones((2, 1))}
  _, result = row_step(optax.adagrad(0.1), rows, ids, **extra)
  np.testing.assert_array_equal(result, rows)


def test_frequent_rows_shrink_more():
  counts = jnp.array([0, 10, 30, 0, 60])
  multipliers = ops.frequency_multipliers(counts)
  (result,) = run(
    chained(),
    jnp.ones((V, K)),
    [jnp.zeros((V, K))],
    multipliers=multipliers,
  )
  expected = 1 - RATE * L1 * V * np.asarray(counts) / 100
  np.testing.assert_allclose(result[:, 0], expected, rtol=1e-6)
