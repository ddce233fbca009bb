"""Files of interactions, read block by block in pieces of their own.

A *piece* is the smallest part of the files that can be read without the others:
a text file, a row group of a Parquet file, or some records in a row of an
ArrayRecord file. Only one block of a piece, and only the columns that are asked
for, are in memory at a time.
"""

import abc
import hashlib
import importlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from experiments.datasets import interactions_columns as columns_lib
from experiments.datasets.interactions_columns import Block, Column

_SUFFIXES = {
  ".csv": "text",
  ".tsv": "text",
  ".parquet": "parquet",
  ".array_record": "records",
}
_NEEDED = {"pyarrow": "parquet", "array_record": "experiments"}


class Piece(NamedTuple):
  """A part of a file that can be read on its own.

  Attributes:
    path: The file.
    start: Its first row group, or record; 0 for a whole file.
    stop: The one after its last.
  """

  path: pathlib.Path
  start: int = 0
  stop: int = 1


class Source(abc.ABC):
  """Some files of one kind; :func:`open_source` makes one.

  Attributes:
    paths: The files.
    columns: The columns that are read, by what they are in a model.
    pieces: The parts that can be read on their own, in the order of the files.
  """

  def __init__(
    self, paths: tuple[pathlib.Path, ...], columns: Mapping[str, Column]
  ):
    self.paths = paths
    self.columns = columns
    self.pieces = tuple(piece for path in paths for piece in self._cut(path))

  def read(self, piece: Piece) -> Iterator[tuple[int, Block]]:
    """Reads a piece.

    Yields:
      The number of rows before, and the next block.

    Raises:
      ValueError: If the file is damaged, holds no rows, or a value must not be
        there; it names the file and the line or row.
    """
    row = 0
    for batch in self._read(piece):
      try:
        block = columns_lib.read_block(batch, self.columns)
      except columns_lib.BadValueError as error:
        raise self.error(piece, row + error.row, str(error)) from None
      yield row, block
      row += batch.num_rows
    if not row:
      raise empty_error(piece.path)

  def error(self, piece: Piece, row: int, message: str) -> ValueError:
    """Returns an error about a row of a piece, which it says where to find."""
    return ValueError(f"{piece.path}, {self._place(piece, row)}: {message}")

  def fingerprint(self) -> str:
    """Returns a digest of the names and sizes of the files, and the columns.

    It tells another set of files, not an edit that keeps every size.
    """
    sizes = [(path.name, path.stat().st_size) for path in self.paths]
    content = json.dumps([sizes, dict(self.columns)])
    return hashlib.sha256(content.encode()).hexdigest()

  @abc.abstractmethod
  def _cut(self, path: pathlib.Path) -> Iterator[Piece]:
    """Checks that a file has the columns, and yields its pieces."""

  @abc.abstractmethod
  def _read(self, piece: Piece) -> Iterator[Any]:
    """Yields Arrow record batches with the columns of a piece, in order."""

  @abc.abstractmethod
  def _place(self, piece: Piece, row: int) -> str:
    """Says where a row of a piece is in its file."""


def open_source(
  path: str | os.PathLike[str], *, columns: Mapping[str, Column]
) -> Source:
  r"""Opens a file of interactions, or all files in a folder.

  * ``.csv``, ``.tsv``, and both with ``.gz``: commas, or tabs, between fields,
    which may be quoted (RFC 4180); UTF-8. Names of columns are those of a
    header; where all are numbers there is none.
  * ``.parquet``: symbols as strings or whole numbers.
  * ``.array_record`` (also with ``-00000-of-00001``): a JSON object for each
    record, such as ``{"user": "ann", "item": 7, "rating": 4.5}``. An id is a
    string or a whole number, of the same kind in all records of a file.

  Args:
    path: The file, or a folder of files of one kind, the *shards*. Names that
      begin with a dot or an underscore are left out.
    columns: The columns to read, by what they are in a model.

  Returns:
    The source. Its pieces follow the names of the files.

  Raises:
    FileNotFoundError: If there is no such file, or none in the folder.
    ImportError: If pyarrow or array_record is not installed.
    ValueError: If the suffix is unknown, the files differ in kind, or one of
      them is damaged, empty or lacks a column.

  >>> import tempfile
  >>> columns = {"user": Column("user", "symbol")}
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder, "mine.csv")
  ...   _ = path.write_text("item,user\nrum,ann\ntea,bob\ntea,ann\n")
  ...   source = open_source(path, columns=columns)
  ...   ((row, block),) = source.read(source.pieces[0])
  >>> row, block["user"].texts(), block["user"].codes
  (0, ['ann', 'bob'], array([0, 1, 0], dtype=int32))
  """
  return open_files(list_files(path), columns=columns)


def open_files(
  paths: tuple[pathlib.Path, ...], *, columns: Mapping[str, Column]
) -> Source:
  """Opens some files of one kind, see :func:`open_source`."""
  kinds = {path: _kind(path) for path in paths}
  if len(set(kinds.values())) > 1:
    first, other = (
      paths[0],
      next(p for p in paths if kinds[p] != kinds[paths[0]]),
    )
    raise ValueError(
      f"all files must be of one kind, got {first} and {other}. Keep one kind "
      "in a folder."
    )
  module = _import(f"experiments.datasets.interactions_{kinds[paths[0]]}")
  return module.open_files(paths, columns)


def list_files(path: str | os.PathLike[str]) -> tuple[pathlib.Path, ...]:
  """Returns a file, or the files in a folder by their names.

  Raises:
    FileNotFoundError: If there is none.
  """
  path = pathlib.Path(path).expanduser()
  if path.is_file():
    return (path,)
  if not path.is_dir():
    raise FileNotFoundError(
      f"{path.absolute()} is neither a file nor a folder."
    )
  found = tuple(
    file
    for file in sorted(path.iterdir())
    # Other programs leave notes such as `_SUCCESS` and `.part.crc`.
    if file.is_file() and not file.name.startswith((".", "_"))
  )
  if not found:
    raise FileNotFoundError(f"The folder {path.absolute()} holds no files.")
  return found


def empty_error(path: pathlib.Path) -> ValueError:
  """Returns the error about a file without rows.

  A shard that lost its rows looks like one that never had any.
  """
  return ValueError(
    f"{path} holds no rows. Remove the file, or write it again if it should."
  )


def missing_error(path: pathlib.Path, name: str, found: Any) -> ValueError:
  """Returns the error about a file that lacks a column."""
  return ValueError(
    f"{path} must have the column {name!r}, got {list(found)}. Rename or add "
    "the column."
  )


def _kind(path: pathlib.Path) -> str:
  name = path.name.removesuffix(".gz")
  for suffix, kind in _SUFFIXES.items():
    # TFDS numbers its files *behind* the suffix.
    if name.endswith(suffix) or f"{suffix}-" in name:
      return kind
  raise ValueError(
    f"the name of {path} must end in one of {', '.join(_SUFFIXES)} or in "
    "'.csv.gz', '.tsv.gz'."
  )


def _import(module: str) -> Any:
  try:
    return importlib.import_module(module)
  except ImportError as error:
    package = (error.name or "").split(".")[0]
    extra = _NEEDED.get(package)
    if extra is None:
      raise
    raise ImportError(
      f"Files of interactions need {package}: pip install "
      f"'anchor-codes[{extra}]'."
    ) from error
