"""Tests of the ways to start anchors and their rows."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from anchor_codes import typing
from anchor_codes.ops import anchor_starts, anchors

# Compiled once for all tests: op by op, JAX would compile each primitive.
sparse_lookup = jax.jit(anchors.sparse_anchor_lookup)
random_rows = jax.jit(
  anchor_starts.random_rows,
  static_argnames=("num_embeddings", "num_anchors", "num_nonzeros"),
)
start_anchors = jax.jit(
  anchor_starts.start_anchors,
  static_argnames=(
    "num_embeddings",
    "features",
    "num_anchors",
    "num_nonzeros",
    "start",
  ),
)


def _normal(*shape, seed=2):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


def _key(seed):
  """Returns a key whose draws compile fast."""
  return jax.random.key(seed, impl="unsafe_rbg")


def _start(seed=0, **options):
  """Starts a layer of a default size."""
  options = {
    "num_embeddings": 7,
    "features": 3,
    "num_anchors": 6,
    "num_nonzeros": None,
    "scale": 0.1,
    "weight_scale": 1.0,
    "start": "antipodal",
    **options,
  }
  return start_anchors(_key(seed), **options)


def _table(rows, vectors):
  """Returns the embeddings of rows of either form."""
  vectors = np.asarray(vectors, np.float64)
  if not isinstance(rows, anchors.SparseRows):
    return np.asarray(rows, np.float64) @ vectors
  indices, weights = map(np.asarray, rows)
  return np.einsum("vs,vsd->vd", weights, vectors[indices])


# Rows and anchors at random.


@pytest.mark.parametrize("num_nonzeros", [1, 5, 8])
@hypothesis.settings(max_examples=10)
@hypothesis.given(more=st.integers(0, 1000), seed=st.integers(0, 1000))
def test_random_rows_never_repeat_a_position(num_nonzeros, more, seed):
  num_anchors = num_nonzeros + more
  # Not compiled as a whole: the sizes of the parts are no constants.
  rows = anchor_starts.random_rows(
    _key(seed),
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
    _key(0), num_embeddings=8000, num_anchors=12, num_nonzeros=3
  )
  counts = np.bincount(np.asarray(rows.indices).ravel(), minlength=12)
  # Each is binomial(8000, 1 / 4): 5 standard deviations are 194.
  np.testing.assert_allclose(counts, 2000, atol=194)


def test_random_rows_of_more_products_than_int32_holds():
  rows = random_rows(
    _key(0),
    num_embeddings=1,
    num_anchors=60_000,
    num_nonzeros=60_000,
  )
  np.testing.assert_array_equal(rows.indices[0], np.arange(60_000))


def test_random_rows_of_a_scale():
  rows = random_rows(
    _key(0),
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
  first, same, other = (random_rows(_key(seed), **sizes) for seed in (3, 3, 4))
  chex.assert_trees_all_equal(first, same)
  assert not np.array_equal(first.weights, other.weights)
  assert not np.array_equal(first.indices, other.indices)


def test_random_anchors_have_both_signs_and_the_scale_asked_for():
  drawn = anchor_starts.random_anchors(
    _key(0), num_anchors=100, features=200, scale=0.3
  )
  assert drawn.shape == (100, 200)
  np.testing.assert_allclose(np.mean(drawn), 0, atol=0.01)
  np.testing.assert_allclose(np.std(drawn), 0.3, rtol=0.03)
  np.testing.assert_allclose(np.mean(drawn > 0), 0.5, atol=0.02)


@pytest.mark.parametrize(("num_nonzeros", "scale"), [(1, 0.1), (30, 2.0)])
def test_anchor_scale_keeps_its_promise(num_nonzeros, scale):
  rows = random_rows(
    _key(0),
    num_embeddings=2000,
    num_anchors=300,
    num_nonzeros=num_nonzeros,
  )
  vectors = anchor_starts.random_anchors(
    _key(1),
    num_anchors=300,
    features=50,
    scale=anchor_starts.anchor_scale(scale, num_nonzeros),
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
    anchor_starts.random_anchors(_key(0), **sizes)


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
def test_num_nonzeros_of_random_rows(num_nonzeros, text):
  with pytest.raises(ValueError, match=text):
    anchor_starts.random_rows(
      _key(0),
      num_embeddings=2,
      num_anchors=5,
      num_nonzeros=num_nonzeros,
    )


def test_sizes_of_random_rows_and_scale():
  with pytest.raises(ValueError, match="`num_embeddings` must be at least 1"):
    anchor_starts.random_rows(
      _key(0), num_embeddings=0, num_anchors=3, num_nonzeros=2
    )
  with pytest.raises(ValueError, match="`num_nonzeros` must be at least 1"):
    anchor_starts.anchor_scale(0.1, 0)


# Antipodal pairs.


@pytest.mark.parametrize("num_anchors", [1, 5, 6])
@hypothesis.settings(max_examples=10)
@hypothesis.given(seed=st.integers(0, 2**31 - 1))
def test_antipodal_rows_and_anchors_are_a_signed_table(num_anchors, seed):
  rows, vectors = map(np.asarray, _start(seed, num_anchors=num_anchors))
  pairs = num_anchors // 2
  half = num_anchors - pairs
  assert rows.shape == (7, num_anchors)
  np.testing.assert_array_equal(vectors[half:], -vectors[:pairs])
  assert (rows >= 0).all()
  # Of a pair, at most one is in use.
  assert not (rows[:, half:] * rows[:, :pairs]).any()
  signed = rows[:, :half].astype(np.float64)
  signed[:, :pairs] -= rows[:, half:]
  # The same products of the same signs, so that it holds to the bit.
  np.testing.assert_array_equal(
    np.einsum("vk,kd->vkd", rows[:, :pairs], vectors[:pairs])
    + np.einsum("vk,kd->vkd", rows[:, half:], vectors[half:]),
    np.einsum(
      "vk,kd->vkd", signed[:, :pairs].astype(np.float32), vectors[:pairs]
    ),
  )
  np.testing.assert_allclose(
    _table(rows, vectors), signed @ vectors[:half], atol=1e-12
  )


@pytest.mark.parametrize("num_anchors", [2, 6])
def test_half_of_antipodal_rows_is_zero(num_anchors):
  rows, _ = _start(num_anchors=num_anchors)
  counts = np.count_nonzero(rows, axis=1)
  np.testing.assert_array_equal(counts, np.full(7, num_anchors // 2))


@pytest.mark.parametrize("num_anchors", [1, 5])
def test_an_odd_anchor_has_no_partner(num_anchors):
  rows, vectors = map(np.asarray, _start(num_anchors=num_anchors))
  middle = num_anchors // 2
  assert len(vectors) == num_anchors
  others = np.delete(vectors, middle, axis=0)
  assert not (others == -vectors[middle]).all(axis=1).any()
  # Where its weight would be negative, the row has one entry less.
  counts = np.count_nonzero(rows, axis=1)
  np.testing.assert_array_equal(counts, middle + (rows[:, middle] > 0))


def test_an_odd_start_is_an_even_one_without_its_last_anchor():
  (odd_rows, odd), (rows, even) = (_start(num_anchors=k) for k in (5, 6))
  scale = np.sqrt(6 / 5)
  np.testing.assert_array_equal(odd_rows, rows[:, :5])
  np.testing.assert_allclose(odd, scale * even[:5], rtol=1e-6)


def test_antipodal_tables_are_of_low_rank_and_of_both_signs():
  rows, vectors = _start(num_embeddings=200, features=32, num_anchors=16)
  table = _table(rows, vectors)
  singular = np.linalg.svd(table, compute_uv=False)
  assert singular[8] < 1e-6 * singular[0]
  # No direction stands out, and no sign: there is no common mean.
  assert singular[7] > 0.2 * singular[0]
  np.testing.assert_allclose((table > 0).mean(), 0.5, atol=0.05)
  centre = np.linalg.norm(table.mean(axis=0)) / np.sqrt(np.mean(table**2) * 32)
  assert centre < 0.2


def test_random_dense_rows_share_their_mean():
  # What antipodal rows are for.
  rows, vectors = _start(
    num_embeddings=200, features=32, num_anchors=16, start="random"
  )
  table = _table(rows, vectors)
  centre = np.linalg.norm(table.mean(axis=0)) / np.sqrt(np.mean(table**2) * 32)
  assert centre > 0.7


@pytest.mark.parametrize("start", typing.STARTS)
@pytest.mark.parametrize("num_anchors", [1, 5])
def test_dense_embeddings_have_the_scale_asked_for(num_anchors, start):
  options = {"num_anchors": num_anchors, "scale": 0.3, "start": start}
  sizes = {"num_embeddings": 1000, "features": 400 // num_anchors + 100}
  table = _table(*_start(**sizes, **options))
  np.testing.assert_allclose(np.sqrt(np.mean(table**2)), 0.3, rtol=0.12)


@pytest.mark.parametrize("start", typing.STARTS)
def test_sparse_embeddings_have_the_scale_asked_for(start):
  rows, vectors = _start(
    num_embeddings=500,
    features=60,
    num_anchors=200,
    num_nonzeros=8,
    scale=0.3,
    start=start,
  )
  assert rows.indices.shape == (500, 8)
  table = _table(rows, vectors)
  np.testing.assert_allclose(np.sqrt(np.mean(table**2)), 0.3, rtol=0.06)


def test_long_sparse_rows_of_antipodal_anchors_are_half_as_large():
  table = _table(
    *_start(num_embeddings=500, features=200, num_anchors=8, num_nonzeros=8)
  )
  np.testing.assert_allclose(np.sqrt(np.mean(table**2)), 0.05, rtol=0.1)


@pytest.mark.parametrize("num_nonzeros", [None, 2])
@pytest.mark.parametrize("start", typing.STARTS)
def test_the_scale_of_weights_leaves_the_embeddings_alone(start, num_nonzeros):
  options = {"start": start, "num_nonzeros": num_nonzeros}
  rows, vectors = _start(**options)
  scaled_rows, scaled = _start(**options, weight_scale=0.25)
  chex.assert_trees_all_close(vectors, 0.25 * scaled, rtol=1e-6)
  np.testing.assert_allclose(
    _table(scaled_rows, scaled), _table(rows, vectors), rtol=1e-5
  )


@pytest.mark.parametrize("num_nonzeros", [None, 2])
def test_sparse_or_dense_the_rows_start_as_those_of_their_functions(
  num_nonzeros,
):
  rows, vectors = _start(num_nonzeros=num_nonzeros, start="random")
  if num_nonzeros is None:
    assert rows.shape == (7, 6)
    assert np.unique(rows).size == 42
  else:
    assert rows.indices.shape == rows.weights.shape == (7, 2)
  assert vectors.shape == (6, 3)


@pytest.mark.parametrize("start", typing.STARTS)
@pytest.mark.parametrize("num_nonzeros", [None, 2])
def test_keys_decide_the_start(start, num_nonzeros):
  options = {"start": start, "num_nonzeros": num_nonzeros}
  first, same, other = (_start(seed, **options) for seed in (3, 3, 4))
  chex.assert_trees_all_equal(first, same)
  assert not np.array_equal(first[1], other[1])
  leaves = map(jax.tree.leaves, (first[0], other[0]))
  assert not any(np.array_equal(*pair) for pair in zip(*leaves, strict=True))


def test_a_start_is_traced_once():
  run = jax.jit(
    chex.assert_max_traces(
      lambda key: anchor_starts.start_anchors(
        key,
        num_embeddings=2,
        features=2,
        num_anchors=2,
        num_nonzeros=None,
        scale=1.0,
        weight_scale=1.0,
        start="antipodal",
      ),
      n=1,
    )
  )
  for seed in range(3):
    run(_key(seed))


@pytest.mark.parametrize("num_anchors", [1, 2, 3, 64])
def test_antipodal_scale_by_its_formula(num_anchors):
  scale = anchor_starts.antipodal_scale(0.3, num_anchors)
  np.testing.assert_allclose(scale**2 * num_anchors / 2, 0.3**2, rtol=1e-12)


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"start": "zeros"}, "`start` must be one of 'random', 'antipodal', got"),
    ({"num_anchors": 0}, r"`num_anchors` must be at least 1, got 0\."),
    ({"num_anchors": 1.5}, r"`num_anchors` must be an integer, got 1\.5\."),
    ({"features": 0}, r"`features` must be at least 1, got 0\."),
    ({"num_embeddings": 0}, r"`num_embeddings` must be at least 1, got 0\."),
    (
      {"num_nonzeros": 7},
      r"`num_nonzeros` must be at most `num_anchors`, got 7 and 6\.",
    ),
    ({"num_nonzeros": 0}, r"`num_nonzeros` must be at least 1, got 0\."),
  ],
)
def test_options_of_a_start(options, text):
  with pytest.raises(ValueError, match=text):
    _start(**options)


@pytest.mark.parametrize(
  ("num_anchors", "text"),
  [
    (0, r"`num_anchors` must be at least 1, got 0\."),
    (-1, r"`num_anchors` must be at least 1, got -1\."),
    (2.5, r"`num_anchors` must be an integer, got 2\.5\."),
  ],
)
def test_numbers_of_antipodal_anchors(num_anchors, text):
  key = _key(0)
  with pytest.raises(ValueError, match=text):
    anchor_starts.antipodal_anchors(key, num_anchors=num_anchors, features=2)
  with pytest.raises(ValueError, match=text):
    anchor_starts.antipodal_rows(key, num_embeddings=3, num_anchors=num_anchors)
  with pytest.raises(ValueError, match=text):
    anchor_starts.antipodal_scale(0.1, num_anchors)


# Anchors from given vectors.


def test_frequency_anchors_are_sorted_with_ties_by_id():
  counts, vectors = [3, 9, 9, 0, 3, 7], _normal(6, 2)
  chosen = anchor_starts.frequency_anchors(
    vectors, jnp.array(counts), num_anchors=5
  )
  order = sorted(range(6), key=lambda i: (-counts[i], i))[:5]
  np.testing.assert_array_equal(chosen, np.asarray(vectors)[order])


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint32, jnp.float32])
def test_counts_of_any_type(dtype):
  counts = jnp.array([1, 5, 2], dtype)
  chosen = anchor_starts.frequency_anchors(jnp.eye(3), counts, num_anchors=1)
  assert chosen.tolist() == [[0.0, 1.0, 0.0]]


def test_counts_must_fit_the_vectors():
  with pytest.raises(AssertionError, match=r"\(4,\)"):
    anchor_starts.frequency_anchors(jnp.eye(3), jnp.ones(4), num_anchors=2)


def test_kmeans_anchors_find_the_centres():
  centres = np.array([[0.0, -20.0], [10.0, 0.0], [-10.0, 5.0]])
  groups = centres[:, None] + np.random.default_rng(0).normal(size=(3, 40, 2))
  vectors = jnp.asarray(groups.reshape(-1, 2), jnp.float32)
  found = anchor_starts.kmeans_anchors(_key(0), vectors, num_anchors=3)
  found = np.asarray(found)[np.argsort(found[:, 1])]
  np.testing.assert_allclose(found, groups.mean(axis=1), atol=1e-4)


def test_as_many_anchors_as_vectors_are_the_vectors():
  vectors = jnp.array([[4.0, 1.0], [0.0, 2.0], [2.0, 3.0]])
  found = anchor_starts.kmeans_anchors(
    _key(1), vectors, num_anchors=3, num_iterations=5
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
    anchor_starts.frequency_anchors(vectors, counts, num_anchors=num_anchors)
  key = _key(0)
  with pytest.raises(ValueError, match=text):
    anchor_starts.kmeans_anchors(key, vectors, num_anchors=num_anchors)
