"""The choice of weights to keep, against a sort in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes import ops

# Compiled once for each shape and budget.
most_salient = jax.jit(ops.most_salient, static_argnames="num_nonzeros")

# Few different values, so that there are ties and zeros.
VALUES = st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.5, 4.0])


def vectors(*sizes):
  """Returns one list of values for each size."""
  return st.tuples(*(st.lists(VALUES, min_size=n, max_size=n) for n in sizes))


def keep_by_sorting(saliencies, num_nonzeros):
  """Marks the largest in a slow way: sorted by value, then by position."""
  flat = np.concatenate([np.ravel(part) for part in saliencies])
  order = sorted(range(len(flat)), key=lambda i: (-flat[i], i))
  chosen = {i for i in order[:num_nonzeros] if flat[i] > 0}
  kept = np.array([i in chosen for i in range(len(flat))])
  ends = np.cumsum([np.size(part) for part in saliencies])[:-1]
  return [
    part.reshape(np.shape(like))
    for part, like in zip(np.split(kept, ends), saliencies, strict=True)
  ]


# Saliency.


def test_saliency_by_hand():
  weights = jnp.array([[2.0, -3.0], [0.0, 1.0]])
  curvature = jnp.array([[1.0, 2.0], [5.0, 0.0]])
  np.testing.assert_array_equal(
    ops.saliency(weights, curvature), [[2.0, 9.0], [0.0, 0.0]]
  )


def test_saliency_is_the_rise_of_a_quadratic_loss():
  # At the minimum of a separable quadratic, it is exact.
  minimum, curvature = jnp.array([1.0, -2.0, 0.5]), jnp.array([3.0, 1.0, 8.0])
  loss = lambda w: 0.5 * jnp.sum(curvature * jnp.square(w - minimum))
  without = [loss(minimum.at[i].set(0.0)) for i in range(3)]
  np.testing.assert_array_equal(ops.saliency(minimum, curvature), without)
  hessian = jnp.diag(jax.hessian(loss)(minimum))
  np.testing.assert_array_equal(ops.saliency(minimum, hessian), without)


def test_saliency_refuses_other_shapes():
  with pytest.raises(AssertionError, match="shape"):
    ops.saliency(jnp.ones((2, 3)), jnp.ones((2, 1)))


# The most salient weights.


@given(vectors(12), st.sampled_from([1, 5, 12, 15]))
def test_one_array_against_a_sort(values, num_nonzeros):
  saliency = jnp.array(values[0]).reshape(3, 4)
  (kept,) = most_salient([saliency], num_nonzeros=num_nonzeros)
  (expected,) = keep_by_sorting([saliency], num_nonzeros)
  np.testing.assert_array_equal(kept, expected)
  positive = np.count_nonzero(saliency)
  assert kept.sum() == min(num_nonzeros, positive)


@given(vectors(6, 1, 8), st.sampled_from([1, 4, 9, 15, 99]))
def test_several_arrays_share_one_budget(values, num_nonzeros):
  shapes = [(2, 3), (), (8, 1)]
  parts = [jnp.array(v).reshape(s) for v, s in zip(values, shapes, strict=True)]
  kept = most_salient(parts, num_nonzeros=num_nonzeros)
  chex.assert_trees_all_equal(kept, keep_by_sorting(parts, num_nonzeros))
  assert [part.shape for part in kept] == shapes


@given(st.integers(0, 2**31 - 1), st.sampled_from([1, 17, 59]))
def test_nothing_left_out_is_larger_than_what_is_kept(seed, num_nonzeros):
  values = np.random.default_rng(seed).random((6, 10), np.float32)
  (kept,) = most_salient([jnp.asarray(values)], num_nonzeros=num_nonzeros)
  kept = np.asarray(kept)
  assert values[kept].min() >= values[~kept].max()
  assert kept.sum() == num_nonzeros


def test_budgets_are_nested():
  values = jnp.asarray(np.random.default_rng(0).integers(0, 5, 50), jnp.float32)
  before = np.zeros(50, bool)
  for num_nonzeros in (1, 7, 30, 50):
    (kept,) = most_salient([values], num_nonzeros=num_nonzeros)
    assert not (before & ~np.asarray(kept)).any()
    before = np.asarray(kept)


def test_the_first_ones_of_a_tie_are_kept():
  first, second = jnp.array([1.0, 2.0, 2.0]), jnp.array([[2.0], [3.0]])
  kept = ops.most_salient([first, second], num_nonzeros=3)
  assert [part.tolist() for part in kept] == [
    [False, True, True],
    [[False], [True]],
  ]


@pytest.mark.parametrize("num_nonzeros", [1, 4, 100])
def test_no_saliency_is_never_kept(num_nonzeros):
  zeros = jnp.array([0.0, -0.0, 0.0, 0.0])
  for last in (0.0, 1e-30):
    kept, none = most_salient(
      [jnp.array([0.0, last]), zeros], num_nonzeros=num_nonzeros
    )
    assert kept.tolist() == [False, last > 0]
    assert not none.any()


def test_a_budget_past_the_end_keeps_all_that_counts():
  saliency = jnp.array([0.0, 3.0, 1.0])
  (kept,) = most_salient([saliency], num_nonzeros=10**6)
  np.testing.assert_array_equal(kept, saliency > 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_choice_is_a_mask_of_any_type(dtype):
  saliency = jnp.array([[0.5, 2.0], [1.0, 0.0]], dtype)
  for run in (ops.most_salient, most_salient):
    (kept,) = run([saliency], num_nonzeros=2)
    assert kept.dtype == bool
    assert kept.tolist() == [[False, True], [True, False]]


def test_the_choice_is_traced_once():
  choose = lambda parts: ops.most_salient(parts, num_nonzeros=2)
  run = jax.jit(chex.assert_max_traces(choose, n=1))
  for seed in range(3):
    run([jnp.full((3, 2), seed, jnp.float32), jnp.ones(4)])


@pytest.mark.parametrize(
  ("num_nonzeros", "text"),
  [
    (0, r"`num_nonzeros` must be at least 1, got 0\."),
    (-3, r"`num_nonzeros` must be at least 1, got -3\."),
    (1.5, r"`num_nonzeros` must be an integer, got 1\.5\."),
  ],
)
def test_budgets_out_of_range(num_nonzeros, text):
  with pytest.raises(ValueError, match=text):
    ops.most_salient([jnp.ones(3)], num_nonzeros=num_nonzeros)


# The schedule of budgets.

SIZES = st.integers(1, 10**12)


@given(SIZES, SIZES, st.integers(1, 30))
def test_budgets_fall_to_the_end(start, end, num_steps):
  budgets = [
    ops.pruning_budget(t, num_steps=num_steps, start=start, end=end)
    for t in range(1, num_steps + 1)
  ]
  assert budgets[-1] == min(start, end)
  assert sorted([start, *budgets], reverse=True) == [start, *budgets]
  assert all(isinstance(budget, int) for budget in budgets)


@given(st.integers(100, 10**9), st.integers(1, 12))
def test_each_round_takes_the_same_share(end, num_steps):
  start = 1000 * end
  budgets = [start] + [
    ops.pruning_budget(t, num_steps=num_steps, start=start, end=end)
    for t in range(1, num_steps + 1)
  ]
  shares = np.divide(budgets[1:], budgets[:-1])
  np.testing.assert_allclose(shares, 1000 ** (-1 / num_steps), rtol=0.02)


def test_one_round_goes_to_the_end_at_once():
  assert ops.pruning_budget(1, num_steps=1, start=977, end=31) == 31


@pytest.mark.parametrize("start", [0, 5, 10])
def test_there_is_nothing_to_prune(start):
  budget = ops.pruning_budget(1, num_steps=3, start=start, end=10)
  assert budget == start


@pytest.mark.parametrize(
  ("option", "text"),
  [
    ({"num_steps": 0}, r"`num_steps` must be at least 1, got 0\."),
    ({"end": 0}, r"`end` must be at least 1, got 0\."),
    ({"end": -5}, r"`end` must be at least 1, got -5\."),
    ({"end": 2.5}, r"`end` must be an integer, got 2\.5\."),
  ],
)
def test_options_of_the_schedule(option, text):
  options = {"num_steps": 3, "start": 100, "end": 10, **option}
  with pytest.raises(ValueError, match=text):
    ops.pruning_budget(1, **options)
