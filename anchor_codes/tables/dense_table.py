"""Rows kept as they are, or rounded: the baseline of every comparison."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from anchor_codes.tables import base, checks, rounding
from anchor_codes.typing import check_at_least, check_choice

ROW_DTYPES = (*checks.FLOATS, "int8", *rounding.PACKED_BITS)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DenseTable(base.Table):
  r"""A table with one full vector for each symbol.

  A row of integers has its own scale: :math:`e_i = s_i\,q_i` for int8, and
  :math:`e_i = s_i\,(q_i - \frac{2^b - 1}{2})` for int4 and int2, whose
  :math:`b` bits for each value are packed into bytes.

  Attributes:
    rows: Vectors [num_embeddings, features], float32, float16 or int8; or
      packed ones, uint8 [num_embeddings, ceil(features * b / 8)], the lowest
      bits of a byte first.
    scales: Scales of the rows, float32 or float16 [num_embeddings]; for
      integers only.
    dtype: 'int4' or 'int2' if the rows are packed, else None.
    features: Width of a vector; needed for packed rows only.
    vocabulary: One different string for each row, or None.

  Raises:
    ValueError: If an array has the wrong type or shape.

  >>> vectors = np.array([[1, -2], [0, 254]], np.float32)
  >>> table = DenseTable.from_dense(vectors, dtype="int8")
  >>> print(table.rows)
  [[  64 -127]
   [   0  127]]
  >>> print(table.lookup(1), table.bits_per_row)
  [  0. 254.] 48
  >>> DenseTable.from_dense(vectors, dtype="int4").bits_per_row
  40
  """

  kind: ClassVar[str] = "dense"
  _ROWS: ClassVar = ("rows", "scales")
  # Of rows that are not packed, the tensor tells the type.
  _OPTIONAL: ClassVar = {**base.Table._OPTIONAL, "dtype": str}

  rows: np.ndarray
  _: dataclasses.KW_ONLY
  scales: np.ndarray | None = None
  dtype: str | None = None
  features: int = 0

  @classmethod
  def from_dense(
    cls,
    vectors: Any,
    *,
    dtype: str = "float32",
    scale_dtype: str = "float32",
    vocabulary: Sequence[str] | None = None,
  ) -> Self:
    """Rounds a full table to a smaller type.

    Args:
      vectors: Finite floats [num_embeddings, features].
      dtype: 'float32', 'float16', or 'int8', whose scales make the largest
        absolute value of each row 127; or 'int4' or 'int2', whose scales are
        those of about the least squared error.
      scale_dtype: Type of the scales, 'float32' or 'float16'.
      vocabulary: One different string for each row, or None.

    Raises:
      ValueError: If a type is none of these, or a value is too large for it.
    """
    check_choice("dtype", dtype, ROW_DTYPES)
    check_choice("scale_dtype", scale_dtype, checks.FLOATS)
    with np.errstate(over="ignore"):  # The check below says it better.
      vectors = np.asarray(vectors, np.float32)
    vectors = checks.as_array("vectors", vectors, ndim=2)
    largest = max(abs(vectors.max()), abs(vectors.min()))
    limit = np.finfo(np.float16 if dtype == "float16" else np.float32).max
    if not largest <= limit:
      raise ValueError(
        f"`vectors` must be finite and at most {limit} in {dtype}, got "
        f"{largest}."
      )
    if dtype in checks.FLOATS:
      return cls(vectors.astype(dtype), vocabulary=vocabulary)
    rows, scales = rounding.round_rows(vectors, dtype, scale_dtype=scale_dtype)
    return cls(
      rows,
      scales=scales,
      dtype=dtype if dtype in rounding.PACKED_BITS else None,
      features=vectors.shape[1],
      vocabulary=vocabulary,
    )

  @property
  def num_params(self) -> int:
    """Numbers in the rows."""
    return self.num_embeddings * self.features

  @classmethod
  def _parse_options(cls, metadata: Mapping[str, str]) -> dict[str, Any]:
    options = super()._parse_options(metadata)
    if "dtype" in options:  # The width of packed rows does not tell it.
      options["features"] = int(metadata.get("features", ""))
    return options

  def _validate(self, verify: bool) -> None:
    dtypes = (*checks.FLOATS, "int8")
    if self.dtype is not None:
      check_choice("dtype", self.dtype, rounding.PACKED_BITS)
      dtypes = ("uint8",)
    rows = checks.as_array("rows", self.rows, ndim=2, dtypes=dtypes)
    features = self.features or rows.shape[1]
    width, other = features, f"{features} features"
    if self.dtype is not None:
      check_at_least("features", self.features, 1)
      width = -(-features * rounding.PACKED_BITS[self.dtype] // 8)
      other += f" of {self.dtype}"
    checks.check_shape("rows", rows, (len(rows), width), other)
    scales = checks.as_scales(
      "scales",
      self.scales,
      rows,
      of="rows",
      dtypes=checks.FLOATS,
      is_scaled=rows.dtype.kind != "f",
    )
    self._set(rows=rows, scales=scales, features=features)
    self._set(num_embeddings=len(rows))

  def _compose(self, ids: np.ndarray) -> np.ndarray:
    rows = self.rows.take(ids, axis=0)
    if self.scales is None:
      return rows.astype(np.float32, copy=False)
    scales = self.scales.take(ids).astype(np.float32, copy=False)
    if self.dtype is None:
      return rows * scales[:, None]
    return rounding.expand_rows(
      rows, scales, dtype=self.dtype, width=self.features
    )

  def _compose_into(self, ids: np.ndarray, vectors: np.ndarray) -> None:
    if self.rows.dtype == vectors.dtype:
      # The ids are in range; only so NumPy writes without a buffer.
      self.rows.take(ids, axis=0, out=vectors, mode="clip")
    else:
      super()._compose_into(ids, vectors)

  def _encode(self, vectors: np.ndarray) -> Self:
    rows, scales = self.rows, self.scales
    return self.from_dense(
      vectors,
      dtype=self.dtype or rows.dtype.name,
      scale_dtype="float32" if scales is None else scales.dtype.name,
    )
