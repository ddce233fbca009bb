"""Alias tables: draws in proportion to weights, in constant time."""

import numpy as np
from jaxtyping import Float, Int

# A mean weight in whole numbers, whose sums are exact whatever their order.
_UNIT = 2**31


def alias_tables(
  offsets: Int[np.ndarray, " num_offsets"],
  weights: Float[np.ndarray, " num_entries"],
) -> tuple[Float[np.ndarray, " num_entries"], Int[np.ndarray, " num_entries"]]:
  r"""Builds an alias table for each row of a matrix in compressed sparse rows.

  Definition (Walker, 1977; Vose, 1991): an entry :math:`e` that is drawn
  uniformly from its row stays with the probability :math:`a_e`, else its alias
  is taken, so that each entry comes out in proportion to its weight. Entries
  below the mean of their row are filled up by those above it, in order; who
  fills whom follows from cumulative sums (Hübschle-Schneider and Sanders,
  2022), for all rows at once.

  Args:
    offsets: Where the entries of each row start, and where the last ones end.
    weights: Positive and finite.

  Returns:
    The probabilities float32, and the aliases as positions in `weights`. They
    are exact to 2 ** -24.

  >>> acceptance, aliases = alias_tables(np.array([0, 2]), np.array([3.0, 1.0]))
  >>> print(acceptance, aliases)
  [1.  0.5] [0 0]
  """
  excess = _masses(offsets, np.asarray(weights, np.float64)) - _UNIT
  heavy, light = np.flatnonzero(excess > 0), np.flatnonzero(excess < 0)
  # The sums of a row are equal at its end, so that rows do not mix.
  given, taken = np.cumsum(excess[heavy]), np.cumsum(-excess[light])
  aliases = np.arange(len(excess))
  kept = excess + _UNIT
  before = taken + excess[light]
  aliases[light] = heavy[np.searchsorted(given, before, side="right")]
  # A heavy entry gives until it lies below the mean, and is filled up by the
  # next one itself; the last one of a row comes out at the mean.
  last = np.searchsorted(taken, given, side="left")
  kept[heavy] = _UNIT + given - taken[last]
  following = np.append(heavy[1:], heavy[-1:])
  aliases[heavy] = np.where(kept[heavy] < _UNIT, following, heavy)
  return (kept / _UNIT).astype(np.float32), aliases


def _masses(
  offsets: Int[np.ndarray, " num_offsets"],
  weights: Float[np.ndarray, " num_entries"],
) -> Int[np.ndarray, " num_entries"]:
  """Returns weights as whole numbers, whose mean over a row is the unit."""
  degrees = np.diff(offsets)
  rows = np.repeat(np.arange(len(degrees)), degrees)
  sums = np.bincount(rows, weights, minlength=len(degrees))
  # Rows of mean 1 end at their offset. Set there, rounding does not add up.
  levels = np.cumsum(weights * (degrees / np.maximum(sums, 1e-300))[rows])
  ends = np.asarray(offsets[1:], np.int64) * _UNIT
  filled = degrees > 0
  levels = np.rint(levels * _UNIT).astype(np.int64)
  levels = np.clip(levels, (ends - degrees * _UNIT)[rows], ends[rows])
  levels[offsets[1:][filled] - 1] = ends[filled]
  return np.diff(levels, prepend=0)
