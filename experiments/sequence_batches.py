"""Batches of sequences, prepared on the host without a loop over users."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from experiments.datasets.sequences import PADDING_ID, Sequences


class Batch(NamedTuple):
  """Sequences to learn from; padding is 0 and comes first.

  Attributes:
    users: int32 [..., batch].
    inputs: int32 [..., batch, length], items.
    targets: The item that follows each of the inputs.
    negatives: For each target an item that the user has never taken up.
  """

  users: Any
  inputs: Any
  targets: Any
  negatives: Any


class OutsideSampler:
  """Draws items outside of a set that each user has for itself.

  With the set sorted, :math:`s_0 < s_1 < ...`, the items outside below
  :math:`s_j` number :math:`s_j - j`, counting items from 0. So one search finds
  the item outside of any given rank: no draw has to be rejected.

  Args:
    users: Users of pairs, integers [num_pairs]; pairs may repeat.
    items: Items of the pairs, from 1.
    num_users: Number of users.
    num_items: Number of items.

  Attributes:
    num_outside: How many items are outside, [num_users].

  >>> sampler = OutsideSampler([0, 0, 1], [2, 3, 1], num_users=2, num_items=4)
  >>> sampler.num_outside
  array([2, 3])
  >>> drawn = sampler.draw(np.random.default_rng(0), np.zeros(99, int))
  >>> np.unique(drawn)
  array([1, 4])
  """

  def __init__(
    self, users: ArrayLike, items: ArrayLike, *, num_users: int, num_items: int
  ):
    places = np.asarray(items, np.int64) - 1
    keys = np.unique(np.asarray(users, np.int64) * num_items + places)
    users, places = np.divmod(keys, num_items)
    self._starts = np.searchsorted(users, np.arange(num_users + 1))
    # The number of items outside before each one of the set; ascending.
    before = places - (np.arange(len(keys)) - self._starts[users])
    self._keys = users * num_items + before
    self.num_items = num_items
    self.num_outside = num_items - np.diff(self._starts)

  def draw(self, rng: np.random.Generator, users: np.ndarray) -> np.ndarray:
    """Draws one item outside of the set of each user, uniformly.

    Args:
      rng: Source of randomness.
      users: Integers of any shape; each must have an item outside.

    Returns:
      Items of the same shape.
    """
    rank = rng.integers(0, self.num_outside[users])
    found = np.searchsorted(
      self._keys, users * self.num_items + rank, side="right"
    )
    return rank + (found - self._starts[users]) + 1


class SequenceSampler:
  """Draws batches of training sequences.

  Args:
    data: The sequences.
    max_length: Items of a sequence that a model sees, the last ones.
    window_rate: Probability that a sequence longer than that ends anywhere,
      uniformly, not at its end (SSE-PT++ of Wu et al., RecSys 2020).

  Attributes:
    users: The users with something to predict, from whom batches are drawn.

  Raises:
    ValueError: If such a user has had all items, so that none is a negative.
  """

  def __init__(
    self, data: Sequences, *, max_length: int, window_rate: float = 0.0
  ):
    self.data = data
    self.max_length = max_length
    self.window_rate = window_rate
    self.lengths = data.train_lengths
    self.users = np.flatnonzero(self.lengths >= 2)
    if not len(self.users):
      raise ValueError(
        f"{data.name!r} must have a user with two events to learn from, beside "
        "those held out; got none."
      )
    self.outside = OutsideSampler(
      *data.train_events, num_users=data.num_users, num_items=data.num_items
    )
    check_outside(self.outside, self.users, data)

  def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Batch:
    """Draws sequences, users with replacement.

    Args:
      rng: Source of randomness.
      shape: Number of steps, and of sequences in a batch.
    """
    users = rng.choice(self.users, shape)
    ends = self.lengths[users]
    spare = ends - self.max_length - 1
    if self.window_rate:
      moves = (rng.random(shape) < self.window_rate) & (spare > 0)
      ends = ends - moves * rng.integers(0, np.maximum(spare, 0) + 1)
    events = last_items(
      self.data, users, ends=ends, max_length=self.max_length + 1
    )
    inputs = events[..., :-1]
    # The first item of all has nothing before it to be predicted from.
    known = inputs != PADDING_ID
    negatives = np.zeros_like(inputs)
    places = np.broadcast_to(users[..., None], inputs.shape)
    negatives[known] = self.outside.draw(rng, places[known])
    return Batch(
      users=users.astype(np.int32),
      inputs=inputs,
      targets=np.where(known, events[..., 1:], PADDING_ID),
      negatives=negatives,
    )


def check_outside(
  outside: OutsideSampler, users: np.ndarray, data: Sequences
) -> None:
  """Raises `ValueError` if one of some users has had all items."""
  full = users[outside.num_outside[users] == 0]
  if len(full):
    raise ValueError(
      f"user {data.user_names[full[0]]!r} of {data.name!r} has had all "
      f"{data.num_items} items: there is none left to draw as a negative."
    )


def last_items(
  data: Sequences, users: np.ndarray, *, ends: np.ndarray, max_length: int
) -> np.ndarray:
  """Returns the last items of users before some point in their sequences.

  Args:
    data: The sequences.
    users: Integers of any shape.
    ends: For each of them how many of its items come before that point.
    max_length: Number of items to return.

  Returns:
    int32 [..., max_length], with padding where a sequence is shorter.

  >>> from experiments.datasets.sequences import make_sequences
  >>> data = make_sequences(
  ...   "toy", users=[0, 0, 0], items=[2, 0, 1], user_names=["ann"],
  ...   item_names=["tea", "rum", "ale"], source="ours")
  >>> last_items(data, np.array([0, 0]), ends=np.array([3, 1]), max_length=2)
  array([[1, 2],
         [0, 3]], dtype=int32)
  """
  starts = data.offsets[users][..., None]
  rows = starts + ends[..., None] - max_length + np.arange(max_length)
  items = data.items[np.maximum(rows, 0)]
  return np.where(rows >= starts, items, PADDING_ID).astype(np.int32)
