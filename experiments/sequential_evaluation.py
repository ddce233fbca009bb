"""How well a sequential recommender ranks the item that came next."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float

from anchor_codes import ops
from experiments import sequence_batches
from experiments.datasets.sequences import Sequences

BATCH_SIZE = 128
METRICS = ("ndcg_at_10", "recall_at_10", "full_ndcg_at_10", "full_recall_at_10")
"""What is measured: among sampled candidates, and among all items."""


class RankingTask(NamedTuple):
  """Users whose next item is to be found, in batches, the last one filled up.

  Attributes:
    users: int32 [num_batches, batch].
    inputs: Their last items before it, int32 [num_batches, batch, length].
    targets: The item that came next, int32 [num_batches, batch].
    candidates: Other items, int32 [num_batches, batch, draws, number].
    history: Bits of the items that do not compete, for they came before:
      uint8 [num_batches, batch, bytes], those of item 0 first.
    number: How many users there are.
  """

  users: Any
  inputs: Any
  targets: Any
  candidates: Any
  history: Any
  number: int


class Ranks(NamedTuple):
  """Ranks from 0, the mean over equal scores.

  Attributes:
    sampled: Among the candidates, [num_users, draws].
    full: Among all items that the user has not taken up before, [num_users].
  """

  sampled: np.ndarray
  full: np.ndarray


def make_task(
  data: Sequences,
  *,
  held_out: int,
  max_length: int,
  num_users: int = 10_000,
  draws: int = 5,
  num_candidates: int = 100,
  loose: bool = False,
  seed: int = 0,
) -> RankingTask:
  """Prepares the measurement of one split.

  Candidates are drawn with replacement from the items that the user has not
  taken up until then, the right one included; what comes later is not known and
  may be drawn.

  Args:
    data: The sequences.
    held_out: 1 for the test, whose target is the last item; 2 for the
      validation, whose target is the last but one.
    max_length: Items that the model reads.
    num_users: Users to measure on, at random if there are more; 0 for all.
    draws: Number of samples of candidates.
    num_candidates: Items in a sample.
    loose: Whether only training items are left out, as in the published code.
    seed: Of the users and the samples.

  Raises:
    ValueError: If a user has had all items, so that no candidate is left.
  """
  rng = np.random.default_rng([seed, held_out])
  users = np.flatnonzero(data.lengths >= 3)
  if num_users and len(users) > num_users:
    users = np.sort(rng.choice(users, num_users, replace=False))
  ends = data.lengths[users] - held_out
  known = data.train_lengths[users] if loose else ends + 1
  rows, items = _first_items(data, users, known)
  outside = sequence_batches.OutsideSampler(
    users[rows], items, num_users=data.num_users, num_items=data.num_items
  )
  sequence_batches.check_outside(outside, users, data)
  places = np.broadcast_to(
    users[:, None, None], (len(users), draws, num_candidates)
  )
  task = (
    users.astype(np.int32),
    sequence_batches.last_items(data, users, ends=ends, max_length=max_length),
    data.items[data.offsets[users] + ends],
    outside.draw(rng, places).astype(np.int32),
    history_bits(
      *_first_items(data, users, ends),
      num_users=len(users),
      num_rows=data.num_items + 1,
    ),
  )
  return RankingTask(*map(_cut, task), number=len(users))


def _first_items(
  data: Sequences, users: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the first items of some users, with the place of the user."""
  rows = np.repeat(np.arange(len(users)), numbers)
  places = np.arange(len(rows)) - np.repeat(
    np.cumsum(numbers) - numbers, numbers
  )
  return rows, data.items[data.offsets[users][rows] + places]


def history_bits(
  rows: np.ndarray, items: np.ndarray, *, num_users: int, num_rows: int
) -> np.ndarray:
  """Packs sets of items into bits; padding is in all of them.

  Args:
    rows: The number of the set of each item.
    items: The items.
    num_users: Number of sets.
    num_rows: Number of items, with padding.

  Returns:
    uint8 [num_users, bytes], the lowest bit first.

  >>> bits = history_bits(np.array([0, 0]), np.array([2, 8]), num_users=2,
  ...                     num_rows=9)
  >>> bits
  array([[5, 1],
         [1, 0]], dtype=uint8)
  """
  bits = np.zeros((num_users, -(-num_rows // 8)), np.uint8)
  bits[:, 0] = 1
  masks = np.left_shift(1, items & 7).astype(np.uint8)
  np.bitwise_or.at(bits, (rows, items >> 3), masks)
  return bits


def _cut(column: np.ndarray) -> np.ndarray:
  """Cuts a column into batches; what fills the last one up is not counted."""
  size = min(BATCH_SIZE, len(column))
  missing = -len(column) % size
  column = np.concatenate([column, column[:missing]])
  return column.reshape(-1, size, *column.shape[1:])


def rank_targets(
  model: Any, task: RankingTask
) -> tuple[Float[Array, "batches batch draws"], Float[Array, "batches batch"]]:
  """Ranks the items that came next; the work of :func:`measure`.

  Args:
    model: The recommender, out of training.
    task: The users, with arrays in its attributes but for the last.
  """
  table = model.item_table()

  def rank(batch: tuple[Array, ...]) -> tuple[Array, Array]:
    users, inputs, targets, candidates, history = batch
    scores = model.scores(inputs, users, table)
    seen = jnp.unpackbits(
      history, axis=-1, count=scores.shape[-1], bitorder="little"
    )
    full = ops.ranks_of_targets(scores, targets, where=seen == 0)
    others = jnp.take_along_axis(
      scores, candidates.reshape(len(users), -1), axis=-1
    ).reshape(candidates.shape)
    right = jnp.take_along_axis(scores, targets[:, None], axis=-1)[..., None]
    right = jnp.broadcast_to(right, (*others.shape[:-1], 1))
    competing = jnp.concatenate([right, others], axis=-1)
    first = jnp.zeros(competing.shape[:-1], jnp.int32)
    return ops.ranks_of_targets(competing, first), full

  return jax.lax.map(rank, task[:-1])


def unbatched(sampled: Array, full: Array, *, number: int) -> Ranks:
  """Returns the ranks of the users that count, on the host."""
  ranks = (np.asarray(part) for part in (sampled, full))
  return Ranks(*(r.reshape(-1, *r.shape[2:])[:number] for r in ranks))


def metrics_of(ranks: Ranks) -> dict[str, float]:
  """Returns the means over users, and over samples, by the names of `METRICS`.

  >>> ranks = Ranks(np.zeros((2, 3)), np.array([0.0, 10.0]))
  >>> list(metrics_of(ranks).values())
  [1.0, 1.0, 0.5, 0.5]
  """

  def means(ranks: np.ndarray) -> Iterator[float]:
    for metric in (ops.ndcg_at, ops.hit_rate_at):
      yield float(np.mean(metric(jnp.asarray(ranks, jnp.float32), k=10)))

  values = (*means(ranks.sampled), *means(ranks.full))
  return dict(zip(METRICS, values, strict=True))
