"""From labelled texts to arrays of token ids.

The recipe is that of Chen et al., "How Large a Vocabulary Does Text
Classification Need?" (NAACL 2019): lower case, most other characters than
letters and digits dropped, contractions cut as in the Penn Treebank.
"""

import collections
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from anchor_codes import typing as options
from experiments.datasets import classification

PADDING, UNKNOWN = "<pad>", "<unk>"
PADDING_ID, UNKNOWN_ID = SPECIAL_IDS = 0, 1

_DROPPED = re.compile(r"[^\w(),!?@'`\"]")
_TOKEN = re.compile(r"\w+?(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b|\w+|[^\w\s]")


class Batch(NamedTuple):
  """Texts as token ids, or many batches of them with one more axis.

  Attributes:
    tokens: int32 [batch, length], `PADDING_ID` after the end of a text.
    labels: int32 [batch].
  """

  tokens: np.ndarray
  labels: np.ndarray


class EncodedDataset(NamedTuple):
  """Labelled texts as token ids.

  Attributes:
    train: All texts for training, as one batch.
    valid: The same for validation.
    test: The same for the test.
    vocabulary: The word of each id: ``<pad>``, ``<unk>``, then the words by
      their number in the training texts.
  """

  train: Batch
  valid: Batch
  test: Batch
  vocabulary: tuple[str, ...]


def tokenize(text: str, *, max_length: int | None = None) -> list[str]:
  """Cuts a text into words and punctuation marks, in lower case.

  Args:
    text: Any text. Letters and digits of any script, parentheses, commas,
      quotes and ``! ? @`` are kept, everything else separates words.
    max_length: Number of tokens to stop at, None for all.

  Returns:
    The tokens in order.

  >>> tokenize("It's a re-make; don't watch (or do)!")
  ['it', "'s", 'a', 're', 'make', 'do', "n't", 'watch', '(', 'or', 'do', ')',
   '!']
  """
  found = _TOKEN.finditer(_DROPPED.sub(" ", text.lower()))
  return [match.group() for match in itertools.islice(found, max_length)]


def build_vocabulary(
  texts: Iterable[Sequence[str]], *, max_words: int = 0, min_count: int = 1
) -> tuple[str, ...]:
  """Collects the words of the training texts, the most frequent first.

  Args:
    texts: The tokens of each text.
    max_words: Largest size of the vocabulary, ``<pad>`` and ``<unk>`` included;
      0 for any.
    min_count: Words seen fewer times are left out, at least 1.

  Returns:
    ``<pad>``, ``<unk>``, and the words by (-count, word).

  Raises:
    ValueError: If an option is out of range, or no word is left.

  >>> build_vocabulary([["to", "be"], ["be", "or"]], min_count=2)
  ('<pad>', '<unk>', 'be')
  """
  options.check_at_least("max_words", max_words, 0)
  options.check_at_least("min_count", min_count, 1)
  counts = collections.Counter(word for text in texts for word in text)
  words = sorted(
    (word for word, n in counts.items() if n >= min_count),
    key=lambda word: (-counts[word], word),
  )
  vocabulary = (PADDING, UNKNOWN, *words)[: max_words or None]
  if len(vocabulary) < 3:
    raise ValueError(
      f"`max_words` and `min_count` must leave a word in the vocabulary, got "
      f"{max_words} and {min_count} for training texts of {len(counts)} "
      "different words."
    )
  return vocabulary


def encode_dataset(
  data: classification.ClassificationDataset,
  *,
  max_length: int,
  max_words: int = 0,
  min_count: int = 1,
) -> EncodedDataset:
  """Numbers the words of labelled texts.

  Args:
    data: The texts.
    max_length: Tokens kept of each text, the first ones, at least 1.
    max_words: As for :func:`build_vocabulary`, which sees the tokens kept of
      the training texts.
    min_count: The same.

  Returns:
    The texts as arrays, each split as wide as its longest text.

  Raises:
    ValueError: If an option is out of range, or no word is left.
  """
  options.check_at_least("max_length", max_length, 1)
  splits = {
    split: [
      tokenize(text, max_length=max_length)
      for text in getattr(data, split).texts
    ]
    for split in ("train", "valid", "test")
  }
  vocabulary = build_vocabulary(
    splits["train"], max_words=max_words, min_count=min_count
  )
  index = {word: i for i, word in enumerate(vocabulary)}
  batches = {
    split: Batch(pad_texts(texts, index), getattr(data, split).labels)
    for split, texts in splits.items()
  }
  return EncodedDataset(**batches, vocabulary=vocabulary)


def pad_texts(
  texts: Sequence[Sequence[str]], index: Mapping[str, int]
) -> np.ndarray:
  """Turns tokens into ids, filled up to the length of the longest text.

  Args:
    texts: The tokens of each text.
    index: Id of each word of the vocabulary.

  Returns:
    int32 [num_texts, length], length at least 1.

  >>> pad_texts([["to", "be"], ["or"], []], {"to": 2, "be": 3}).tolist()
  [[2, 3], [1, 0], [0, 0]]
  """
  width = max([1, *map(len, texts)])
  tokens = np.full((len(texts), width), PADDING_ID, np.int32)
  for row, words in zip(tokens, texts, strict=True):
    row[: len(words)] = [index.get(word, UNKNOWN_ID) for word in words]
  return tokens


def count_words(data: EncodedDataset) -> np.ndarray:
  """Counts the words of the training texts.

  Args:
    data: The texts.

  Returns:
    How often each word of the vocabulary occurs; padding is none.
  """
  counts = np.bincount(
    data.train.tokens.ravel(), minlength=len(data.vocabulary)
  )
  counts[PADDING_ID] = 0
  return counts
