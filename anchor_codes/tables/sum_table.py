"""Sums of the vectors of two tables."""

import dataclasses
from typing import Any, ClassVar, Self

import numpy as np

from anchor_codes.tables import base
from anchor_codes.tables.composite import Composite


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SumTable(Composite):
  """A table whose vectors are those of two tables, added up.

  The second one usually holds what the first one leaves over: codes of the
  residual behind a few anchors.

  Attributes:
    first: A table of any kind without a vocabulary.
    second: Another one of the same size.
    vocabulary: One different string for each row, or None.

  Raises:
    ValueError: If the tables differ in size, or have a vocabulary.

  >>> from anchor_codes.tables.dense_table import DenseTable
  >>> table = DenseTable(np.float32([[1, 3]]))
  >>> print(SumTable(table, table).lookup(0))
  [2. 6.]
  """

  kind: ClassVar[str] = "sum"
  _CHILDREN: ClassVar = ("first", "second")

  first: base.Table
  second: base.Table

  def _validate_composite(self, verify: bool) -> None:
    sizes = [(t.num_embeddings, t.features) for t in self.children.values()]
    if sizes[0] != sizes[1]:
      raise ValueError(
        f"`second` must be of the size {sizes[0]} to fit `first`, got "
        f"{sizes[1]}."
      )
    self._set(num_embeddings=sizes[0][0], features=sizes[0][1])

  def _compose(self, ids: np.ndarray) -> np.ndarray:
    return self.first._compose(ids) + self.second._compose(ids)

  def _score_shared(self, queries: np.ndarray) -> Any:
    return [table._score_shared(queries) for table in self.children.values()]

  def _score_rows(self, ids: np.ndarray, shared: Any) -> np.ndarray:
    first, second = shared
    scores = self.first._score_rows(ids, first)
    return scores + self.second._score_rows(ids, second)

  def _encode(self, vectors: np.ndarray) -> Self:
    first = self.first._encode(vectors)
    second = self.second._encode(vectors - first.to_dense())
    return self._replace(first=first, second=second)
