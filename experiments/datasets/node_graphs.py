"""Graphs with features and labels of their nodes, by name.

========== ============================================== ===== ===== =======
name       nodes                                          nodes words classes
========== ============================================== ===== ===== =======
cora       papers on machine learning, Sen et al. (2008)  2,708 1,433 7
citeseer   papers on computer science, Sen et al. (2008)  3,327 3,703 6
own:FOLDER the user's own graph                           any   any   any
========== ============================================== ===== ===== =======

The first two come with the split of Yang et al. (ICML 2016): 20 nodes of each
class for training, 500 for validation and 1,000 for the test; the other nodes
are seen without their labels. See :mod:`experiments.datasets.node_folders` for
the files of a graph of one's own.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.datasets import files, node_features

SPLITS = ("train", "valid", "test")
UNLABELLED = -1


class NodeGraph(NamedTuple):
  """A graph whose nodes have features, and some of them labels.

  Attributes:
    name: The name that `load_node_graph` takes.
    features: Sparse features of each node.
    edges: int32 [num_edges, 2], each undirected edge once, the smaller node
      first, sorted; no node is its own neighbour.
    labels: int32 [num_nodes], the number of the class of each node; -1 where
      it is not known.
    train: Nodes that a model learns from.
    valid: Nodes that may select a model.
    test: Nodes that only measure it.
    classes: Name of each class.
    counts: What was found and done when the graph was read, by name.
    source: Where the graph comes from, and its licence.
  """

  name: str
  features: node_features.SparseFeatures
  edges: np.ndarray
  labels: np.ndarray
  train: np.ndarray
  valid: np.ndarray
  test: np.ndarray
  classes: tuple[str, ...]
  counts: Mapping[str, int]
  source: str


class Published(NamedTuple):
  """A published graph.

  Attributes:
    sha256: SHA-256 of its file.
    num_words: Number of words; `shape` in the file may be transposed.
    num_classes: Number of classes.
  """

  sha256: str
  num_words: int
  num_classes: int


PUBLISHED = {
  "cora": Published(
    "eb698bd1c32192a4f4ef85b1c1ca6c887d1cd644a256e3b6c2e437e1610ab7db", 1433, 7
  ),
  "citeseer": Published(
    "45841665349e43b5061f17a829c98b08f5c81bd58744129c5522d64c6d803735", 3703, 6
  ),
}
"""The graphs that `load_node_graph` knows, besides ``own:FOLDER``."""

OWN = "own:"
_ORIGIN = (
  "the citation graphs of Yang et al. (2016), as the arrays `indptr`, "
  "`indices`, `data` (words of the papers), `labels`, `edges`, `train_idx`, "
  "`val_idx` and `test_idx`"
)


def load_node_graph(
  name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> NodeGraph:
  """Loads a graph by its name.

  Args:
    name: 'cora', 'citeseer', or ``own:`` and the path of a folder with
      ``features.npz``, ``edges.csv`` and ``labels.csv``.
    data_dir: Folder of data sets, by default ``$ANCHOR_CODES_DATA``, else
      ``../shared/data`` beside the project if there is one.

  Returns:
    The graph.

  Raises:
    ValueError: If the name is unknown, or a file is not as it must be.
    FileNotFoundError: If a file is missing; it names the path and the origin.
  """
  if name.startswith(OWN):
    # Imported here: it makes its graph by this module.
    from experiments.datasets import node_folders

    return node_folders.load_folder(name)
  if name not in PUBLISHED:
    known = ", ".join(map(repr, PUBLISHED))
    raise ValueError(
      f"There is no data set {name!r}: take {known} or 'own:FOLDER'."
    )
  return _load_published(name, data_dir)


def _load_published(
  name: str, data_dir: str | os.PathLike[str] | None
) -> NodeGraph:
  published = PUBLISHED[name]
  path = files.find_file(
    f"{name}.npz",
    dataset="planetoid",
    sha256=published.sha256,
    origin=_ORIGIN,
    data_dir=data_dir,
  )
  with np.load(path, allow_pickle=False) as arrays:
    features = node_features.from_csr(
      arrays["indptr"],
      arrays["indices"],
      arrays["data"],
      num_words=published.num_words,
    )
    indices = [arrays[key] for key in ("train_idx", "val_idx", "test_idx")]
    return make_graph(
      name,
      features,
      arrays["edges"],
      arrays["labels"],
      splits=dict(zip(SPLITS, indices, strict=True)),
      classes=tuple(map(str, range(published.num_classes))),
      source="Sen et al. (2008), split of Yang et al. (2016), licence unstated",
    )


def make_graph(
  name: str,
  features: node_features.SparseFeatures,
  edges: np.ndarray,
  labels: np.ndarray,
  *,
  splits: Mapping[str, np.ndarray],
  classes: Sequence[str],
  source: str,
) -> NodeGraph:
  """Checks the parts of a graph, and cleans its edges.

  Self loops are dropped: a convolution adds its own. An edge that comes twice,
  in the same or in the other direction, counts once. Nodes without edges,
  without words and without labels are kept. All of these are counted.

  A class without a node to learn from gives a warning: a model will not predict
  it, and its nodes count as errors.

  Args:
    name: Name of the graph.
    features: Features of all nodes.
    edges: Pairs of nodes [n, 2], in any order.
    labels: Number of the class of each node, -1 if it is not known.
    splits: Nodes of "train", "valid" and "test".
    classes: Name of each class.
    source: Origin and licence.

  Returns:
    The graph.

  Raises:
    ValueError: If a node of an edge or of a split does not exist, a split is
      empty or has a node without a label, or two of them share a node.

  >>> graph = make_graph(
  ...     "toy", node_features.from_dense(np.eye(4)),
  ...     np.array([[0, 1], [1, 0], [2, 2]]), np.array([0, 1, 0, -1]),
  ...     splits={"train": [0, 1], "valid": [2], "test": [2]},
  ...     classes=("a", "b"), source="ours")
  Traceback (most recent call last):
  ...
  ValueError: toy: node 2 must be in one split only.
  """
  nodes = {split: np.asarray(splits[split], np.int32) for split in SPLITS}
  labels = np.asarray(labels, np.int32)
  cleaned, counts = clean_edges(edges, num_nodes=features.num_nodes)
  _check_splits(name, nodes, labels, features.num_nodes)
  counts |= {
    "nodes_without_words": int(np.sum(np.diff(features.indptr) == 0)),
    "unlabelled_nodes": int(np.sum(labels == UNLABELLED)),
  }
  _warn_of_unseen(name, nodes, labels, classes)
  return NodeGraph(
    name=name,
    features=features,
    edges=cleaned,
    labels=labels,
    **nodes,
    classes=tuple(classes),
    counts=counts,
    source=source,
  )


def clean_edges(
  edges: np.ndarray, *, num_nodes: int
) -> tuple[np.ndarray, dict[str, int]]:
  """Drops self loops and edges that repeat, in either direction.

  Args:
    edges: Pairs of nodes [n, 2], in any order; there may be none.
    num_nodes: Number of nodes.

  Returns:
    Each undirected edge once, the smaller node first, sorted; and the counts of
    nodes, of edges kept, of what was dropped, and of nodes without an edge.

  Raises:
    ValueError: If a node does not exist.

  >>> edges, counts = clean_edges(
  ...     np.array([[2, 1], [1, 2], [0, 0]]), num_nodes=4)
  >>> edges.tolist(), counts["self_loops"], counts["repeated_edges"]
  ([[1, 2]], 1, 1)
  """
  pairs = np.asarray(edges, np.int64).reshape(-1, 2)
  bad = pairs[(pairs < 0) | (pairs >= num_nodes)]
  if bad.size:
    raise ValueError(
      f"`edges` must join nodes in [0, {num_nodes}), got node {bad[0]}."
    )
  proper = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
  # One number for each edge sorts faster than rows do.
  numbers = np.unique(proper[:, 0] * num_nodes + proper[:, 1])
  kept = np.stack(np.divmod(numbers, num_nodes), axis=1).astype(np.int32)
  return kept, {
    "nodes": num_nodes,
    "edges": len(kept),
    "self_loops": len(pairs) - len(proper),
    "repeated_edges": len(proper) - len(kept),
    "isolated_nodes": num_nodes - len(np.unique(kept)),
  }


def _check_splits(
  name: str, splits: Mapping[str, np.ndarray], labels: np.ndarray, size: int
) -> None:
  if labels.shape != (size,):
    raise ValueError(
      f"{name}: `labels` must be [{size}], one for each node, got "
      f"{labels.shape}."
    )
  for split, nodes in splits.items():
    if not nodes.size:
      raise ValueError(f"{name}: the split {split!r} must not be empty.")
    bad = nodes[(nodes < 0) | (nodes >= size)]
    if bad.size:
      raise ValueError(
        f"{name}: nodes of {split!r} must be in [0, {size}), got {bad[0]}."
      )
    bad = nodes[labels[nodes] < 0]
    if bad.size:
      raise ValueError(f"{name}: node {bad[0]} of {split!r} has no label.")
  times = np.bincount(np.concatenate([*splits.values()]))
  if times.max() > 1:
    node = np.argmax(times > 1)
    raise ValueError(f"{name}: node {node} must be in one split only.")


def _warn_of_unseen(
  name: str,
  splits: Mapping[str, np.ndarray],
  labels: np.ndarray,
  classes: Sequence[str],
) -> None:
  seen = np.bincount(labels[splits["train"]], minlength=len(classes))
  for number in np.flatnonzero(seen == 0).tolist():
    others = np.concatenate([splits["valid"], splits["test"]])
    errors = int(np.sum(labels[others] == number))
    warnings.warn(
      f"{name}: the class {classes[number]!r} has no node to learn from: its "
      f"{errors} nodes in validation and test count as errors.",
      stacklevel=3,
    )
