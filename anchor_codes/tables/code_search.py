"""Finds the codes of vectors: the nearest of all that codebooks compose."""

import numpy as np

BEAM = 8  # Codes kept while the next digit is chosen.
_NUM_SWEEPS = 4
# The largest product, in multiplications, for which BLAS stays on one thread:
# on a busy machine threads wait for each other at every block.
_SMALL = 2**18
_SEARCH_BLOCK = 256


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
  at most (Babenko and Lempitsky, "Additive Quantization", CVPR 2014).

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
  matrices = [_distance_matrix(book) for book in codebooks]
  for start in range(0, len(vectors), _SEARCH_BLOCK):
    block = slice(start, start + _SEARCH_BLOCK)
    found, rest = _beam(vectors[block], codebooks, matrices)
    codes[block] = _descend(found, rest, codebooks, matrices)
  return codes


def _distance_matrix(book: np.ndarray) -> np.ndarray:
  """Returns the matrix that gives ``|c|^2 - 2 x c`` for rows ``[x, 1]``."""
  squares = np.einsum("kd,kd->k", book, book)
  return np.concatenate([-2 * book.T, squares[None]]).astype(np.float32)


def _beam(
  vectors: np.ndarray, codebooks: np.ndarray, matrices: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the best codes of a beam, and what they leave over."""
  size, num_digits = len(vectors), len(codebooks)
  codes = np.zeros((size, 1, num_digits), np.int32)
  rest, errors = vectors[:, None], np.zeros((size, 1), np.float32)
  row = np.arange(size)[:, None]
  for j, (book, matrix) in enumerate(zip(codebooks, matrices, strict=True)):
    scores = _distances(rest, matrix)
    scores = (scores + errors[..., None]).reshape(size, -1)
    num_kept = min(BEAM, scores.shape[1]) if j < num_digits - 1 else 1
    kept = _smallest(scores, num_kept)
    parent, digit = np.divmod(kept, len(book))
    codes, rest = codes[row, parent], rest[row, parent] - book[digit]
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
  codebooks: np.ndarray,
  matrices: list[np.ndarray],
) -> np.ndarray:
  """Changes one digit at a time to its best value.

  Args:
    codes: Where to begin, int32 [size, code_length].
    rest: The vectors less what the codes compose.
    codebooks: float32 [code_length, codebook_size, width].
    matrices: Those of :func:`_distance_matrix`.
  """
  for _ in range(_NUM_SWEEPS if len(codebooks) > 1 else 0):
    before = codes.copy()
    for j, (book, matrix) in enumerate(zip(codebooks, matrices, strict=True)):
      rest = rest + book[codes[:, j]]
      codes[:, j] = _distances(rest, matrix).argmin(axis=1)
      rest -= book[codes[:, j]]
    if np.array_equal(codes, before):
      break
  return codes
