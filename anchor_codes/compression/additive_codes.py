"""Additive codes: a vector is the sum of one entry of each codebook."""

import numpy as np

from anchor_codes import tables
from anchor_codes.compression import clustering
from anchor_codes.compression.points import Points, round_array

_NUM_ITERATIONS = 8  # Of k-means, for each stage of the start.
_NUM_SWEEPS = 12  # Over all codebooks and codes after it.


def fit_additive(
  rng: np.random.Generator,
  points: Points,
  *,
  code_length: int,
  codebook_size: int,
  rank: int,
) -> tables.Table:
  """Fits codebooks whose entries add up to the vectors.

  Starts with residual quantisation (Chen et al., Sensors 2010): k-means of the
  vectors, of what that leaves over, and so on. Then one codebook after the
  other, with the codes that use it, moves to where the sum fits best, as in
  additive quantisation (Babenko and Lempitsky, CVPR 2014).

  Args:
    rng: Random numbers.
    points: What to fit.
    code_length: Number of codebooks.
    codebook_size: Entries of a codebook.
    rank: Principal components that are kept; all features for no projection.

  Returns:
    A table of the points, with int8 codebooks.
  """
  directions = points.components[1][:rank]
  rest = points.replace(points.vectors - points.mean)
  if rank < points.features:
    rest = points.replace(rest.vectors @ directions.T)
  target = rest.vectors
  codes, books = _residual_start(rng, rest, code_length, codebook_size)
  rest = rest.replace(target - _compose(codes, books))
  for _ in range(_NUM_SWEEPS):
    rest = _sweep(rng, rest, codes, books)
  rounded, scales = round_array(books)
  books = rounded * scales[:, None, None]
  codes = _refine(target, codes, books)
  inner = tables.CodeTable.from_codes(
    codes,
    rounded,
    scales=scales,
    composition="sum",
    bias=points.mean.astype(np.float16) if rank == points.features else None,
  )
  return (
    inner if rank == points.features else project(inner, directions, points)
  )


def project(
  inner: tables.Table, directions: np.ndarray, points: Points
) -> tables.ProjectedTable:
  """Returns vectors in principal components in the coordinates of points."""
  rounded, scales = round_array(directions)
  return tables.ProjectedTable(
    inner,
    projection=rounded,
    projection_scales=scales,
    bias=points.mean.astype(np.float16),
  )


def _residual_start(
  rng: np.random.Generator,
  rest: Points,
  code_length: int,
  codebook_size: int,
) -> tuple[np.ndarray, np.ndarray]:
  codes = np.empty((len(rest.vectors), code_length), np.int32)
  books = []
  for j in range(code_length):
    book = clustering.cluster(
      rng, rest, num_clusters=codebook_size, num_iterations=_NUM_ITERATIONS
    )
    codes[:, j] = clustering.assign(rest.vectors, book)
    rest = rest.replace(rest.vectors - book[codes[:, j]])
    books.append(book)
  return codes, np.stack(books)


def _sweep(
  rng: np.random.Generator, rest: Points, codes: np.ndarray, books: np.ndarray
) -> Points:
  """Moves each codebook and its digits once, in place; returns the rest."""
  for j in rng.permutation(len(books)):
    rest = rest.replace(rest.vectors + books[j][codes[:, j]])
    codes[:, j] = clustering.assign(rest.vectors, books[j])
    books[j] = clustering.update(rng, rest, codes[:, j], books[j])
    rest = rest.replace(rest.vectors - books[j][codes[:, j]])
  return rest


def _refine(
  target: np.ndarray, codes: np.ndarray, books: np.ndarray
) -> np.ndarray:
  """Moves each digit once more, for codebooks that have been rounded."""
  rest = target - _compose(codes, books)
  for j, book in enumerate(books):
    rest += book[codes[:, j]]
    codes[:, j] = clustering.assign(rest, book)
    rest -= book[codes[:, j]]
  return codes


def _compose(codes: np.ndarray, books: np.ndarray) -> np.ndarray:
  total = np.zeros((len(codes), books.shape[2]), np.float32)
  for j, book in enumerate(books):
    total += book[codes[:, j]]
  return total
