"""The splits of MovieLens 1M that were released with SSE.

Wu et al., NeurIPS 2019, factorise ratings (``ml-1m-sse-mf``) and rank movies by
what users have rated (``ml-1m-sse-bpr``). Their files number users anew, and
lack the test part of the latter; both come back from all ratings, whose users
and movies keep their original ids here:

* ``ml-1m-sse-mf``: users with at least 210 ratings, 200 of each to learn from.
* ``ml-1m-sse-bpr``: movies that somebody has rated with 4 or more, and *all*
  their ratings, low ones too; users with at least 60 of these and at least one
  of 4 or more, 50 of each to learn from.
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np

from experiments.datasets import files, ratings

ORIGINS = {"ml-1m-sse-mf": "ml-1m", "ml-1m-sse-bpr": "ml-1m"}
"""The data set of which each split is a part."""

_SOURCE = "MovieLens 1M, GroupLens, for research only, as split by Wu et al."
_LEAST_RATINGS = 210
_LEAST_POSITIVES, _LIKED = 60, 4
_SHA256 = {
  "sse_mf/ml1m_train_ratings.csv": (
    "25c81784eb5078c04b98cbc43bee7cc5fd7f65e591cdf1da228d5208c5a2cf02"
  ),
  "sse_mf/ml1m_test_ratings.csv": (
    "49998d68a80c1b97187675c7a7a69c952175bdd0c41b21409dc714b4ceb57ea0"
  ),
  "sse_bpr/train.txt": (
    "19beae25e22bb5cfb5f3f6d84c9b6354904a2d80e5b9d84c873701d74b8baed7"
  ),
}


class _Split(NamedTuple):
  """Users, movies and ratings of both parts, by original ids.

  Attributes:
    train: Rows to learn from.
    test: Rows of the test.
    movies: All movies that belong to the split, also those without a rating.
  """

  train: np.ndarray
  test: np.ndarray
  movies: np.ndarray


def load_split(
  name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> ratings.Ratings:
  """Loads the ratings of a released split, those of its training part first.

  Args:
    name: One of `ORIGINS`.
    data_dir: Folder of data sets. It holds ``ml-1m/ratings_order.csv``, and in
      ``ml-1m/sse_mf`` the files ``ml1m_train_ratings.csv`` and
      ``ml1m_test_ratings.csv``, or ``ml-1m/sse_bpr/train.txt``.

  Returns:
    The ratings, with `num_train`.

  Raises:
    ValueError: If a file does not belong to this split of MovieLens 1M.
    FileNotFoundError: If a file is missing; it names the path.
  """
  everything = ratings.load_ratings(ORIGINS[name], data_dir=data_dir)
  users, items = (
    np.array(names, int)[ids]
    for names, ids in (
      (everything.user_names, everything.users),
      (everything.item_names, everything.items),
    )
  )
  table = np.stack([users, items, everything.values.astype(int)], axis=1)
  split = _factorization if name == "ml-1m-sse-mf" else _ranking
  train, test, movies = split(table, data_dir)
  rows = np.concatenate([train, test])
  persons, numbers = np.unique(rows[:, 0], return_inverse=True)
  return ratings.make_ratings(
    name,
    users=numbers,
    items=np.searchsorted(movies, rows[:, 1]),
    values=rows[:, 2],
    order=np.arange(len(rows)),
    user_names=[str(number) for number in persons],
    item_names=[str(number) for number in movies],
    source=_SOURCE,
    num_train=len(train),
  )


def _factorization(
  table: np.ndarray, data_dir: str | os.PathLike[str] | None
) -> _Split:
  """Reads both parts of the ratings to be predicted."""
  counts = np.bincount(table[:, 0])
  originals = np.flatnonzero(counts >= _LEAST_RATINGS)

  def read(part: str) -> np.ndarray:
    path = _find(f"sse_mf/ml1m_{part}_ratings.csv", data_dir)
    rows = np.loadtxt(path, delimiter=",", ndmin=2).astype(int)
    rows[:, 0] = _original(path, rows[:, 0], originals)
    _check_inside(path, rows, table)
    return rows

  train, test = read("train"), read("test")
  movies = np.unique(np.concatenate([train, test])[:, 1])
  return _Split(train, test, movies)


def _ranking(
  table: np.ndarray, data_dir: str | os.PathLike[str] | None
) -> _Split:
  """Reads the pairs to learn from; all others of their users are the test."""
  liked = table[:, 2] >= _LIKED
  movies = np.unique(table[liked, 1])
  kept = table[np.isin(table[:, 1], movies)]
  counts = np.bincount(kept[:, 0])
  fans = np.bincount(table[liked, 0], minlength=len(counts))
  users = np.flatnonzero((counts >= _LEAST_POSITIVES) & (fans > 0))
  kept = kept[np.isin(kept[:, 0], users)]
  path = _find("sse_bpr/train.txt", data_dir)
  pairs = np.loadtxt(path, ndmin=2).astype(int)
  pairs[:, 0] = _original(path, pairs[:, 0], users)
  pairs[:, 1] = _original(path, pairs[:, 1], movies)
  _check_inside(path, pairs, kept)
  chosen = np.isin(_keys(kept), _keys(pairs))
  return _Split(kept[chosen], kept[~chosen], movies)


def _find(
  filename: str, data_dir: str | os.PathLike[str] | None
) -> pathlib.Path:
  return files.find_file(
    filename,
    dataset="ml-1m",
    sha256=_SHA256[filename],
    origin="the code of Wu et al., NeurIPS 2019 (wuliwei9278/SSE)",
    data_dir=data_dir,
  )


def _original(
  path: pathlib.Path, numbers: np.ndarray, originals: np.ndarray
) -> np.ndarray:
  """Returns the original ids of the numbers of a file, which are from 1 on."""
  if numbers.size == 0 or numbers.min() < 1 or numbers.max() > len(originals):
    raise ValueError(
      f"{path} must number users or movies from 1 to {len(originals)}, which "
      "is how many of MovieLens 1M belong to the split."
    )
  return originals[numbers - 1]


def _check_inside(
  path: pathlib.Path, rows: np.ndarray, table: np.ndarray
) -> None:
  """Checks that all pairs of a file are ratings, or its ids are others."""
  if not np.isin(_keys(rows), _keys(table)).all():
    raise ValueError(
      f"{path} must hold ratings of MovieLens 1M, got pairs of users and "
      "movies that are not there."
    )


def _keys(rows: np.ndarray) -> np.ndarray:
  """Returns one number for each pair of a user and a movie."""
  return rows[:, 0] * 10**6 + rows[:, 1]
