"""Tests of codes that are given, and of clustering what they have learned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchor_codes.ops import (
  clustering,
  codes,
  entries,
  given_codes,
  metrics,
  normalization,
  quantization,
  reclustering,
)

SIZES = {"num_embeddings": 3, "code_length": 2, "codebook_size": 4}


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize(
  ("codebook_size", "code_length", "expected"),
  [(2, 10, 0.1024), (8, 4, 0.3740), (16, 4, 0.9274), (32, 32, 1.0)],
)
def test_random_codes_are_as_unique_as_expected(
  codebook_size, code_length, expected
):
  drawn = given_codes.random_codes(
    jax.random.key(0),
    num_embeddings=10_000,
    code_length=code_length,
    codebook_size=codebook_size,
  )
  fraction = metrics.unique_fraction(np.asarray(drawn))
  np.testing.assert_allclose(fraction, expected, atol=0.01)
  assert drawn.max() == codebook_size - 1


@pytest.mark.parametrize("size", [256, 257])
def test_codes_are_of_the_smallest_type(size):
  sizes = {**SIZES, "codebook_size": size}
  drawn = given_codes.random_codes(jax.random.key(0), **sizes)
  checked = given_codes.as_codes("codes", np.int64(drawn), **sizes)
  expected = np.uint8 if size == 256 else np.uint16
  assert drawn.dtype == checked.dtype == expected
  np.testing.assert_array_equal(drawn, checked)


@pytest.mark.parametrize(
  ("bad", "text"),
  [
    (np.zeros((3, 2)), "`codes` must be integers, got float64"),
    (np.zeros((2, 3), int), r"must have shape \(3, 2\), got \(2, 3\)"),
    ([[0, 1], [-1, 0], [0, 0]], r"\[0, 4\), got -1 at position \(1, 0\)"),
    ([[0, 1], [3, 0], [0, 4]], r"\[0, 4\), got 4 at position \(2, 1\)"),
  ],
)
def test_bad_codes_are_refused(bad, text):
  with pytest.raises(ValueError, match=text):
    given_codes.as_codes("codes", bad, **SIZES)


@pytest.mark.parametrize("name", list(SIZES))
def test_sizes_are_checked(name):
  with pytest.raises(ValueError, match=f"`{name}` must be"):
    given_codes.random_codes(jax.random.key(0), **{**SIZES, name: 0})


@pytest.mark.parametrize("block", [1, 2**22])
def test_residual_codes_are_those_of_the_clustering(block, monkeypatch):
  monkeypatch.setattr(reclustering, "_BLOCK_ENTRIES", block)
  points = jnp.asarray(_normal(50, 3))
  books, expected = clustering.residual_kmeans(
    jax.random.key(0), points, code_length=3, codebook_size=4
  )
  found = reclustering.residual_codes(points, books)
  np.testing.assert_array_equal(found, expected)


def _recluster(num_embeddings=200, length=4, **options):
  drawn = given_codes.random_codes(
    jax.random.key(1),
    num_embeddings=num_embeddings,
    code_length=length,
    codebook_size=8,
  )
  books = jnp.asarray(_normal(length, 8, 5, seed=3))
  run = jax.jit(functools.partial(reclustering.recluster_codes, **options))
  new = run(jax.random.key(2), drawn, books)
  decode = functools.partial(codes.decode_codes, composition="sum")
  return decode(drawn, books), decode(new.codes, new.codebooks), new


@pytest.mark.parametrize("length", [2, 5])
def test_clusters_of_the_sketch(length):
  old, vectors, new = _recluster(length=length)
  num_stages = length // 2
  assert new.codes.shape == (200, length)
  assert new.codes.dtype == np.uint8
  assert not new.codebooks[num_stages:].any()
  change = np.mean(np.square(old - vectors))
  np.testing.assert_allclose(new.change, change, rtol=1e-5)
  assert change < np.var(old)
  expected = reclustering.residual_codes(old, new.codebooks[:num_stages])
  np.testing.assert_array_equal(new.codes[:, :num_stages], expected)
  # The other digits are new ones, whatever the vectors are.
  assert len(np.unique(new.codes[:, num_stages:])) == 8


def test_a_sample_is_enough_for_the_clusters():
  old, _, sampled = _recluster(num_samples=100)
  assert sampled.change < 0.9 * np.var(old)


def test_a_sample_of_vectors_has_none_twice():
  # As many clusters as samples: those vectors stay as they are.
  old, vectors, _ = _recluster(num_embeddings=9, length=2, num_samples=8)
  stays = np.abs(np.asarray(old) - np.asarray(vectors)).max(axis=1) < 1e-5
  assert stays.sum() >= 8


def test_too_few_digits_or_samples():
  with pytest.raises(ValueError, match="`code_length` must be at least 2, got"):
    _recluster(length=1)
  with pytest.raises(ValueError, match="`codebook_size` must be at most the n"):
    _recluster(num_samples=7)


@pytest.mark.parametrize("shared", [True, False])
def test_parts_are_clustered_together_or_apart(shared):
  points = jnp.asarray(_normal(60, 6))
  books, digits = clustering.product_kmeans(
    jax.random.key(0),
    points,
    code_length=3,
    codebook_size=4,
    shared_codebook=shared,
  )
  assert books.shape == (1 if shared else 3, 4, 2)
  parts = np.asarray(points).reshape(60, 3, 1, 2)
  distances = np.square(parts - np.asarray(books)[None]).sum(axis=-1)
  np.testing.assert_array_equal(digits, distances.argmin(axis=-1))


def test_a_shared_codebook_may_be_larger_than_the_table():
  books, digits = clustering.product_kmeans(
    jax.random.key(0),
    jnp.arange(6.0).reshape(2, 3),
    code_length=3,
    codebook_size=6,
    shared_codebook=True,
  )
  np.testing.assert_allclose(books[0, digits, 0].ravel(), np.arange(6))


@pytest.mark.parametrize("positions", [1, 3])
def test_entries_start_at_a_sample_with_the_moments_of_all(positions):
  queries, books = jnp.asarray(_normal(60, 6)), jnp.zeros((positions, 4, 2))
  moments = normalization.Moments(jnp.zeros(4), jnp.ones(4))
  start = entries.start_entries(
    jax.random.key(0),
    queries,
    entries.Entries(books, books, moments),
    relaxation="nearest",
    num_iterations=0,
    num_samples=4,
  )
  np.testing.assert_array_equal(start.keys, start.codebooks)
  assert start.codebooks.shape == books.shape
  # Without a step of k-means the centroids are parts of queries.
  parts = np.asarray(queries).reshape(60, 3, 1, 2)
  symbols = []
  for j in range(positions):
    own = parts[:, j] if positions > 1 else parts.reshape(-1, 1, 2)
    distances = np.abs(own - np.asarray(start.codebooks[j])).max(axis=-1)
    np.testing.assert_allclose(distances.min(axis=0), 0, atol=1e-5)
    symbols.append(set(distances.argmin(axis=0).tolist()))
  assert all(found == symbols[0] for found in symbols)
  expected = quantization.query_moments(
    queries, start.codebooks, relaxation="nearest"
  )
  np.testing.assert_allclose(start.moments, expected, rtol=1e-4)


def test_a_sample_has_different_rows():
  rows = jnp.arange(20.0)[:, None]
  sample = entries.sample_rows(jax.random.key(0), rows, num_samples=7)
  assert len(np.unique(sample)) == 7
  everything = entries.sample_rows(jax.random.key(0), rows, num_samples=20)
  np.testing.assert_array_equal(everything, rows)
  with pytest.raises(ValueError, match="`num_samples` must be at least 1"):
    entries.sample_rows(jax.random.key(0), rows, num_samples=0)
