"""Rounds rows of numbers to a few bits, with a scale for each row."""

import numpy as np

from anchor_codes import bits
from anchor_codes.tables import checks

PACKED_BITS = {"int4": 4, "int2": 2}
_NUM_SCALES = 12  # Tried for each row, from the least to the largest one.
_BLOCK = 2048  # Rows rounded at a time: all that is computed stays small.


def round_rows(
  rows: np.ndarray, dtype: str, *, scale_dtype: str = "float32"
) -> tuple[np.ndarray, np.ndarray]:
  r"""Rounds each row to integers times a scale of its own.

  Args:
    rows: Finite float32 [size, width].
    dtype: 'int8', whose levels are s q, with scales that make the largest
      absolute value of a row 127; or 'int4' or 'int2', whose levels are
      :math:`s (q - \frac{2^b - 1}{2})` for b bits, with scales of about the
      least squared error.
    scale_dtype: 'float32' or 'float16'.

  Returns:
    int8 [size, width], or uint8 [size, ceil(width * b / 8)] with the lowest
    bits of a byte first, and the scales [size].

  Raises:
    ValueError: If a scale is too large for its type.
  """
  parts = [
    _round_block(rows[start : start + _BLOCK], dtype, scale_dtype)
    for start in range(0, len(rows), _BLOCK)
  ]
  rounded, scales = zip(*parts, strict=True)
  return np.concatenate(rounded), np.concatenate(scales)


def expand_rows(
  packed: np.ndarray, scales: np.ndarray, *, dtype: str, width: int
) -> np.ndarray:
  """Returns rows of 'int4' or 'int2' as float32 [size, width].

  >>> packed, scales = np.uint8([[0b11_10_01_00]]), np.float32([2])
  >>> print(expand_rows(packed, scales, dtype="int2", width=4))
  [[-3. -1.  1.  3.]]
  """
  num_levels = 2 ** PACKED_BITS[dtype]
  levels = np.arange(num_levels, dtype=np.float32) - (num_levels - 1) / 2
  # All levels of a byte in one step: that is a gather from a small table.
  size, per_byte = len(packed), 8 // PACKED_BITS[dtype]
  digits = bits.unpack_codes(
    np.arange(256, dtype=np.uint8)[:, None],
    code_length=per_byte,
    codebook_size=num_levels,
  )
  values = levels.astype(np.float32).take(digits).take(packed, axis=0)
  values = values.reshape(size, packed.shape[1] * per_byte)[:, :width]
  return values * scales.astype(np.float32, copy=False)[:, None]


def _round_block(
  rows: np.ndarray, dtype: str, scale_dtype: str
) -> tuple[np.ndarray, np.ndarray]:
  if dtype == "int8":
    scales = np.abs(rows).max(axis=1, initial=0) / np.float32(127)
    scales = checks.cast("scales", scales, scale_dtype)
    rounded = rows / _divisors(scales)
    return np.rint(rounded).clip(-127, 127).astype(np.int8), scales
  num_levels = 2 ** PACKED_BITS[dtype]
  scales = checks.cast("scales", _best_scales(rows, num_levels), scale_dtype)
  levels = _nearest_levels(rows, scales, num_levels).astype(np.uint8)
  return bits.pack_codes(levels, codebook_size=num_levels), scales


def _best_scales(rows: np.ndarray, num_levels: int) -> np.ndarray:
  """Finds the scales of about the least squared error, float32 [size]."""
  middle = np.float32(num_levels - 1) / 2
  most = np.abs(rows).max(axis=1) / middle  # None is cut off.
  # Half the best step for a normal distribution of four levels; for more of
  # them the best one is below it by as much as the levels are above four.
  least = np.sqrt(np.square(rows, dtype=np.float64).mean(axis=1)) / num_levels
  best, most_gained = most, np.zeros(len(rows), np.float32)
  for share in np.linspace(0, 1, _NUM_SCALES, dtype=np.float32):
    scales = least.astype(np.float32) * (1 - share) + most * share
    levels = _nearest_levels(rows, scales, num_levels) - middle
    products = np.einsum("nd,nd->n", rows, levels)
    squares = np.einsum("nd,nd->n", levels, levels)
    # By the scale of the least error for these levels, which is not negative:
    # a level has the sign of its value. The error falls by as much.
    gained = products * (products / squares)
    best = np.where(gained > most_gained, products / squares, best)
    most_gained = np.maximum(gained, most_gained)
  return best


def _nearest_levels(
  rows: np.ndarray, scales: np.ndarray, num_levels: int
) -> np.ndarray:
  """Returns the number of the nearest level of each value, as floats."""
  # Levels lie in the middle between whole numbers.
  places = np.floor(rows / _divisors(scales)) + num_levels // 2
  return places.clip(0, num_levels - 1)


def _divisors(scales: np.ndarray) -> np.ndarray:
  """Returns scales to divide by, [size, 1]; those of rows of zeros are 1."""
  scales = scales.astype(np.float32, copy=False)
  return np.where(scales > 0, scales, np.float32(1))[:, None]
