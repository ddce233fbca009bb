"""The parts of tables for other libraries: floats, and slots for all rows."""

from typing import NamedTuple

import numpy as np

from anchor_codes.accounting import index_dtype
from anchor_codes.tables.anchor_table import AnchorTable

_ROWS = 4096  # Expanded at a time.


class Slots(NamedTuple):
  """Rows of an anchor table, as many pairs of index and weight for each.

  Attributes:
    indices: Anchors [num_embeddings, num_nonzeros].
    weights: Their weights, of which some may be 0; int8 with `scales`.
    scales: What the weights of each row are multiplied with, or None.
  """

  indices: np.ndarray
  weights: np.ndarray
  scales: np.ndarray | None


def to_float(array: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
  """Returns an array in float32, each entry of its first axis times its scale.

  For shared parts, which are small beside the rows.

  >>> print(to_float(np.int8([[1, 2], [3, 4]]), np.float32([10, 0.5])))
  [[10.  20. ]
   [ 1.5  2. ]]
  """
  floats = np.asarray(array).astype(np.float32)
  if scales is None:
    return floats
  return floats * scales.astype(np.float32).reshape(-1, *[1] * (array.ndim - 1))


def anchor_slots(table: AnchorTable) -> Slots:
  """Returns the slots of an anchor table, made out of masks if need be.

  Args:
    table: A table whose rows are slots or masked.

  Raises:
    ValueError: If the rows are dense.

  >>> table = AnchorTable(
  ...     np.eye(3, dtype=np.float32),
  ...     weights=np.float32([7, 8, 9]),
  ...     masks=np.uint8([[0b101], [0b010]]),
  ... )
  >>> print(anchor_slots(table).indices)
  [[0 2]
   [1 0]]
  """
  if table.indices is not None:
    return Slots(table.indices, table.weights, table.weight_scales)
  if table.masks is None:
    raise ValueError("`table` must have sparse rows, got dense ones.")
  counts = np.bitwise_count(table.masks).sum(axis=1, dtype=np.int64)
  shape = (table.num_embeddings, max(1, int(counts.max())))
  indices = np.zeros(shape, index_dtype(table.num_anchors))
  weights = np.zeros(shape, table.weights.dtype)
  start = 0
  for first in range(0, table.num_embeddings, _ROWS):
    present = np.unpackbits(
      table.masks[first : first + _ROWS],
      axis=1,
      count=table.num_anchors,
      bitorder="little",
    )
    rows, columns = np.nonzero(present)
    # The place of each weight among those of its row.
    sizes = counts[first : first + _ROWS]
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    places = first + rows, np.arange(len(rows)) - starts
    indices[places] = columns
    weights[places] = table.weights[start : start + len(rows)]
    start += len(rows)
  return Slots(indices, weights, table.weight_scales)
