"""Events of users and items from a CSV file that the user has."""

import csv
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.datasets import files

PREFIX = "csv:"
"""How the name of such a data set begins."""

COLUMNS = ("user", "item")
"""The columns that a file must have."""

TIME_COLUMNS = ("time", "timestamp")
"""The column that it may have besides, under one of these names."""


def read_csv(path: str | os.PathLike[str]) -> dict[str, Any]:
  r"""Reads events from a CSV file with named columns.

  The first line names the columns: ``user`` and ``item``, and ``time`` or
  ``timestamp`` if there is one, in any order; further columns are ignored.
  Users and items are any strings, times are numbers. Blank lines are skipped.

  Args:
    path: The file, UTF-8.

  Returns:
    Arguments for :func:`experiments.datasets.sequences.make_sequences`: without
    times the order is that of the file. Ids are numbered by first appearance.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If the file is not of this form; it names the line.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder) / "mine.csv"
  ...   _ = path.write_text("item,time,user\ntea,2,ann\nrum,1,ann\n")
  ...   found = read_csv(path)
  >>> found["items"], found["order"], found["item_names"]
  ([0, 1], array([2., 1.]), ['tea', 'rum'])
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise FileNotFoundError(
      f"The file of events {path.absolute()} does not exist."
    )
  # With their ends, which may be part of a quoted field.
  lines = (f"{line}\n" for line in files.read_lines(path))
  reader = csv.reader(lines, strict=True)
  try:
    return _read_rows(reader)
  except (ValueError, csv.Error) as error:
    line = max(reader.line_num, 1)  # 0 if there was none to read.
    raise ValueError(f"{path}, line {line}: {error}") from error


def _read_rows(rows: Iterator[list[str]]) -> dict[str, Any]:
  header = [name.strip() for name in next(rows, [])]
  places = _find_columns(header)
  user_ids: dict[str, int] = {}
  item_ids: dict[str, int] = {}
  users, items, times = [], [], []
  for row in rows:
    if not row:  # A blank line, as many editors leave at the end.
      continue
    if len(row) != len(header):
      raise ValueError(
        f"there must be {len(header)} fields, as in the header, got {row}."
      )
    user, item, *time = (row[place] for place in places)
    if not (user and item):
      raise ValueError(
        f"`user` and `item` must not be empty, got {user!r} and {item!r}."
      )
    users.append(user_ids.setdefault(user, len(user_ids)))
    items.append(item_ids.setdefault(item, len(item_ids)))
    times.extend(map(_parse_time, time))
  if not users:
    raise ValueError("there must be an event below the header, got none.")
  return {
    "users": users,
    "items": items,
    "order": np.array(times) if times else None,
    "user_names": list(user_ids),
    "item_names": list(item_ids),
  }


def _find_columns(header: Sequence[str]) -> list[int]:
  """Returns the places of the user, of the item, and of the time if given."""
  times = [name for name in header if name in TIME_COLUMNS]
  for name in (*COLUMNS, *times[:1]):
    if header.count(name) != 1 or len(times) > 1:
      raise ValueError(
        "the header must name the columns user,item[,time] once each, between "
        f"commas, got {list(header)}."
      )
  return [header.index(name) for name in (*COLUMNS, *times)]


def _parse_time(text: str) -> float:
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not math.isfinite(number):
    raise ValueError(f"the time must be a finite number, got {text!r}.")
  return number
