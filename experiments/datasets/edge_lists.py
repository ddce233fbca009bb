"""The user's own graph of symbols: a list of edges in CSV.

A UTF-8 file with a header; an edge has no direction, and a weight is positive::

  source,target,weight
  cat,dog,3
  cat,lion,1.5

The column ``weight`` may be left out; others are not read.
"""

import csv
import math
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from experiments.datasets import files


class EdgeList(NamedTuple):
  """Edges between the symbols of a vocabulary.

  Attributes:
    edges: int64 [num_edges, 2], the numbers of two symbols.
    weights: float64 [num_edges], or None for a file without weights.
    num_unknown: How many edges were left out, for one of their symbols is not
      in the vocabulary.
    example: The first such symbol, '' if there is none.
  """

  edges: np.ndarray
  weights: np.ndarray | None
  num_unknown: int
  example: str


def read_edges(
  path: str | os.PathLike[str], vocabulary: Sequence[str]
) -> EdgeList:
  """Reads edges between symbols.

  Args:
    path: The file.
    vocabulary: The symbols; case counts.

  Returns:
    The edges in the order of the file, without those of unknown symbols.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If the header lacks a column, a row lacks a cell, a weight is
      not positive and finite (the text names the line), or no edge is between
      symbols of the vocabulary.
  """
  rows = _read_rows(path)
  columns = _columns(path, next(rows, (0, []))[1])
  index = {symbol: i for i, symbol in enumerate(vocabulary)}
  edges, weights, unknown = [], [], []
  for line, row in rows:
    source, target, weight = _parse(path, line, row, columns)
    missing = [name for name in (source, target) if name not in index]
    if missing:
      unknown.append(missing[0])
    else:
      edges.append((index[source], index[target]))
      weights.append(weight)
  if not edges:
    raise ValueError(
      f"{path} must hold an edge between symbols of the vocabulary, got "
      f"{len(unknown)} edges"
      + (f" with unknown symbols such as {unknown[0]!r}." if unknown else ".")
    )
  return EdgeList(
    edges=np.array(edges, np.int64),
    weights=np.array(weights) if "weight" in columns else None,
    num_unknown=len(unknown),
    example=unknown[0] if unknown else "",
  )


def _read_rows(
  path: str | os.PathLike[str],
) -> Iterator[tuple[int, list[str]]]:
  """Yields rows that are not blank, with the numbers of their last lines."""
  # With their ends, which may be part of a quoted cell.
  lines = (f"{line}\n" for line in files.read_lines(path))
  rows = csv.reader(lines, strict=True, skipinitialspace=True)
  try:
    for row in filter(None, rows):
      yield rows.line_num, row
  except csv.Error as error:
    raise ValueError(
      f"{path} must be a CSV file, got a wrong line {rows.line_num}: {error}."
    ) from error


def _columns(
  path: str | os.PathLike[str], header: Sequence[str]
) -> dict[str, int]:
  """Returns where the columns stand that are read."""
  names = [name.strip() for name in header]
  places = {name: place for place, name in enumerate(names)}
  for name in ("source", "target", "weight"):
    if names.count(name) > 1 or (name != "weight" and name not in places):
      raise ValueError(
        f"{path} must have a header with the columns 'source' and 'target' "
        "once, and perhaps 'weight', "
        f"got {', '.join(map(repr, header)) or 'nothing'}."
      )
  return {n: places[n] for n in ("source", "target", "weight") if n in places}


def _parse(
  path: str | os.PathLike[str],
  line: int,
  row: Sequence[str],
  columns: dict[str, int],
) -> tuple[str, str, float]:
  """Returns the cells of a row; the weight is 1 where there is none."""
  if len(row) <= max(columns.values()):
    raise ValueError(
      f"{path} must have {max(columns.values()) + 1} cells in each row, got "
      f"{len(row)} in line {line}."
    )
  weight = 1.0
  if "weight" in columns:
    text = row[columns["weight"]]
    try:
      weight = float(text)
    except ValueError:
      weight = math.nan
    # In this form `nan` is refused, too.
    if not 0 < weight < math.inf:
      raise ValueError(
        f"{path} must have positive weights, got {text!r} in line {line}."
      )
  return row[columns["source"]], row[columns["target"]], weight
