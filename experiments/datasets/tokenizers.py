"""Texts as ids for transformers: words or pieces of them, and a few marks.

A text begins with a mark whose vector comes to stand for all of it, and a place
to be predicted holds another one (Devlin et al., 2019). Vocabularies of our own
begin with `MARKS`; those of others have theirs where they like, padding aside.
"""

import abc
import json
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from anchor_codes import typing as options
from experiments.datasets import classification, subwords
from experiments.datasets import classification_words as words
from experiments.reporting import files

MARKS = (words.PADDING, words.UNKNOWN, "<cls>", "<mask>")
"""The first symbols of our own vocabularies, which are no words."""


class Marks(NamedTuple):
  """Ids of symbols with a meaning of their own.

  Attributes:
    unknown: Stands for what the vocabulary lacks.
    begin: Stands before each text.
    mask: Takes the place of what is to be predicted.
    end: Stands after each text, None for nothing there.
  """

  unknown: int
  begin: int
  mask: int
  end: int | None = None


_OUR_MARKS = Marks(unknown=1, begin=2, mask=3)


class Tokenizer(abc.ABC):
  """Cuts texts into symbols of a vocabulary.

  Attributes:
    filename: Name of the file that :meth:`save` writes.
    vocabulary: The symbol of each id; the first one is padding.
    marks: Ids of symbols with a meaning.
    special_ids: All ids that stand for no part of a text.
  """

  filename: ClassVar[str]
  vocabulary: tuple[str, ...]
  marks: Marks = _OUR_MARKS
  special_ids: tuple[int, ...] = tuple(range(len(MARKS)))

  @abc.abstractmethod
  def encode(
    self, texts: Sequence[str], *, max_length: int | None = None
  ) -> list[list[int]]:
    """Returns the ids of texts, without marks around them.

    Args:
      texts: The texts.
      max_length: Ids to stop at, None for all.
    """

  @classmethod
  @abc.abstractmethod
  def load(cls, folder: pathlib.Path) -> Self:
    """Reads what :meth:`save` has written into a folder."""

  @abc.abstractmethod
  def save(self, folder: pathlib.Path) -> None:
    """Writes the vocabulary into a folder."""


class WordTokenizer(Tokenizer):
  """Words in lower case, see :mod:`experiments.datasets.classification_words`.

  Args:
    vocabulary: `MARKS`, then the words.

  >>> tokenizer = WordTokenizer.train(["To be, or not to be?"], min_count=2)
  >>> tokenizer.vocabulary
  ('<pad>', '<unk>', '<cls>', '<mask>', 'be', 'to')
  >>> tokenizer.encode(["To do"])
  [[5, 1]]
  """

  filename = "words.txt"

  def __init__(self, vocabulary: Sequence[str]):
    if tuple(vocabulary[: len(MARKS)]) != MARKS:
      raise ValueError(
        f"A vocabulary must begin with {MARKS}, got "
        f"{tuple(vocabulary[: len(MARKS)])}."
      )
    self.vocabulary = tuple(vocabulary)
    self._index = {word: i for i, word in enumerate(vocabulary)}

  @classmethod
  def train(
    cls,
    texts: Iterable[str],
    *,
    max_length: int | None = None,
    max_words: int = 0,
    min_count: int = 1,
  ) -> Self:
    """Collects the words of texts, the most frequent first.

    Args:
      texts: The training texts.
      max_length: Words of each text that count, the first ones; None for all.
      max_words: Largest size of the vocabulary with its marks, 0 for any.
      min_count: Words seen fewer times are left out.

    Raises:
      ValueError: If an option is out of range, or no word is left.
    """
    found = words.build_vocabulary(
      (words.tokenize(text, max_length=max_length) for text in texts),
      # It counts two marks itself.
      max_words=max(max_words - 2, 1) if max_words > 0 else max_words,
      min_count=min_count,
    )
    return cls((*MARKS, *found[2:]))

  def encode(
    self, texts: Sequence[str], *, max_length: int | None = None
  ) -> list[list[int]]:
    """Returns the ids of the words of texts."""
    find = lambda word: self._index.get(word, self.marks.unknown)
    return [
      [find(word) for word in words.tokenize(text, max_length=max_length)]
      for text in texts
    ]

  @classmethod
  def load(cls, folder: pathlib.Path) -> Self:
    """Reads one word from each line."""
    text = (folder / cls.filename).read_text(encoding="utf-8")
    return cls(text.removesuffix("\n").split("\n"))

  def save(self, folder: pathlib.Path) -> None:
    """Writes one word into each line."""
    lines = "".join(f"{word}\n" for word in self.vocabulary)
    files.write_atomically(folder / self.filename, lines)


