"""Finds the codes of vectors: the nearest of all that codebooks compose."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BEAM = 8  # Codes kept while the next digit is chosen.
_NUM_SWEEPS = 4  # Over all digits, after the beam.
_NUM_DRAWN = 4  # Digits of a code that a search begins with.
_LOCAL_SWEEPS = 2  # After they were drawn.
_NUM_SEARCHES = 16
# The largest product, in multiplications, for which BLAS stays on one thread:
# on a busy machine threads wait for each other at every block.
_SMALL = 2**18
_BEAM_BLOCK = 256  # Vectors at a time.
_SEARCH_BLOCK = 1024


def nearest_parts(vectors: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
  """Finds the nearest code vector of each part of some vectors.

  Args:
    vectors: float32 [size, code_length * code_features].
    codebooks: float32 [code_length, codebook_size, code_features].

  Returns:
    Codes, int32 [size, code_length]: the exact minimum of the squared error of
    a concatenation, up to rounding; of equal ones the first.

  >>> books = np.float32([[[0], [2]], [[1], [5]]])
  >>> print(nearest_parts(np.float32([[1.5, 2.5]]), books))
  [[1 0]]
  """
  code_length, codebook_size, width = codebooks.shape
  matrices = [_distance_matrix(book) for book in codebooks]
  codes = np.empty((len(vectors), code_length), np.int32)
  rows = max(16, _SMALL // matrices[0].size)
  # Once for all blocks: fresh memory costs more than what is written to it.
  part = np.ones((rows, width + 1), np.float32)
  distances = np.empty((rows, codebook_size), np.float32)
  for start in range(0, len(vectors), rows):
    block = vectors[start : start + rows]
    size = len(block)
    for j, matrix in enumerate(matrices):
      part[:size, :width] = block[:, j * width : (j + 1) * width]
      np.matmul(part[:size], matrix, out=distances[:size])
      codes[start : start + size, j] = distances[:size].argmin(axis=1)
  return codes


def nearest_sums(vectors: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
  """Finds sums of code vectors near some vectors.

  A beam of codes grows digit by digit; then each digit in turn takes its best
  value, the others fixed, as long as something changes and for a few sweeps
  at most (Babenko and Lempitsky, "Additive Quantization", CVPR 2014); then
  :func:`search_sums` goes on.

  Args:
    vectors: float32 [size, width].
    codebooks: float32 [code_length, codebook_size, width].

  Returns:
    Codes, int32 [size, code_length]; not always the best ones.

  >>> books = np.float32([[[0], [4]], [[0], [3]]])
  >>> print(nearest_sums(np.float32([[3.6], [7.1]]), books))
  [[1 0]
   [1 1]]
  """
  codes = np.empty((len(vectors), len(codebooks)), np.int32)
  scorers = [_Scorer.of(book) for book in codebooks]
  for start in range(0, len(vectors), _BEAM_BLOCK):
    block = slice(start, start + _BEAM_BLOCK)
    found, rest = _beam(vectors[block], scorers)
    _descend(found, rest, scorers, num_sweeps=_NUM_SWEEPS)
    codes[block] = found
  if len(codebooks) == 1:
    return codes  # There is nothing nearer.
  rng = np.random.default_rng(0)
  return search_sums(rng, vectors, codes, codebooks, num_searches=_NUM_SEARCHES)


def search_sums(
  rng: np.random.Generator,
  vectors: np.ndarray,
  codes: np.ndarray,
  codebooks: np.ndarray,
  *,
  num_searches: int = 1,
) -> np.ndarray:
  """Looks for nearer sums of code vectors than those of some codes.

  Iterated local search (Martinez et al., "Revisiting Additive Quantization",
  ECCV 2016): a few digits are drawn anew, then each digit in turn takes its
  best value, the others fixed; a code that is nearer is kept.

  Args:
    rng: Random numbers.
    vectors: float32 [size, width].
    codes: Where to begin, int32 [size, code_length].
    codebooks: float32 [code_length, codebook_size, width].
    num_searches: How often digits are drawn.

  Returns:
    Codes, int32 [size, code_length]: none is farther away than before.

  >>> books = np.float32([[[0], [4]], [[0], [3]]])
  >>> codes = np.zeros((1, 2), np.int32)
  >>> rng = np.random.default_rng(0)
  >>> print(search_sums(rng, np.float32([[7]]), codes, books))
  [[1 1]]
  """
  codes = codes.copy()
  scorers = [_Scorer.of(book) for book in codebooks]
  shape = num_searches, min(_NUM_DRAWN, len(codebooks))
  # The same for all vectors: what one finds does not depend on the others.
  places = rng.integers(len(codebooks), size=shape)
  digits = rng.integers(len(codebooks[0]), size=shape)
  for start in range(0, len(vectors), _SEARCH_BLOCK):
    block = slice(start, start + _SEARCH_BLOCK)
    target, kept = vectors[block], codes[block]
    errors = _squares(target - _compose(kept, codebooks))
    for place, digit in zip(places, digits, strict=True):
      drawn = kept.copy()
      drawn[:, place] = digit
      rest = target - _compose(drawn, codebooks)
      _descend(drawn, rest, scorers, num_sweeps=_LOCAL_SWEEPS)
      found = _squares(rest)
      is_nearer = found < errors
      kept[is_nearer], errors = drawn[is_nearer], np.minimum(errors, found)
  return codes


class _Scorer(NamedTuple):
  """What the distances to the entries of a codebook are made of.

  Attributes:
    book: float32 [codebook_size, width].
    matrix: Gives ``|c|^2 - 2 x c`` for rows ``[x, 1]``.
    own: ``-2 c c'`` for entries c' that were not taken off x.
  """

  book: np.ndarray
  matrix: np.ndarray
  own: np.ndarray

  @classmethod
  def of(cls, book: np.ndarray) -> "_Scorer":
    return cls(book, _distance_matrix(book), -2 * book @ book.T)


def _compose(codes: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
  total = codebooks[0][codes[:, 0]]
  for j in range(1, len(codebooks)):
    total += codebooks[j][codes[:, j]]
  return total


def _squares(vectors: np.ndarray) -> np.ndarray:
  return np.einsum("nd,nd->n", vectors, vectors)


def _distance_matrix(book: np.ndarray) -> np.ndarray:
  """Returns the matrix that gives ``|c|^2 - 2 x c`` for rows ``[x, 1]``."""
  squares = np.einsum("kd,kd->k", book, book)
  return np.concatenate([-2 * book.T, squares[None]]).astype(np.float32)


def _beam(
  vectors: np.ndarray, scorers: Sequence[_Scorer]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the best codes of a beam, and what they leave over."""
  size, num_digits = len(vectors), len(scorers)
  codes = np.zeros((size, 1, num_digits), np.int32)
  rest, errors = vectors[:, None], np.zeros((size, 1), np.float32)
  row = np.arange(size)[:, None]
  for j, scorer in enumerate(scorers):
    scores = _distances(rest, scorer.matrix)
    scores = (scores + errors[..., None]).reshape(size, -1)
    num_kept = min(BEAM, scores.shape[1]) if j < num_digits - 1 else 1
    kept = _smallest(scores, num_kept)
    parent, digit = np.divmod(kept, len(scorer.book))
    codes, rest = codes[row, parent], rest[row, parent] - scorer.book[digit]
    codes[..., j], errors = digit, scores[row, kept]
  return codes[:, 0], rest[:, 0]


