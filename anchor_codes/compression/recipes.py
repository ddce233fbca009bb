"""Recipes: what a table can be made of, its bytes, and how it is fit."""

import dataclasses
import re
from typing import Any, ClassVar, Protocol

import numpy as np

from anchor_codes import accounting, tables
from anchor_codes.compression import (
  additive_codes,
  product_codes,
  sparse_coding,
)
from anchor_codes.compression.points import Points

_SCALE_BITS = 16  # Of the rows of scalars and anchors.
_BITS = {"float16": 16, "int8": 8, "int4": 4, "int2": 2}
_NAMES = {bits: name for name, bits in _BITS.items()}


class Recipe(Protocol):
  """How to make a table: a frozen record of sizes; `str` of it is its name."""

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of the table that :meth:`fit` makes."""
    ...

  def fit(
    self, rng: np.random.Generator, points: Points, *, is_trial: bool = False
  ) -> tables.Table:
    """Fits the shared part; returns the table of the points.

    Args:
      rng: Random numbers.
      points: What to fit.
      is_trial: Whether a rough fit will do, to be compared with others.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Scalars:
  """Rows rounded to 'float16', 'int8', 'int4' or 'int2'."""

  family: ClassVar[str] = "scalars"
  dtype: str

  def __str__(self) -> str:
    return self.dtype

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of rows and scales."""
    row = accounting.scalar_row_bits(
      features, value_bits=_BITS[self.dtype], scale_bits=_SCALE_BITS
    )
    return num_embeddings * row // 8

  def fit(
    self, rng: np.random.Generator, points: Points, *, is_trial: bool = False
  ) -> tables.Table:
    """Rounds the points."""
    del rng, is_trial
    return _scalar_rows(points.vectors, self.dtype)


@dataclasses.dataclass(frozen=True)
class LowRank:
  """Principal components, rounded to 'int8' or 'int4' (Pearson, 1901)."""

  family: ClassVar[str] = "low_rank"
  rank: int
  dtype: str = "int8"

  def __str__(self) -> str:
    return f"low_rank:{self.rank}x{_BITS[self.dtype]}"

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of both factors and the mean."""
    rank = min(self.rank, features)  # There are no more components.
    inner = Scalars(self.dtype).nbytes(num_embeddings, rank)
    return inner + _projection_bytes(rank, features)

  def fit(
    self, rng: np.random.Generator, points: Points, *, is_trial: bool = False
  ) -> tables.Table:
    """Rounds the points in the components of the largest variance."""
    del rng, is_trial
    directions = points.components[1][: self.rank]
    rows = (points.vectors - points.mean) @ directions.T
    inner = _scalar_rows(rows, self.dtype)
    return additive_codes.project(inner, directions, points)


@dataclasses.dataclass(frozen=True)
class ProductCodes:
  """Codes of the parts of a vector, as they are (Jegou et al., 2011)."""

  family: ClassVar[str] = "pq"
  code_length: int
  codebook_size: int

  def __str__(self) -> str:
    return f"pq:{self.code_length}x{self.codebook_size}"

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of codes and codebooks.

    Raises:
      ValueError: If the parts are not as wide as each other.
    """
    if features % self.code_length:
      below = range(self.code_length, 0, -1)
      length = next(n for n in below if features % n == 0)
      raise ValueError(
        f"`recipe` '{self}' must have a length that divides the {features} "
        f"features of `matrix`, such as {length}, got {self.code_length}."
      )
    shared = self.codebook_size * features + 4 * self.code_length
    return _code_bytes(self, num_embeddings, shared)

  def fit(
    self, rng: np.random.Generator, points: Points, *, is_trial: bool = False
  ) -> tables.Table:
    """Fits the codebooks."""
    del is_trial
    return product_codes.fit_product(rng, points, **vars(self))


@dataclasses.dataclass(frozen=True)
class RotatedCodes:
  """Product codes in the coordinates that suit them (Ge et al., 2013)."""

  family: ClassVar[str] = "opq"
  code_length: int
  codebook_size: int
  code_features: int

  def __str__(self) -> str:
    sizes = self.code_length, self.codebook_size, self.code_features
    return "opq:" + "x".join(map(str, sizes))

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of codes, codebooks, rotation and mean."""
    width = self.code_length * self.code_features
    shared = self.codebook_size * width + 4 * self.code_length
    shared += _projection_bytes(width, features)
    return _code_bytes(self, num_embeddings, shared)

  def fit(
    self, rng: np.random.Generator, points: Points, *, is_trial: bool = False
  ) -> tables.Table:
    """Fits codebooks and rotation in turns."""
    return product_codes.fit_rotated(
      rng, points, is_trial=is_trial, **vars(self)
    )


