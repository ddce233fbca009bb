"""Ratings from a CSV file that the user has."""

import array
import collections
import csv
import itertools
import math
import operator
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.datasets import ratings

COLUMNS = ("user", "item", "rating")
"""The columns that a file must have."""

TIME_COLUMN = "timestamp"
"""The column that it may have besides."""

_LARGEST = float(np.finfo(np.float32).max)
_LARGEST_EXACT = 2.0**53  # Whole numbers up to here have a float64 each.


class _Table(NamedTuple):
  """The columns of a file; arrays of machine numbers, 12 to 20 bytes a row."""

  users: array.array
  items: array.array
  values: array.array
  times: array.array
  user_ids: Mapping[str, int]
  item_ids: Mapping[str, int]


def read_csv(
  path: str | os.PathLike[str],
  *,
  test_path: str | os.PathLike[str] | None = None,
) -> ratings.Ratings:
  r"""Reads ratings from a CSV file with named columns.

  The first line names the columns: ``user``, ``item`` and ``rating``, and
  ``timestamp`` if there is one, in any order; further columns are ignored.
  Commas separate fields, and fields with commas, quotes or line ends are quoted
  (RFC 4180). Lines may end in ``\n`` or ``\r\n``; blank lines are skipped. A
  second rating of an item by the same user is one more rating.

  Args:
    path: The file: UTF-8, a byte order mark at its start is dropped. Only the
      numbers and one copy of each id are kept in memory.
    test_path: Another such file, whose ratings are those of the test.

  Returns:
    The ratings, with ids in order of first appearance. `order` holds the time
    stamps if all are whole numbers, else their ranks; without time stamps it is
    the order of the file.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If the file is not of this form; it names the line.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder) / "mine.csv"
  ...   _ = path.write_text("item,rating,user\ntea,4.5,ann\ntea,3,bob\n")
  ...   found = read_csv(path)
  >>> found.user_names, found.users, found.values
  (('ann', 'bob'), array([0, 1], dtype=int32),
   array([4.5, 3. ], dtype=float32))
  """
  if test_path is not None:
    return _join(read_csv(path), read_csv(test_path))
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise FileNotFoundError(
      f"The file of ratings {path.absolute()} does not exist."
    )
  table = _read_file(path)
  return ratings.make_ratings(
    f"csv:{path}",
    users=np.frombuffer(table.users, np.int32),
    items=np.frombuffer(table.items, np.int32),
    values=np.frombuffer(table.values, np.float32),
    order=_time_order(table),
    user_names=tuple(table.user_ids),
    item_names=tuple(table.item_ids),
    source=f"the user's file {path}",
  )


def _join(train: ratings.Ratings, test: ratings.Ratings) -> ratings.Ratings:
  """Joins ratings with others, the test; ids of the former come first."""
  names, columns = {}, {}
  for kind in ("user", "item"):
    parts = [getattr(part, f"{kind}_names") for part in (train, test)]
    # A dict keeps the order, and finds an id by its name.
    number = {name: i for i, name in enumerate(dict.fromkeys(sum(parts, ())))}
    new_ids = np.array([number[name] for name in parts[1]])
    names[f"{kind}_names"] = tuple(number)
    old = [getattr(part, f"{kind}s") for part in (train, test)]
    columns[f"{kind}s"] = np.concatenate([old[0], new_ids[old[1]]])
  for column in ("values", "order"):
    columns[column] = np.concatenate(
      [getattr(part, column) for part in (train, test)]
    )
  return ratings.make_ratings(
    train.name,
    **columns,
    **names,
    source=f"{train.source}, and {test.source}",
    num_train=len(train.values),
  )


def _read_file(path: pathlib.Path) -> _Table:
  with path.open(encoding="utf-8-sig", newline="") as file:
    reader = csv.reader(file, strict=True)
    try:
      return _read_rows(reader)
    except UnicodeDecodeError as error:  # Which is a ValueError, too.
      raise ValueError(_describe_encoding(path, error)) from error
    except (ValueError, csv.Error) as error:
      line = max(reader.line_num, 1)  # 0 if there was none to read.
      raise ValueError(f"{path}, line {line}: {error}") from error


def _read_rows(rows: Iterator[list[str]]) -> _Table:
  header = [name.strip() for name in next(rows, [])]
  _check_header(header)
  # Looked up once: the loop below runs millions of times.
  pick = operator.itemgetter(*map(header.index, COLUMNS))
  time_at = header.index(TIME_COLUMN) if TIME_COLUMN in header else None
  # A new id gets the next number when it is looked up first.
  user_ids = collections.defaultdict(itertools.count().__next__)
  item_ids = collections.defaultdict(itertools.count().__next__)
  # A list would take ten times the memory: a Python object for each number.
  users, items = array.array("i"), array.array("i")
  values, times = array.array("f"), array.array("d")
  for row in rows:
    if not row:  # A blank line, as many editors leave at the end.
      continue
    if len(row) != len(header):
      raise ValueError(_describe_fields(row, header))
    user, item, rating = pick(row)
    if not (user and item):
      raise ValueError(
        "`user` and `item` must not be empty, got "
        f"{user!r} and {item!r}. Fill them in or remove the line."
      )
    users.append(user_ids[user])
    items.append(item_ids[item])
    values.append(_parse_number("rating", rating))
    if time_at is not None:
      times.append(_parse_number(TIME_COLUMN, row[time_at]))
  if not users:
    raise ValueError(
      "there is no rating below the header. Add one line for each rating."
    )
  return _Table(users, items, values, times, user_ids, item_ids)


def _check_header(header: Sequence[str]) -> None:
  if not header:
    raise ValueError(
      f"there is no header. The first line must name the columns: {_columns()}."
    )
  for name in COLUMNS:
    if name not in header:
      raise ValueError(
        f"the header must name the columns {_columns()} between commas, got "
        f"{list(header)}: `{name}` is missing. Rename or add the column."
      )
  for name in (*COLUMNS, TIME_COLUMN):
    if header.count(name) > 1:
      raise ValueError(
        f"the header must name `{name}` once, got {list(header)}. Rename all "
        "but one of these columns."
      )


def _columns() -> str:
  return f"{','.join(COLUMNS)}[,{TIME_COLUMN}]"


def _describe_fields(row: Sequence[str], header: Sequence[str]) -> str:
  return (
    f"there must be {len(header)} fields, as in the header, got {len(row)}: "
    f"{list(row)}. Put quotation marks around fields that hold commas."
  )


def _parse_number(name: str, text: str) -> float:
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not abs(number) <= _LARGEST:  # Which is so for nan, too.
    raise ValueError(
      f"`{name}` must be a finite number, got {text!r}. Correct or remove the "
      "line."
    )
  return number


def _time_order(table: _Table) -> np.ndarray:
  if not table.times:
    return np.arange(len(table.users))
  times = np.frombuffer(table.times, np.float64)
  # Beyond, as in nanoseconds, and for fractions, only the order is kept.
  exact = np.abs(times) <= _LARGEST_EXACT
  if np.all(exact & (times == np.trunc(times))):
    return times.astype(np.int64)
  return np.unique(times, return_inverse=True)[1]


def _describe_encoding(path: pathlib.Path, error: UnicodeDecodeError) -> str:
  # The decoder works on blocks and does not know their place in the file.
  with path.open("rb") as file:
    line = next(
      number
      for number, line in enumerate(file, start=1)
      if line.decode("utf-8", "ignore").encode() != line
    )
  return (
    f"{path}, line {line}: the file must be UTF-8 text, got byte "
    f"0x{error.object[error.start]:02x}. Save it with the encoding UTF-8."
  )
