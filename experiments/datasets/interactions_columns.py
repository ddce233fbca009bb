"""Columns of interactions: symbols and numbers, checked block by block."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

Kind = Literal["symbol", "number"]
"""What a column holds: ids as text or whole numbers, or finite numbers."""

_LARGEST = float(np.finfo(np.float32).max)


class Column(NamedTuple):
  """A column of a file.

  Attributes:
    name: Its name; for a text file without a header its number, from 0.
    kind: What it holds.
  """

  name: str
  kind: Kind


class Symbols(NamedTuple):
  """The symbols of a block, each distinct one once.

  Attributes:
    names: The distinct symbols, an Arrow array of strings.
    codes: int32 [rows], the position of each row's symbol among them.
  """

  names: Any
  codes: np.ndarray

  def texts(self) -> list[str]:
    """Returns the distinct symbols."""
    # Many times faster than Arrow's own `to_pylist`.
    return self.names.to_numpy(zero_copy_only=False).tolist()


Block = Mapping[str, Any]
"""Rows: `Symbols`, or float64 numbers [rows], by what they are in a model."""


class BadValueError(ValueError):
  """A value that must not be there.

  Attributes:
    row: Where, counted from the first row of the block.
  """

  def __init__(self, row: int, message: str):
    super().__init__(message)
    self.row = row


def read_block(batch: Any, columns: Mapping[str, Column]) -> Block:
  """Turns columns of Arrow into those of a block.

  Whole numbers as symbols become their decimal text, at any size, so that ids
  are the same in a file of text and in one of numbers.

  Args:
    batch: An Arrow record batch with these columns, in this order.
    columns: Name and kind of each column, by what it is in a model.

  Returns:
    The block.

  Raises:
    BadValueError: If a value is missing, a symbol is empty or no UTF-8, or a
      number is not finite.

  >>> import pyarrow as pa
  >>> batch = pa.record_batch({"id": [7, 2**62, 7], "stars": [1.0, 2.0, 3.0]})
  >>> columns = {
  ...   "user": Column("id", "symbol"), "rating": Column("stars", "number")
  ... }
  >>> block = read_block(batch, columns)
  >>> block["user"].texts(), block["user"].codes, block["rating"]
  (['7', '4611686018427387904'], array([0, 1, 0], dtype=int32),
   array([1., 2., 3.]))
  """
  block = {}
  for number, (role, column) in enumerate(columns.items()):
    array = batch.column(number)
    if array.null_count:
      row = int(np.argmax(array.is_null()))
      raise BadValueError(row, _describe(column, "is missing"))
    read = _read_symbols if column.kind == "symbol" else _read_numbers
    block[role] = read(array, column)
  return block


def _read_numbers(array: Any, column: Column) -> np.ndarray:
  if _is_time(array.type):  # In the unit of the file.
    array = array.view("int32" if array.type.bit_width == 32 else "int64")
  # Beyond 2 ** 53 a whole number is rounded.
  values = array.cast("float64", safe=False).to_numpy(zero_copy_only=False)
  good = np.abs(values) <= _LARGEST  # Which is False for nan, too.
  if not good.all():
    row = int(np.argmin(good))
    raise BadValueError(row, _describe(column, f"is {values[row]}"))
  return values


def _is_time(dtype: Any) -> bool:
  return str(dtype).startswith(("timestamp", "date"))


def _read_symbols(array: Any, column: Column) -> Symbols:
  if not str(array.type).startswith("dictionary"):
    array = array.dictionary_encode()
  codes = array.indices.to_numpy(zero_copy_only=False).astype(np.int32)
  names = array.dictionary
  try:
    names = names.cast("string")
    names.validate(full=True)  # Arrow trusts its files to be UTF-8.
  except ValueError:
    code = _first_undecodable(names)
    bad = _describe(column, "is no UTF-8 text, save it with this encoding")
    raise BadValueError(_first_row(codes, code), bad) from None
  empty = np.diff(text_offsets(names)) == 0
  # Names that no row has may be there too, after a dictionary was shared.
  if empty.any() and empty[codes].any():
    row = int(np.argmax(empty[codes]))
    raise BadValueError(row, _describe(column, "is empty"))
  return Symbols(names, codes)


def _first_row(codes: np.ndarray, code: int) -> int:
  return int(np.argmax(codes == code))


def _first_undecodable(names: Any) -> int:
  for code, name in enumerate(names.cast("binary")):
    try:
      name.as_py().decode()
    except UnicodeDecodeError:
      return code
  return 0


def num_rows(block: Block) -> int:
  """Returns the number of rows of a block, or of arrays by their names."""
  column = next(iter(block.values()))
  return len(column.codes if isinstance(column, Symbols) else column)


def select_rows(block: Block, kept: np.ndarray | slice) -> Block:
  """Returns some rows of a block; all names stay."""
  return {
    role: column._replace(codes=column.codes[kept])
    if isinstance(column, Symbols)
    else column[kept]
    for role, column in block.items()
  }


def text_offsets(names: Any) -> np.ndarray:
  """Returns where each text of an Arrow array of strings begins, and the end.

  >>> import pyarrow as pa
  >>> text_offsets(pa.array(["tea", "", "rum"]))
  array([0, 3, 3, 6], dtype=int32)
  """
  buffer = names.buffers()[1]
  if buffer is None:  # An array without any text.
    return np.zeros(len(names) + 1, np.int32)
  offsets = np.frombuffer(buffer, np.int32)
  return offsets[names.offset : names.offset + len(names) + 1]


def text_bytes(names: Any) -> np.ndarray:
  """Returns the bytes of all texts of an Arrow array, for their offsets.

  >>> import pyarrow as pa
  >>> text_bytes(pa.array(["a", "b"])).tolist()
  [97, 98]
  """
  buffer = names.buffers()[2]
  length = int(text_offsets(names)[-1])
  return np.frombuffer(buffer or b"", np.uint8)[:length]


def _describe(column: Column, problem: str) -> str:
  needs = {
    "symbol": "be text or a whole number that is not empty",
    "number": "be a finite number",
  }[column.kind]
  return f"`{column.name}` must {needs}, but it {problem}."
