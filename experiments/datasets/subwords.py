"""Subwords, by the library `sentencepiece`.

A model of subwords is learned from the training text (Kudo and Richardson,
2018), and is one small file. It also undoes what it does: what it joins again
is plain text, for metrics that tokenise by themselves.
"""

import io
import os
import pathlib
import secrets
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Self

from anchor_codes import typing as options

PADDING_ID, UNKNOWN_ID, BEGIN_ID, END_ID = range(4)
NUM_SPECIAL = 4
"""Ids below this one are no subwords."""

KINDS = ("unigram", "bpe")


class Subwords:
  """Subwords of both languages, and their numbers.

  Attributes:
    model: The content of its file.
    vocabulary: The subword of each id, after the special symbols ``<pad>``,
      ``<unk>``, ``<s>`` and ``</s>``.

  >>> lines = ["to be or not to be", "that is the question"] * 9
  >>> subwords = Subwords.train(lines, vocab_size=30)
  >>> subwords.vocabulary[:4]
  ('<pad>', '<unk>', '<s>', '</s>')
  >>> subwords.decode(subwords.encode(["be the question"]))
  ['be the question']
  """

  def __init__(self, model: bytes):
    """Reads a model.

    Args:
      model: The content of the file of a model.

    Raises:
      ValueError: If it is no model, or its special symbols have other ids.
    """
    self.model = model
    self._processor = _sentencepiece().SentencePieceProcessor()
    try:
      self._processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
      raise ValueError(f"It must be a model of subwords: {error}.") from error
    found = [
      getattr(self._processor, f"{name}_id")()
      for name in ("pad", "unk", "bos", "eos")
    ]
    if found != [PADDING_ID, UNKNOWN_ID, BEGIN_ID, END_ID]:
      raise ValueError(
        "The ids of <pad>, <unk>, <s> and </s> must be 0, 1, 2 and 3 in a "
        f"model of subwords, got {found}."
      )
    self.vocabulary: tuple[str, ...] = tuple(
      self._processor.IdToPiece(i)
      for i in range(self._processor.GetPieceSize())
    )

  @classmethod
  def train(
    cls, lines: Iterable[str], *, vocab_size: int, kind: str = "unigram"
  ) -> Self:
    """Learns subwords from a text.

    Args:
      lines: Sentences of both languages.
      vocab_size: Number of subwords with the special symbols, more than the
        text has characters; fewer are found in a text that has no more.
      kind: One of `KINDS`.

    Returns:
      The subwords; the same ones for the same text.

    Raises:
      ValueError: If an option is out of its range, or the vocabulary is too
        small for the characters of the text.
    """
    options.check_choice("subword_kind", kind, KINDS)
    options.check_at_least("vocab_size", vocab_size, NUM_SPECIAL + 1)
    written = io.BytesIO()
    try:
      _sentencepiece().SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_writer=written,
        vocab_size=vocab_size,
        model_type=kind,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=PADDING_ID,
        unk_id=UNKNOWN_ID,
        bos_id=BEGIN_ID,
        eos_id=END_ID,
        # Otherwise sums come in any order, and with them the subwords.
        num_threads=1,
        minloglevel=2,
      )
    except RuntimeError as error:
      raise ValueError(
        f"`vocab_size` must fit the training text, got {vocab_size}: {error}."
      ) from error
    return cls(written.getvalue())

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> Self:
    """Reads the file of a model.

    Args:
      path: The file.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If it is no model of subwords, or not one of ours.
    """
    content = pathlib.Path(path).read_bytes()
    try:
      return cls(content)
    except ValueError as error:
      raise ValueError(f"{path}: {error}") from error

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the model, whole or not at all."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
      temporary.write_bytes(self.model)
      temporary.replace(path)
    finally:
      temporary.unlink(missing_ok=True)

  def encode(self, lines: Sequence[str]) -> list[list[int]]:
    """Returns the ids of the subwords of sentences, no special symbols."""
    return self._processor.Encode(list(lines))

  def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
    """Joins subwords to sentences again; special symbols are left out."""
    return self._processor.Decode([[int(i) for i in line] for line in ids])


def _sentencepiece() -> Any:
  """Imports the library, which only translation needs."""
  with warnings.catch_warnings():
    # Its compiled part warns of itself on newer versions of Python.
    warnings.simplefilter("ignore", DeprecationWarning)
    import sentencepiece
  return sentencepiece
