"""The user's own graph, in a folder of three files.

* ``features.npz``: one row for each node, see
  :func:`experiments.datasets.node_features.read_features`. The number of a node
  is that of its row, counted from 0.
* ``edges.csv``: a header with ``source`` and ``target``, and a line for each
  edge. Directions do not count.
* ``labels.csv``: a header with ``node``, ``label`` and ``split``. Labels are
  any strings; the split is ``train``, ``valid``, ``test``, or empty for a node
  that no split takes. A label may be empty only where the split is. Nodes that
  have no line are seen without a label.

Other columns are passed over, and so are blank lines.
"""

import array
import csv
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from experiments.datasets import (
  classification_csv,
  files,
  node_features,
  node_graphs,
)

FILENAMES = _FEATURES, _EDGES, _LABELS = (
  "features.npz",
  "edges.csv",
  "labels.csv",
)


def load_folder(name: str) -> node_graphs.NodeGraph:
  """Reads a graph from a folder.

  Args:
    name: ``own:`` and the path of the folder.

  Returns:
    The graph. Classes are in the order of numbers if all are integers, else of
    their code points.

  Raises:
    FileNotFoundError: If a file is missing.
    ValueError: If a file is not as it must be; it names the file, and the line
      and the node where there is one.
  """
  folder = pathlib.Path(name.removeprefix(node_graphs.OWN)).expanduser()
  for filename in FILENAMES:
    if not (folder / filename).is_file():
      raise FileNotFoundError(
        f"`{name}` needs the file {(folder / filename).absolute()}, which does "
        "not exist."
      )
  features = node_features.read_features(folder / _FEATURES)
  edges = _read_edges(folder / _EDGES, features.num_nodes)
  names, splits = _read_labels(folder / _LABELS, features.num_nodes)
  classes = classification_csv.sort_classes(filter(None, names))
  if len(classes) < 2:
    raise ValueError(
      f"{folder / _LABELS} must have at least 2 classes, got {len(classes)}."
    )
  number = {label: i for i, label in enumerate(classes)}
  return node_graphs.make_graph(
    str(folder),
    features,
    edges,
    np.array([number.get(label, node_graphs.UNLABELLED) for label in names]),
    splits=splits,
    classes=classes,
    source=f"the user's folder {folder}",
  )


def _read_edges(path: pathlib.Path, num_nodes: int) -> np.ndarray:
  # A list would take ten times the memory: a Python object for each number.
  nodes = array.array("q")
  for line, fields in _read_columns(path, ("source", "target")):
    for column, field in zip(("source", "target"), fields, strict=True):
      nodes.append(_parse_node(path, line, column, field, num_nodes))
  return np.array(nodes, np.int64).reshape(-1, 2)


def _read_labels(
  path: pathlib.Path, num_nodes: int
) -> tuple[list[str], dict[str, np.ndarray]]:
  """Returns the label of each node, and the nodes of each split."""
  labels, lines = [""] * num_nodes, dict[int, int]()
  splits: dict[str, list[int]] = {split: [] for split in node_graphs.SPLITS}
  for line, fields in _read_columns(path, ("node", "label", "split")):
    text, label, split = fields
    node = _parse_node(path, line, "node", text, num_nodes)
    if node in lines:
      raise ValueError(
        f"{path}, line {line}: node {node} must have one line, got another one "
        f"in line {lines[node]}."
      )
    if split and split not in splits:
      raise ValueError(
        f"{path}, line {line}: the split of node {node} must be 'train', "
        f"'valid', 'test' or empty, got {split!r}."
      )
    if split and not label:
      raise ValueError(
        f"{path}, line {line}: node {node} of {split!r} must have a label."
      )
    labels[node], lines[node] = label, line
    if split:
      splits[split].append(node)
  return labels, {split: np.array(found) for split, found in splits.items()}


def _parse_node(
  path: pathlib.Path, line: int, column: str, text: str, num_nodes: int
) -> int:
  # `isdecimal` alone takes the digits of all scripts.
  if not (text.isascii() and text.isdecimal()):
    raise ValueError(
      f"{path}, line {line}: {column!r} must be the number of a node, got "
      f"{text!r}."
    )
  node = int(text)
  if node >= num_nodes:
    raise ValueError(
      f"{path}, line {line}: {column!r} is node {node}, which does not exist: "
      f"{_FEATURES} has {num_nodes} nodes, 0 to {num_nodes - 1}."
    )
  return node


def _read_columns(
  path: pathlib.Path, columns: Sequence[str]
) -> Iterator[tuple[int, list[str]]]:
  """Yields the number of each line, and its fields in the order asked for."""
  # Read as lines at first, for its message about bytes that are not UTF-8.
  lines = (f"{line}\n" for line in files.read_lines(path))
  reader = csv.reader(lines, strict=True)
  try:
    header = [column.strip() for column in next(reader, [])]
    for column in columns:
      if header.count(column) != 1:
        raise ValueError(
          f"{path} must have the column {column!r} once in its first line, got "
          f"it {header.count(column)} times in {header}."
        )
    places = [header.index(column) for column in columns]
    for row in reader:
      if not "".join(row).strip():
        continue
      if len(row) != len(header):
        raise ValueError(
          f"{path}, line {reader.line_num}: must have {len(header)} fields "
          f"like the header, got {len(row)}."
        )
      yield reader.line_num, [row[place].strip() for place in places]
  except csv.Error as error:
    raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error
