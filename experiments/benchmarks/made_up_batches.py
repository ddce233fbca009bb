"""Batches that are made up, where only the time of a step matters.

A step takes as long for any ids. All arrays begin with an axis of steps.
"""

import numpy as np

from experiments import sequence_batches
from experiments.datasets import (
  buckets,
  classification_words,
  subwords,
  text,
)
from experiments.models import sequence_sharing


def draw_ids(
  rng: np.random.Generator, size: int, shape: tuple[int, ...], *, low: int = 0
) -> np.ndarray:
  """Draws ids of which some are much more frequent than others.

  Args:
    rng: Source of randomness.
    size: Number of ids, those below `low` too.
    shape: Shape of the result.
    low: The smallest id to draw, which is the most frequent one.

  Returns:
    int32 ids from `low` to below `size`.

  >>> drawn = draw_ids(np.random.default_rng(0), 5, (99,), low=2)
  >>> print(np.unique(drawn), drawn.dtype)
  [2 3 4] int32
  """
  return low + ((size - low) * rng.power(0.4, shape)).astype(np.int32)


def ratings(
  steps: int, batch_size: int, *, num_users: int, num_items: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Makes users, items, and ratings from 1 to 5."""
  rng, shape = np.random.default_rng(0), (steps, batch_size)
  users = rng.integers(num_users, size=shape, dtype=np.int32)
  items = draw_ids(rng, num_items, shape)
  return users, items, rng.uniform(1, 5, shape).astype(np.float32)


def choices(
  steps: int, batch_size: int, *, num_users: int, num_items: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Makes users, items of theirs, and other items."""
  users, items, _ = ratings(
    steps, batch_size, num_users=num_users, num_items=num_items
  )
  others = np.random.default_rng(1).integers(
    num_items, size=items.shape, dtype=np.int32
  )
  return users, items, others


def sequences(
  steps: int,
  batch_size: int,
  *,
  max_length: int,
  num_users: int,
  num_items: int,
) -> sequence_batches.Batch:
  """Makes sequences of items without padding."""
  rng, shape = np.random.default_rng(0), (steps, batch_size, max_length + 1)
  low = sequence_sharing.FIRST_ITEM
  items = draw_ids(rng, num_items + low, shape, low=low)
  return sequence_batches.Batch(
    users=rng.integers(num_users, size=shape[:2], dtype=np.int32),
    inputs=items[..., :-1],
    targets=items[..., 1:],
    negatives=rng.integers(
      low, num_items + low, size=(*shape[:2], max_length), dtype=np.int32
    ),
  )


def translations(
  steps: int, batch_tokens: int, *, length: int, vocab_size: int
) -> buckets.Bucket:
  """Makes pairs of sentences of one length, in batches as a run has them.

  Args:
    steps: Number of batches.
    batch_tokens: Subwords on one side of a batch, about.
    length: Subwords of each sentence, with its end.
    vocab_size: Number of subwords.

  >>> pairs = translations(2, 64, length=4, vocab_size=9)
  >>> print(pairs.sources.shape, pairs.targets.shape)
  (2, 16, 4) (2, 16, 5)
  """
  multiple = buckets.SIZE_MULTIPLE
  batch_size = max(batch_tokens // length // multiple, 1) * multiple
  rng, low = np.random.default_rng(0), subwords.NUM_SPECIAL
  shape = steps, batch_size, length
  sources, targets = (
    draw_ids(rng, vocab_size, shape, low=low) for _ in ("source", "target")
  )
  for side in (sources, targets):
    side[..., -1] = subwords.END_ID
  begins = np.full((*shape[:2], 1), subwords.BEGIN_ID, np.int32)
  return buckets.Bucket(sources, np.concatenate([begins, targets], axis=-1))


def running_text(
  steps: int, batch_size: int, *, num_steps: int, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Makes a text, cut into words to read and words that come next.

  Args:
    steps: Number of batches.
    batch_size: Texts side by side.
    num_steps: Words of each of them in a batch.
    vocab_size: Number of words.
  """
  size = batch_size * (steps * num_steps + 1)
  tokens = draw_ids(np.random.default_rng(0), vocab_size, (size,))
  return text.batch_tokens(tokens, batch_size=batch_size, num_steps=num_steps)


def labelled_texts(
  steps: int,
  batch_size: int,
  *,
  max_length: int,
  vocab_size: int,
  num_classes: int,
  num_special: int,
) -> classification_words.Batch:
  """Makes texts without padding, and their classes."""
  rng, shape = np.random.default_rng(0), (steps, batch_size)
  return classification_words.Batch(
    tokens=draw_ids(rng, vocab_size, (*shape, max_length), low=num_special),
    labels=rng.integers(num_classes, size=shape, dtype=np.int32),
  )
