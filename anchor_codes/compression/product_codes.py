"""Product codes: each part of a vector has a codebook of its own."""

import numpy as np

from anchor_codes import tables
from anchor_codes.compression import clustering
from anchor_codes.compression.points import Points, round_array

_NUM_ITERATIONS = 40  # Of k-means without a rotation.
# With one: the error falls slowly and for long where vectors cluster.
_MOST_STEPS, _TRIAL_STEPS = 200, 40
_WINDOW = 10  # Steps that must gain so much of it together to go on.
_LEAST_GAIN = 0.002


def fit_product(
  rng: np.random.Generator,
  points: Points,
  *,
  code_length: int,
  codebook_size: int,
) -> tables.CodeTable:
  """Fits codebooks to the parts of vectors (Jegou et al., TPAMI 2011).

  Args:
    rng: Random numbers.
    points: What to fit; `code_length` divides its features.
    code_length: Number of parts.
    codebook_size: Entries of a codebook.

  Returns:
    A table of the points with int8 codebooks.
  """
  books = [
    _cluster_part(
      rng, points.replace(np.ascontiguousarray(part)), codebook_size
    )
    for part in np.split(points.vectors, code_length, axis=1)
  ]
  return _make_table(points.vectors, np.stack(books))


def _cluster_part(
  rng: np.random.Generator, part: Points, codebook_size: int
) -> np.ndarray:
  centroids = clustering.draw_centroids(rng, part, num_clusters=codebook_size)
  return clustering.cluster(
    rng, part, centroids=centroids, num_iterations=_NUM_ITERATIONS
  )


def fit_rotated(
  rng: np.random.Generator,
  points: Points,
  *,
  code_length: int,
  codebook_size: int,
  code_features: int,
  is_trial: bool = False,
) -> tables.ProjectedTable:
  r"""Fits codebooks and the rotation in which they fit best.

  Optimised product quantisation (Ge et al., CVPR 2013): steps of k-means take
  turns with the rotation of the least squared error, :math:`P = V U^T` for
  :math:`X^T Y = U S V^T`. It starts at the principal components, dealt out so
  that all parts have about the same product of variances. Of components that
  find no place the last ones are left out. It ends when ten steps take less
  than .2 % off the error, or after 200.

  Args:
    rng: Random numbers.
    points: What to fit.
    code_length: Number of parts.
    codebook_size: Entries of a codebook.
    code_features: Width of a part.
    is_trial: Whether to stop after 40 steps.

  Returns:
    A table of the points, with codebooks and rotation in int8.
  """
  centred = points.vectors - points.mean
  rotation = balanced_rotation(points, code_length, code_features)
  books: list[np.ndarray] = []
  errors: list[float] = []
  most_steps = _TRIAL_STEPS if is_trial else _MOST_STEPS
  while len(errors) < most_steps and not _has_settled(errors):
    rotated = points.replace(centred @ rotation.T)
    decoded, books = _step(rng, rotated, books, code_length, codebook_size)
    rests = np.square(rotated.vectors - decoded).sum(axis=1)
    errors.append(float(points.weights @ rests))
    # Weighted: the rotation of what matters.
    product = (centred * points.weights[:, None]).T @ decoded
    left, _, right = np.linalg.svd(product, full_matrices=False)
    rotation = (left @ right).T.astype(np.float32)
  rounded, scales = round_array(rotation)
  matrix = rounded * scales[:, None]
  inner = _make_table(centred @ np.linalg.pinv(matrix), np.stack(books))
  return tables.ProjectedTable(
    inner,
    projection=rounded,
    projection_scales=scales,
    bias=points.mean.astype(np.float16),
  )


def balanced_rotation(
  points: Points, code_length: int, code_features: int
) -> np.ndarray:
  """Deals principal components out to parts of about equal products.

  Args:
    points: Whose components they are.
    code_length: Number of parts.
    code_features: Components of a part.

  Returns:
    float32 [code_length * code_features, features]; a place that is left over
    is a row of zeros.

  >>> points = Points.of(np.diag(np.float32([8, 4, 2, 1])))
  >>> np.abs(balanced_rotation(points, 2, 1)).argmax(axis=1).tolist()
  [0, 1]
  """
  variances, directions = points.components
  count = min(code_length * code_features, points.features)
  # Above the least, so that one more component always adds to a part.
  floor = max(variances[count - 1], 1e-12 * variances[0], 1e-30)
  logs = np.log(variances[:count] / floor + 1)
  rotation = np.zeros((code_length, code_features, points.features), np.float32)
  sizes, totals = np.zeros(code_length, int), np.zeros(code_length)
  for direction, value in zip(directions, logs, strict=False):
    part = np.where(sizes < code_features, totals, np.inf).argmin()
    rotation[part, sizes[part]] = direction
    sizes[part] += 1
    totals[part] += value
  return rotation.reshape(-1, points.features)


def _has_settled(errors: list[float]) -> bool:
  """Tells whether the last steps have taken little off the error.

  >>> _has_settled([1.0] * 10), _has_settled([1.0] * 10 + [0.999])
  (False, True)
  """
  if len(errors) <= _WINDOW:
    return False
  return errors[-1] >= (1 - _LEAST_GAIN) * errors[-1 - _WINDOW]


def _step(
  rng: np.random.Generator,
  rotated: Points,
  books: list[np.ndarray],
  code_length: int,
  codebook_size: int,
) -> tuple[np.ndarray, list[np.ndarray]]:
  """Moves all codebooks once; returns the decoded vectors, and the books."""
  decoded = np.empty_like(rotated.vectors)
  width, found = decoded.shape[1] // code_length, []
  for j in range(code_length):
    place = slice(j * width, (j + 1) * width)
    part = rotated.replace(np.ascontiguousarray(rotated.vectors[:, place]))
    book = (
      books[j]
      if books
      else clustering.draw_centroids(rng, part, num_clusters=codebook_size)
    )
    nearest = clustering.assign(part.vectors, book)
    book = clustering.update(rng, part, nearest, book)
    decoded[:, place] = book[nearest]
    found.append(book)
  return decoded, found


def _make_table(vectors: np.ndarray, books: np.ndarray) -> tables.CodeTable:
  """Rounds codebooks, then finds the codes of vectors in what is left."""
  rounded, scales = round_array(books)
  empty = tables.CodeTable.from_codes(
    np.zeros((1, len(books)), np.int64),
    rounded,
    scales=scales,
    composition="concat",
  )
  return empty._encode(vectors.astype(np.float32))
