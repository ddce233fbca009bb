"""The vectors that a recipe fits, and what it needs to know of all of them."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

_BLOCK = 16_384


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
  """Vectors with weights, of which some or all rows of a matrix are made.

  Attributes:
    vectors: float32 [size, features].
    weights: How much the error of each vector counts, float64 [size]; their
      mean is 1.
  """

  vectors: np.ndarray
  weights: np.ndarray

  @classmethod
  def of(
    cls, vectors: np.ndarray, weights: np.ndarray | None = None
  ) -> "Points":
    """Makes points of vectors; without weights all count alike."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    if weights is None or not weights.sum() > 0:
      weights = np.ones(len(vectors))
    return cls(vectors, weights / weights.mean())

  @property
  def features(self) -> int:
    """Width of a vector."""
    return self.vectors.shape[1]

  @functools.cached_property
  def mean(self) -> np.ndarray:
    """The weighted mean, float32 [features]."""
    total = self.weights @ self.vectors
    return (total / len(self.vectors)).astype(np.float32)

  @functools.cached_property
  def components(self) -> tuple[np.ndarray, np.ndarray]:
    """The principal components.

    Variances float64 [features], the largest first, and directions float32
    [features, features], one in each row.
    """
    covariance = np.zeros((self.features, self.features))
    for block in blocks(len(self.vectors)):
      centred = self.vectors[block].astype(np.float64) - self.mean
      covariance += (centred * self.weights[block, None]).T @ centred
    variances, directions = np.linalg.eigh(covariance / len(self.vectors))
    order = np.arange(self.features)[::-1]
    variances = np.maximum(variances[order], 0)
    return variances, directions[:, order].T.astype(np.float32)

  def replace(self, vectors: np.ndarray) -> "Points":
    """Returns other vectors with the same weights."""
    return dataclasses.replace(self, vectors=vectors)


def blocks(size: int) -> Iterator[slice]:
  """Yields slices that cover `size` rows in order."""
  for start in range(0, size, _BLOCK):
    yield slice(start, min(start + _BLOCK, size))


def round_array(
  array: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Rounds an array to int8, with one scale for each entry of its first axis.

  Returns:
    int8 of the same shape, and the scales float32.

  >>> rounded, scales = round_array(np.float32([[1, -2], [0, 0]]))
  >>> print(rounded, scales * 127)
  [[  64 -127]
   [   0    0]] [2. 0.]
  """
  axes = tuple(range(1, array.ndim))
  scales = (np.abs(array).max(axis=axes) / 127).astype(np.float32)
  divisors = np.where(scales > 0, scales, np.float32(1))
  divisors = divisors.reshape(-1, *[1] * (array.ndim - 1))
  return np.rint(array / divisors).clip(-127, 127).astype(np.int8), scales
