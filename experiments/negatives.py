"""Items that users have not rated, drawn for rankings."""

from typing import NamedTuple, Self

import numpy as np


class OtherItems(NamedTuple):
  """For each user, the items that may be drawn: known, but not theirs.

  A draw is exact and takes no second try: the r-th item that a user does *not*
  have is item r + k, for the k items of the user that come before it, and k is
  found by bisection.

  Attributes:
    items: The items that may be drawn, ascending.
    counts: How many of them each user has.
    keys: For each pair of a user and the user's k-th item, at place p among
      `items`, the number ``user * (len(items) + 1) + p - k``; ascending.

  >>> pairs = np.array([0, 0, 1]), np.array([5, 7, 7])
  >>> others = OtherItems.of_pairs(*pairs, num_users=2)
  >>> print(others.draw(np.random.default_rng(0), np.array([1, 1, 1])))
  [5 5 5]
  """

  items: np.ndarray
  counts: np.ndarray
  keys: np.ndarray

  @classmethod
  def of_pairs(
    cls, users: np.ndarray, items: np.ndarray, *, num_users: int
  ) -> Self:
    """Prepares the draws for pairs of users and their items.

    Args:
      users: The user of each pair, below `num_users`.
      items: The item of each pair. Only items of some pair are ever drawn. A
        pair may repeat.
      num_users: Number of users.
    """
    known, places = np.unique(items, return_inverse=True)
    size = len(known)
    pairs = np.unique(users.astype(np.int64) * size + places)
    users, places = np.divmod(pairs, size)
    counts = np.bincount(users, minlength=num_users)
    before = np.arange(len(pairs)) - (np.cumsum(counts) - counts)[users]
    return cls(known, counts, users * (size + 1) + places - before)

  @property
  def exist(self) -> np.ndarray:
    """Whether there is an item that a user does not have, bool [num_users]."""
    return self.counts < len(self.items)

  def draw(self, rng: np.random.Generator, users: np.ndarray) -> np.ndarray:
    """Draws an item for each of some users, uniformly.

    Args:
      rng: Source of randomness.
      users: The users, any number of times each; all must `exist`. In
        ascending order they are quicker.

    Returns:
      An item for each, int32.
    """
    size = len(self.items)
    rank = rng.integers(size - self.counts[users])
    key = users.astype(np.int64) * (size + 1) + rank
    ends = np.searchsorted(self.keys, key, side="right")
    starts = (np.cumsum(self.counts) - self.counts)[users]
    return self.items[rank + ends - starts].astype(np.int32)
