"""Vectors of another table, in other coordinates."""

import dataclasses
import functools
from typing import Any, ClassVar, Self

import numpy as np

from anchor_codes.tables import base, checks
from anchor_codes.tables.composite import Composite


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ProjectedTable(Composite):
  r"""A table whose vectors are those of another one, times a matrix.

  With the vectors :math:`x_i` of `inner`, :math:`e_i = x_i P + b`. The rotation
  of optimised product quantisation (Ge et al., CVPR 2013) and principal
  components before codes are of this form.

  Attributes:
    inner: A table of any kind without a vocabulary.
    projection: P [inner.features, features], float32, float16 or int8.
    projection_scales: For int8 only, s float32 [inner.features]: row j of P is
      :math:`s_j` times row j of `projection`.
    bias: b [features], float32 or float16, or None for zeros.
    vocabulary: One different string for each row, or None.

  Raises:
    ValueError: If something does not fit.

  >>> from anchor_codes.tables.dense_table import DenseTable
  >>> inner = DenseTable(np.float32([[1, 2], [3, 4]]))
  >>> swap = np.float32([[0, 1], [1, 0]])
  >>> print(ProjectedTable(inner, projection=swap).lookup(1))
  [4. 3.]
  """

  kind: ClassVar[str] = "projected"
  _CHILDREN: ClassVar = ("inner",)
  _SHARED: ClassVar = ("projection", "projection_scales", "bias")

  inner: base.Table
  _: dataclasses.KW_ONLY
  projection: np.ndarray
  projection_scales: np.ndarray | None = None
  bias: np.ndarray | None = None

  @property
  def num_params(self) -> int:
    """Trained numbers of the table, the matrix and the bias."""
    bias = 0 if self.bias is None else self.bias.size
    return self.inner.num_params + self.projection.size + bias

  def _validate_composite(self, verify: bool) -> None:
    projection = checks.as_array(
      "projection", self.projection, ndim=2, dtypes=(*checks.FLOATS, "int8")
    )
    width, features = self.inner.features, projection.shape[1]
    other = f"`inner` of {width} features"
    checks.check_shape("projection", projection, (width, features), other)
    scales = checks.as_scales(
      "projection_scales", self.projection_scales, projection, of="projection"
    )
    bias = self.bias
    if bias is not None:
      bias = checks.as_array("bias", bias, ndim=1)
      other = f"`projection` {projection.shape}"
      checks.check_shape("bias", bias, (features,), other)
    self._set(projection=projection, projection_scales=scales, bias=bias)
    self._set(num_embeddings=self.inner.num_embeddings, features=features)

  @functools.cached_property
  def _matrix(self) -> np.ndarray:
    """The matrix in float32, which is small beside the rows."""
    matrix = self.projection.astype(np.float32, copy=False)
    scales = self.projection_scales
    return matrix if scales is None else matrix * scales[:, None]

  def _compose(self, ids: np.ndarray) -> np.ndarray:
    vectors = self.inner._compose(ids) @ self._matrix
    return vectors if self.bias is None else vectors + self.bias

  def _score_shared(self, queries: np.ndarray) -> Any:
    bias = 0 if self.bias is None else self.bias.astype(np.float32) @ queries
    return self.inner._score_shared(self._matrix @ queries), bias

  def _score_rows(self, ids: np.ndarray, shared: Any) -> np.ndarray:
    inner, bias = shared
    return self.inner._score_rows(ids, inner) + bias

  def _encode(self, vectors: np.ndarray) -> Self:
    if self.bias is not None:
      vectors = vectors - self.bias
    # The inverse of a rotation, else the nearest vectors that P can give.
    inverse = np.linalg.pinv(self._matrix)
    return self._replace(inner=self.inner._encode(vectors @ inverse))
