"""Sequences of the items that users took up, by name.

========== ========================================== ========= ====== ======
name       sequences                                  events    users  items
========== ========================================== ========= ====== ======
ml-1m      MovieLens 1M, movies with five ratings     999,611   6,040  3,416
video      Amazon's video games, as SASRec cut them   287,107   31,013 23,715
imdb       film reviews of IMDb, in SASRec's format   202,128   6,889  18,151
csv:PATH   the user's own file                        any       any    any
synthetic  drawn from a Markov chain                  ~18,000   600    120
========== ========================================== ========= ====== ======

Only the last needs no file, see :mod:`experiments.datasets.files`. Items are
numbered from 1; 0 is padding. The order of events at the same time in ``ml-1m``
is not known, so that the last item of a few users may be another one than in
the published experiments.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from anchor_codes import typing as options
from experiments.datasets import files, ratings, sequences_csv

PADDING_ID = 0
"""The item of positions before the start of a sequence."""

_LEAST_RATINGS = 5
"""Movies with fewer ratings are left out, as by Kang and McAuley (2018)."""


class _File(NamedTuple):
  """A published file, one event ``user item`` in each line."""

  filename: str
  sha256: str
  source: str


_SASREC = {
  "video": _File(
    "Video.txt",
    "b7376fe24430743f411dc7f567285657b2adb3f74361cc7ba0aee94f3024b651",
    "Amazon reviews of video games, McAuley, for research only",
  ),
  "imdb": _File(
    "imdb.txt",
    "8073fd1bdcd166ed6d8d4a1edf5f48a327c777aabe4cbf65774b1bb641f2371a",
    "film reviews of IMDb, terms unknown",
  ),
}

SEQUENCE_NAMES = ("ml-1m", *_SASREC, "synthetic")
"""The names that `load_sequences` knows, besides ``csv:PATH``."""


class Sequences(NamedTuple):
  """The items of each user in the order of time.

  Attributes:
    name: The name that `load_sequences` takes.
    items: int32 [num_events], from 1; those of user ``u`` are
      ``items[offsets[u]:offsets[u + 1]]``.
    offsets: int64 [num_users + 1].
    user_names: The original id of each user.
    item_names: The original id of each item; that of item ``i`` is
      ``item_names[i - 1]``.
    source: Where the events come from, and their licence.
  """

  name: str
  items: np.ndarray
  offsets: np.ndarray
  user_names: tuple[str, ...]
  item_names: tuple[str, ...]
  source: str

  @property
  def num_users(self) -> int:
    """Number of users."""
    return len(self.offsets) - 1

  @property
  def num_items(self) -> int:
    """Number of items, without the padding."""
    return len(self.item_names)

  @property
  def lengths(self) -> np.ndarray:
    """Number of events of each user."""
    return np.diff(self.offsets)

  @property
  def train_lengths(self) -> np.ndarray:
    """Number of events of each user to learn from, the first ones.

    The last event is for the test and the one before it for validation; a user
    with fewer than three gives all to the training.
    """
    return np.where(self.lengths >= 3, self.lengths - 2, self.lengths)

  @property
  def train_events(self) -> tuple[np.ndarray, np.ndarray]:
    """Users and items of all events to learn from."""
    users = np.repeat(np.arange(self.num_users), self.lengths)
    places = np.arange(len(self.items)) - self.offsets[users]
    kept = places < self.train_lengths[users]
    return users[kept], self.items[kept]


def load_sequences(
  name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> Sequences:
  """Loads sequences by their name.

  Args:
    name: One of `SEQUENCE_NAMES`, or ``csv:`` and the path of a file for
      :func:`experiments.datasets.sequences_csv.read_csv`.
    data_dir: Folder of data sets, by default ``$ANCHOR_CODES_DATA``, else
      ``../shared/data`` beside the project if there is one. It holds
      ``ml-1m/ratings_order.csv``, ``sasrec/Video.txt`` and ``sasrec/imdb.txt``.

  Returns:
    The sequences.

  Raises:
    ValueError: If the name is unknown, or a file is not as it must be.
    FileNotFoundError: If a file is missing; it names the path.
  """
  if name.startswith(sequences_csv.PREFIX):
    path = name.removeprefix(sequences_csv.PREFIX)
    return make_sequences(
      name, **sequences_csv.read_csv(path), source=f"the user's file {path}"
    )
  if name == "synthetic":
    return synthetic_sequences()
  if name == "ml-1m":
    return _load_movielens(name, data_dir)
  if name not in _SASREC:
    known = ", ".join(repr(known) for known in SEQUENCE_NAMES)
    raise ValueError(
      f"There is no data set {name!r}: take {known} or 'csv:PATH'."
    )
  return _load_sasrec(name, data_dir)


def _load_movielens(
  name: str, data_dir: str | os.PathLike[str] | None
) -> Sequences:
  data = ratings.load_ratings(name, data_dir=data_dir)
  kept = (np.bincount(data.items) >= _LEAST_RATINGS)[data.items]
  return make_sequences(
    name,
    users=data.users[kept],
    items=data.items[kept],
    order=data.order[kept],
    user_names=data.user_names,
    item_names=data.item_names,
    source=data.source,
  )


def _load_sasrec(
  name: str, data_dir: str | os.PathLike[str] | None
) -> Sequences:
  known = _SASREC[name]
  path = files.find_file(
    known.filename,
    dataset="sasrec",
    sha256=known.sha256,
    origin="the published code of SASRec (Kang and McAuley, 2018)",
    data_dir=data_dir,
  )
  users, items = _read_pairs(path).T
  user_ids, users = np.unique(users, return_inverse=True)
  item_ids, items = np.unique(items, return_inverse=True)
  return make_sequences(
    name,
    users=users,
    items=items,
    user_names=[str(number) for number in user_ids],
    item_names=[str(number) for number in item_ids],
    source=known.source,
  )


def _read_pairs(path: pathlib.Path) -> np.ndarray:
  if path.stat().st_size == 0:
    raise ValueError(f"{path} must hold events, but it is empty.")
  try:
    return np.loadtxt(path, dtype=np.int64, usecols=(0, 1), ndmin=2)
  except ValueError as error:
    raise ValueError(
      f"{path} must have a user and an item in each line: {error}"
    ) from error


def make_sequences(
  name: str,
  *,
  users: ArrayLike,
  items: ArrayLike,
  user_names: Sequence[str],
  item_names: Sequence[str],
  source: str,
  order: ArrayLike | None = None,
) -> Sequences:
  """Makes sequences of events in any order.

  Args:
    name: Name of the data set.
    users: Integers [num_events] below ``len(user_names)``.
    items: Integers [num_events] below ``len(item_names)``.
    user_names: The original id of each user; those without events are dropped.
    item_names: The same for items.
    source: Origin and licence.
    order: Larger for later events, by default their place. Of equal ones the
      first is first.

  Returns:
    The sequences.

  Raises:
    ValueError: If no user has the three events that a test needs.

  >>> data = make_sequences(
  ...   "toy", users=[0, 0, 1, 0], items=[2, 0, 0, 2], order=[5, 1, 2, 9],
  ...   user_names=["ann", "bob"], item_names=["tea", "rum", "ale"],
  ...   source="ours",
  ... )
  >>> data.items, data.offsets, data.item_names
  (array([1, 2, 2, 1], dtype=int32), array([0, 3, 4]), ('tea', 'ale'))
  >>> data.train_lengths
  array([1, 1])
  """
  user_ids, users = np.unique(np.asarray(users), return_inverse=True)
  item_ids, items = np.unique(np.asarray(items), return_inverse=True)
  # Both sorts are stable: equal times keep their order.
  time = np.arange(len(users)) if order is None else np.asarray(order)
  rows = np.lexsort((time, users))
  offsets = np.concatenate([[0], np.cumsum(np.bincount(users))])
  if np.max(np.diff(offsets), initial=0) < 3:
    raise ValueError(
      f"{name!r} must have a user with three events, one each for training, "
      f"validation and test; the longest of {len(user_ids)} sequences has "
      f"{np.max(np.diff(offsets), initial=0)}."
    )
  return Sequences(
    name=name,
    items=(items[rows] + 1).astype(np.int32),
    offsets=offsets.astype(np.int64),
    user_names=tuple(user_names[int(number)] for number in user_ids),
    item_names=tuple(item_names[int(number)] for number in item_ids),
    source=source,
  )


def synthetic_sequences(
  seed: int = 0,
  *,
  num_users: int = 600,
  num_items: int = 120,
  mean_length: int = 30,
  num_groups: int = 6,
) -> Sequences:
  """Draws sequences in which the last item tells much of the next one.

  Items lie on a circle. An event is one to three items further on with a
  probability of .7, else an item of the user's own group, of which there are
  some: so there is something to learn from the order, and from the user.

  Args:
    seed: Of all randomness.
    num_users: Number of users, at least 1.
    num_items: Number of items, at least 4 and as many as groups.
    mean_length: Mean length of a sequence, at least 3, as the shortest.
    num_groups: Number of groups of users, at least 1.

  Returns:
    The sequences.

  Raises:
    ValueError: If a size is out of range.

  >>> data = synthetic_sequences(num_users=9, num_items=20)
  >>> data.num_users, data.num_items, bool(data.lengths.min() >= 3)
  (9, 20, True)
  """
  options.check_at_least("num_users", num_users, 1)
  options.check_at_least("num_groups", num_groups, 1)
  options.check_at_least("num_items", num_items, max(4, num_groups))
  options.check_at_least("mean_length", mean_length, 3)
  rng = np.random.default_rng(seed)
  lengths = 3 + rng.poisson(mean_length - 3, num_users)
  shape = (num_users, int(lengths.max()))
  groups = rng.integers(num_groups, size=num_users)
  # Items of a group have its number as their remainder.
  own = groups[:, None] + num_groups * rng.integers(
    num_items // num_groups, size=shape
  )
  steps, follows = rng.integers(1, 4, shape), rng.random(shape) < 0.7
  items = own.copy()
  for place in range(1, shape[1]):
    following = (items[:, place - 1] + steps[:, place]) % num_items
    items[:, place] = np.where(follows[:, place], following, own[:, place])
  kept = np.arange(shape[1])[None, :] < lengths[:, None]
  return make_sequences(
    "synthetic",
    users=np.repeat(np.arange(num_users), lengths),
    items=items[kept],
    user_names=[f"user {number}" for number in range(num_users)],
    item_names=[f"item {number}" for number in range(num_items)],
    source=f"drawn from a Markov chain, seed {seed}",
  )


def describe(data: Sequences) -> dict[str, Any]:
  """Returns the sizes of sequences by name.

  >>> describe(synthetic_sequences(num_users=9, num_items=20))["users"]
  9
  """
  return {
    "events": len(data.items),
    "users": data.num_users,
    "items": data.num_items,
    "longest": int(data.lengths.max()),
  }