class SubwordTokenizer(Tokenizer):
  """Subwords of the text in lower case, by the library `sentencepiece`.

  Args:
    model: The subwords. Their marks of the begin and the end of a sentence, the
      ids 2 and 3, are those of the begin and of a mask here.
  """

  filename = "subwords.model"

  def __init__(self, model: subwords.Subwords):
    self.model = model
    self.vocabulary = (*MARKS, *model.vocabulary[len(MARKS) :])

  @classmethod
  def train(cls, texts: Iterable[str], *, vocab_size: int) -> Self:
    """Learns subwords from texts.

    Args:
      texts: The training texts.
      vocab_size: Number of subwords with the marks, about.

    Raises:
      ValueError: If the vocabulary is too small for the characters.
    """
    # The library would leave longer lines out.
    lines = (text[:_LONGEST].lower() for text in texts)
    return cls(subwords.Subwords.train(lines, vocab_size=vocab_size))

  def encode(
    self, texts: Sequence[str], *, max_length: int | None = None
  ) -> list[list[int]]:
    """Returns the ids of the subwords of texts."""
    found = self.model.encode([text.lower() for text in texts])
    return [ids[:max_length] for ids in found]

  @classmethod
  def load(cls, folder: pathlib.Path) -> Self:
    """Reads the file of the library."""
    return cls(subwords.Subwords.load(folder / cls.filename))

  def save(self, folder: pathlib.Path) -> None:
    """Writes the file of the library."""
    self.model.save(folder / self.filename)


_LONGEST = 1000


class WordPieceTokenizer(Tokenizer):
  """Pieces of words as BERT has them, by the library `tokenizers`.

  Args:
    vocabulary: The pieces; ``[PAD]`` is the first one, and ``[UNK]``,
      ``[CLS]``, ``[SEP]`` and ``[MASK]`` are among them.
    lower: Whether texts are turned into lower case, without accents.

  Raises:
    ValueError: If one of these marks is missing, or padding is elsewhere.
  """

  filename = "vocab.txt"
  _SETTINGS = "tokenizer_config.json"

  def __init__(self, vocabulary: Sequence[str], *, lower: bool = True):
    self.vocabulary, self.lower = tuple(vocabulary), lower
    index = {piece: i for i, piece in enumerate(vocabulary)}
    marks = ("[PAD]", "[UNK]", "[CLS]", "[MASK]", "[SEP]")
    missing = [mark for mark in marks if mark not in index]
    if missing or index["[PAD]"] != words.PADDING_ID:
      raise ValueError(
        f"{self.filename} must begin with '[PAD]' and hold {marks}, got a "
        f"first line {self.vocabulary[:1]} and no {missing}."
      )
    self.marks = Marks(*(index[mark] for mark in marks[1:]))
    self.special_ids = tuple(
      i for i, piece in enumerate(vocabulary) if _BRACKETS.fullmatch(piece)
    )
    # Imported here, for only the vocabularies of others need it.
    from tokenizers import BertWordPieceTokenizer

    self._library: Any = BertWordPieceTokenizer(index, lowercase=lower)

  def encode(
    self, texts: Sequence[str], *, max_length: int | None = None
  ) -> list[list[int]]:
    """Returns the ids of the pieces of texts."""
    found = self._library.encode_batch(list(texts), add_special_tokens=False)
    return [part.ids[:max_length] for part in found]

  @classmethod
  def load(cls, folder: pathlib.Path) -> Self:
    """Reads one piece from each line; settings beside them may be missing."""
    text = (folder / cls.filename).read_text(encoding="utf-8")
    path, settings = folder / cls._SETTINGS, {}
    if path.is_file():
      settings = json.loads(path.read_text(encoding="utf-8"))
    lower = bool(settings.get("do_lower_case", True))
    return cls(text.removesuffix("\n").split("\n"), lower=lower)

  def save(self, folder: pathlib.Path) -> None:
    """Writes one piece into each line, and the settings."""
    lines = "".join(f"{piece}\n" for piece in self.vocabulary)
    files.write_atomically(folder / self.filename, lines)
    settings = json.dumps({"do_lower_case": self.lower})
    files.write_atomically(folder / self._SETTINGS, f"{settings}\n")


