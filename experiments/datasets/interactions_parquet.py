"""Interactions in Parquet files."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from pyarrow import parquet, types

from experiments.datasets import interactions_sources as sources
from experiments.datasets.interactions_columns import Column

_BLOCK_ROWS = 1 << 17


def open_files(
  paths: tuple[pathlib.Path, ...], columns: Mapping[str, Column]
) -> sources.Source:
  """Opens Parquet files, see :func:`interactions_sources.open_source`."""
  return ParquetSource(paths, columns)


class ParquetSource(sources.Source):
  """Parquet files; a piece is a row group, of which some columns are read."""

  def __init__(
    self, paths: tuple[pathlib.Path, ...], columns: Mapping[str, Column]
  ):
    # The first file sets the types that all others must have.
    self._types: dict[str, tuple[str, pathlib.Path]] = {}
    super().__init__(paths, columns)

  def _cut(self, path: pathlib.Path) -> Iterator[sources.Piece]:
    with _open(path) as file:
      schema = file.schema_arrow
      for column in self.columns.values():
        self._check_column(path, schema, column)
      metadata = file.metadata
    if not metadata.num_rows:
      raise sources.empty_error(path)
    for group in range(metadata.num_row_groups):
      if metadata.row_group(group).num_rows:
        yield sources.Piece(path, group, group + 1)

  def _check_column(
    self, path: pathlib.Path, schema: Any, column: Column
  ) -> None:
    if schema.names.count(column.name) != 1:
      raise sources.missing_error(path, column.name, schema.names)
    found = schema.field(column.name).type
    accepts = _is_symbol if column.kind == "symbol" else _is_number
    if not accepts(found):
      needs = "text or whole" if column.kind == "symbol" else "of"
      raise ValueError(
        f"{path}: the column {column.name!r} must be {needs} numbers, got the "
        f"type {found}."
      )
    first, first_path = self._types.setdefault(column.name, (str(found), path))
    if str(found) != first:
      raise ValueError(
        f"{path}: the column {column.name!r} must have the type {first}, as in "
        f"{first_path.name}, got {found}. Write all files with one schema."
      )

  def _read(self, piece: sources.Piece) -> Iterator[Any]:
    names = [column.name for column in self.columns.values()]
    try:
      with _open(piece.path) as file:
        for batch in file.iter_batches(
          _BLOCK_ROWS, row_groups=[piece.start], columns=names
        ):
          yield batch.select(names)  # In our order, not in that of the file.
    except (pa.ArrowInvalid, OSError) as error:
      raise ValueError(
        f"{piece.path}, row group {piece.start}, is damaged or cut off: {error}"
      ) from error

  def _place(self, piece: sources.Piece, row: int) -> str:
    return f"row group {piece.start}, row {row} of it"


def _open(path: pathlib.Path) -> Any:
  if not path.stat().st_size:
    raise sources.empty_error(path)
  try:
    return parquet.ParquetFile(path)
  except (pa.ArrowInvalid, OSError) as error:
    raise ValueError(f"{path} is damaged or cut off: {error}") from error


def _is_symbol(dtype: Any) -> bool:
  if types.is_dictionary(dtype):
    dtype = dtype.value_type
  is_text = types.is_string(dtype) or types.is_large_string(dtype)
  return is_text or types.is_binary(dtype) or types.is_integer(dtype)


def _is_number(dtype: Any) -> bool:
  is_plain = types.is_integer(dtype) or types.is_floating(dtype)
  is_time = types.is_timestamp(dtype) or types.is_date(dtype)
  return is_plain or is_time or types.is_decimal(dtype)