def _distances(vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
  """Returns ``|x - c|^2 - |x|^2`` for vectors [..., width] and a codebook."""
  width, codebook_size = matrix[:-1].shape
  flat = vectors.reshape(-1, width)
  distances = np.empty((len(flat), codebook_size), np.float32)
  rows = max(8, _SMALL // matrix[:-1].size)
  for start in range(0, len(flat), rows):
    block = slice(start, start + rows)
    np.matmul(flat[block], matrix[:-1], out=distances[block])
  distances += matrix[-1]
  return distances.reshape(*vectors.shape[:-1], codebook_size)


def _smallest(scores: np.ndarray, num_kept: int) -> np.ndarray:
  """Returns the places of the smallest scores of each row, in their order."""
  scores, row = scores.copy(), np.arange(len(scores))
  kept = np.empty((len(scores), num_kept), np.intp)
  # So few that NumPy is done with it long before a partition.
  for i in range(num_kept):
    kept[:, i] = scores.argmin(axis=1)
    scores[row, kept[:, i]] = np.inf
  return kept


def _descend(
  codes: np.ndarray,
  rest: np.ndarray,
  scorers: Sequence[_Scorer],
  *,
  num_sweeps: int,
) -> None:
  """Changes one digit at a time to its best value, in place.

  Args:
    codes: Where to begin, int32 [size, code_length].
    rest: The vectors less what the codes compose.
    scorers: One for each digit.
    num_sweeps: How often at most all digits have their turn.
  """
  for _ in range(num_sweeps):
    has_changed = False
    for j, scorer in enumerate(scorers):
      old = codes[:, j]
      scores = _distances(rest, scorer.matrix)
      scores += scorer.own[old]
      new = scores.argmin(axis=1)
      # Few do: the rest of the others stays as it is.
      moved = np.flatnonzero(new != old)
      if moved.size:
        has_changed = True
        rest[moved] += scorer.book[old[moved]] - scorer.book[new[moved]]
        codes[moved, j] = new[moved]
    if not has_changed:
      break
