"""Additive codes: a vector is the sum of one entry of each codebook."""

import numpy as np

from anchor_codes import tables
from anchor_codes.compression import clustering
from anchor_codes.compression.points import Points, round_array
from anchor_codes.tables import code_search

_NUM_ITERATIONS = 8  # Of k-means, for each stage of the start.
# The noise must fall slowly: 400 rounds would take another 4 % off the error.
_NUM_ROUNDS, _TRIAL_ROUNDS = 200, 30
_NOISE = 0.5  # Of what the start leaves over.
_NUM_SEARCHES = 8  # For the codes of rounded codebooks.


def fit_additive(
  rng: np.random.Generator,
  points: Points,
  *,
  code_length: int,
  codebook_size: int,
  rank: int,
  is_trial: bool = False,
) -> tables.Table:
  r"""Fits codebooks whose entries add up to the vectors.

  Starts with residual quantisation (Chen et al., Sensors 2010): k-means of the
  vectors, of what that leaves over, and so on. Then codes and codebooks move in
  turns, as in LSQ++ (Martinez et al., ECCV 2018): a local search finds codes
  for codebooks with normal noise, and each codebook in turn takes the means of
  what the others leave over. In round t of T the noise has the deviations
  :math:`\frac{\sigma}{2} \sqrt{(1 - t / T) / D}`, where :math:`\sigma` are
  those of what the start leaves over, feature by feature, and D is the number
  of codebooks.

  Args:
    rng: Random numbers.
    points: What to fit.
    code_length: Number of codebooks.
    codebook_size: Entries of a codebook.
    rank: Principal components that are kept; all features for no projection.
    is_trial: Whether to take 30 rounds in place of 200.

  Returns:
    A table of the points, with int8 codebooks.
  """
  directions = points.components[1][:rank]
  target = points.replace(points.vectors - points.mean)
  if rank < points.features:
    target = points.replace(target.vectors @ directions.T)
  codes, books = _residual_start(rng, target, code_length, codebook_size)
  num_rounds = _TRIAL_ROUNDS if is_trial else _NUM_ROUNDS
  codes = _anneal(rng, target, codes, books, num_rounds)
  rounded, scales = round_array(books)
  codes = code_search.search_sums(
    rng,
    target.vectors,
    codes,
    rounded * scales[:, None, None],
    num_searches=_NUM_SEARCHES,
  )
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
      rng,
      rest,
      centroids=clustering.group_centroids(
        rng, rest, num_clusters=codebook_size
      ),
      num_iterations=_NUM_ITERATIONS,
    )
    codes[:, j] = clustering.assign(rest.vectors, book)
    rest = rest.replace(rest.vectors - book[codes[:, j]])
    books.append(book)
  return codes, np.stack(books)


def _anneal(
  rng: np.random.Generator,
  target: Points,
  codes: np.ndarray,
  books: np.ndarray,
  num_rounds: int,
) -> np.ndarray:
  """Moves codebooks, in place, and codes in turns; returns the codes."""
  rest = target.replace(target.vectors - _compose(codes, books))
  most = _NOISE * _deviations(rest) / np.sqrt(len(books))
  for i in range(num_rounds):
    noise = rng.standard_normal(books.shape, np.float32) * most
    noisy = books + np.sqrt(1 - (i + 1) / num_rounds) * noise
    codes = code_search.search_sums(
      rng, target.vectors, codes, noisy.astype(np.float32)
    )
    _update(rng, target, codes, books)
  return codes


def _deviations(points: Points) -> np.ndarray:
  """Returns the root of the mean square of each feature."""
  squares = np.square(points.vectors, dtype=np.float64)
  return np.sqrt(np.average(squares, axis=0, weights=points.weights))


def _update(
  rng: np.random.Generator,
  target: Points,
  codes: np.ndarray,
  books: np.ndarray,
) -> None:
  """Moves each codebook to what the others leave over, in place."""
  rest = target.vectors - _compose(codes, books)
  for j in rng.permutation(len(books)):
    rest += books[j][codes[:, j]]
    books[j] = clustering.update(
      rng, target.replace(rest), codes[:, j], books[j]
    )
    rest -= books[j][codes[:, j]]


def _compose(codes: np.ndarray, books: np.ndarray) -> np.ndarray:
  total = books[0][codes[:, 0]]
  for j in range(1, len(books)):
    total += books[j][codes[:, j]]
  return total
