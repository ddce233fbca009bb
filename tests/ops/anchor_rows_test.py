"""Tests of sparse rows and of the ways to make rows and anchors."""

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
sparse_lookup = jax.jit(anchors.sparse_anchor_lookup)
project = jax.jit(anchors.project_rows, static_argnames="num_nonzeros")
expand = jax.jit(anchors.expand_rows, static_argnames="num_anchors")
random_rows = jax.jit(
  anchors.random_rows,
  static_argnames=("num_embeddings", "num_anchors", "num_nonzeros", "scale"),
)


def _transform():
  """Returns non-negative weights, half of them zero, no two others alike."""
  generator = np.random.default_rng(0)
  shape = (NUM_EMBEDDINGS, NUM_ANCHORS)
  weights = generator.permutation(np.arange(1, 1 + np.prod(shape)))
  mask = generator.random(shape) < 0.5
  return jnp.asarray(weights.reshape(shape) * mask / 10, jnp.float32)


def _normal(*shape, seed=2):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


# Projecting and expanding rows.


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
  with pytest.raises(ValueError, match=text):
    anchors.random_rows(
      jax.random.key(0),
      num_embeddings=2,
      num_anchors=5,
      num_nonzeros=num_nonzeros,
    )


# Rows and anchors at random.


@pytest.mark.parametrize("num_nonzeros", [1, 5, 8])
@hypothesis.settings(max_examples=10)
@hypothesis.given(more=st.integers(0, 1000), seed=st.integers(0, 1000))
def test_random_rows_never_repeat_a_position(num_nonzeros, more, seed):
  num_anchors = num_nonzeros + more
  # Not compiled as a whole: the sizes of the parts are no constants.
  rows = anchors.random_rows(
    jax.random.key(seed),
    num_embeddings=20,
    num_anchors=num_anchors,
    num_nonzeros=num_nonzeros,
  )
  indices, weights = np.asarray(rows.indices), np.asarray(rows.weights)
  assert indices.shape == weights.shape == (20, num_nonzeros)
  assert indices.min() >= 0
  assert indices.max() < num_anchors
  assert all(len(set(row)) == num_nonzeros for row in indices)
  assert weights.min() >= 0
  assert weights.max() < 1


def test_random_rows_use_every_anchor_alike():
  rows = random_rows(
    jax.random.key(0), num_embeddings=8000, num_anchors=12, num_nonzeros=3
  )
  counts = np.bincount(np.asarray(rows.indices).ravel(), minlength=12)
  # Each is binomial(8000, 1 / 4): 5 standard deviations are 194.
  np.testing.assert_allclose(counts, 2000, atol=194)


def test_random_rows_of_more_products_than_int32_holds():
  rows = random_rows(
    jax.random.key(0),
    num_embeddings=1,
    num_anchors=60_000,
    num_nonzeros=60_000,
  )
  np.testing.assert_array_equal(rows.indices[0], np.arange(60_000))


def test_random_rows_of_a_scale():
  rows = random_rows(
    jax.random.key(0),
    num_embeddings=5000,
    num_anchors=9,
    num_nonzeros=2,
    scale=4.0,
  )
  weights = np.asarray(rows.weights)
  assert weights.max() < 4
  np.testing.assert_allclose(weights.mean(), 2, atol=0.06)
  np.testing.assert_allclose(weights.var(), 16 / 12, atol=0.06)


def test_keys_decide_the_draws():
  sizes = {"num_embeddings": 9, "num_anchors": 9, "num_nonzeros": 3}
  first, same, other = (
    random_rows(jax.random.key(seed), **sizes) for seed in (3, 3, 4)
  )
  chex.assert_trees_all_equal(first, same)
  assert not np.array_equal(first.weights, other.weights)
  assert not np.array_equal(first.indices, other.indices)


def test_random_anchors_have_both_signs_and_the_scale_asked_for():
  drawn = anchors.random_anchors(
    jax.random.key(0), num_anchors=100, features=200, scale=0.3
  )
  assert drawn.shape == (100, 200)
  np.testing.assert_allclose(np.mean(drawn), 0, atol=0.01)
  np.testing.assert_allclose(np.std(drawn), 0.3, rtol=0.03)
  np.testing.assert_allclose(np.mean(drawn > 0), 0.5, atol=0.02)


