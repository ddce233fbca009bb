"""Tests of metrics."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes.ops import metrics


def _normal(seed, *shape):
  return jnp.asarray(reference.normal(seed, *shape))


TABLE = _normal(0, 40, 5)
OTHER = TABLE + 0.3 * _normal(1, 40, 5)


def test_relative_squared_error():
  assert metrics.relative_squared_error(TABLE, TABLE) == 0
  assert metrics.relative_squared_error(TABLE, jnp.zeros_like(TABLE)) == 1
  error = np.linalg.norm(TABLE - OTHER) ** 2 / np.linalg.norm(TABLE) ** 2
  np.testing.assert_allclose(
    metrics.relative_squared_error(TABLE, OTHER), error, rtol=1e-5
  )


def test_mean_cosine():
  np.testing.assert_allclose(
    metrics.mean_cosine(TABLE, 3 * TABLE), 1, rtol=1e-6
  )
  np.testing.assert_allclose(metrics.mean_cosine(TABLE, -TABLE), -1, rtol=1e-6)
  cosines = [
    a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    for a, b in zip(np.float64(TABLE), np.float64(OTHER), strict=True)
  ]
  np.testing.assert_allclose(
    metrics.mean_cosine(TABLE, OTHER), np.mean(cosines), rtol=1e-5
  )


def test_rows_of_zeros_count_as_unrelated():
  half = TABLE.at[:20].set(0)
  np.testing.assert_allclose(metrics.mean_cosine(TABLE, half), 0.5, rtol=1e-6)


@pytest.mark.parametrize("block", [7, 40, 1000])
@pytest.mark.parametrize("num_neighbors", [1, 5])
def test_neighbor_overlap_agrees_with_the_loop(num_neighbors, block):
  overlap = metrics.neighbor_overlap(
    TABLE, OTHER, num_neighbors=num_neighbors, block=block
  )
  expected = reference.neighbor_overlap(
    np.float64(TABLE), np.float64(OTHER), num_neighbors
  )
  np.testing.assert_allclose(overlap, expected, rtol=1e-6)
  assert 0.2 < expected < 1


def test_neighbours_ignore_scale_and_rotation():
  rotation = jnp.linalg.qr(_normal(2, 5, 5))[0]
  scale = jnp.linspace(0.5, 2.0, 40)[:, None]
  overlap = metrics.neighbor_overlap(TABLE, scale * (TABLE @ rotation))
  np.testing.assert_allclose(overlap, 1, atol=0.01)


def test_neighbours_of_unrelated_tables_are_shared_by_chance():
  overlap = metrics.neighbor_overlap(_normal(0, 500, 8), _normal(1, 500, 8))
  np.testing.assert_allclose(overlap, 10 / 499, atol=0.01)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_neighbors": 0}, "`num_neighbors` must be at least 1"),
    ({"num_neighbors": 40}, "`num_neighbors` must be less than .* 40 and 40"),
    ({"block": 0}, "`block` must be at least 1"),
  ],
)
def test_options_are_checked(options, message):
  with pytest.raises(ValueError, match=message):
    metrics.neighbor_overlap(TABLE, OTHER, **options)


@pytest.mark.parametrize(
  "metric",
  [
    metrics.relative_squared_error,
    metrics.mean_cosine,
    functools.partial(metrics.neighbor_overlap, num_neighbors=2),
  ],
)
def test_tables_of_other_shapes_are_refused(metric):
  with pytest.raises(AssertionError, match="shape"):
    metric(TABLE, OTHER[:-1])


@pytest.mark.parametrize("codebook_size", [2, 32, 256])
def test_perplexity_of_uniform_codes_is_the_size(codebook_size):
  digits = jnp.tile(jnp.arange(codebook_size)[:, None], (3, 4))
  perplexity = metrics.code_perplexity(digits, codebook_size=codebook_size)
  np.testing.assert_allclose(perplexity, np.full(4, codebook_size), rtol=1e-5)


def test_perplexity_of_given_shares():
  digits = jnp.array([[0, 5], [0, 5], [0, 5], [1, 5]], jnp.uint8)
  expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
  np.testing.assert_allclose(
    metrics.code_perplexity(digits, codebook_size=6), [expected, 1], rtol=1e-6
  )


@pytest.mark.parametrize(
  ("codebook_size", "code_length", "expected"),
  [
    (2, 10, 0.1024),
    (8, 4, 0.3740),
    (2, 16, 0.9274),
    (16, 4, 0.9274),
    (32, 32, 1.0),
  ],
)
def test_unique_fraction_of_random_codes(codebook_size, code_length, expected):
  rng = np.random.default_rng(0)
  digits = rng.integers(0, codebook_size, (10_000, code_length), np.uint8)
  fraction = metrics.unique_fraction(jnp.asarray(digits))
  np.testing.assert_allclose(fraction, expected, atol=0.01)


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=30))
def test_unique_fraction_counts_different_codes(rows):
  expected = len(set(rows)) / len(rows)
  assert metrics.unique_fraction(np.array(rows)) == expected


def test_no_codes_have_no_collisions():
  assert metrics.unique_fraction(jnp.zeros((0, 4), jnp.uint8)) == 1
