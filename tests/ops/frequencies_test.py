"""Tests of frequencies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchor_codes.ops import frequencies


@functools.partial(jax.jit, static_argnames="exclude_self")
def _draw(found, ids, exclude_self=True):
  return found.draw(jax.random.key(0), ids, exclude_self=exclude_self)


def _counts_of(found):
  return np.diff(np.asarray(found.cumulative, np.int64), prepend=0)


@pytest.mark.parametrize("counts", [[3, 0, 5], [0, 0, 1], [2.0, 1.0]])
def test_whole_numbers_are_kept(counts):
  found = frequencies.frequencies_from_counts(counts)
  np.testing.assert_array_equal(_counts_of(found), counts)
  assert found.cumulative.dtype == jnp.int32
  assert found.num_embeddings == len(counts)


@pytest.mark.parametrize(
  "counts", [[0.25, 0.5, 0.0], [1e12, 3e12, 1.0], [2**31, 1, 2**31]]
)
def test_others_are_scaled(counts):
  scaled = _counts_of(frequencies.frequencies_from_counts(counts))
  assert scaled.sum() == 2**31 - 1
  shares = np.asarray(counts, float) / np.sum(counts, dtype=float)
  np.testing.assert_allclose(scaled / scaled.sum(), shares, atol=2**-30)


def test_the_rarest_id_is_drawn_and_the_id_itself_is_not():
  # float32 could not tell the sums of these apart.
  found = frequencies.frequencies_from_counts([2**30, 1, 2**30 - 2])
  ids = jnp.asarray([0, 2] * 500, jnp.int32)
  drawn = np.asarray(_draw(found, ids))
  np.testing.assert_array_equal(drawn, 2 - np.asarray(ids))
  few = frequencies.frequencies_from_counts([2**30, 1, 0])
  drawn = _draw(few, jnp.zeros(1000, jnp.int32))
  np.testing.assert_array_equal(drawn, np.ones(1000))


def test_ids_without_counts_are_not_drawn():
  found = frequencies.frequencies_from_counts([0, 1, 0, 1, 0])
  for exclude_self in (True, False):
    drawn = _draw(found, jnp.zeros(200, jnp.int32), exclude_self)
    assert set(np.asarray(drawn).tolist()) == {1, 3}


@pytest.mark.parametrize(
  ("counts", "message"),
  [
    ([], r"`counts` must be \[num_embeddings\], got \(0,\)"),
    ([[1]], r"`counts` must be \[num_embeddings\], got \(1, 1\)"),
    ([1, -2], "finite and not negative, got -2 at position 1"),
    ([float("nan")], "finite and not negative, got nan at position 0"),
    ([float("inf")], "finite and not negative, got inf at position 0"),
    ([0, 0], "`counts` must not all be 0"),
  ],
)
def test_other_counts_are_refused(counts, message):
  with pytest.raises(ValueError, match=message):
    frequencies.frequencies_from_counts(counts)