_BRACKETS = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK|unused\d+)\]")

TOKENIZERS: tuple[type[Tokenizer], ...] = (
  WordTokenizer,
  SubwordTokenizer,
  WordPieceTokenizer,
)


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
  """Reads the vocabulary that a folder holds.

  Args:
    folder: Folder with the file of one of `TOKENIZERS`.

  Raises:
    FileNotFoundError: If there is none.
    ValueError: If it is not as it must be.
  """
  folder = pathlib.Path(folder)
  for kind in TOKENIZERS:
    if (folder / kind.filename).is_file():
      return kind.load(folder)
  known = ", ".join(kind.filename for kind in TOKENIZERS)
  raise FileNotFoundError(f"{folder} must hold a vocabulary, one of {known}.")


def encode_texts(
  tokenizer: Tokenizer,
  texts: Sequence[str],
  *,
  max_length: int,
  marked: bool = True,
  max_pieces: int = 1,
) -> np.ndarray:
  """Turns texts into ids, filled up to the length of the longest.

  Args:
    tokenizer: What cuts texts.
    texts: The texts.
    max_length: Ids of a row at most, marks included.
    marked: Whether marks stand around each row.
    max_pieces: Rows of a text at most, which continue each other; 0 for any.

  Returns:
    int32 [num_rows, length]. A text without symbols has a row too.

  Raises:
    ValueError: If there is no room for a symbol, or a number is out of range.

  >>> tokenizer = WordTokenizer((*MARKS, "be", "to"))
  >>> encode_texts(tokenizer, ["to be", ""], max_length=9).tolist()
  [[2, 5, 4], [2, 0, 0]]
  >>> encode_texts(
  ...   tokenizer, ["to be"], max_length=2, max_pieces=0).tolist()
  [[2, 5], [2, 4]]
  """
  options.check_at_least("max_pieces", max_pieces, 0)
  begin, end = [], []
  if marked:
    begin = [tokenizer.marks.begin]
    end = [] if tokenizer.marks.end is None else [tokenizer.marks.end]
  room = max_length - len(begin) - len(end)
  options.check_at_least("max_length", max_length, max_length - room + 1)
  limit = room * max_pieces or None
  rows = [
    begin + ids[first : first + room] + end
    for ids in tokenizer.encode(texts, max_length=limit)
    for first in range(0, max(len(ids), 1), room)
  ]
  tokens = np.full(
    (len(rows), max([1, *map(len, rows)])), words.PADDING_ID, np.int32
  )
  for row, ids in zip(tokens, rows, strict=True):
    row[: len(ids)] = ids
  return tokens


def encode_dataset(
  data: classification.ClassificationDataset,
  tokenizer: Tokenizer,
  *,
  max_length: int,
  marked: bool = True,
) -> words.EncodedDataset:
  """Turns labelled texts into ids, one row for each.

  Args:
    data: The texts.
    tokenizer: What cuts them.
    max_length: Ids of a text at most, marks included.
    marked: Whether marks stand around each text.

  Returns:
    The texts as arrays.
  """
  batches = {}
  for split in ("train", "valid", "test"):
    texts, labels = getattr(data, split)
    tokens = encode_texts(
      tokenizer, texts, max_length=max_length, marked=marked
    )
    batches[split] = words.Batch(tokens, labels)
  return words.EncodedDataset(**batches, vocabulary=tokenizer.vocabulary)
