"""Sums and means of the vectors of bags of ids, in NumPy."""

from typing import TYPE_CHECKING, Any

import numpy as np

from anchor_codes.typing import check_choice, check_integer_ids

# At run time the module of the tables imports this one.
if TYPE_CHECKING:
  from anchor_codes.tables.base import Table

MODES = ("sum", "mean")
_IDS = 4096  # Looked up at a time: their vectors stay in the cache.


def bag(
  table: "Table",
  ids: Any,
  offsets: Any,
  weights: Any = None,
  *,
  mode: str = "sum",
) -> np.ndarray:
  r"""Sums up the vectors of each bag of ids.

  Bag :math:`b` holds the ids from ``offsets[b]`` up to ``offsets[b + 1]``, the
  last one up to the end: :math:`y_b = \sum_{i \in b} w_i e_i`. The vectors of
  all ids are never there at once.

  Args:
    table: A table of any kind.
    ids: Integers [num_ids].
    offsets: Integers [num_bags], ascending from 0; equal ones make an empty
      bag, whose vector is zeros.
    weights: A float for each id, or None for ones; for 'sum' only.
    mode: 'sum', or 'mean' over the ids of the bag.

  Returns:
    float32 [num_bags, features].

  Raises:
    ValueError: If an argument has the wrong type or shape, or the offsets are
      not ascending from 0 up to the number of ids at most.
    IndexError: If an id is negative or past the end.

  >>> from anchor_codes import tables
  >>> table = tables.DenseTable(np.array([[1], [10], [100]], np.float32))
  >>> print(bag(table, [0, 1, 2, 2], [0, 2, 2], mode="mean"))
  [[  5.5]
   [  0. ]
   [100. ]]
  """
  check_choice("mode", mode, MODES)
  ids, weights = _check_ids(ids, weights, mode)
  counts = bag_sizes(offsets, len(ids))
  bags = np.repeat(np.arange(len(counts)), counts)
  pooled = np.zeros((len(counts), table.features), np.float32)
  for start in range(0, len(ids), _IDS):
    block = slice(start, start + _IDS)
    vectors = table.lookup(ids[block])
    if weights is not None:
      vectors *= weights[block, None]
    # Where a bag begins, or goes on from the block before: none of these
    # pieces is empty, which `reduceat` would not take for a sum of nothing.
    begins = np.flatnonzero(np.diff(bags[block], prepend=-1))
    pooled[bags[block][begins]] += np.add.reduceat(vectors, begins, axis=0)
  if mode == "mean":
    pooled /= np.maximum(counts, 1)[:, None].astype(np.float32)
  return pooled


def bag_sizes(offsets: Any, num_ids: int) -> np.ndarray:
  """Returns the number of ids of each bag.

  Args:
    offsets: Where each bag begins.
    num_ids: Ids of all bags.

  Raises:
    ValueError: If the offsets are not integers that ascend from 0 to `num_ids`
      at most.

  >>> print(bag_sizes([0, 2, 2], 5))
  [2 0 3]
  """
  array = np.asarray(offsets)
  if not array.size:
    array = array.astype(np.intp)  # An empty list says nothing of its type.
  check_offsets(array)
  ends = np.append(array.astype(np.int64), num_ids)
  sizes = np.diff(ends)
  if ends[0] != 0 or (sizes < 0).any():
    raise ValueError(
      f"`offsets` must ascend from 0 to at most {num_ids}, the number of ids, "
      f"got {array.tolist() if array.size < 9 else array}."
    )
  return sizes


def check_offsets(offsets: Any) -> None:
  """Raises an error if an array cannot be the offsets of bags.

  Args:
    offsets: The array, whose values need not be known.

  Raises:
    ValueError: If it is not one axis of integers.
  """
  if offsets.ndim != 1 or not np.issubdtype(offsets.dtype, np.integer):
    raise ValueError(
      f"`offsets` must be integers [num_bags], got {offsets.dtype} of shape "
      f"{offsets.shape}."
    )


def _check_ids(
  ids: Any, weights: Any, mode: str
) -> tuple[np.ndarray, np.ndarray | None]:
  array = np.asarray(ids)
  if isinstance(ids, list | tuple) and not array.size:
    array = array.astype(np.intp)
  check_integer_ids(array)
  if array.ndim != 1:
    raise ValueError(f"`ids` must be [num_ids], got shape {array.shape}.")
  if weights is None:
    return array, None
  if mode != "sum":
    raise ValueError(f"`weights` must be None for the mode {mode!r}.")
  weights = np.asarray(weights, np.float32)
  if weights.shape != array.shape:
    raise ValueError(
      f"`weights` must have shape {array.shape}, one for each id, got "
      f"{weights.shape}."
    )
  return array, weights
