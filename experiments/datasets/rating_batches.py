"""Batches of ratings that follow each other in time."""

import numpy as np

from anchor_codes import typing as options
from experiments.datasets.ratings import Ratings


def time_batches(
  ratings: Ratings, indices: np.ndarray, *, num_batches: int
) -> list[np.ndarray]:
  """Cuts ratings into batches that follow each other in time.

  Args:
    ratings: The ratings.
    indices: Rows of ratings in any order.
    num_batches: Number of batches, from 1 to the number of rows.

  Returns:
    The rows of each batch; sizes differ by at most one.

  Raises:
    ValueError: If there are fewer rows than batches.

  >>> from experiments.datasets.ratings import number_movielens
  >>> column = np.arange(5)
  >>> ratings = number_movielens(
  ...   "toy", users=column, items=column, values=column, order=-column,
  ...   source="ours",
  ... )
  >>> time_batches(ratings, np.array([1, 4, 2]), num_batches=2)
  [array([4, 2]), array([1])]
  """
  options.check_at_least("num_batches", num_batches, 1)
  if num_batches > len(indices):
    raise ValueError(
      f"`num_batches` must be at most the number of ratings, got {num_batches} "
      f"batches of {len(indices)} ratings."
    )
  rows = np.sort(indices)  # So that ties keep the order of the file.
  rows = rows[np.argsort(ratings.order[rows], kind="stable")]
  return np.array_split(rows, num_batches)