@dataclasses.dataclass(frozen=True)
class AdditiveCodes:
  """Codes whose entries add up, of some principal components or of all."""

  family: ClassVar[str] = "rq"
  code_length: int
  codebook_size: int
  rank: int

  def __str__(self) -> str:
    return f"rq:{self.code_length}x{self.codebook_size}x{self.rank}"

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of codes, codebooks, projection and mean."""
    rank = min(self.rank, features)  # There are no more components.
    shared = self.code_length * (self.codebook_size * rank + 4)
    if self.rank < features:
      shared += _projection_bytes(rank, features)
    else:
      shared += 2 * features
    return _code_bytes(self, num_embeddings, shared)

  def fit(
    self, rng: np.random.Generator, points: Points, *, is_trial: bool = False
  ) -> tables.Table:
    """Fits the codebooks stage by stage, then all of them in turns."""
    rank = min(self.rank, points.features)
    return additive_codes.fit_additive(
      rng,
      points,
      code_length=self.code_length,
      codebook_size=self.codebook_size,
      rank=rank,
      is_trial=is_trial,
    )


@dataclasses.dataclass(frozen=True)
class Anchors:
  """Sparse mixtures of anchors (Liang et al., 2021), fit by sparse coding."""

  family: ClassVar[str] = "anchors"
  num_anchors: int
  num_nonzeros: int

  def __str__(self) -> str:
    return f"{self.family}:{self.num_anchors}x{self.num_nonzeros}"

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of indices, weights, scales and anchors."""
    row = accounting.anchor_row_bits(
      self.num_anchors, self.num_nonzeros, weight_bits=8
    )
    shared = self.num_anchors * (features + 4)
    return num_embeddings * (row + _SCALE_BITS) // 8 + shared

  def fit(
    self, rng: np.random.Generator, points: Points, *, is_trial: bool = False
  ) -> tables.Table:
    """Fits anchors and rows in turns."""
    del is_trial
    return sparse_coding.fit_anchors(rng, points, **vars(self))


@dataclasses.dataclass(frozen=True)
class NonNegativeAnchors(Anchors):
  """Anchors whose weights are not negative, as those of the paper."""

  family: ClassVar[str] = "nonnegative_anchors"

  def fit(
    self, rng: np.random.Generator, points: Points, *, is_trial: bool = False
  ) -> tables.Table:
    """Fits anchors and rows in turns."""
    del is_trial
    return sparse_coding.fit_anchors(
      rng, points, non_negative=True, **vars(self)
    )


