"""The forms in which an anchor table keeps its rows: dense, slots, masks."""

from typing import Any

import numpy as np

from anchor_codes import accounting

_BLOCK = 4096
_CACHED = 1 << 18  # Numbers: one mebibyte.


def smallest_rows(transform: np.ndarray) -> dict[str, Any]:
  """Finds the form of rows that takes the fewest bytes.

  Args:
    transform: Dense rows [num_embeddings, num_anchors] in the type to keep.

  Returns:
    The fields of `AnchorTable`: `weights`, and `indices` or `masks`. Of equal
    forms the dense rows go first, then the slots.

  >>> rows = np.array([[0, 0, 0, 3], [0, 1, 0, 2]], np.float32)
  >>> smallest_rows(rows)
  {'weights': array([3., 1., 2.], dtype=float32),
   'masks': array([[ 8], [10]], dtype=uint8)}
  """
  num_embeddings, num_anchors = transform.shape
  counts = np.count_nonzero(transform, axis=1)
  weight_bits = 8 * transform.itemsize
  slots, dense = (
    accounting.table_bytes(
      num_embeddings,
      row_bits=accounting.anchor_row_bits(
        num_anchors, num_nonzeros, weight_bits=weight_bits
      ),
    )
    for num_nonzeros in (max(1, int(counts.max())), None)
  )
  masked = accounting.masked_rows_bytes(
    num_embeddings, num_anchors, int(counts.sum()), weight_bits=weight_bits
  )
  if dense <= min(slots, masked):
    return {"weights": transform}
  return slot_rows(transform) if slots <= masked else masked_rows(transform)


def slot_rows(transform: np.ndarray) -> dict[str, Any]:
  """Keeps as many pairs of index and weight for each row as the longest has.

  Args:
    transform: Dense rows [num_embeddings, num_anchors].

  Returns:
    `weights` and `indices` [num_embeddings, num_nonzeros] in the order of the
    anchors; a slot that is left over has the index 0 and the weight 0.
  """
  rows, columns = np.nonzero(transform)
  counts = np.bincount(rows, minlength=len(transform))
  slots = np.arange(len(rows)) - np.repeat(_starts(counts), counts)
  # One slot at least: a table refuses slots that are an array without entries.
  shape = (len(transform), max(1, int(counts.max())))
  weights = np.zeros(shape, transform.dtype)
  indices = np.zeros(shape, accounting.index_dtype(transform.shape[1]))
  weights[rows, slots] = transform[rows, columns]
  indices[rows, slots] = columns
  return {"weights": weights, "indices": indices}


def masked_rows(transform: np.ndarray) -> dict[str, Any]:
  """Keeps the non-zeros alone, and one bit for each entry that tells them.

  Args:
    transform: Dense rows [num_embeddings, num_anchors].

  Returns:
    `weights` [num_nonzeros of the whole table], row by row, and `masks` uint8
    [num_embeddings, ceil(num_anchors / 8)], the lowest bit of a byte first.
  """
  present = transform != 0
  # The lowest bit first, as in packed codes.
  masks = np.packbits(present, axis=1, bitorder="little")
  return {"weights": transform[present], "masks": masks}


def mask_offsets(
  masks: np.ndarray, *, num_anchors: int, num_weights: int
) -> np.ndarray:
  """Counts where the weights of each masked row begin.

  Args:
    masks: uint8 [num_embeddings, ceil(num_anchors / 8)].
    num_anchors: Number of anchors.
    num_weights: Weights of the whole table.

  Returns:
    int64 [num_embeddings].

  Raises:
    ValueError: If a bit stands for no anchor or no weight, or a weight for no
      bit: no row could be told from another one.

  >>> masks = np.array([[0b101], [0], [0b010]], np.uint8)
  >>> print(mask_offsets(masks, num_anchors=3, num_weights=3))
  [0 2 2]
  """
  if num_anchors % 8 and (masks[:, -1] >> num_anchors % 8).any():
    raise ValueError(
      f"`masks` must have no bits past the {num_anchors} anchors, got "
      f"{np.count_nonzero(masks[:, -1] >> num_anchors % 8)} rows with some."
    )
  counts = np.bitwise_count(masks).sum(axis=1, dtype=np.int64)
  if counts.sum() != num_weights:
    raise ValueError(
      f"`masks` must have one bit for each of the {num_weights} weights, got "
      f"{counts.sum()} bits."
    )
  return _starts(counts)


def expand_masked(
  masks: np.ndarray,
  weights: np.ndarray,
  starts: np.ndarray,
  *,
  num_anchors: int,
) -> np.ndarray:
  """Writes some masked rows as dense ones.

  Args:
    masks: uint8 [size, ceil(num_anchors / 8)] of these rows.
    weights: Weights of the whole table.
    starts: Where the weights of each of these rows begin.
    num_anchors: Number of anchors.

  Returns:
    float32 [size, num_anchors].

  >>> masks, weights = np.uint8([[0b101]]), np.float32([7, 8, 9])
  >>> print(expand_masked(masks, weights, np.array([1]), num_anchors=3))
  [[8. 0. 9.]]
  """
  present = np.unpackbits(
    masks, axis=1, count=num_anchors, bitorder="little"
  ).astype(bool)
  counts = np.count_nonzero(present, axis=1)
  # Of the n-th weight that is asked for, the place among all weights.
  places = np.arange(counts.sum()) + np.repeat(starts - _starts(counts), counts)
  dense = np.zeros(present.shape, np.float32)
  dense[present] = weights.take(places)
  return dense


def masked_slots(
  weights: np.ndarray, indices: np.ndarray, num_anchors: int
) -> dict[str, Any]:
  """Writes slots of different anchors as masked rows.

  Args:
    weights: [num_embeddings, num_nonzeros]; a weight of 0 gives no entry.
    indices: Integers [num_embeddings, num_nonzeros].
    num_anchors: Number of anchors.

  Returns:
    The fields that :func:`masked_rows` returns, and no `indices`.
  """
  parts = []
  for start in range(0, len(weights), _BLOCK):
    block = slice(start, start + _BLOCK)
    dense = np.zeros((len(weights[block]), num_anchors), weights.dtype)
    present = weights[block] != 0
    rows, slots = np.nonzero(present)
    dense[rows, indices[block][rows, slots]] = weights[block][present]
    parts.append(masked_rows(dense))
  joined = {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
  return {**joined, "indices": None}


def mix_slots(
  vectors: np.ndarray,
  indices: np.ndarray,
  weights: np.ndarray,
  mixed: np.ndarray,
) -> None:
  """Mixes the vectors that slots choose.

  Args:
    vectors: float32 [num_anchors, width].
    indices: Integers [size, num_nonzeros], all in range.
    weights: float32 [size, num_nonzeros].
    mixed: Where the result goes, float32 [size, width].
  """
  num_slots, width = indices.shape[1], vectors.shape[1]
  # So many rows that the chosen vectors stay in the cache until they are mixed.
  step = max(1, _CACHED // max(1, num_slots * width))
  chosen = np.empty((min(step, len(indices)), num_slots, width), np.float32)
  for start in range(0, len(indices), step):
    block = slice(start, start + step)
    part = chosen[: len(indices[block])]
    # Without `clip`, which never happens, NumPy writes to a buffer first.
    vectors.take(indices[block], axis=0, out=part, mode="clip")
    np.matmul(weights[block, None], part, out=mixed[block, None])


def _starts(counts: np.ndarray) -> np.ndarray:
  return np.cumsum(counts) - counts
