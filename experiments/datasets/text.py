"""From words to token ids, and from token ids to batches.

The conventions are those of word-level language modelling (Mikolov et al.,
2010): one ``<eos>`` ends each line, a word outside of the vocabulary becomes
``<unk>``, and ids follow the frequency of the words.
"""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from anchor_codes import typing as options

END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"
SPLITS: tuple[str, ...] = ("train", "valid", "test")

# A word with its inner dots, hyphens and apostrophes, a bracket, or a run of
# another mark.
_TOKEN = re.compile(r"\w+(?:[.'\u2019-]\w+)*|[()\[\]{}]|([^\w\s])\1*")


class TextDataset(NamedTuple):
  """Text as token ids, with the words that they stand for.

  Attributes:
    name: The name that `load_text` takes.
    train: int32 ids [num_train_tokens] of the training text.
    valid: The same for the text that may select a model.
    test: The same for the text that only measures it.
    vocabulary: The word of each id, the most frequent in training first, words
      of equal frequency in the order of their code points. It holds ``<eos>``
      and ``<unk>``.
    source: Where the text comes from, and its licence.
    unknown_counts: For each split, how many of its words are not in the
      vocabulary and were replaced by ``<unk>``.
  """

  name: str
  train: np.ndarray
  valid: np.ndarray
  test: np.ndarray
  vocabulary: tuple[str, ...]
  source: str
  unknown_counts: Mapping[str, int]


def tokenize(line: str) -> list[str]:
  """Cuts a line into words, numbers and punctuation marks.

  Dots, hyphens and apostrophes inside a word belong to it, so that names like
  ``os.path`` stay whole. A repeated mark, such as ``>>>``, is one token unless
  it is a bracket. Case is kept.

  Args:
    line: Any text; white space separates tokens and is dropped.

  Returns:
    The tokens in order, nothing for a blank line.

  >>> tokenize(">>> os.path.join('a', 'b')  # Don't use non-empty names.")
  ['>>>', 'os.path.join', '(', "'", 'a', "'", ',', "'", 'b', "'", ')', '#',
   "Don't", 'use', 'non-empty', 'names', '.']
  """
  return [match.group() for match in _TOKEN.finditer(line)]


def build_vocabulary(
  words: Iterable[str], *, min_count: int = 1
) -> tuple[str, ...]:
  """Collects the frequent words of a text, the most frequent first.

  Args:
    words: The training text, ``<eos>`` included.
    min_count: Words seen fewer times are left out, at least 1; their
      occurrences count as ``<unk>``.

  Returns:
    The words by (-count, word). ``<unk>`` is always among them.

  Raises:
    ValueError: If `min_count` is less than 1.

  >>> build_vocabulary("to be or not to be".split(), min_count=2)
  ('<unk>', 'be', 'to')
  """
  options.check_at_least("min_count", min_count, 1)
  counts = collections.Counter(words)
  kept = {word: n for word, n in counts.items() if n >= min_count}
  unknown = counts.total() - sum(kept.values())
  kept[UNKNOWN] = kept.get(UNKNOWN, 0) + unknown
  return tuple(sorted(kept, key=lambda word: (-kept[word], word)))


def make_text_dataset(
  name: str,
  splits: Mapping[str, Sequence[str]],
  *,
  source: str,
  min_count: int = 1,
) -> TextDataset:
  """Numbers the words of a text by their frequency in the training split.

  Args:
    name: Name of the data set.
    splits: Words of "train", "valid" and "test", ``<eos>`` included.
    source: Origin and licence of the text.
    min_count: Words seen fewer times in training become ``<unk>``.

  Returns:
    The data set.

  >>> splits = {"train": ["a", "b", "a"], "valid": ["b"], "test": ["c"]}
  >>> data = make_text_dataset("toy", splits, source="ours")
  >>> data.vocabulary, data.train, dict(data.unknown_counts)
  (('a', 'b', '<unk>'), array([0, 1, 0], dtype=int32),
   {'train': 0, 'valid': 0, 'test': 1})
  """
  vocabulary = build_vocabulary(splits["train"], min_count=min_count)
  index = {word: i for i, word in enumerate(vocabulary)}
  return TextDataset(
    name=name,
    **{split: _encode(splits[split], index) for split in SPLITS},
    vocabulary=vocabulary,
    source=source,
    unknown_counts={
      split: sum(word not in index for word in splits[split])
      for split in SPLITS
    },
  )


def _encode(words: Sequence[str], index: Mapping[str, int]) -> np.ndarray:
  unknown = index[UNKNOWN]
  ids = (index.get(word, unknown) for word in words)
  return np.fromiter(ids, np.int32, len(words))


def batch_tokens(
  tokens: np.ndarray, *, batch_size: int, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
  """Cuts a text into batches for truncated back-propagation through time.

  The text becomes `batch_size` streams of equal length, and a batch is the next
  `num_steps` tokens of each: row i of a batch goes on where row i of the batch
  before it stopped, so that the state of a recurrent network can be carried
  over (Zaremba et al., 2014). The remainder at the end is left out.

  Args:
    tokens: Token ids [num_tokens].
    batch_size: Number of streams, at least 1.
    num_steps: Number of tokens of each stream in a batch, at least 1.

  Returns:
    The inputs and the targets, both [num_batches, batch_size, num_steps]; the
    target of a token is the token that follows it.

  Raises:
    ValueError: If the options are less than 1, or the text is too short for
      one batch: it takes ``batch_size * (num_steps + 1)`` tokens.

  >>> inputs, targets = batch_tokens(np.arange(11), batch_size=2, num_steps=2)
  >>> inputs.tolist()
  [[[0, 1], [5, 6]], [[2, 3], [7, 8]]]
  >>> targets[1].tolist()
  [[3, 4], [8, 9]]
  """
  options.check_at_least("batch_size", batch_size, 1)
  options.check_at_least("num_steps", num_steps, 1)
  stream_length = len(tokens) // batch_size
  num_batches = (stream_length - 1) // num_steps
  if num_batches < 1:
    raise ValueError(
      f"`tokens` must hold at least {batch_size * (num_steps + 1)} tokens "
      f"for a batch of {batch_size} x {num_steps}, got {len(tokens)}."
    )
  streams = tokens[: batch_size * stream_length].reshape(batch_size, -1)

  def cut(start: int) -> np.ndarray:
    used = streams[:, start : start + num_batches * num_steps]
    batches = used.reshape(batch_size, num_batches, num_steps)
    return np.ascontiguousarray(batches.swapaxes(0, 1))

  return cut(0), cut(1)
