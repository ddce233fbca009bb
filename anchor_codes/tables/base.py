"""What all compact tables share: rows and a shared part, composed on demand."""

import abc
import collections
import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from anchor_codes import accounting
from anchor_codes.tables import storage
from anchor_codes.typing import check_choice, check_ids

FLOATS = ("float32", "float16")
_BLOCK = 4096  # Rows decoded at a time: they stay in the cache.


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Table(abc.ABC):
  """A compact table of embeddings; a frozen record of NumPy arrays.

  The arrays of a table are read-only views: what is given is not copied.
  Building one checks the values of indices and codes too; with
  ``verify=False`` only types and shapes, so that mapped files stay unread.

  Attributes:
    num_embeddings: Number of rows.
    features: Width of a vector.
    vocabulary: The symbol of each row, all different; None if ids are all that
      is known.
  """

  kind: ClassVar[str]
  # The tensors of the file: those with one record for each symbol, the rest,
  # and the options that are no tensors, with their types.
  _ROWS: ClassVar[tuple[str, ...]] = ()
  _SHARED: ClassVar[tuple[str, ...]] = ()
  _OPTIONS: ClassVar[Mapping[str, type]] = {}

  num_embeddings: int = dataclasses.field(init=False)
  features: int = dataclasses.field(init=False)
  vocabulary: Sequence[str] | None = None
  verify: dataclasses.InitVar[bool] = True

  def __post_init__(self, verify: bool) -> None:
    self._validate(verify)
    if self.vocabulary is not None:
      words = check_vocabulary(self.vocabulary, self.num_embeddings)
      self._set(vocabulary=words)

  def __repr__(self) -> str:
    return (
      f"{type(self).__name__}(num_embeddings={self.num_embeddings}, "
      f"features={self.features}, nbytes={self.nbytes})"
    )

  @property
  def tensors(self) -> dict[str, np.ndarray]:
    """The arrays of the file by name, without the vocabulary."""
    arrays = {n: getattr(self, n) for n in (*self._ROWS, *self._SHARED)}
    return {n: array for n, array in arrays.items() if array is not None}

  @property
  def metadata(self) -> dict[str, str]:
    """What the file tells beside the tensors and the checksums."""
    sizes = {"num_embeddings": self.num_embeddings, "features": self.features}
    options = {name: getattr(self, name) for name in self._OPTIONS}
    metadata = {
      "format": storage.FORMAT,
      "format_version": storage.FORMAT_VERSION,
      "kind": self.kind,
      **sizes,
      **options,
    }
    return {name: str(value) for name, value in metadata.items()}

  @property
  def nbytes(self) -> int:
    """Bytes of the tensors, in memory and in the file; no vocabulary."""
    return sum(array.nbytes for array in self.tensors.values())

  @property
  @abc.abstractmethod
  def num_params(self) -> int:
    """Trained numbers that are kept; codes and indices are bytes only."""

  @property
  def bits_per_row(self) -> int:
    """Bits of one row, without its share of the shared part.

    The mean, rounded up, where rows differ in size.
    """
    tensors = self.tensors
    rows = (tensors[name] for name in self._ROWS if name in tensors)
    return -(-sum(8 * array.nbytes for array in rows) // self.num_embeddings)

  @property
  def dense_bytes(self) -> int:
    """Bytes of the full float32 table."""
    return accounting.dense_bytes(self.num_embeddings, self.features)

  @property
  def compression_ratio(self) -> float:
    """Bytes of the full float32 table over :attr:`nbytes`."""
    return accounting.compression_ratio(
      self.nbytes, num_embeddings=self.num_embeddings, features=self.features
    )

  def lookup(self, ids: Any) -> np.ndarray:
    """Looks up one vector for each id.

    Args:
      ids: Integers of any shape, also nested lists; may be empty.

    Returns:
      float32 [*ids.shape, features].

    Raises:
      ValueError: If the ids are not integers.
      IndexError: If an id is negative or past the end.
    """
    ids = _as_ids(ids, self.num_embeddings)
    flat = ids.reshape(-1)
    vectors = np.empty((ids.size, self.features), np.float32)
    for block in blocks(ids.size):
      vectors[block] = self._compose(flat[block])
    return vectors.reshape(*ids.shape, self.features)

  def attend(self, query: Any) -> np.ndarray:
    """Scores all embeddings against queries, block by block of rows.

    Args:
      query: Floats [..., features].

    Returns:
      float32 [..., num_embeddings]: ``query @ to_dense().T``, up to rounding.

    Raises:
      ValueError: If the query is not `features` wide.
    """
    query = np.asarray(query, np.float32)
    if query.shape[-1:] != (self.features,):
      raise ValueError(
        f"`query` must be [..., {self.features}], got shape {query.shape}."
      )
    flat = query.reshape(-1, self.features)
    scores = np.empty((len(flat), self.num_embeddings), np.float32)
    shared = self._score_shared(flat.T)
    for block in blocks(self.num_embeddings):
      ids = np.arange(block.start, block.stop)
      scores[:, block] = self._score_rows(ids, shared).T
    return scores.reshape(*query.shape[:-1], self.num_embeddings)

  def to_dense(self) -> np.ndarray:
    """Returns the full table, float32 [num_embeddings, features]."""
    return self.lookup(np.arange(self.num_embeddings))

  def astype(self, dtype: str) -> Self:
    """Returns the table with its vectors and weights in another type.

    Args:
      dtype: 'float32' or 'float16'. Integers and the scales of int8 rows stay.

    Returns:
      A table of half or twice the size; the sums are float32 in both. A weight
      too small for float16 becomes a zero that is still stored.

    Raises:
      ValueError: If the type is another one, or a value is too large for it.
    """
    check_choice("dtype", dtype, FLOATS)
    floats = {
      name: cast(name, array, dtype)
      for name, array in self.tensors.items()
      if array.dtype.name in FLOATS and name != "scales"
    }
    return self.from_tensors(
      {**self.tensors, **floats}, self.metadata, vocabulary=self.vocabulary
    )

  def ids_of(self, words: Sequence[str]) -> np.ndarray:
    """Finds the ids of some symbols of the vocabulary.

    Args:
      words: Symbols; a list or tuple, not one string.

    Returns:
      int32 [len(words)].

    Raises:
      ValueError: If the table has no vocabulary, or `words` is one string.
      KeyError: If a symbol is not in the vocabulary; it names the first.
    """
    if isinstance(words, str):
      raise ValueError(f"`words` must be a list of strings, got {words!r}.")
    for word in words:
      if word not in self._id_of:
        raise KeyError(f"{word!r} is not in the vocabulary")
    return np.array([self._id_of[word] for word in words], np.int32)

  def save(self, path: str | os.PathLike) -> None:
    """Writes the table into one .safetensors file, whole or not at all.

    Args:
      path: Where to write; an old file is replaced at once.

    Raises:
      ValueError: If an array has nan or infinite values.
      OSError: If the file cannot be written; an old file stays as it was.
    """
    tensors = self.tensors
    if self.vocabulary is not None:
      tensors["vocabulary"] = encode_vocabulary(self.vocabulary)
    storage.write(path, tensors, self.metadata)

  @classmethod
  def from_tensors(
    cls,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    **options: Any,
  ) -> Self:
    """Builds the table from what :attr:`tensors` and :attr:`metadata` gave.

    Args:
      tensors: Arrays by name.
      metadata: Strings by name.
      **options: `vocabulary` and `verify`.

    Raises:
      ValueError: If something is missing, unknown, or does not fit.
    """
    names = (*cls._ROWS, *cls._SHARED)
    unknown = sorted(set(tensors) - set(names))
    if unknown:
      raise ValueError(f"Unknown tensors {unknown}")
    arrays = {name: tensors.get(name) for name in names}
    return cls(**arrays, **cls._parse_options(metadata), **options)

  @classmethod
  def _parse_options(cls, metadata: Mapping[str, str]) -> dict[str, Any]:
    missing = sorted(set(cls._OPTIONS) - set(metadata))
    if missing:
      raise ValueError(f"Missing options {missing}")
    return {name: kind(metadata[name]) for name, kind in cls._OPTIONS.items()}

  @abc.abstractmethod
  def _validate(self, verify: bool) -> None:
    """Checks and normalises the fields; sets the two sizes.

    Args:
      verify: Whether to look at the values too, which reads whole arrays.
    """

  @abc.abstractmethod
  def _compose(self, ids: np.ndarray) -> np.ndarray:
    """Returns float32 [size, features] for valid ids [size]."""

  def _score_shared(self, queries: np.ndarray) -> np.ndarray:
    """Prepares queries [features, size] once for all rows."""
    return queries

  def _score_rows(self, ids: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Returns the scores [len(ids), size] of some rows."""
    return self._compose(ids) @ shared

  def _set(self, **attributes: Any) -> None:
    """Sets fields of the frozen record while it is built."""
    for name, value in attributes.items():
      object.__setattr__(self, name, value)

  @functools.cached_property
  def _id_of(self) -> dict[str, int]:
    if self.vocabulary is None:
      raise ValueError("The table has no vocabulary: look ids up instead.")
    return {word: i for i, word in enumerate(self.vocabulary)}


def blocks(size: int) -> Iterator[slice]:
  """Yields slices that cover `size` rows in order."""
  for start in range(0, size, _BLOCK):
    yield slice(start, min(start + _BLOCK, size))


def as_array(
  name: str,
  value: Any,
  *,
  ndim: int,
  dtypes: Sequence[str] = FLOATS,
  may_be_empty: bool = False,
) -> np.ndarray:
  """Returns a read-only view of an array of the right type and rank.

  Args:
    name: The argument that an error names.
    value: Anything that NumPy takes for an array.
    ndim: Number of axes.
    dtypes: Names of the types that are allowed.
    may_be_empty: Whether an axis may be empty.

  Raises:
    ValueError: If the array is not like that.
  """
  array = np.asarray(value)
  if array.dtype.name == "bfloat16":  # Which NumPy alone cannot read; exact.
    array = array.astype(np.float32)
  if array.dtype.name not in dtypes:
    raise ValueError(
      f"`{name}` must be {' or '.join(dtypes)}, got {array.dtype}."
    )
  if array.ndim != ndim or not (array.size or may_be_empty):
    axes = f"{ndim} axes" + ("" if may_be_empty else ", none of them empty")
    raise ValueError(f"`{name}` must have {axes}, got shape {array.shape}.")
  # Of a view: the array of the caller stays writeable.
  view = array.view()
  view.flags.writeable = False
  return view


def cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
  """Rounds an array to 'float32' or 'float16'.

  Raises:
    ValueError: If a value of `name` is too large for the type, or no number.
  """
  limit = np.finfo(dtype).max
  # In this form `nan` is refused, too.
  if array.size and not np.abs(array).max() <= limit:
    raise ValueError(f"`{name}` must lie within {limit} for {dtype}.")
  return array.astype(dtype)


def check_shape(
  name: str, array: np.ndarray, shape: tuple[int, ...], other: str
) -> None:
  """Raises `ValueError` unless the array has the shape that `other` asks."""
  if array.shape != shape:
    raise ValueError(
      f"`{name}` must have shape {shape} to fit {other}, got {array.shape}."
    )


def check_vocabulary(
  words: Sequence[str], num_embeddings: int
) -> tuple[str, ...]:
  """Returns the vocabulary as a tuple of one different string for each row."""
  words = tuple(words)
  if len(words) != num_embeddings:
    raise ValueError(
      f"`vocabulary` must have {num_embeddings} words, one for each row, "
      f"got {len(words)}."
    )
  for word in words:
    if not isinstance(word, str):
      raise ValueError(f"`vocabulary` must hold strings, got {word!r}.")
  try:
    "".join(words).encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f"`vocabulary` must be valid text, got {error.object[error.start]!r}."
    ) from None
  counts = collections.Counter(words)
  if len(counts) != len(words):
    word, count = counts.most_common(1)[0]
    raise ValueError(
      f"`vocabulary` must not repeat words, got {word!r} {count} times."
    )
  return words


def encode_vocabulary(words: Sequence[str]) -> np.ndarray:
  """Encodes words as a JSON list in UTF-8, uint8; any word will do."""
  text = json.dumps(list(words), ensure_ascii=False, separators=(",", ":"))
  return np.frombuffer(text.encode(), np.uint8)


def decode_vocabulary(tensor: np.ndarray) -> list[str]:
  """Decodes what :func:`encode_vocabulary` encoded.

  Raises:
    ValueError: If the bytes are not a JSON list.
  """
  words = storage.parse_json("vocabulary", tensor)
  if not isinstance(words, list):
    raise ValueError("The vocabulary is not a JSON list")
  return words


def _as_ids(ids: Any, num_embeddings: int) -> np.ndarray:
  array = np.asarray(ids)
  if isinstance(ids, list | tuple) and not array.size:
    array = array.astype(np.intp)  # An empty list says nothing of its type.
  check_ids(array, num_embeddings)
  return array.astype(np.intp, copy=False)
