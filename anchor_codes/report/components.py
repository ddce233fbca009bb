"""The anchors and the codes in a table, however deep inside."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from anchor_codes import tables
from anchor_codes.tables.composite import Composite


class Component(NamedTuple):
  """Anchors or codes, and the symbols that have them.

  Attributes:
    name: Where it is: "" for the table itself, else such as "inner.first".
    table: An `AnchorTable` or a `CodeTable`.
    rows: The symbol of each of its rows, ascending ids of the whole table.
  """

  name: str
  table: tables.AnchorTable | tables.CodeTable
  rows: np.ndarray


def find_components(table: tables.Table) -> list[Component]:
  """Finds the tables of anchors or codes that a table is made of.

  Args:
    table: A table of any kind.

  Returns:
    The table itself if it is one of them, those inside if it is made out of
    others, and nothing for rows that have neither.

  >>> eye = np.eye(2, dtype=np.float32)
  >>> anchors = tables.AnchorTable(eye, weights=eye)
  >>> full = tables.DenseTable(eye)
  >>> table = tables.TieredTable(full, anchors, hot_ids=[0, 2])
  >>> find_components(table)
  [Component(name='cold',
             table=AnchorTable(num_embeddings=2, features=2, nbytes=32),
             rows=array([1, 3]))]
  """
  return list(_walk("", table, np.arange(table.num_embeddings)))


def _walk(
  name: str, table: tables.Table, rows: np.ndarray
) -> Iterator[Component]:
  if isinstance(table, tables.AnchorTable | tables.CodeTable):
    yield Component(name, table, rows)
  elif isinstance(table, Composite):
    for child, inner in table.children.items():
      path = f"{name}.{child}" if name else child
      yield from _walk(path, inner, _rows_of(table, child, rows))


def _rows_of(table: Composite, child: str, rows: np.ndarray) -> np.ndarray:
  if not isinstance(table, tables.TieredTable):
    return rows
  hot = np.arange(table.hot.num_embeddings)
  hot = hot if table.hot_ids is None else np.asarray(table.hot_ids)
  return rows[hot] if child == "hot" else np.delete(rows, hot)
