"""Graphs along which a sequential recommender exchanges users and items."""

from typing import Any, cast

import numpy as np

from anchor_codes import ops
from anchor_codes.ops import graph_builders
from experiments import recommender_graphs, sequential_options
from experiments.datasets.sequences import Sequences
from experiments.sequential_options import SequentialConfig


def load_graphs(config: SequentialConfig, data: Sequences) -> dict[str, Any]:
  """Returns the graphs that the options ask for, by the name of their table.

  Args:
    config: Options of the run.
    data: The sequences.

  Returns:
    Graphs; node 0 of that of the items is item 1.

  Raises:
    ValueError: If nothing of the kind is known of the data set.
    FileNotFoundError: If a file is missing; it names the path.
  """
  names = sequential_options.graph_names(config)
  return {table: _load(name, config, data) for table, name in names.items()}


def _load(name: str, config: SequentialConfig, data: Sequences) -> Any:
  if name == "bigrams":
    return bigram_graph(data)
  # All that is asked of ratings there, sequences have as well: names.
  named = cast(Any, data)
  return recommender_graphs.load_graph(
    name, named, data_dir=config.data_dir or None
  )


def bigram_graph(data: Sequences) -> ops.Graph:
  """Connects items that follow each other in training, by how often they do.

  Args:
    data: The sequences.

  >>> from experiments.datasets.sequences import make_sequences
  >>> graph = bigram_graph(make_sequences(
  ...   "toy", users=[0] * 5, items=[0, 1, 0, 2, 1], user_names=["ann"],
  ...   item_names=["tea", "rum", "ale"], source="ours"))
  >>> print(graph.offsets)
  [0 1 2 2]
  """
  _, items = data.train_events
  ends = np.cumsum(data.train_lengths)[:-1]
  return graph_builders.graph_from_bigrams(
    np.split(items - 1, ends), num_nodes=data.num_items
  )
