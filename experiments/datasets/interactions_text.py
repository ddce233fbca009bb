"""Interactions in CSV and TSV files."""

import csv
import gzip
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
from pyarrow import compute
from pyarrow import csv as arrow_csv

from experiments.datasets import interactions_sources as sources
from experiments.datasets.interactions_columns import Column

_BLOCK_BYTES = 2 << 20  # Of which Arrow reads some forty ahead.
_TYPES = {"symbol": pa.string(), "number": pa.float64()}


def open_files(
  paths: tuple[pathlib.Path, ...], columns: Mapping[str, Column]
) -> sources.Source:
  """Opens text files, see :func:`interactions_sources.open_source`."""
  return TextSource(paths, columns)


class TextSource(sources.Source):
  """CSV and TSV files; a piece is a file."""

  def _cut(self, path: pathlib.Path) -> Iterator[sources.Piece]:
    self._positions(path)
    yield sources.Piece(path)

  def _has_header(self) -> bool:
    return not all(c.name.isdecimal() for c in self.columns.values())

  def _positions(self, path: pathlib.Path) -> tuple[list[int], int]:
    """Returns the numbers of the columns, and how many the file has."""
    try:
      first = next(_rows(path), (0, []))[1]
    except (OSError, EOFError, csv.Error) as error:
      raise damaged(path, error) from error
    if not first:
      raise ValueError(
        f"{path} is empty, or begins with an empty line. Remove it, or write "
        "it again."
      )
    wanted = [column.name for column in self.columns.values()]
    if not self._has_header():
      names = [str(number) for number in range(len(first))]
    else:
      names = [_clean(name) for name in first]
    for name in wanted:
      if name not in names:
        raise sources.missing_error(path, name, names)
      if names.count(name) > 1:
        raise ValueError(
          f"{path} must name the column {name!r} once, got {names}. Rename all "
          "but one of these columns."
        )
    return [names.index(name) for name in wanted], len(names)

  def _read(self, piece: sources.Piece) -> Iterator[Any]:
    positions, width = self._positions(piece.path)
    names = [str(position) for position in positions]
    kinds = [column.kind for column in self.columns.values()]
    types = {n: _TYPES[kind] for n, kind in zip(names, kinds, strict=True)}
    try:
      # Which decompresses by the suffix.
      with pa.input_stream(str(piece.path)) as stream:
        reader = arrow_csv.open_csv(
          stream,
          read_options=arrow_csv.ReadOptions(
            block_size=_BLOCK_BYTES,
            column_names=[str(number) for number in range(width)],
            skip_rows_after_names=int(self._has_header()),
          ),
          parse_options=arrow_csv.ParseOptions(
            delimiter=_delimiter(piece.path), newlines_in_values=True
          ),
          convert_options=arrow_csv.ConvertOptions(
            include_columns=names,
            column_types=types,
            null_values=[""],
            strings_can_be_null=False,
            check_utf8=False,  # The block is checked, which knows the row.
          ),
        )
        for batch in reader:
          self._refuse_header(piece, batch)
          yield batch
    except (pa.ArrowInvalid, OSError) as error:
      raise self._explain(piece.path, error) from error

  def _refuse_header(self, piece: sources.Piece, batch: Any) -> None:
    """Finds a header among rows, where no number would stumble over it."""
    names = [column.name for column in self.columns.values()]
    if not self._has_header() or not batch.num_rows:
      return
    if "number" in {column.kind for column in self.columns.values()}:
      return
    repeats = np.ones(batch.num_rows, bool)
    for column, name in zip(batch.columns, names, strict=True):
      repeats &= compute.call_function("equal", [column, name]).to_numpy(
        zero_copy_only=False
      )
    if repeats.any():
      raise pa.ArrowInvalid("the header is there twice")

  def _explain(self, path: pathlib.Path, error: Exception) -> ValueError:
    """Finds the line that Arrow stumbled over; it works on blocks."""
    positions, width = self._positions(path)
    rows = _rows(path)
    header = next(rows)[1] if self._has_header() else None
    line = 1
    try:
      for line, row in rows:
        problem = self._problem(row, header, positions, width)
        if problem:
          return ValueError(f"{path}, line {line}: {problem}")
    except (OSError, EOFError) as found:
      return damaged(path, found, after=line)
    except csv.Error as found:
      return ValueError(f"{path}, after line {line}: {found}.")
    return damaged(path, error)

  def _problem(
    self,
    row: Sequence[str],
    header: Sequence[str] | None,
    positions: Sequence[int],
    width: int,
  ) -> str:
    """Says what is wrong with a row, if anything is."""
    if row == header:
      return "the header is there twice. Remove this line."
    if len(row) != width:
      return (
        f"there must be {width} fields, as in the first line, got {len(row)}: "
        f"{row}. Put quotation marks around fields that hold separators."
      )
    for position, column in zip(positions, self.columns.values(), strict=True):
      if column.kind == "number" and not _is_number(row[position]):
        return (
          f"`{column.name}` must be a finite number, got {row[position]!r}. "
          "Correct or remove the line."
        )
    return ""

  def _place(self, piece: sources.Piece, row: int) -> str:
    wanted = row + self._has_header()
    for number, (line, _) in enumerate(_rows(piece.path)):
      if number == wanted:
        return f"line {line}"
    return f"row {row + 1}"


def damaged(
  path: pathlib.Path, error: Exception, *, after: int = 0
) -> ValueError:
  """Returns the error about a file that breaks off or cannot be read."""
  where = f" after line {after}" if after else ""
  return ValueError(f"{path} is damaged or cut off{where}: {error}")


def _rows(path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
  """Yields rows with the numbers of their last lines, slowly."""
  with _open_text(path) as file:
    reader = csv.reader(file, delimiter=_delimiter(path))
    for row in reader:
      # Arrow, too, skips empty lines; the first one cannot be told apart.
      if row or reader.line_num == 1:
        yield reader.line_num, row


def _open_text(path: pathlib.Path) -> TextIO:
  # Bytes that are no UTF-8 are the block's to complain about.
  options: Any = {
    "encoding": "utf-8-sig",
    "errors": "surrogateescape",
    "newline": "",
  }
  if path.suffix == ".gz":
    return gzip.open(path, "rt", **options)
  return path.open(**options)


def _delimiter(path: pathlib.Path) -> str:
  return "\t" if path.name.removesuffix(".gz").endswith(".tsv") else ","


def _clean(name: str) -> str:
  return name.strip().encode("utf-8", "replace").decode()


def _is_number(text: str) -> bool:
  try:
    return abs(float(text)) < float("inf")
  except ValueError:
    return False
