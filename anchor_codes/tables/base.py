"""What all compact tables share: rows and a shared part, composed on demand."""

import abc
import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from anchor_codes import accounting
from anchor_codes.tables import checks, pooling, products, searching, storage
from anchor_codes.tables import vocabulary as vocabularies
from anchor_codes.typing import check_choice

_BLOCK = 4096  # Rows decoded at a time: they stay in the cache.
# The ends of the names of tensors that other ones are multiplied with.
_SCALES = ("scales", "norm_range")


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
    quality: What is known of the quality, as JSON; kept in the file. A table
      made out of this one has none: its values are other ones.
  """

  kind: ClassVar[str]
  # The tensors of the file: those with one record for each symbol, the rest,
  # and the options that are no tensors, with their types. Those that may be
  # None are not in the file then.
  _ROWS: ClassVar[tuple[str, ...]] = ()
  _SHARED: ClassVar[tuple[str, ...]] = ()
  _OPTIONS: ClassVar[Mapping[str, type]] = {}
  _OPTIONAL: ClassVar[Mapping[str, type]] = {"quality": str}

  num_embeddings: int = dataclasses.field(init=False)
  features: int = dataclasses.field(init=False)
  vocabulary: Sequence[str] | None = None
  quality: str | None = None
  verify: dataclasses.InitVar[bool] = True

  def __post_init__(self, verify: bool) -> None:
    self._validate(verify)
    if self.vocabulary is not None:
      words = vocabularies.check(self.vocabulary, self.num_embeddings)
      self._set(vocabulary=words)
    if not isinstance(self.quality, str | None):
      raise ValueError(f"`quality` must be a string, got {self.quality!r}.")

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
    names = (*self._OPTIONS, *self._OPTIONAL)
    options = {name: getattr(self, name) for name in names}
    metadata = {
      "format": storage.FORMAT,
      "format_version": storage.FORMAT_VERSION,
      "kind": self.kind,
      **sizes,
      **options,
    }
    return {n: str(value) for n, value in metadata.items() if value is not None}

  @property
  def nbytes(self) -> int:
    """Bytes of the tensors, in memory and in the file; no vocabulary."""
    return sum(array.nbytes for array in self.tensors.values())

  @property
  @abc.abstractmethod
  def num_params(self) -> int:
    """Trained numbers that are kept; codes and indices are bytes only."""

  @property
  def row_names(self) -> tuple[str, ...]:
    """The names of the tensors that hold rows; the others are shared."""
    return tuple(n for n in self._ROWS if getattr(self, n) is not None)

  @property
  def bits_per_row(self) -> int:
    """Bits of one row, without its share of the shared part.

    The mean, rounded up, where rows differ in size.
    """
    tensors = self.tensors
    row_bits = sum(8 * tensors[name].nbytes for name in self.row_names)
    return -(-row_bits // self.num_embeddings)

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
      float32 ``[*ids.shape, features]``.

    Raises:
      ValueError: If the ids are not integers.
      IndexError: If an id is negative or past the end.
    """
    ids = checks.as_ids(ids, self.num_embeddings)
    flat = ids.reshape(-1)
    vectors = np.empty((ids.size, self.features), np.float32)
    for block in blocks(ids.size):
      self._compose_into(flat[block], vectors[block])
    return vectors.reshape(*ids.shape, self.features)

  def lookup_words(self, words: Iterable[str]) -> np.ndarray:
    """Looks up one vector for each symbol.

    Args:
      words: Symbols of the vocabulary; not one string.

    Returns:
      float32 [num_words, features].

    Raises:
      ValueError: If the table has no vocabulary, or `words` is one string.
      KeyError: If a symbol is not in the vocabulary; it names the first.
    """
    return self.lookup(self.ids_of(words))

  def bag(
    self, ids: Any, offsets: Any, weights: Any = None, *, mode: str = "sum"
  ) -> np.ndarray:
    """Pools the vectors of bags of ids, as :func:`pooling.bag` says."""
    return pooling.bag(self, ids, offsets, weights, mode=mode)

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

  def top_k(self, queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the rows with the best scores, as :func:`searching.top_k` says."""
    return searching.top_k(self, queries, k)

  def encode_new(
    self, vectors: Any, *, vocabulary: Sequence[str] | None = None
  ) -> Self:
    """Appends rows for new symbols; all that is shared stays as it is.

    Args:
      vectors: Finite floats [size, features], at least one vector. Their ids
        go on from the last one.
      vocabulary: The new symbols, if the table has a vocabulary.

    Returns:
      A table with `size` more rows, each the nearest to its vector that the
      search of the table finds.

    Raises:
      ValueError: If something does not fit, or no row of such a table can be
        chosen for a vector: hashed rows, networks behind the codes.
    """
    vectors = checks.as_vectors("vectors", vectors, self.features)
    words = vocabularies.extend(self.vocabulary, vocabulary, len(vectors))
    return dataclasses.replace(self._append(vectors), vocabulary=words)

  def to_dense(self) -> np.ndarray:
    """Returns the full table, float32 [num_embeddings, features]."""
    return self.lookup(np.arange(self.num_embeddings))

  def astype(self, dtype: str) -> Self:
    """Returns the table with its vectors and weights in another type.

    Args:
      dtype: 'float32' or 'float16'. Integers and the scales of integers stay.

    Returns:
      A table of half or twice the size; the sums are float32 in both. A weight
      too small for float16 becomes a zero that is still stored.

    Raises:
      ValueError: If the type is another one, or a value is too large for it.
    """
    check_choice("dtype", dtype, checks.FLOATS)
    floats = {
      name: checks.cast(name, array, dtype)
      for name, array in self.tensors.items()
      if array.dtype.name in checks.FLOATS and not name.endswith(_SCALES)
    }
    metadata = {**self.metadata}
    metadata.pop("quality", None)
    return self.from_tensors(
      {**self.tensors, **floats}, metadata, vocabulary=self.vocabulary
    )

  def ids_of(self, words: Iterable[str]) -> np.ndarray:
    """Finds the ids of some symbols of the vocabulary.

    Args:
      words: Symbols; not one string.

    Returns:
      int32, one for each.

    Raises:
      ValueError: If the table has no vocabulary, or `words` is one string.
      KeyError: If a symbol is not in the vocabulary; it names the first.
    """
    if isinstance(words, str):
      raise ValueError(f"`words` must be a list of strings, got {words!r}.")
    words = list(words)
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
      tensors["vocabulary"] = vocabularies.encode(self.vocabulary)
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
    kinds = {**cls._OPTIONS, **cls._OPTIONAL}
    return {n: kind(metadata[n]) for n, kind in kinds.items() if n in metadata}

  @abc.abstractmethod
  def _validate(self, verify: bool) -> None:
    """Checks and normalises the fields; sets the two sizes.

    Args:
      verify: Whether to look at the values too, which reads whole arrays.
    """

  @abc.abstractmethod
  def _compose(self, ids: np.ndarray) -> np.ndarray:
    """Returns float32 [size, features] for valid ids [size]."""

  def _compose_into(self, ids: np.ndarray, vectors: np.ndarray) -> None:
    """Writes what :meth:`_compose` returns; without a copy where it can."""
    vectors[...] = self._compose(ids)

  def _score_shared(self, queries: np.ndarray) -> Any:
    """Prepares queries [features, size] once for all rows."""
    return queries

  def _score_rows(self, ids: np.ndarray, shared: Any) -> np.ndarray:
    """Returns the scores [len(ids), size] of some rows."""
    return products.product(self._compose(ids), shared)

  def _encode(self, vectors: np.ndarray) -> Self:
    """Returns a table with the same shared part and the best rows for vectors.

    Args:
      vectors: Finite float32 [size, features], at least one.

    Returns:
      A table of `size` rows without a vocabulary.

    Raises:
      ValueError: If rows of such a table cannot be chosen.
    """
    raise ValueError(
      f"New rows cannot be chosen for a table of the kind {self.kind!r}."
    )

  def _append(self, vectors: np.ndarray) -> Self:
    """Returns the table with the best rows for vectors, and no vocabulary."""
    return self._join([self._encode(vectors)])

  def _join(self, others: Sequence[Self]) -> Self:
    """Returns the rows of tables that share all else, one after another."""
    return self._replace(**self._joined_rows(others))

  def _joined_rows(self, others: Sequence[Any]) -> dict[str, Any]:
    """Returns the fields that change if the rows of others are appended."""
    return {
      name: np.concatenate([getattr(t, name) for t in (self, *others)])
      for name in self._ROWS
      if getattr(self, name) is not None
    }

  def _replace(self, **changes: Any) -> Self:
    """Returns a table with other rows: neither words nor quality stay."""
    return dataclasses.replace(self, **changes, vocabulary=None, quality=None)

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
