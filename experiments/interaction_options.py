"""The options of runs on interactions that do not fit in memory."""

import dataclasses
from typing import Any

from anchor_codes import typing
from experiments.datasets.interactions_columns import Column, Kind

PREFIX = "interactions:"
"""What the name of such a data set begins with; the path follows."""

_ROLES: dict[str, Kind] = {
  "user": "symbol",
  "item": "symbol",
  "rating": "number",
  "timestamp": "number",
  "split": "symbol",
}


@dataclasses.dataclass(kw_only=True)
class InteractionOptions:
  """How files of interactions become batches of ids.

  Attributes:
    columns: Names of the columns of users, items, ratings, times and parts,
      between commas; the last two only where `split` needs them. Numbers from 0
      for text files without a header.
    ids: 'vocabulary' for one id for each symbol, or 'hash' for `id_buckets` of
      them, which symbols may share.
    id_buckets: Ids of users, and of items, for 'hash'.
    user_vocabulary: A text file with one user in each line, or the file of a
      table; by default the users of the training rows, found in a first pass.
    item_vocabulary: The same for the items.
    min_count: Symbols that occur less often in training have no id of their
      own, where the vocabulary is found.
    max_symbols: The most users, and the most items, with an id of their own,
      where the vocabulary is found; 0 for all.
    unknown: 'row' for one more id for all symbols outside the vocabulary, or
      'error'.
    split_times: The first time of the validation rows, and that of the test
      rows, between commas, for the split 'chronological'.
    shuffle_rows: Rows of the buffer that they are shuffled in.
  """

  columns: str = "user,item,rating,timestamp,split"
  ids: str = "vocabulary"
  id_buckets: int = 1 << 20
  user_vocabulary: str = ""
  item_vocabulary: str = ""
  min_count: int = 1
  max_symbols: int = 0
  unknown: str = "row"
  split_times: str = ""
  shuffle_rows: int = 1 << 20


def is_streamed(config: Any) -> bool:
  """Tells whether a run reads its data as a stream."""
  return config.dataset.startswith(PREFIX)


def columns_of(options: InteractionOptions, *more: str) -> dict[str, Column]:
  """Returns the columns of users, items and ratings, and further ones.

  Raises:
    ValueError: If one of them has no name.

  >>> options = InteractionOptions(columns="userId,movieId,rating")
  >>> columns_of(options)["item"]
  Column(name='movieId', kind='symbol')
  """
  names = options.columns.split(",")
  by_role = dict(zip(_ROLES, names, strict=False))
  wanted = ("user", "item", "rating", *more)
  for role in wanted:
    if not by_role.get(role):
      raise ValueError(
        f"`columns` must name that of the {role}, got {options.columns!r}."
      )
  return {role: Column(by_role[role], _ROLES[role]) for role in wanted}


def times_of(options: InteractionOptions) -> tuple[float, float]:
  """Returns the first times of validation and test.

  Raises:
    ValueError: If they are not two numbers.

  >>> times_of(InteractionOptions(split_times="1e9,2e9"))
  (1000000000.0, 2000000000.0)
  """
  try:
    valid, test = map(float, options.split_times.split(","))
  except ValueError:
    raise ValueError(
      "`split_times` must be two numbers between commas for the split "
      f"'chronological', got {options.split_times!r}."
    ) from None
  return valid, test


def check_interactions(config: Any) -> None:
  """Raises `ValueError` if options of a streamed run are wrong."""
  if not is_streamed(config):
    return
  typing.check_choice("ids", config.ids, ("vocabulary", "hash"))
  typing.check_choice("unknown", config.unknown, ("row", "error"))
  splits = ("random", "chronological", "given")
  typing.check_choice("split", config.split, splits)
  for name in ("id_buckets", "min_count", "shuffle_rows"):
    typing.check_at_least(name, getattr(config, name), 1)
  # These need all ratings, or the names of movies.
  needed = {
    "loss": "mse",
    "sampling": "shuffle",
    "rule": "",
    "relations": "",
    "sharing_graph": "",
    "test_file": "",
    "valid_share": 0,
  }
  for name, value in needed.items():
    if getattr(config, name) != value:
      raise ValueError(
        f"`dataset` 'interactions:' needs `{name}` {value!r}, got "
        f"{getattr(config, name)!r}."
      )
  columns_of(config)
  if config.split == "chronological":
    times_of(config)
