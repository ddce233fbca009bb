"""Tests of sparse rows: projecting rows, and expanding them."""

import itertools

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from anchor_codes.ops import anchors

NUM_EMBEDDINGS, NUM_ANCHORS = 7, 5

# Compiled once for all tests: op by op, JAX would compile each primitive.
project = jax.jit(anchors.project_rows, static_argnames="num_nonzeros")
expand = jax.jit(anchors.expand_rows, static_argnames="num_anchors")


def _transform():
  """Returns non-negative weights, half of them zero, no two others alike."""
  generator = np.random.default_rng(0)
  shape = (NUM_EMBEDDINGS, NUM_ANCHORS)
  weights = generator.permutation(np.arange(1, 1 + np.prod(shape)))
  mask = generator.random(shape) < 0.5
  return jnp.asarray(weights.reshape(shape) * mask / 10, jnp.float32)


def test_expand_agrees_with_a_loop():
  indices, weights = [[1, 4, 0], [2, 3, 2]], [[0.5, 2.0, 1.0], [1.0, 0.0, 4.0]]
  expected = np.zeros((2, NUM_ANCHORS))
  for i, s in np.ndindex(2, 3):
    expected[i, indices[i][s]] += weights[i][s]
  rows = anchors.SparseRows(jnp.array(indices), jnp.array(weights))
  np.testing.assert_array_equal(expand(rows, num_anchors=NUM_ANCHORS), expected)


@pytest.mark.parametrize(
  ("num_anchors", "num_nonzeros"), [(1, 1), (9, 4), (6, 6)]
)
@hypothesis.given(seed=st.integers(0, 2**31 - 1))
def test_project_undoes_expand(num_anchors, num_nonzeros, seed):
  generator = np.random.default_rng(seed)
  positions = np.indices((5, num_anchors))[1]
  indices = generator.permuted(positions, axis=1)[:, :num_nonzeros]
  # Distinct positive weights, the largest first, are the normal form.
  weights = np.sort(generator.uniform(0.1, 1, indices.shape))[:, ::-1]
  rows = anchors.SparseRows(
    jnp.asarray(indices, jnp.int32), jnp.asarray(weights, jnp.float32)
  )
  dense = expand(rows, num_anchors=num_anchors)
  back = project(dense, num_nonzeros=num_nonzeros)
  chex.assert_trees_all_equal(back, rows)


# XLA takes numbers below the normal ones for zero.
entries = st.floats(0, 10, width=32, allow_subnormal=False)


@pytest.mark.parametrize("num_nonzeros", [1, 3, 6])
@hypothesis.given(row=st.lists(entries, min_size=6, max_size=6))
def test_project_is_the_nearest_sparse_row(num_nonzeros, row):
  target = np.float64(np.float32(row))
  kept = project(jnp.array([row]), num_nonzeros=num_nonzeros)
  dense = np.asarray(expand(kept, num_anchors=6), np.float64)[0]
  assert np.count_nonzero(dense) <= num_nonzeros
  # On a given support, nothing is nearer than the target itself.
  others = (
    np.sum(np.delete(target, support) ** 2)
    for support in itertools.combinations(range(6), num_nonzeros)
  )
  assert np.sum((dense - target) ** 2) <= min(others) * (1 + 1e-9)


@hypothesis.given(seed=st.integers(0, 2**31 - 1))
def test_no_random_sparse_row_is_nearer(seed):
  generator = np.random.default_rng(seed)
  target = generator.exponential(size=(1, 6)).astype(np.float32)
  kept = project(target, num_nonzeros=3)
  nearest = np.asarray(expand(kept, num_anchors=6))
  for _ in range(20):
    support = generator.permutation(6)[:3]
    other = np.zeros_like(target)
    other[0, support] = target[0, support] + generator.normal(size=3)
    distances = [np.sum((row - target) ** 2) for row in (nearest, other)]
    assert distances[0] <= distances[1] + 1e-6


def test_project_sorts_and_prefers_the_smaller_position():
  rows = project(
    jnp.array([[0.0, 2.0, 5.0, 2.0], [0.0, 0.0, 0.0, 0.0]]), num_nonzeros=2
  )
  assert rows.indices.tolist() == [[2, 1], [0, 1]]
  assert rows.weights.tolist() == [[5.0, 2.0], [0.0, 0.0]]
  assert rows.indices.dtype == jnp.int32


def test_project_is_idempotent_and_keeps_all_if_it_may():
  dense, kept = _transform(), {}
  for num_nonzeros in (2, NUM_ANCHORS):
    rows = project(dense, num_nonzeros=num_nonzeros)
    kept[num_nonzeros] = expand(rows, num_anchors=NUM_ANCHORS)
  again = expand(project(kept[2], num_nonzeros=2), num_anchors=NUM_ANCHORS)
  np.testing.assert_array_equal(again, kept[2])
  np.testing.assert_array_equal(kept[NUM_ANCHORS], dense)


@pytest.mark.parametrize(
  ("num_nonzeros", "text"),
  [
    (0, r"`num_nonzeros` must be at least 1, got 0\."),
    (-1, r"`num_nonzeros` must be at least 1, got -1\."),
    (6, r"`num_nonzeros` must be at most `num_anchors`, got 6 and 5\."),
    (2.0, r"`num_nonzeros` must be an integer, got 2\.0\."),
    (True, r"`num_nonzeros` must be an integer, got True\."),
  ],
)
def test_num_nonzeros_out_of_range(num_nonzeros, text):
  with pytest.raises(ValueError, match=text):
    anchors.project_rows(_transform(), num_nonzeros=num_nonzeros)
