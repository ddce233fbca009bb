"""Vectors of another table, each with a length of its own."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from anchor_codes.tables import base, checks
from anchor_codes.tables.composite import Composite
from anchor_codes.typing import check_choice

NORM_DTYPES = (*checks.FLOATS, "uint8")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ScaledTable(Composite):
  r"""A table whose vectors are those of another one, times a norm for each.

  With the vectors :math:`x_i` of `inner`, :math:`e_i = n_i x_i`. In uint8 the
  norms are on a scale of logarithms: :math:`n_i = \exp(r_0 + r_1 q_i)` for
  :math:`q_i > 0`, and :math:`q_i = 0` stands for a norm of 0.

  Attributes:
    inner: A table of any kind without a vocabulary.
    norms: n float32 or float16, or q uint8 [num_embeddings].
    norm_range: For uint8 only, :math:`(r_0, r_1)` float32 [2]: one step below
      the logarithm of the least norm that is not 0, and the step.
    vocabulary: One different string for each row, or None.

  Raises:
    ValueError: If something does not fit.

  >>> from anchor_codes.tables.dense_table import DenseTable
  >>> inner = DenseTable(np.float32([[0, 1], [1, 0], [0, 1]]))
  >>> table = ScaledTable.from_norms(inner, [2, 0, 8], dtype="uint8")
  >>> print(table.norms, table.lookup(2).round(4))
  [  1   0 255] [0. 8.]
  """

  kind: ClassVar[str] = "scaled"
  _CHILDREN: ClassVar = ("inner",)
  _ROWS: ClassVar = ("norms",)
  _SHARED: ClassVar = ("norm_range",)

  inner: base.Table
  _: dataclasses.KW_ONLY
  norms: np.ndarray
  norm_range: np.ndarray | None = None

  @classmethod
  def from_norms(
    cls,
    inner: base.Table,
    norms: Any,
    *,
    dtype: str = "uint8",
    vocabulary: Sequence[str] | None = None,
  ) -> Self:
    """Rounds norms to a smaller type.

    Args:
      inner: A table without a vocabulary.
      norms: Finite floats [num_embeddings] that are not negative.
      dtype: 'float32', 'float16' or 'uint8', whose error is at most
        ``(largest / least) ** (1 / 508) - 1`` of a norm.
      vocabulary: One different string for each row, or None.

    Raises:
      ValueError: If the type is none of these, or a norm is not like that.
    """
    check_choice("dtype", dtype, NORM_DTYPES)
    norms = checks.cast("norms", np.asarray(norms, np.float64), "float32")
    if (norms < 0).any():
      raise ValueError(f"`norms` must not be negative, got {norms.min()}.")
    if dtype != "uint8":
      norms = checks.cast("norms", norms, dtype)
      return cls(inner, norms=norms, vocabulary=vocabulary)
    logs = np.log(norms[norms > 0], dtype=np.float64)
    least, largest = (logs.min(), logs.max()) if logs.size else (0, 0)
    step = (largest - least) / 254
    norm_range = np.array([least - step, step], np.float32)
    levels = _levels(norms, norm_range)
    return cls(
      inner, norms=levels, norm_range=norm_range, vocabulary=vocabulary
    )

  @property
  def num_params(self) -> int:
    """Trained numbers of the table, and the norms."""
    return self.inner.num_params + self.norms.size

  def _validate_composite(self, verify: bool) -> None:
    inner = self.inner
    norms = checks.as_array("norms", self.norms, ndim=1, dtypes=NORM_DTYPES)
    other = f"`inner` of {inner.num_embeddings} rows"
    checks.check_shape("norms", norms, (inner.num_embeddings,), other)
    norm_range = self.norm_range
    if (norms.dtype == np.uint8) != (norm_range is not None):
      raise ValueError(
        "`norm_range` must be given for uint8 norms, and only for them, got "
        f"{norms.dtype} norms."
      )
    if norm_range is not None:
      norm_range = checks.as_array(
        "norm_range", norm_range, ndim=1, dtypes=["float32"]
      )
      checks.check_shape("norm_range", norm_range, (2,), "uint8 norms")
    self._set(norms=norms, norm_range=norm_range)
    self._set(num_embeddings=len(norms), features=inner.features)

  def _norms_of(self, ids: Any) -> np.ndarray:
    """Returns the norms of some rows, float32 [size, 1]."""
    norms = self.norms[ids]
    if self.norm_range is not None:
      norms = norm_levels(self.norm_range).take(norms)
    return norms.astype(np.float32, copy=False)[:, None]

  def _compose(self, ids: np.ndarray) -> np.ndarray:
    return self._norms_of(ids) * self.inner._compose(ids)

  def _score_shared(self, queries: np.ndarray) -> Any:
    return self.inner._score_shared(queries)

  def _score_rows(self, ids: np.ndarray, shared: Any) -> np.ndarray:
    return self._norms_of(ids) * self.inner._score_rows(ids, shared)

  def _encode(self, vectors: np.ndarray) -> Self:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    inner = self.inner._encode(vectors / np.where(lengths > 0, lengths, 1))
    norms = np.empty(len(vectors), np.float32)
    for block in base.blocks(len(vectors)):
      composed = inner._compose(np.arange(block.start, block.stop))
      squares = np.einsum("nd,nd->n", composed, composed)
      products = np.einsum("nd,nd->n", vectors[block], composed)
      # The scale of the least squared error; a norm is not negative.
      norms[block] = products / np.where(squares > 0, squares, 1)
    norms = np.maximum(norms, 0)
    if self.norm_range is not None:
      norms = _levels(norms, self.norm_range)
    else:
      norms = checks.cast("norms", norms, self.norms.dtype.name)
    return self._replace(inner=inner, norms=norms)


def norm_levels(norm_range: np.ndarray) -> np.ndarray:
  """Returns the norm for each level that a `ScaledTable` may keep.

  Args:
    norm_range: The first logarithm and the step, float32 [2].

  Returns:
    float32 [256]; the level 0 stands for 0.

  >>> print(norm_levels(np.log(np.float32([1, 1.1])))[:4].round(4))
  [0.    1.1   1.21  1.331]
  """
  first, step = norm_range.astype(np.float32)
  levels = np.exp(first + step * np.arange(256, dtype=np.float32))
  levels[0] = 0
  return levels


def _levels(norms: np.ndarray, norm_range: np.ndarray) -> np.ndarray:
  """Rounds norms to the nearest levels in the range, uint8."""
  first, step = norm_range.astype(np.float64)
  logs = np.log(np.where(norms > 0, norms, 1), dtype=np.float64)
  levels = np.rint((logs - first) / step) if step > 0 else np.ones_like(logs)
  return np.where(norms > 0, levels.clip(1, 255), 0).astype(np.uint8)
