"""Tests of alias tables."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes.ops import aliases

WEIGHT = st.one_of(
  st.floats(2.0**-126, 2.0**127, width=32), st.sampled_from([1.0, 2.0, 100.0])
)


def _shares(offsets, acceptance, others):
  """How often each entry comes out of a draw from its row."""
  shares = acceptance.astype(float)
  np.add.at(shares, others, 1 - acceptance.astype(float))
  degrees = np.diff(offsets)
  return shares / np.repeat(degrees, degrees)


def _check(rows):
  offsets = np.append(0, np.cumsum([len(row) for row in rows])).astype(int)
  weights = np.concatenate([*map(np.asarray, rows), np.zeros(0)])
  acceptance, others = aliases.alias_tables(offsets, weights)
  assert acceptance.dtype == np.float32
  assert ((acceptance >= 0) & (acceptance <= 1)).all()
  place = np.repeat(np.arange(len(rows)), np.diff(offsets))
  # Rows do not mix.
  np.testing.assert_array_equal(place[others], place)
  expected = np.concatenate(
    [*(np.asarray(r, float) / np.sum(r, dtype=float) for r in rows), []]
  )
  np.testing.assert_allclose(
    _shares(offsets, acceptance, others), expected, atol=2e-7
  )


@given(st.lists(st.lists(WEIGHT, max_size=9), min_size=1, max_size=6))
def test_entries_come_out_in_proportion_to_their_weights(rows):
  _check(rows)


def test_many_rows_of_all_sizes():
  rng = np.random.default_rng(0)
  sizes = [0, 1, 5000, 0, 2, *rng.integers(0, 40, 500), 0]
  _check([rng.pareto(0.5, size) + 1e-3 for size in sizes])


def test_nothing_to_draw():
  _check([[]])
  _check([[], [3.0], []])


def test_equal_weights_always_stay():
  acceptance, others = aliases.alias_tables(
    np.array([0, 3, 5]), np.array([0.3, 0.3, 0.3, 7.0, 7.0])
  )
  np.testing.assert_array_equal(acceptance, np.ones(5))
  np.testing.assert_array_equal(others, np.arange(5))
