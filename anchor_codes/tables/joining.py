"""Joins the rows of tables that share all else."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from anchor_codes.tables import base

_TableT = TypeVar("_TableT", bound=base.Table)


def concatenate(tables: Sequence[_TableT]) -> _TableT:
  """Joins the rows of tables with one shared part, in order.

  Args:
    tables: At least one; all of one kind, with the same options, types and
      shared arrays, and all or none of them with a vocabulary.

  Returns:
    A table with the rows of all of them. `quality` is not kept.

  Raises:
    ValueError: If they are not like that, a word is in two of them, or the
      rows are computed from the ids.

  >>> from anchor_codes.tables.dense_table import DenseTable
  >>> parts = [DenseTable(np.float32([[i]])) for i in range(3)]
  >>> print(concatenate(parts).lookup([2, 0]))
  [[2.]
   [0.]]
  """
  if not tables:
    raise ValueError("`tables` must hold at least one table, got none.")
  first, *others = tables
  for i, other in enumerate(others, 1):
    _check_alike(first, other, i)
  joined = first._join(others)
  words = [table.vocabulary for table in tables]
  if all(w is None for w in words):
    return joined
  if any(w is None for w in words):
    raise ValueError("`tables` must all have a vocabulary, or none of them.")
  vocabulary = [word for part in words for word in part or ()]
  return dataclasses.replace(joined, vocabulary=vocabulary)


def _check_alike(first: base.Table, other: base.Table, position: int) -> None:
  """Raises `ValueError` unless only the rows of two tables differ."""
  alike = type(first) is type(other) and _options(first) == _options(other)
  alike = alike and first.tensors.keys() == other.tensors.keys()
  if not alike or not all(
    _fits(array, other.tensors[name], is_row=name in first.row_names)
    for name, array in first.tensors.items()
  ):
    raise ValueError(
      f"`tables` must differ in their rows alone: number {position} does not "
      "have the kind, the options, the types or the shared arrays of number 0."
    )


def _options(table: base.Table) -> dict[str, str]:
  own = ("num_embeddings", "quality")  # Of each table, and of those in it.
  return {
    key: value
    for key, value in table.metadata.items()
    if key.rpartition(".")[2] not in own
  }


def _fits(one: np.ndarray, other: np.ndarray, *, is_row: bool) -> bool:
  if is_row:
    # Ids take the smallest type for the number of rows.
    alike = (
      one.dtype == other.dtype or one.dtype.kind == other.dtype.kind == "u"
    )
    return alike and one.shape[1:] == other.shape[1:]
  return one is other or (
    one.dtype == other.dtype and np.array_equal(one, other)
  )
