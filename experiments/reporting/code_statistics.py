"""Numbers on codes by NumPy alone: collisions, balance and distances.

Codes are integers [num_embeddings, code_length]; a million of them take
seconds, and little more memory than themselves.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from anchor_codes import typing as options

_BLOCK = 2**24  # Distances that are held at a time.


def check_codes(codes: Any, codebook_size: int) -> np.ndarray:
  """Checks codes, and returns them in the smallest type that holds them.

  Args:
    codes: Integers [num_embeddings, code_length], at least one.
    codebook_size: Number of values that a digit can take, 2 to 65536.

  Raises:
    ValueError: If they are not like that.

  >>> check_codes([[3, 4]], codebook_size=4)
  Traceback (most recent call last):
  ...
  ValueError: `codes` must be in [0, 4), got 4 at row 0, digit 1.
  """
  codes, dtype = np.asarray(codes), options.code_dtype(codebook_size)
  if codes.ndim != 2 or not codes.size or codes.dtype.kind not in "iu":
    raise ValueError(
      "`codes` must be integers [num_embeddings, code_length], at least one, "
      f"got {codes.dtype} of shape {codes.shape}."
    )
  if codes.min() < 0 or codes.max() >= codebook_size:
    row, digit = np.argwhere((codes < 0) | (codes >= codebook_size))[0]
    raise ValueError(
      f"`codes` must be in [0, {codebook_size}), got {codes[row, digit]} at "
      f"row {row}, digit {digit}."
    )
  return codes.astype(dtype, copy=False)


def count_values(codes: np.ndarray, *, codebook_size: int) -> np.ndarray:
  """Counts the symbols that have each value of each digit.

  Args:
    codes: Integers [num_embeddings, code_length] in ``[0, codebook_size)``.
    codebook_size: Number of values that a digit can take.

  Returns:
    Counts [code_length, codebook_size].

  >>> count_values(np.array([[0, 1], [0, 2]]), codebook_size=3).tolist()
  [[2, 0, 0], [0, 1, 1]]
  """
  # Digit by digit: `bincount` makes a copy in its own, wide type.
  return np.array([np.bincount(d, minlength=codebook_size) for d in codes.T])


def dead_share(usage: np.ndarray, *, shared_codebook: bool = False) -> float:
  """Returns the part of the entries of the codebooks that no symbol uses.

  Args:
    usage: Counts [code_length, codebook_size].
    shared_codebook: Whether all digits choose from one codebook.

  >>> usage = np.array([[2, 0, 0], [0, 1, 1]])
  >>> dead_share(usage), dead_share(usage, shared_codebook=True)
  (0.5, 0.0)
  """
  used = usage.any(axis=0) if shared_codebook else usage > 0
  return float(1 - used.mean())


def pair_disagreement(usage: np.ndarray) -> float | None:
  """Returns in what part of their digits two symbols differ, over all pairs.

  Args:
    usage: Counts [code_length, codebook_size].

  Returns:
    The mean, exact; None if there is no pair.

  >>> pair_disagreement(np.array([[2, 0, 0], [0, 1, 1]]))
  0.5
  """
  number = int(usage[0].sum())
  if number < 2:
    return None
  equal = (usage * (usage - 1.0)).sum(axis=1) / (number * (number - 1.0))
  return float(1 - equal.mean())


def collisions(codes: np.ndarray) -> list[np.ndarray]:
  """Finds the symbols that share a code.

  Args:
    codes: Integers [num_embeddings, code_length].

  Returns:
    The rows of each group of at least two, ascending; the largest groups first,
    then those of the first symbols.

  >>> collisions(np.array([[0, 0], [0, 1], [2, 1], [0, 1]]))
  [array([1, 3])]
  """
  words = _as_words(codes)
  order = np.lexsort(words.T)
  is_new = (words[order[1:]] != words[order[:-1]]).any(axis=1)
  edges = np.concatenate([[0], np.flatnonzero(is_new) + 1, [len(order)]])
  (shared,) = np.nonzero(np.diff(edges) > 1)
  groups = [order[edges[i] : edges[i + 1]] for i in shared]
  return sorted(groups, key=lambda group: (-len(group), group[0]))


def unique_share(groups: Sequence[np.ndarray], num_embeddings: int) -> float:
  """Returns the number of different codes for each symbol, at most 1.

  Args:
    groups: The symbols that share a code, from :func:`collisions`.
    num_embeddings: Number of all symbols.

  >>> unique_share([np.array([1, 3])], 4)
  0.75
  """
  spare = sum(len(group) - 1 for group in groups)
  return (num_embeddings - spare) / num_embeddings


def nearest_codes(
  codes: np.ndarray, rows: Any, *, counts: Any = None, top: int = 10
) -> list[list[tuple[int, int]]]:
  """Finds the codes that differ in the fewest digits (Hamming distance).

  Args:
    codes: Integers [num_embeddings, code_length].
    rows: The symbols whose neighbours are looked for.
    counts: How often each symbol occurs; among equally near ones the most
      frequent go first, then the first.
    top: Number of neighbours.

  Returns:
    For each of the rows other rows, and in how many digits they differ.

  >>> nearest_codes(np.array([[0, 0], [5, 5], [0, 5]]), [0], top=1)
  [[(2, 1)]]
  """
  found = []
  frequency = np.zeros(len(codes)) if counts is None else np.asarray(counts)
  top = min(top, len(codes) - 1)
  for block, distances in _distances(codes, np.asarray(rows, int)):
    for row, distance in zip(block, distances, strict=True):
      # The symbol itself, and one more for each of its neighbours.
      limit = np.partition(distance, top)[top]
      (near,) = np.nonzero(distance <= limit)
      near = near[near != row]
      order = np.lexsort((near, -frequency[near], distance[near]))[:top]
      found.append([(int(i), int(distance[i])) for i in near[order]])
  return found


def nearest_disagreement(codes: np.ndarray) -> float | None:
  """Returns in what part of the digits a symbol differs from its nearest one.

  Args:
    codes: Integers [num_embeddings, code_length]; all pairs are compared.

  Returns:
    The mean over the symbols; None if there is no pair.

  >>> nearest_disagreement(np.array([[0, 0], [5, 5], [0, 5]]))
  0.5
  """
  if len(codes) < 2:
    return None
  total = 0
  for block, distances in _distances(codes, np.arange(len(codes))):
    distances[np.arange(len(block)), block] = codes.shape[1]  # Not itself.
    total += int(distances.min(axis=1).sum(dtype=np.int64))
  return total / codes.size


def _as_words(codes: np.ndarray) -> np.ndarray:
  """Views codes as rows of a few long integers, which sort quickly."""
  width = -(-codes.shape[1] * codes.itemsize // 8) * 8 // codes.itemsize
  padded = np.zeros((len(codes), width), codes.dtype)
  padded[:, : codes.shape[1]] = codes
  return padded.view(np.uint64)


def _distances(
  codes: np.ndarray, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields rows, and in how many digits each symbol differs from them."""
  columns = np.ascontiguousarray(codes.T)
  dtype = np.min_scalar_type(codes.shape[1])
  size = max(_BLOCK // len(codes), 1)
  for start in range(0, len(rows), size):
    block = rows[start : start + size]
    distances = np.zeros((len(block), len(codes)), dtype)
    for column in columns:
      differs = column[block, None] != column[None]
      distances += differs.view(np.uint8)
    yield block, distances
