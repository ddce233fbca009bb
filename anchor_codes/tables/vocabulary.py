"""The symbols of the rows: checked, encoded, and decoded when asked for."""

import collections
import functools
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from anchor_codes.tables import storage


class LazyVocabulary(Sequence):
  """The vocabulary of a file, which is decoded when a word is asked for.

  Attributes:
    tensor: The words as :func:`encode` encodes them, uint8 [size].
  """

  def __init__(
    self, tensor: np.ndarray, num_embeddings: int, path: str | os.PathLike
  ) -> None:
    """Remembers where the words are.

    Args:
      tensor: The words, not looked at yet.
      num_embeddings: How many words there have to be.
      path: The file that an error names.
    """
    self.tensor = tensor
    self._size = num_embeddings
    self._path = path

  @functools.cached_property
  def words(self) -> tuple[str, ...]:
    """The words.

    Raises:
      ArtifactError: If the file holds something else.
    """
    with storage.naming(self._path):
      return tuple(check(decode(self.tensor), self._size))

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: Any) -> Any:
    return self.words[index]

  def __eq__(self, other: object) -> bool:
    return self.words == (
      other.words if isinstance(other, LazyVocabulary) else other
    )

  def __hash__(self) -> int:
    return hash(self.words)

  def __repr__(self) -> str:
    return f"LazyVocabulary({self._size} words)"


def check(words: Sequence[str], num_embeddings: int) -> Sequence[str]:
  """Returns the vocabulary as a tuple of one different string for each row.

  A :class:`LazyVocabulary` of the right size is returned as it is.

  Raises:
    ValueError: If the words are too few, too many, no strings or repeated.
  """
  if not isinstance(words, LazyVocabulary):
    words = tuple(words)
  if len(words) != num_embeddings:
    raise ValueError(
      f"`vocabulary` must have {num_embeddings} words, one for each row, "
      f"got {len(words)}."
    )
  if isinstance(words, LazyVocabulary):
    return words
  for word in words:
    if not isinstance(word, str):
      raise ValueError(f"`vocabulary` must hold strings, got {word!r}.")
  try:
    "".join(words).encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f"`vocabulary` must be valid text, got {error.object[error.start]!r}."
    ) from None
  if len(set(words)) != len(words):
    word, count = collections.Counter(words).most_common(1)[0]
    raise ValueError(
      f"`vocabulary` must not repeat words, got {word!r} {count} times."
    )
  return words


def extend(
  words: Sequence[str] | None, new: Sequence[str] | None, size: int
) -> tuple[str, ...] | None:
  """Appends the words of some new rows.

  Args:
    words: Those that are there, or None.
    new: As many as there are new rows; None if and only if `words` is.
    size: Number of new rows.

  Raises:
    ValueError: If words are missing, are given without a need, or are not new.

  >>> extend(["cat"], ["dog"], 1)
  ('cat', 'dog')
  """
  if (words is None) != (new is None):
    raise ValueError(
      "`vocabulary` must be given for a table that has one, and only for it."
    )
  if words is None or new is None:
    return None
  new = tuple(check(new, size))
  known = set(words) & set(new)
  if known:
    raise ValueError(
      f"`vocabulary` must hold new words, got {min(known)!r}, which the table "
      "has."
    )
  return (*words, *new)


def encode(words: Sequence[str]) -> np.ndarray:
  """Encodes words as a JSON list in UTF-8, uint8; any word will do."""
  text = json.dumps(list(words), ensure_ascii=False, separators=(",", ":"))
  return np.frombuffer(text.encode(), np.uint8)


def decode(tensor: np.ndarray) -> list[str]:
  """Decodes what :func:`encode` encoded.

  Raises:
    ValueError: If the bytes are not a JSON list.
  """
  words = storage.parse_json("vocabulary", tensor)
  if not isinstance(words, list):
    raise ValueError("The vocabulary is not a JSON list")
  return words
