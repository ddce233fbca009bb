"""Graphs along which ids are exchanged in training, for `sharing` 'graph'.

========= =====================================================================
name      neighbours
========= =====================================================================
framenet  related words, and so 'ppdb' and 'wordnet'; see
          :mod:`experiments.datasets.relations`
bigrams   symbols next to each other in the training text, weighted by how often
FILE.csv  the rows of a file, see :mod:`experiments.datasets.edge_lists`
========= =====================================================================
"""

import os
from collections.abc import Collection, Sequence

import numpy as np
from absl import logging

from anchor_codes import ops
from experiments.datasets import edge_lists, relations

NAMES: tuple[str, ...] = (*relations.RELATION_NAMES, "bigrams")
"""The names that `load_sharing_graph` knows, besides those of files."""

_SUFFIX = ".csv"


def load_sharing_graph(
  name: str,
  *,
  vocabulary: Sequence[str],
  special_ids: Collection[int] = (),
  sequences: np.ndarray | None = None,
  data_dir: str | os.PathLike[str] | None = None,
) -> ops.Graph:
  """Loads the neighbours of symbols.

  Args:
    name: One of `NAMES`, or the path of a .csv file.
    vocabulary: All symbols, in the order of their ids.
    special_ids: Ids without neighbours, which are no nodes of the graph.
    sequences: Ids of the training text, one text in each row, for 'bigrams';
      None where symbols have no order.
    data_dir: Folder of data sets, for the lexicons.

  Returns:
    A graph of the symbols that are not special, in the order of their ids.

  Raises:
    ValueError: If the name is unknown, the file is not as it must be, or no
      symbol has a neighbour.
    FileNotFoundError: If a file is missing.

  >>> graph = load_sharing_graph(
  ...   "bigrams", vocabulary="ab_c", special_ids=[2],
  ...   sequences=np.array([0, 1, 2, 3, 1])
  ... )
  >>> print(graph.offsets, graph.neighbors)
  [0 1 3 4] [1 0 2 1]
  """
  special = set(special_ids)
  ordinary = [i for i in range(len(vocabulary)) if i not in special]
  symbols = [vocabulary[i] for i in ordinary]
  if name == "bigrams":
    graph = _bigrams(ordinary, len(vocabulary), sequences)
  elif name.endswith(_SUFFIX):
    graph = _own_graph(name, symbols)
  elif name in NAMES:
    graph = relations.load_relations(
      name, vocabulary=symbols, data_dir=data_dir
    )
  else:
    known = ", ".join(map(repr, NAMES))
    raise ValueError(
      f"`sharing_graph` must be one of {known} or the path of a {_SUFFIX} "
      f"file, got {name!r}."
    )
  if not graph.neighbors.size:
    raise ValueError(
      f"`sharing_graph` {name!r} must relate some of the {len(symbols)} "
      "symbols, got no pair of them."
    )
  return graph


def _bigrams(
  ordinary: Sequence[int], vocab_size: int, sequences: np.ndarray | None
) -> ops.Graph:
  if sequences is None:
    raise ValueError(
      "`sharing_graph` 'bigrams' needs symbols in an order, as in a text; here "
      "they have none."
    )
  # Special symbols become -1, which breaks a sequence.
  nodes = np.full(vocab_size, -1)
  nodes[ordinary] = np.arange(len(ordinary))
  return ops.graph_from_bigrams(nodes[sequences], num_nodes=len(ordinary))


def _own_graph(path: str, symbols: Sequence[str]) -> ops.Graph:
  found = edge_lists.read_edges(path, symbols)
  if found.num_unknown:
    logging.warning(
      "%s: %d of %d edges name symbols that are not in the vocabulary, such as "
      "%r; they are left out.",
      path,
      found.num_unknown,
      found.num_unknown + len(found.edges),
      found.example,
    )
  return ops.graph_from_edges(
    found.edges, num_nodes=len(symbols), weights=found.weights
  )