@dataclasses.dataclass(frozen=True)
class Normed:
  """Norms in a byte each, and another recipe for vectors of length 1."""

  inner: Any

  def __str__(self) -> str:
    return f"norm+{self.inner}"

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of norms and their range, and of the rest."""
    return num_embeddings + 8 + self.inner.nbytes(num_embeddings, features)

  def fit(
    self, rng: np.random.Generator, points: Points, *, is_trial: bool = False
  ) -> tables.Table:
    """Fits the other recipe to directions, and the range of the norms."""
    lengths = np.linalg.norm(points.vectors, axis=1)
    units = points.vectors / np.where(lengths > 0, lengths, 1)[:, None]
    # The error of a direction counts as much as it is long.
    weights = points.weights * np.square(lengths, dtype=np.float64)
    inner = self.inner.fit(rng, Points.of(units, weights), is_trial=is_trial)
    table = tables.ScaledTable.from_norms(inner, lengths)
    return table._encode(points.vectors)


@dataclasses.dataclass(frozen=True)
class Summed:
  """One recipe, and another one for what it leaves over."""

  first: Any
  second: Any

  def __str__(self) -> str:
    return f"{self.first}+{self.second}"

  def nbytes(self, num_embeddings: int, features: int) -> int:
    """Returns the bytes of both."""
    both = (self.first, self.second)
    return sum(recipe.nbytes(num_embeddings, features) for recipe in both)

  def fit(
    self, rng: np.random.Generator, points: Points, *, is_trial: bool = False
  ) -> tables.Table:
    """Fits one, then the other to the rest."""
    first = self.first.fit(rng, points, is_trial=is_trial)
    rest = points.replace(points.vectors - first.to_dense())
    second = self.second.fit(rng, rest, is_trial=is_trial)
    return tables.SumTable(first, second)


def parse(text: str) -> Recipe:
  """Reads the name of a recipe with its sizes.

  Args:
    text: As `str` of a recipe writes it: 'float16', 'int8', 'int4', 'int2',
      'low_rank:RANKxBITS', 'pq:LENGTHxSIZE', 'opq:LENGTHxSIZExWIDTH',
      'rq:LENGTHxSIZExRANK', 'anchors:ANCHORSxNONZEROS' or
      'nonnegative_anchors:ANCHORSxNONZEROS'; 'norm+' and one of these; or two
      of these with '+' between.

  Raises:
    ValueError: If the text is none of these, or a size is out of range.

  >>> parse("norm+opq:8x256x4").nbytes(1000, 32)
  18448
  """
  first, plus, rest = text.partition("+")
  if first == "norm" and plus:
    return Normed(parse(rest))
  if plus:
    return Summed(parse(first), parse(rest))
  if first in _BITS:
    return Scalars(first)
  found = re.fullmatch(r"([a-z_]+):(\d+(?:x\d+)*)", first)
  kind, sizes = _KINDS.get(found[1]) if found else None, []
  if found:
    sizes = [int(size) for size in found[2].split("x")]
  if kind is None or len(sizes) != len(dataclasses.fields(kind)):
    raise ValueError(
      f"{text!r} is not a recipe: `recipe` must be 'auto', a family such as "
      f"'opq', one of {sorted(_BITS)}, or a name with sizes, such as "
      f"'opq:20x256x5', of one of {sorted(_KINDS)}."
    )
  _check_sizes(first, kind, sizes)
  if kind is LowRank:
    return LowRank(sizes[0], _NAMES[sizes[1]])
  return kind(*sizes)


def _check_sizes(text: str, kind: Any, sizes: list[int]) -> None:
  """Raises `ValueError` for sizes of which no table can be made."""
  wrong = None
  if min(sizes) < 1:
    wrong = f"its sizes must be at least 1, got {min(sizes)}"
  elif kind is LowRank and sizes[1] not in _NAMES:
    wrong = f"its bits must be one of {sorted(_NAMES)}, got {sizes[1]}"
  elif not issubclass(kind, LowRank | Anchors) and not 2 <= sizes[1] <= 65_536:
    wrong = f"its codebooks must have 2 to 65536 entries, got {sizes[1]}"
  if wrong:
    raise ValueError(f"{text!r} is not a recipe: {wrong}.")


_KINDS: dict[str, Any] = {
  kind.family: kind
  for kind in (
    LowRank,
    ProductCodes,
    RotatedCodes,
    AdditiveCodes,
    Anchors,
    NonNegativeAnchors,
  )
}


def _scalar_rows(vectors: np.ndarray, dtype: str) -> tables.DenseTable:
  options = {} if dtype == "float16" else {"scale_dtype": "float16"}
  return tables.DenseTable.from_dense(vectors, dtype=dtype, **options)


def _projection_bytes(width: int, features: int) -> int:
  return width * (features + 4) + 2 * features


def _code_bytes(recipe: Any, num_embeddings: int, shared: int) -> int:
  row_bits = accounting.code_row_bits(recipe.code_length, recipe.codebook_size)
  return num_embeddings * row_bits // 8 + shared