@pytest.mark.parametrize(("num_nonzeros", "scale"), [(1, 0.1), (30, 2.0)])
def test_anchor_scale_keeps_its_promise(num_nonzeros, scale):
  rows = random_rows(
    jax.random.key(0),
    num_embeddings=2000,
    num_anchors=300,
    num_nonzeros=num_nonzeros,
  )
  vectors = anchors.random_anchors(
    jax.random.key(1),
    num_anchors=300,
    features=50,
    scale=anchors.anchor_scale(scale, num_nonzeros),
  )
  table = sparse_lookup(rows, vectors, jnp.arange(2000))
  np.testing.assert_allclose(np.std(table), scale, rtol=0.05)


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"num_anchors": 0}, r"`num_anchors` must be at least 1, got 0\."),
    ({"features": 0}, r"`features` must be at least 1, got 0\."),
    ({"features": 2.5}, r"`features` must be an integer, got 2\.5\."),
  ],
)
def test_sizes_of_random_anchors(options, text):
  sizes = {"num_anchors": 3, "features": 2, **options}
  with pytest.raises(ValueError, match=text):
    anchors.random_anchors(jax.random.key(0), **sizes)


def test_sizes_of_random_rows_and_scale():
  with pytest.raises(ValueError, match="`num_embeddings` must be at least 1"):
    anchors.random_rows(
      jax.random.key(0), num_embeddings=0, num_anchors=3, num_nonzeros=2
    )
  with pytest.raises(ValueError, match="`num_nonzeros` must be at least 1"):
    anchors.anchor_scale(0.1, 0)


# Anchors from given vectors.


def test_frequency_anchors_are_sorted_with_ties_by_id():
  counts, vectors = [3, 9, 9, 0, 3, 7], _normal(6, 2)
  chosen = anchors.frequency_anchors(vectors, jnp.array(counts), num_anchors=5)
  order = sorted(range(6), key=lambda i: (-counts[i], i))[:5]
  np.testing.assert_array_equal(chosen, np.asarray(vectors)[order])


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint32, jnp.float32])
def test_counts_of_any_type(dtype):
  counts = jnp.array([1, 5, 2], dtype)
  chosen = anchors.frequency_anchors(jnp.eye(3), counts, num_anchors=1)
  assert chosen.tolist() == [[0.0, 1.0, 0.0]]


def test_counts_must_fit_the_vectors():
  with pytest.raises(AssertionError, match=r"\(4,\)"):
    anchors.frequency_anchors(jnp.eye(3), jnp.ones(4), num_anchors=2)


def test_kmeans_anchors_find_the_centres():
  centres = np.array([[0.0, -20.0], [10.0, 0.0], [-10.0, 5.0]])
  groups = centres[:, None] + np.random.default_rng(0).normal(size=(3, 40, 2))
  vectors = jnp.asarray(groups.reshape(-1, 2), jnp.float32)
  found = anchors.kmeans_anchors(jax.random.key(0), vectors, num_anchors=3)
  found = np.asarray(found)[np.argsort(found[:, 1])]
  np.testing.assert_allclose(found, groups.mean(axis=1), atol=1e-4)


def test_as_many_anchors_as_vectors_are_the_vectors():
  vectors = jnp.array([[4.0, 1.0], [0.0, 2.0], [2.0, 3.0]])
  found = anchors.kmeans_anchors(
    jax.random.key(1), vectors, num_anchors=3, num_iterations=5
  )
  found = np.asarray(found)[np.argsort(found[:, 1])]
  np.testing.assert_allclose(found, vectors, atol=1e-6)


@pytest.mark.parametrize(
  ("num_anchors", "text"),
  [
    (0, r"`num_anchors` must be at least 1, got 0\."),
    (4, r"`num_anchors` must be at most the number of vectors, got 4 and 3\."),
    (1.5, r"`num_anchors` must be an integer, got 1\.5\."),
  ],
)
def test_there_must_be_enough_vectors(num_anchors, text):
  vectors, counts = jnp.eye(3), jnp.arange(3)
  with pytest.raises(ValueError, match=text):
    anchors.frequency_anchors(vectors, counts, num_anchors=num_anchors)
  key = jax.random.key(0)
  with pytest.raises(ValueError, match=text):
    anchors.kmeans_anchors(key, vectors, num_anchors=num_anchors)
