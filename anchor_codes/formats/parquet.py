"""Parquet files with a column of vectors and perhaps one of words."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from anchor_codes.formats.matrix import FormatError, Progress

_BATCH = 8192  # Rows in memory twice: in Arrow's form and in NumPy's.


def read_parquet(
  path: str | os.PathLike,
  column: str | None,
  progress: Progress | None = None,
) -> tuple[np.ndarray, list[str] | None]:
  """Reads a column of lists of floats, all of one width.

  Args:
    path: The file.
    column: Name of the vectors, or None for the only column of such lists.
    progress: Called now and then, with rows in place of bytes.

  Returns:
    float32 vectors, and the words if there is one column of strings, or none
    of them and one of bytes.

  Raises:
    FormatError: If the columns are not like that.
    ImportError: If pyarrow is not installed; it says how.
  """
  try:
    import pyarrow.parquet
  except ImportError:
    raise ImportError(
      "Parquet files need pyarrow: pip install pyarrow."
    ) from None
  with pyarrow.parquet.ParquetFile(path) as file:
    schema = file.schema_arrow
    name, word_column = _vectors(schema, column), _words(schema)
    columns = [name] if word_column is None else [name, word_column]
    rows, words = _Rows(file.metadata.num_rows), []
    for batch in file.iter_batches(_BATCH, columns=columns):
      if word_column is not None:
        column = batch.column(word_column)
        words += _strings(column, word_column, rows.size)
      rows.append(batch.column(name))
      if progress is not None:
        progress(rows.size, file.metadata.num_rows)
  return rows.vectors, None if word_column is None else words


class _Rows:
  """Vectors that fill up batch by batch."""

  def __init__(self, num_rows: int) -> None:
    self.vectors = np.empty((num_rows, 0), np.float32)
    self.size = 0

  def append(self, lists: Any) -> None:
    """Adds an Arrow array of lists."""
    widths = np.array(lists.value_lengths().fill_null(-1), np.int64)
    if not self.size:
      shape = (len(self.vectors), max(0, int(widths[0])))
      self.vectors = np.empty(shape, np.float32)
    wrong = widths != self.vectors.shape[1]
    if wrong.any():
      row = int(wrong.argmax())
      found = "no vector" if widths[row] < 0 else f"{widths[row]} numbers"
      raise FormatError(
        f"Row {self.size + row} has {found}, not {self.vectors.shape[1]}."
      )
    # Numbers that are missing become nan, which the reader refuses.
    values = lists.flatten().to_numpy(zero_copy_only=False)
    end = self.size + len(lists)
    self.vectors[self.size : end] = values.reshape(len(lists), -1)
    self.size = end


def _vectors(schema: Any, column: str | None) -> str:
  import pyarrow.types as types

  lists = [
    field.name
    for field in schema
    if types.is_list(field.type)
    or types.is_large_list(field.type)
    or types.is_fixed_size_list(field.type)
  ]
  names = [
    name
    for name in lists
    if types.is_floating(schema.field(name).type.value_type)
  ]
  if column is not None and column not in names:
    raise FormatError(f"Column {column!r} is none of lists of floats: {names}.")
  if column is None and len(names) != 1:
    found = f"one of {names}" if names else f"there is none in {schema.names}"
    raise FormatError(f"Name the column of lists of floats: {found}.")
  return column or names[0]


def _words(schema: Any) -> str | None:
  import pyarrow.types as types

  def of_kind(*tests: Callable[[Any], bool]) -> list[str]:
    found = []
    for field in schema:
      kind = field.type
      if types.is_dictionary(kind):  # What pandas makes of its categories.
        kind = kind.value_type
      found += [field.name] if any(test(kind) for test in tests) else []
    return found

  names = of_kind(types.is_string, types.is_large_string, types.is_string_view)
  # Some writers do not say which bytes are text.
  names = names or of_kind(
    types.is_binary, types.is_large_binary, types.is_binary_view
  )
  if len(names) > 1:
    raise FormatError(f"It has several columns of strings: {names}; keep one.")
  return names[0] if names else None


def _strings(column: Any, name: str, start: int) -> list[str]:
  if column.null_count:
    row = column.is_null().to_pylist().index(True)
    raise FormatError(f"Row {start + row} has no word.")
  words = column.to_pylist()
  for row, word in enumerate(words):
    if isinstance(word, bytes):
      words[row] = _decoded(word, name, start + row)
  return words


def _decoded(word: bytes, name: str, row: int) -> str:
  try:
    return word.decode()
  except UnicodeDecodeError as error:
    raise FormatError(
      f"Row {row} of {name!r} is not UTF-8, as words must be: "
      f"{error.reason}. Leave the column out if it has none."
    ) from None
