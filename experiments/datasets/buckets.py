"""Pairs of sentences as arrays, in few shapes and with little padding."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anchor_codes import typing as options
from experiments.datasets import subwords, translation

SIZE_MULTIPLE = 8
"""Sentences in a batch are a multiple of this: so many devices may share it."""


class Bucket(NamedTuple):
  """Pairs of about the same length, as ids filled up with padding.

  Attributes:
    sources: int32 ids [..., length], with an end.
    targets: int32 ids [..., length + 1], with a begin and an end.
  """

  sources: np.ndarray
  targets: np.ndarray


class EncodedPairs(NamedTuple):
  """Pairs of sentences as lists of ids.

  Attributes:
    sources: Ids of each sentence, with an end.
    targets: Ids of each translation, with a begin and an end.
  """

  sources: list[list[int]]
  targets: list[list[int]]

  @property
  def lengths(self) -> np.ndarray:
    """The place that each pair takes in a bucket."""
    pairs = zip(self.sources, self.targets, strict=True)
    return np.array([max(len(s), len(t) - 1) for s, t in pairs], np.int64)


def encode_pairs(
  pairs: translation.Pairs, model: subwords.Subwords, *, max_length: int
) -> EncodedPairs:
  """Cuts pairs of sentences into subwords.

  Args:
    pairs: The sentences.
    model: The subwords.
    max_length: Subwords of a sentence with its end, at least 2; what a longer
      one has beyond is left out.

  Returns:
    Their ids.

  Raises:
    ValueError: If the length is too short.
  """
  options.check_at_least("max_length", max_length, 2)
  end, cut = [subwords.END_ID], max_length - 1
  sources, targets = (model.encode(side) for side in pairs)
  return EncodedPairs(
    [ids[:cut] + end for ids in sources],
    [[subwords.BEGIN_ID, *ids[:cut], *end] for ids in targets],
  )


def bucket_lengths(lengths: np.ndarray, num_buckets: int) -> tuple[int, ...]:
  """Finds the lengths to fill sentences up to, with the least padding.

  Args:
    lengths: Length of each sentence, at least one.
    num_buckets: How many lengths to find, at most.

  Returns:
    Lengths in ascending order; the last one is that of the longest sentence.

  Raises:
    ValueError: If there are no buckets or no sentences.

  >>> bucket_lengths(np.array([3, 4, 4, 9, 10]), 2)
  (4, 10)
  """
  options.check_at_least("num_buckets", num_buckets, 1)
  options.check_at_least("number of sentences", len(lengths), 1)
  numbers = np.cumsum(np.bincount(lengths))
  ends = np.arange(len(numbers))
  # The sizes of the best buckets for all sentences up to each length, by the
  # number of buckets: the last one holds what is beyond an earlier length.
  sizes, before = numbers * ends, []
  last = (numbers[:, None] - numbers[None]) * ends[:, None]
  last = np.where(
    ends[None] <= ends[:, None], last, np.iinfo(np.int64).max // 2
  )
  for _ in range(num_buckets - 1):
    candidates = sizes[None] + last
    before.append(np.argmin(candidates, axis=1))
    sizes = np.min(candidates, axis=1)
  found = [int(ends[-1])]
  for choice in reversed(before):
    found.append(int(choice[found[-1]]))
  return tuple(sorted({length for length in found if numbers[length]}))


def fill_buckets(
  pairs: EncodedPairs, lengths: Sequence[int]
) -> tuple[list[Bucket], list[np.ndarray]]:
  """Puts pairs into the shortest buckets that hold them.

  Args:
    pairs: The pairs.
    lengths: Lengths of the buckets in ascending order; longer pairs are left
      out.

  Returns:
    One bucket for each length that has pairs, and the positions of its pairs.

  >>> pairs = EncodedPairs([[5, 3], [6, 7, 3]], [[2, 8, 3], [2, 9, 3]])
  >>> buckets, positions = fill_buckets(pairs, [2, 3])
  >>> buckets[1].sources.tolist(), buckets[1].targets.tolist()
  ([[6, 7, 3]], [[2, 9, 3, 0]])
  >>> [part.tolist() for part in positions]
  [[0], [1]]
  """
  numbers = np.searchsorted(lengths, pairs.lengths)
  buckets, positions = [], []
  for number, length in enumerate(lengths):
    chosen = np.flatnonzero(numbers == number)
    if not len(chosen):
      continue
    sides = [
      pad([side[i] for i in chosen], width)
      for side, width in zip(pairs, (length, length + 1), strict=True)
    ]
    buckets.append(Bucket(*sides))
    positions.append(chosen)
  return buckets, positions


def pad(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
  """Returns lists of ids as one array int32 [rows, width].

  >>> pad([[5, 6], [7]], 3).tolist()
  [[5, 6, 0], [7, 0, 0]]
  """
  padded = np.full((len(rows), width), subwords.PADDING_ID, np.int32)
  for row, ids in zip(padded, rows, strict=True):
    row[: len(ids)] = ids
  return padded


def evaluation_batches(bucket: Bucket, *, batch_size: int) -> list[Bucket]:
  """Cuts a bucket into batches, the last one filled up with padding alone.

  Args:
    bucket: Pairs [number, ...].
    batch_size: Pairs in a batch.

  Returns:
    Batches of pairs [batch_size, ...].
  """

  def cut(ids: np.ndarray) -> np.ndarray:
    missing = -len(ids) % batch_size
    padded = np.pad(
      ids, ((0, missing), (0, 0)), constant_values=subwords.PADDING_ID
    )
    return padded.reshape(-1, batch_size, ids.shape[1])

  return list(map(Bucket, *map(cut, bucket)))


class _Chunk(NamedTuple):
  """Some batches of one bucket."""

  bucket: int
  begin: int
  end: int


class EpochPlan:
  """The batches of an epoch, in chunks of one shape for each bucket.

  A batch has about as many subwords, padding included, whatever its bucket. An
  epoch has all pairs; some come twice to fill the last batches up. The chunks
  of all buckets are mixed, in the same order in each epoch; which pairs are in
  a batch differs from epoch to epoch.

  Attributes:
    bounds: The first step of each chunk, and the one after its last.
    batch_sizes: Pairs in a batch of each bucket.
  """

  def __init__(
    self,
    buckets: Sequence[Bucket],
    *,
    batch_tokens: int,
    chunk_steps: int,
    seed: int,
  ):
    """Plans the chunks.

    Args:
      buckets: The pairs to learn from.
      batch_tokens: Subwords on one side of a batch with padding, about; a batch
        has eight pairs at least.
      chunk_steps: Steps in a chunk, about.
      seed: Seed of the order of the pairs.
    """
    options.check_at_least("batch_tokens", batch_tokens, 1)
    options.check_at_least("chunk_steps", chunk_steps, 1)
    self._buckets, self._seed = buckets, seed
    rounded = lambda size: max(size // SIZE_MULTIPLE, 1) * SIZE_MULTIPLE
    self.batch_sizes = [
      rounded(batch_tokens // bucket.sources.shape[1]) for bucket in buckets
    ]
    chunks = []
    for number, size in enumerate(self.batch_sizes):
      steps = -(-len(buckets[number].sources) // size)
      parts = max(round(steps / chunk_steps), 1)
      length = -(-steps // parts)
      # A chunk of another length would be compiled again.
      chunks += [
        (
          (part + 0.5) / parts,
          _Chunk(number, part * length, (part + 1) * length),
        )
        for part in range(parts)
      ]
    self._chunks = [chunk for _, chunk in sorted(chunks)]
    ends = itertools.accumulate(c.end - c.begin for c in self._chunks)
    self.bounds = list(itertools.pairwise([0, *ends]))
    self._numbers = {begin: n for n, (begin, _) in enumerate(self.bounds)}

  @property
  def num_steps(self) -> int:
    """Number of steps of an epoch."""
    return self.bounds[-1][1]

  def batches(self, epoch: int, begin: int) -> Bucket:
    """Returns the batches of a chunk.

    Args:
      epoch: Number of the epoch, which has an order of its own.
      begin: The first step of the chunk.

    Returns:
      Pairs [steps, batch, ...].
    """
    number, first, last = self._chunks[self._numbers[begin]]
    bucket, size = self._buckets[number], self.batch_sizes[number]
    rng = np.random.default_rng([self._seed, epoch, number])
    order = np.resize(rng.permutation(len(bucket.sources)), last * size)
    chosen = order.reshape(-1, size)[first:last]
    return Bucket(bucket.sources[chosen], bucket.targets[chosen])
