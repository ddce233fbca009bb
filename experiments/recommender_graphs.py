"""Graphs along which users and items are exchanged in training."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from anchor_codes import ops
from experiments.datasets import movies, people, relations
from experiments.datasets.ratings import Ratings

DataDir = str | os.PathLike[str] | None


def load_graph(
  name: str, data: Ratings, *, data_dir: DataDir = None
) -> ops.Graph | ops.ClassGraph:
  """Loads the graph of the users or of the items of some ratings.

  Args:
    name: 'ages' for users of the same age group; 'genres' for items that share
      a genre, or 'genre_set' for items of which all genres are the same. An
      item without a genre has no neighbours.
    data: The ratings; their name is that of the data set.
    data_dir: Folder of data sets.

  Returns:
    A graph of as many nodes as there are users, or items.

  Raises:
    ValueError: If nothing of this kind is known of the data set.
    FileNotFoundError: If a file is missing; it names the path.
  """
  return _LOADERS[name](data, data_dir)


def class_numbers(values: Any) -> np.ndarray:
  """Numbers distinct values by first appearance; -1 stands for empty ones.

  >>> print(class_numbers([("war",), (), ("war", "drama"), ("war",)]))
  [ 0 -1  1  0]
  """
  distinct = dict.fromkeys(filter(None, values))
  number = {value: i for i, value in enumerate(distinct)}
  return np.array([number.get(value, -1) for value in values])


def _ages(data: Ratings, data_dir: DataDir) -> ops.ClassGraph:
  groups = people.load_age_groups(
    data.name, user_names=data.user_names, data_dir=data_dir
  )
  return ops.graph_from_classes(groups)


def _genres_of(data: Ratings, data_dir: DataDir) -> list[tuple[str, ...]]:
  found = movies.load_genres(
    data.name, item_names=data.item_names, data_dir=data_dir
  )
  return [tuple(sorted(genres)) for genres in found]


def _genres(data: Ratings, data_dir: DataDir) -> ops.Graph:
  return relations.shared_attribute_graph(_genres_of(data, data_dir))


def _genre_set(data: Ratings, data_dir: DataDir) -> ops.ClassGraph:
  return ops.graph_from_classes(class_numbers(_genres_of(data, data_dir)))


_LOADERS: dict[str, Callable[[Ratings, DataDir], Any]] = {
  "ages": _ages,
  "genres": _genres,
  "genre_set": _genre_set,
}
