"""Ratings that users gave to items, by name.

=============== ========================================= ========== =======
name            ratings                                   number     values
=============== ========================================= ========== =======
ml-100k         MovieLens 100K, 943 users, 1,682 movies   100,000    1 ... 5
ml-1m           MovieLens 1M, 6,040 users, 3,706 movies   1,000,209  1 ... 5
ml-latest-small MovieLens of 2018, 610 and 9,724          100,836    .5 ... 5
ml-25m          MovieLens 25M, 162,541 and 59,047         25,000,095 .5 ... 5
ml-1m-sse-mf    a published split of ml-1m, 1,496 and     637,987    1 ... 5
                3,656
ml-1m-sse-bpr   another one, 3,937 and 3,533              923,473    1 ... 5
csv:PATH        the user's own file                       any        any
synthetic       drawn from 8 anchors, 1,500 and 800       250,000    any
=============== ========================================= ========== =======

The MovieLens files may not be passed on, see :mod:`experiments.datasets.files`;
the largest comes through :mod:`experiments.datasets.ratings_tfds`, and splits
that were published through :mod:`experiments.datasets.released_splits`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

from anchor_codes import typing as options
from experiments.datasets import files

SplitKind = Literal["random", "chronological", "published", "given"]
"""How ratings are split, see `split_ratings`."""
SPLIT_KINDS: tuple[str, ...] = get_args(SplitKind)

_OWN_FILE = "csv:"
_STREAMED = "interactions:"
_THROUGH_TFDS = "ml-25m"
_RELEASED = ("ml-1m-sse-mf", "ml-1m-sse-bpr")
_PUBLISHED_SEED = 1446557


class Ratings(NamedTuple):
  """Ratings as arrays that cannot be written to; row i is one rating.

  Attributes:
    name: The name that `load_ratings` takes.
    users: int32 ids [num_ratings] of users, below ``len(user_names)``.
    items: int32 ids [num_ratings] of items, below ``len(item_names)``.
    values: float32 ratings [num_ratings].
    order: int64 [num_ratings], larger for later ratings: time stamps, or the
      best order that is known. Of equal ones the first in the file is first.
    user_names: The original id of each user.
    item_names: The original id of each item.
    source: Where the ratings come from, and their licence.
    num_train: Where the ratings come with a split: the first so many are those
      to learn from, and the others those of the test. Else 0.
  """

  name: str
  users: np.ndarray
  items: np.ndarray
  values: np.ndarray
  order: np.ndarray
  user_names: tuple[str, ...]
  item_names: tuple[str, ...]
  source: str
  num_train: int = 0


class RatingSplits(NamedTuple):
  """Rows of the ratings to learn from, to choose a model by, and to judge it.

  Attributes:
    train: int64 row numbers of ratings.
    valid: The same for the ratings that may select a model.
    test: The same for the ratings that only measure it.
  """

  train: np.ndarray
  valid: np.ndarray
  test: np.ndarray


@dataclasses.dataclass(frozen=True)
class _MovieLens:
  """A file with a user, an item, a rating and a time in each line.

  Attributes:
    filename: Name of the file in the folder of the data set.
    sha256: Digest of the file.
    layout: How `numpy.loadtxt` reads it.
    origin: The archive that holds the file.
    source: Name and licence.
  """

  filename: str
  sha256: str
  layout: Mapping[str, Any]
  origin: str
  source: str


_MOVIELENS = {
  "ml-100k": _MovieLens(
    filename="u.data",
    sha256="06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
    layout={"delimiter": "\t"},
    origin="ml-100k.zip of GroupLens",
    source="MovieLens 100K, GroupLens, for research only",
  ),
  "ml-1m": _MovieLens(
    filename="ratings_order.csv",
    sha256="cf3181424467e22b6e1dff6d14836bbe8ba68d21523a2d28f8a417fa7df441c7",
    layout={"delimiter": ",", "skiprows": 1},
    origin=(
      "the ratings.dat in ml-1m.zip of GroupLens, as `user,movie,rating,"
      "chrono_rank` with the rank of each rating in its user's time order"
    ),
    source="MovieLens 1M, GroupLens, for research only",
  ),
  "ml-latest-small": _MovieLens(
    filename="ratings.csv",
    sha256="aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646",
    layout={"delimiter": ",", "skiprows": 1},
    origin="ml-latest-small.zip of GroupLens (September 2018)",
    source="MovieLens Latest (small), 2018, GroupLens, not for commerce",
  ),
}

RATING_NAMES = (*_MOVIELENS, *_RELEASED, _THROUGH_TFDS)
"""The names of published ratings that `load_ratings` knows."""


def load_ratings(
  name: str,
  *,
  data_dir: str | os.PathLike[str] | None = None,
  test_file: str | os.PathLike[str] = "",
) -> Ratings:
  """Loads ratings by their name.

  The order of ``ml-1m`` is an approximation: its file ranks the ratings of each
  user in time but has no time stamps. Users were numbered from the last who
  joined to the first, so ratings are ordered by (descending user, rank). Movies
  added in October 2000 bear this out: of those in the first half of a user's
  ratings, 98 % are from users up to 3300. Those who came back are too early.

  Args:
    name: One of `RATING_NAMES`, ``synthetic``, or ``csv:`` and the path of a
      file for :func:`experiments.datasets.ratings_csv.read_csv`.
    data_dir: Folder of data sets, by default ``$ANCHOR_CODES_DATA``, else
      ``../shared/data`` beside the project if there is one. It holds
      ``ml-100k/u.data``, ``ml-1m/ratings_order.csv``,
      ``ml-latest-small/ratings.csv`` and ``movielens/25m-ratings`` of TFDS.
    test_file: Another file like that of ``csv:``: the ratings of the test.

  Returns:
    The ratings. Ids of MovieLens follow the original numbers, else appearance.

  Raises:
    ValueError: If the name is unknown, or a file is not in its format.
    FileNotFoundError: If a file is missing; it names the path and the archive.
    ImportError: If ``ml-25m`` is asked for and TFDS is not installed.
  """
  # These modules build `Ratings`, so this one cannot import them first.
  if name == "synthetic":
    from experiments.datasets import synthetic_ratings

    return synthetic_ratings.buffet_ratings()
  if name.startswith(_OWN_FILE):
    from experiments.datasets import ratings_csv

    path = name.removeprefix(_OWN_FILE)
    return ratings_csv.read_csv(path, test_path=test_file or None)
  if name in _RELEASED:
    from experiments.datasets import released_splits

    return released_splits.load_split(name, data_dir=data_dir)
  if name == _THROUGH_TFDS:
    from experiments.datasets import ratings_tfds

    return ratings_tfds.load_movielens("25m-ratings", data_dir=data_dir)
  if name.startswith(_STREAMED):
    raise ValueError(
      f"{name!r} is read as a stream, which only `train_recommender` does."
    )
  if name not in _MOVIELENS:
    known = ", ".join(repr(known) for known in RATING_NAMES)
    raise ValueError(
      f"There is no data set {name!r}: take {known} or 'csv:PATH'."
    )
  return _load_movielens(name, data_dir)


def _load_movielens(
  name: str, data_dir: str | os.PathLike[str] | None
) -> Ratings:
  known = _MOVIELENS[name]
  path = files.find_file(
    known.filename,
    dataset=name,
    sha256=known.sha256,
    origin=known.origin,
    data_dir=data_dir,
  )
  users, items, values, order = _read_numbers(path, known).T
  if name == "ml-1m":
    order = np.argsort(np.lexsort((order, -users)))
  columns = {"users": users, "items": items, "values": values, "order": order}
  return number_movielens(name, **columns, source=known.source)


def _read_numbers(path: pathlib.Path, known: _MovieLens) -> np.ndarray:
  if path.stat().st_size == 0:
    raise ValueError(f"{path} must hold ratings, but it is empty.")
  try:
    # float64 holds ids and time stamps exactly.
    return np.loadtxt(path, usecols=range(4), ndmin=2, **known.layout)
  except ValueError as error:
    raise ValueError(
      f"{path} must have four numbers in each line: {error}"
    ) from error


def number_movielens(
  name: str,
  *,
  users: np.ndarray,
  items: np.ndarray,
  values: np.ndarray,
  order: np.ndarray,
  source: str,
  num_train: int = 0,
) -> Ratings:
  """Makes ratings of the numbers of users and movies in MovieLens.

  The arguments are the attributes of `Ratings`, with original numbers as users
  and items. The ids of those that occur follow their numbers.

  >>> user, movie, stars, time = np.array([[7, 40, 5, 1], [2, 40, 3, 0]]).T
  >>> ratings = number_movielens(
  ...   "toy", users=user, items=movie, values=stars, order=time, source="ours"
  ... )
  >>> ratings.users.tolist(), ratings.user_names, ratings.item_names
  ([1, 0], ('2', '7'), ('40',))
  """
  user_ids, users = np.unique(users, return_inverse=True)
  item_ids, items = np.unique(items, return_inverse=True)
  return make_ratings(
    name,
    users=users,
    items=items,
    values=values,
    order=order,
    user_names=[str(int(number)) for number in user_ids],
    item_names=[str(int(number)) for number in item_ids],
    source=source,
    num_train=num_train,
  )


def make_ratings(
  name: str,
  *,
  users: ArrayLike,
  items: ArrayLike,
  values: ArrayLike,
  order: ArrayLike,
  user_names: Sequence[str],
  item_names: Sequence[str],
  source: str,
  num_train: int = 0,
) -> Ratings:
  """Makes ratings of columns, with the types and the protection they need.

  The arguments are the attributes of `Ratings`; a column that has the right
  type is not copied.

  >>> ratings = make_ratings(
  ...   "toy", users=[0, 0], items=[1, 0], values=[4.5, 3], order=[10, 20],
  ...   user_names=["ann"], item_names=["tea", "rum"], source="ours",
  ... )
  >>> ratings.values, ratings.users.flags.writeable
  (array([4.5, 3. ], dtype=float32), False)
  """
  return Ratings(
    name=name,
    users=_read_only(users, np.int32),
    items=_read_only(items, np.int32),
    values=_read_only(values, np.float32),
    order=_read_only(order, np.int64),
    user_names=tuple(user_names),
    item_names=tuple(item_names),
    source=source,
    num_train=num_train,
  )


def _read_only(column: ArrayLike, dtype: type[np.generic]) -> np.ndarray:
  # The view leaves the caller's own array as it is.
  view = np.asarray(column, dtype).view()
  view.flags.writeable = False
  return view


def split_ratings(
  ratings: Ratings, *, kind: SplitKind, seed: int = 0, valid_share: float = 0.0
) -> RatingSplits:
  """Splits ratings into rows for training, for validation and for test.

  * ``random``: 80, 10 and 10 % of a random order.
  * ``chronological``: the first 80 % in time, the next 10 and the last 10 %, so
    that the future is predicted from the past.
  * ``published``: the protocol of the published code of Anchor & Transform
    (Liang et al., 2021). It has *no test set*: the first 90 % of a random order
    are for training, and the last 10 % are both `valid` and `test`. A model
    that was selected on them looks better than it is.
  * ``given``: that which the ratings come with. It has *no validation set* but
    the share of the training ratings that is asked for.

  Args:
    ratings: The ratings, at least 6, for ``published`` at least 2.
    kind: One of `SPLIT_KINDS`.
    seed: Of the random order, without effect on ``chronological``. The seed 0
      of ``published`` stands for 1446557, which is that of the code.
    valid_share: For ``given``, the part of the training ratings that is set
      aside to validate on, at random, in [0, 1).

  Returns:
    The rows.

  Raises:
    ValueError: If an option is out of range, there are too few ratings, or
      they come without the split that is asked for.

  >>> column = np.arange(10)
  >>> ratings = number_movielens(
  ...   "toy", users=column, items=column, values=column, order=-column,
  ...   source="ours",
  ... )
  >>> split_ratings(ratings, kind="chronological")
  RatingSplits(train=array([9, 8, 7, 6, 5, 4, 3, 2]), valid=array([1]),
               test=array([0]))
  """
  options.check_choice("kind", kind, SPLIT_KINDS)
  if kind == "given":
    return _given_split(ratings, seed, valid_share)
  count = len(ratings.values)
  needed = 2 if kind == "published" else 6
  if count < needed:
    raise ValueError(
      f"`ratings` must hold at least {needed} ratings for the split {kind!r}, "
      f"of which none may be empty, got {count}."
    )
  if kind == "published":
    state = np.random.RandomState(seed or _PUBLISHED_SEED)  # As theirs.
    train, rest = np.split(state.permutation(count), [count * 9 // 10])
    return RatingSplits(train, rest, rest)
  if kind == "random":
    rows = np.random.default_rng(seed).permutation(count)
  else:
    rows = np.argsort(ratings.order, kind="stable")
  return RatingSplits(*np.split(rows, [count * 8 // 10, count * 9 // 10]))


def _given_split(
  ratings: Ratings, seed: int, valid_share: float
) -> RatingSplits:
  if not ratings.num_train:
    raise ValueError(
      "`ratings` must come with a split for the split 'given', as those of a "
      f"test file do, got those of {ratings.name!r}."
    )
  if not 0 <= valid_share < 1:
    raise ValueError(f"`valid_share` must be in [0, 1), got {valid_share}.")
  train, test = np.split(np.arange(len(ratings.values)), [ratings.num_train])
  order = np.random.default_rng(seed).permutation(train)
  valid = order[: round(valid_share * len(train))]
  return RatingSplits(np.setdiff1d(train, valid), np.sort(valid), test)
