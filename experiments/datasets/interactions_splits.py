"""Parts of interactions, told row by row: for training, validation and test."""

from collections.abc import Callable

import numpy as np

from experiments.datasets import interactions_columns as columns
from experiments.datasets import interactions_ids as ids_lib

PARTS = ("train", "valid", "test")
"""The parts, by their numbers."""

Split = Callable[[columns.Block], np.ndarray]
"""From a block to the number of each row's part."""

_SHARES = (0.8, 0.1, 0.1)
_ROTATION = np.uint64(0x9E3779B97F4A7C15)


def hash_split(*, seed: int = 0, shares: tuple[float, ...] = _SHARES) -> Split:
  """Splits at random by a hash of user and item, not by the place of a row.

  All rows of a user with an item are in the same part, in whatever file or
  order they come.

  Args:
    seed: Chooses the hash function, 0 to 2 ** 32 - 1.
    shares: The share of each part; they add up to 1.

  Returns:
    The split, for blocks with the symbols ``user`` and ``item``.

  Raises:
    ValueError: If the shares are negative or do not add up to 1.
  """
  if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
    raise ValueError(f"`shares` must add up to 1, got {shares}.")
  edges = np.cumsum(shares)[:-1]

  def split(block: columns.Block) -> np.ndarray:
    users, items = (_hashes(block, role) for role in ("user", "item"))
    # An odd factor tells a user from an item of the same name.
    pairs = (users * _ROTATION) ^ items ^ (np.uint64(seed) << np.uint64(32))
    mixed = ids_lib.mix(pairs)
    # 53 bits are a uniform number in [0, 1), exactly.
    uniform = (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
    return np.searchsorted(edges, uniform, side="right")

  return split


def _hashes(block: columns.Block, role: str) -> np.ndarray:
  symbols = block[role]
  return ids_lib.symbol_hashes(symbols)[symbols.codes]


def time_split(valid_from: float, test_from: float) -> Split:
  """Splits by time: the future is predicted from the past.

  Args:
    valid_from: The first time of the validation rows.
    test_from: The first time of the test rows, at least `valid_from`.

  Returns:
    The split, for blocks with the numbers ``timestamp``.

  Raises:
    ValueError: If the times are in the wrong order.

  >>> time_split(10, 20)({"timestamp": np.array([9.0, 10, 19, 20])})
  array([0, 1, 1, 2])
  """
  if not valid_from <= test_from:
    raise ValueError(
      f"`test_from` must be at least `valid_from`, got {test_from} and "
      f"{valid_from}."
    )
  edges = np.array([valid_from, test_from])
  return lambda block: np.searchsorted(edges, block["timestamp"], side="right")


def column_split(block: columns.Block) -> np.ndarray:
  """Splits by a column that names the part of each row, one of `PARTS`.

  Raises:
    interactions_columns.BadValueError: If a name is another one.

  >>> import pyarrow as pa
  >>> names = pa.array(["test", "train"])
  >>> column_split({"split": columns.Symbols(names, np.array([1, 1, 0]))})
  array([0, 0, 2])
  """
  symbols = block["split"]
  names = symbols.texts()
  numbers = [PARTS.index(name) if name in PARTS else -1 for name in names]
  labels = np.array(numbers)[symbols.codes]
  if labels.min(initial=0) < 0:
    row = int(np.argmin(labels))
    raise columns.BadValueError(
      row,
      f"`split` must be one of {', '.join(PARTS)}, got "
      f"{names[symbols.codes[row]]!r}.",
    )
  return labels
