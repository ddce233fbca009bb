"""Interactions in ArrayRecord files: a JSON object for each record.

The records of a piece are parsed by Arrow all at once. Grain reads such files,
too, but hands them on record by record, each a Python object on its way through
several iterators: many times slower, for a shuffle that a piece read in one go
and a buffer give as well, and a state that is as small as ours.
"""

import importlib
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import json as arrow_json

from experiments.datasets import interactions_sources as sources
from experiments.datasets.interactions_columns import Column

# A compiled module, which type checkers do not see.
array_record: Any = importlib.import_module(
  "array_record.python.array_record_module"
)

_PIECE_RECORDS = 1 << 16
# The reader's threads fragment memory, the more the larger one request is: the
# process would grow by some ten bytes for each record.
_REQUEST = 1 << 12
# Records are read by their numbers: to read ahead would only cost memory.
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


def open_files(
  paths: tuple[pathlib.Path, ...], columns: Mapping[str, Column]
) -> sources.Source:
  """Opens ArrayRecord files, see :func:`interactions_sources.open_source`."""
  return RecordSource(paths, columns)


class RecordSource(sources.Source):
  """ArrayRecord files; a piece is some 65,536 records in a row."""

  def __init__(
    self, paths: tuple[pathlib.Path, ...], columns: Mapping[str, Column]
  ):
    self._schemas: dict[pathlib.Path, Any] = {}
    super().__init__(paths, columns)

  def _cut(self, path: pathlib.Path) -> Iterator[sources.Piece]:
    if not path.stat().st_size:
      raise sources.empty_error(path)
    reader = array_record.ArrayRecordReader(str(path), _OPTIONS)
    # Cut off, a file seems to hold no records: only `ok` tells.
    if not reader.ok():
      raise _damaged(path, "it has no valid end")
    total = reader.num_records()
    if not total:
      raise sources.empty_error(path)
    self._schemas[path] = self._schema(path, _records(path, 0, 1)[0])
    for start in range(0, total, _PIECE_RECORDS):
      yield sources.Piece(path, start, min(start + _PIECE_RECORDS, total))

  def _schema(self, path: pathlib.Path, record: bytes) -> Any:
    """Returns the Arrow types of the columns, those of the first record."""
    problem, values = _parse(record)
    if problem:
      raise ValueError(f"{path}, record 0: {problem}")
    # Left to itself, Arrow would take text such as 2020-01-01 for a time.
    fields = []
    for column in self.columns.values():
      if column.name not in values:
        raise sources.missing_error(path, column.name, values)
      fields.append((column.name, _type(column, values[column.name])))
    first_path, first = next(iter(self._schemas.items()), (path, fields))
    for (name, found), expected in zip(fields, first, strict=True):
      if found == pa.null() or found != getattr(expected, "type", found):
        raise ValueError(
          f"{path}, record 0: `{name}` must be an id or a finite number of the "
          f"type that it has in {first_path.name}, got {values[name]!r}."
        )
    return pa.schema(fields)

  def _read(self, piece: sources.Piece) -> Iterator[Any]:
    records = _records(*piece)
    text, schema = b"\n".join(records), self._schemas[piece.path]
    try:
      table = arrow_json.read_json(
        pa.BufferReader(text),
        # In one block: rows are then checked against records.
        read_options=arrow_json.ReadOptions(
          use_threads=False, block_size=len(text) + 1
        ),
        parse_options=arrow_json.ParseOptions(
          explicit_schema=schema,
          newlines_in_values=True,
          unexpected_field_behavior="ignore",
        ),
      )
    except ValueError as error:  # Which Arrow's errors are.
      raise self._explain(piece, records, str(error)) from error
    if table.num_rows != len(records):
      raise self._explain(piece, records, "a record must be one JSON object")
    yield from table.combine_chunks().to_batches()

  def _explain(
    self, piece: sources.Piece, records: Sequence[bytes], message: str
  ) -> ValueError:
    """Finds the record that Arrow stumbled over."""
    schema = self._schemas[piece.path]
    for row, record in enumerate(records):
      problem, values = _parse(record)
      problem = problem or self._problem(schema, values)
      if problem:
        return self.error(piece, row, problem)
    return self.error(piece, 0, message)

  def _problem(self, schema: Any, values: Mapping[str, Any]) -> str:
    for column in self.columns.values():
      value = values.get(column.name)
      expected = schema.field(column.name).type
      if value is not None and _type(column, value) != expected:
        return (
          f"`{column.name}` must be of the type {expected}"
          f"{_as_first(column)}, got {value!r}."
        )
    return ""

  def _place(self, piece: sources.Piece, row: int) -> str:
    return f"record {piece.start + row}"


def _records(path: pathlib.Path, start: int, stop: int) -> list[bytes]:
  reader = array_record.ArrayRecordReader(str(path), _OPTIONS)
  found = []
  try:
    for first in range(start, stop, _REQUEST):
      found += reader.read(first, min(first + _REQUEST, stop))
  except (RuntimeError, IndexError) as error:
    raise _damaged(path, str(error)) from error
  finally:
    reader.close()
  return found


def _parse(record: bytes) -> tuple[str, dict[str, Any]]:
  """Parses a record; returns what is wrong with it, and its values."""
  try:
    values = json.loads(record)
  except ValueError as error:  # Bytes that are no UTF-8, too.
    return f"a record must be a JSON object in UTF-8: {error}.", {}
  if not isinstance(values, dict):
    return f"a record must be a JSON object, got {record[:80]!r}.", {}
  return "", values


def _type(column: Column, value: Any) -> Any:
  """Returns the Arrow type of a value; null for one that fits no column."""
  is_whole = isinstance(value, int) and not isinstance(value, bool)
  if column.kind == "number":
    is_number = is_whole or (isinstance(value, float) and math.isfinite(value))
    # A first value that is none shows when the others are read.
    return pa.float64() if is_number else pa.null()
  if isinstance(value, str):
    return pa.string()
  return pa.int64() if is_whole and abs(value) < 2**63 else pa.null()


def _as_first(column: Column) -> str:
  return ", as in the first record" if column.kind == "symbol" else ""


def _damaged(path: pathlib.Path, problem: str) -> ValueError:
  return ValueError(f"{path} is damaged or cut off: {problem}")
