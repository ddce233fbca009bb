"""Rows kept as they are, or rounded: the baseline of every comparison."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from anchor_codes.tables import base
from anchor_codes.typing import check_choice

ROW_DTYPES = ("float32", "float16", "int8")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DenseTable(base.Table):
  r"""A table with one full vector for each symbol.

  An int8 row has its own scale: :math:`e_i = s_i\,q_i`.

  Attributes:
    rows: Vectors [num_embeddings, features], float32, float16 or int8.
    scales: Scales of the rows, float32 [num_embeddings]; for int8 only.
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
  """

  kind: ClassVar[str] = "dense"
  _ROWS: ClassVar = ("rows", "scales")

  rows: np.ndarray
  _: dataclasses.KW_ONLY
  scales: np.ndarray | None = None

  @classmethod
  def from_dense(
    cls,
    vectors: Any,
    *,
    dtype: str = "float32",
    vocabulary: Sequence[str] | None = None,
  ) -> Self:
    """Rounds a full table to a smaller type.

    Args:
      vectors: Finite floats [num_embeddings, features].
      dtype: 'float32', 'float16', or 'int8', whose scales make the largest
        absolute value of each row 127.
      vocabulary: One different string for each row, or None.

    Raises:
      ValueError: If the type is none of these, or a value is too large for it.
    """
    check_choice("dtype", dtype, ROW_DTYPES)
    with np.errstate(over="ignore"):  # The check below says it better.
      vectors = np.asarray(vectors, np.float32)
    vectors = base.as_array("vectors", vectors, ndim=2)
    largest = np.abs(vectors).max()
    limit = np.finfo(np.float16 if dtype == "float16" else np.float32).max
    if not largest <= limit:
      raise ValueError(
        f"`vectors` must be finite and at most {limit} in {dtype}, got "
        f"{largest}."
      )
    if dtype != "int8":
      return cls(vectors.astype(dtype), vocabulary=vocabulary)
    scales = np.abs(vectors).max(axis=1) / np.float32(127)
    # A row of zeros has scale 0; the scale of a tiny one may round down.
    rows = vectors / np.where(scales > 0, scales, 1)[:, None]
    rows = np.rint(rows).clip(-127, 127).astype(np.int8)
    return cls(rows, scales=scales, vocabulary=vocabulary)

  @property
  def num_params(self) -> int:
    """Numbers in the rows."""
    return self.rows.size

  def _validate(self, verify: bool) -> None:
    rows = base.as_array("rows", self.rows, ndim=2, dtypes=ROW_DTYPES)
    self._set(rows=rows, num_embeddings=len(rows), features=rows.shape[1])
    if (rows.dtype == np.int8) != (self.scales is not None):
      raise ValueError(
        "`scales` must be given for int8 rows, and only for them, got "
        f"{rows.dtype} rows."
      )
    if self.scales is not None:
      scales = base.as_array("scales", self.scales, ndim=1, dtypes=["float32"])
      base.check_shape("scales", scales, (len(rows),), f"`rows` {rows.shape}")
      self._set(scales=scales)

  def _compose(self, ids: np.ndarray) -> np.ndarray:
    rows = self.rows[ids].astype(np.float32, copy=False)
    return rows if self.scales is None else rows * self.scales[ids, None]
