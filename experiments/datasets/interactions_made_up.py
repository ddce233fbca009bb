"""Made-up interactions of any number, in files of any kind."""

import csv
import gzip
import importlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

_BLOCK = 1 << 16
HEADER = ("user", "item", "rating", "timestamp")
"""The columns of the files."""


def make_interactions(
  num_rows: int,
  *,
  num_users: int = 100_000,
  num_items: int = 20_000,
  seed: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
  """Makes interactions up, block by block, of which only one is in memory.

  Items are popular in inverse proportion to their ranks, and ratings are the
  signs of a product of two numbers, one for the user and one for the item, plus
  noise: there is something to learn.

  Args:
    num_rows: Number of interactions.
    num_users: Number of users.
    num_items: Number of items.
    seed: Seed of all choices.

  Yields:
    Blocks of numbers of users and items, ratings 1 to 5 and time stamps.

  >>> (block,) = make_interactions(3, num_users=5, num_items=5)
  >>> {name: len(column) for name, column in block.items()}
  {'user': 3, 'item': 3, 'rating': 3, 'timestamp': 3}
  """
  for number, start in enumerate(range(0, num_rows, _BLOCK)):
    rng, size = (
      np.random.default_rng([seed, number]),
      min(_BLOCK, num_rows - start),
    )
    users = rng.integers(num_users, size=size)
    items = (num_items ** rng.random(size)).astype(np.int64) - 1
    taste = np.sin(12.9898 * users) * np.sin(78.233 * items)
    ratings = 3 + 1.5 * np.sign(taste) + rng.normal(0, 0.5, size)
    yield {
      "user": users,
      "item": items,
      "rating": np.clip(np.round(2 * ratings) / 2, 1, 5),
      "timestamp": 1_000_000_000 + np.arange(start, start + size),
    }


def write_interactions(
  path: str | os.PathLike[str], num_rows: int, **made_up: int
) -> pathlib.Path:
  """Writes made-up interactions, with symbols such as ``u17`` and ``i4``.

  Args:
    path: A file for :func:`interactions_sources.open_source`; its suffix
      chooses the kind.
    num_rows: Number of interactions.
    **made_up: Further arguments of :func:`make_interactions`.

  Returns:
    The path.
  """
  path = pathlib.Path(path)
  blocks = make_interactions(num_rows, **made_up)
  writers = {".parquet": _write_parquet, ".array_record": _write_records}
  writers.get(path.suffix, _write_text)(path, blocks)
  return path


def _rows(
  block: dict[str, np.ndarray],
) -> Iterator[tuple[str, str, float, int]]:
  columns = (block[name].tolist() for name in HEADER)
  for user, item, rating, time in zip(*columns, strict=True):
    yield f"u{user}", f"i{item}", rating, time


def _write_text(
  path: pathlib.Path, blocks: Iterator[dict[str, np.ndarray]]
) -> None:
  is_packed = path.suffix == ".gz"
  delimiter = "\t" if ".tsv" in path.suffixes else ","
  opener = gzip.open if is_packed else open
  with opener(path, "wt", encoding="utf-8", newline="") as file:
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerow(HEADER)
    for block in blocks:
      writer.writerows(_rows(block))


def _write_parquet(
  path: pathlib.Path, blocks: Iterator[dict[str, np.ndarray]]
) -> None:
  import pyarrow as pa
  from pyarrow import parquet

  types = (pa.string(), pa.string(), pa.float64(), pa.int64())
  schema = pa.schema(zip(HEADER, types, strict=True))
  with parquet.ParquetWriter(path, schema) as writer:
    for block in blocks:
      columns = map(list, zip(*_rows(block), strict=True))
      writer.write_table(pa.table(list(columns), schema=schema))


def _write_records(
  path: pathlib.Path, blocks: Iterator[dict[str, np.ndarray]]
) -> None:
  module: Any = importlib.import_module(
    "array_record.python.array_record_module"
  )
  writer = module.ArrayRecordWriter(str(path), "group_size:256")
  for block in blocks:
    for row in _rows(block):
      record = dict(zip(HEADER, row, strict=True))
      writer.write(json.dumps(record).encode())
  writer.close()
