"""Graphs of ids from their attributes, from sequences, and from other graphs.

All of it runs on the host, vectorised by NumPy; what is drawn depends on a seed
alone.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from anchor_codes.ops.graphs import Graph, graph_from_edges, graph_from_rows
from anchor_codes.typing import check_at_least

# Pairs of nodes to look at at a time.
_BLOCK = 2**22


def attribute_pairs(
  attributes: Sequence[Sequence[Hashable]],
) -> Int[np.ndarray, "num_pairs 2"]:
  """Numbers the attributes of nodes, for :func:`graph_from_attributes`.

  Args:
    attributes: The attributes of each node, any number of them.

  Returns:
    Pairs of a node and the number of an attribute, in order of appearance.

  >>> print(attribute_pairs([["war", "drama"], [], ["drama"]]).tolist())
  [[0, 0], [0, 1], [2, 1]]
  """
  numbers: dict[Hashable, int] = {}
  pairs = [
    (node, numbers.setdefault(value, len(numbers)))
    for node, values in enumerate(attributes)
    for value in values
  ]
  return np.array(pairs, np.int64).reshape(-1, 2)


def graph_from_attributes(
  pairs: Any, *, num_nodes: int, max_degree: int | None = None, seed: int = 0
) -> Graph:
  """Connects nodes that share at least one attribute, such as a genre.

  Where each node has one attribute,
  :func:`~anchor_codes.ops.graphs.graph_from_classes` is this graph without its
  edges.

  Args:
    pairs: Integers [num_pairs, 2], each a node and an attribute of it; see
      :func:`attribute_pairs`. Pairs may repeat.
    num_nodes: Number of nodes.
    max_degree: Most neighbours of a node, at least 1; None for all, whose
      number grows with the square of the nodes of an attribute. A node that has
      more in common with others keeps a random part, see :func:`limit_degree`.
    seed: Chooses that part.

  Returns:
    A graph with sorted rows, symmetric unless it was cut.

  Raises:
    ValueError: If an option is out of range, the pairs are not integers, or
      they connect 2 ** 31 pairs of nodes or more.
    IndexError: If a node is out of range.

  >>> graph = graph_from_attributes([(0, 5), (2, 5), (1, 3)], num_nodes=3)
  >>> print(graph.offsets, graph.neighbors)
  [0 1 1 2] [2 0]
  """
  check_at_least("num_nodes", num_nodes, 1)
  reach = num_nodes
  if max_degree is not None:
    check_at_least("max_degree", max_degree, 1)
    reach = (max_degree + 1) // 2
  members, sizes = _shuffle_members(np.asarray(pairs), num_nodes, seed)
  starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
  sizes = np.repeat(sizes, sizes)
  # On a circle the next ones are a random sample. Half of the circle is all of
  # it, as edges have no direction.
  steps = np.minimum(reach, sizes // 2)
  if steps.sum() >= 2**31:
    raise ValueError(
      "`pairs` must connect fewer than 2 ** 31 pairs of nodes, got "
      f"{steps.sum()}: give `max_degree`, or use `graph_from_classes`."
    )
  own, step = _count_up(steps)
  partners = starts[own] + (own - starts[own] + step + 1) % sizes[own]
  edges = np.stack([members[own], members[partners]], axis=1)
  graph = graph_from_edges(edges, num_nodes=num_nodes)
  if max_degree is None:
    return graph
  return limit_degree(graph, max_degree, seed=seed)


def graph_from_bigrams(
  sequences: Any, *, num_nodes: int, min_count: int = 1
) -> Graph:
  """Connects nodes that stand next to each other in sequences.

  Args:
    sequences: Integers, one sequence in each row of the last axis, or a list of
      sequences of any length. Negative numbers, such as padding, are no nodes,
      and break a sequence.
    num_nodes: Number of nodes.
    min_count: Pairs that are seen fewer times are left out, at least 1.

  Returns:
    A symmetric graph with sorted rows. The weight of an edge is how often its
    nodes stand next to each other, in either order.

  Raises:
    ValueError: If an option is out of range, or the sequences are not integers.
    IndexError: If a number is past the last node.

  >>> graph = graph_from_bigrams([[0, 1, 0], [2, 1, -1, 2]], num_nodes=3)
  >>> print(graph.offsets, graph.neighbors, graph.weights.values)
  [0 1 3 4] [1 0 2 1] [2. 2. 1. 1.]
  """
  check_at_least("num_nodes", num_nodes, 1)
  check_at_least("min_count", min_count, 1)
  ids = _as_sequences(sequences)
  if ids.size and int(ids.max()) >= num_nodes:
    raise IndexError(
      f"node {ids.max()} in `sequences` is out of range: nodes must lie in "
      f"[0, {num_nodes})."
    )
  first, second = ids[..., :-1].ravel(), ids[..., 1:].ravel()
  counts = (first >= 0) & (second >= 0) & (first != second)
  first, second = first[counts], second[counts]
  links = np.minimum(first, second) * num_nodes + np.maximum(first, second)
  links, weights = np.unique(links, return_counts=True)
  often = weights >= min_count
  edges = np.stack(np.divmod(links[often], num_nodes), axis=1)
  return graph_from_edges(edges, num_nodes=num_nodes, weights=weights[often])


def k_hop_graph(
  graph: Graph, *, num_hops: int, max_degree: int, seed: int = 0
) -> Graph:
  """Connects nodes that are a few edges apart, a sample where they are many.

  As neighbours are sampled for graph networks (Hamilton et al., "Inductive
  Representation Learning on Large Graphs", NeurIPS 2017).

  Args:
    graph: The neighbours of each node.
    num_hops: Largest number of edges between two nodes, at least 1.
    max_degree: Most neighbours of a node, at least 1. Where more are reached, a
      random part goes on to the next hop, from each along a random part of its
      edges. Without such a node the result is exact.
    seed: Chooses these parts.

  Returns:
    A graph with sorted rows and without weights, which need not be symmetric.

  Raises:
    ValueError: If an option is out of range.

  >>> path = graph_from_edges([(0, 1), (1, 2)], num_nodes=3)
  >>> graph = k_hop_graph(path, num_hops=2, max_degree=3)
  >>> print(graph.offsets, graph.neighbors)
  [0 2 4 6] [1 2 0 2 0 1]
  """
  check_at_least("num_hops", num_hops, 1)
  rng, size = np.random.default_rng(seed), graph.num_nodes
  plain = Graph(offsets=graph.offsets, neighbors=graph.neighbors)
  near = limit_degree(plain, max_degree, seed=seed)
  offsets = np.asarray(near.offsets, np.int64)
  neighbors = np.asarray(near.neighbors, np.int64)
  links = []
  # Whole blocks of nodes, so that memory does not grow with the graph.
  block = max(_BLOCK // max_degree**2, 1)
  for begin in range(0, size, block):
    end = min(begin + block, size)
    nodes = np.repeat(np.arange(begin, end), np.diff(offsets[begin : end + 1]))
    found = nodes * size + neighbors[offsets[begin] : offsets[end]]
    for _ in range(num_hops - 1):
      nodes, reached = np.divmod(found, size)
      own, step = _count_up(np.diff(offsets)[reached])
      further = neighbors[offsets[reached[own]] + step]
      new = nodes[own] * size + further
      new = np.append(found, new[nodes[own] != further])
      found, _ = np.unique(new, return_counts=True)
      found = found[_keep_few(found // size, max_degree, rng)]
    links.append(found)
  return graph_from_rows(
    *np.divmod(np.concatenate(links), size), num_nodes=size
  )


def limit_degree(graph: Graph, max_degree: int, *, seed: int = 0) -> Graph:
  """Cuts the neighbours of each node down to a number.

  What is cut is no neighbour any more. Each row is cut for itself, so that no
  node loses all of its neighbours: the result need not be symmetric.

  Args:
    graph: The neighbours of each node.
    max_degree: Most neighbours of a node, at least 1. The heaviest are kept, or
      a random part of neighbours of equal weight.
    seed: Chooses that part.

  Returns:
    A graph whose rows are in the order that they had.

  Raises:
    ValueError: If `max_degree` is less than 1.

  >>> star = graph_from_edges(
  ...     [(0, 1), (0, 2), (0, 3)], num_nodes=4, weights=[1.0, 3.0, 2.0])
  >>> graph = limit_degree(star, 2)
  >>> print(graph.offsets, graph.neighbors)
  [0 2 3 4 5] [2 3 0 0 0]
  """
  check_at_least("max_degree", max_degree, 1)
  degrees = np.diff(np.asarray(graph.offsets))
  if (degrees <= max_degree).all():
    return graph
  nodes = np.repeat(np.arange(graph.num_nodes), degrees)
  weights = None
  if graph.weights is not None:
    weights = np.asarray(graph.weights.values)
  # Only long rows need to be sorted.
  long = np.flatnonzero((degrees > max_degree)[nodes])
  kept = np.ones(len(nodes), bool)
  kept[long] = _keep_few(
    nodes[long],
    max_degree,
    np.random.default_rng(seed),
    weights=None if weights is None else weights[long],
  )
  return graph_from_rows(
    nodes[kept],
    np.asarray(graph.neighbors)[kept],
    num_nodes=graph.num_nodes,
    weights=None if weights is None else weights[kept],
  )


def _shuffle_members(
  pairs: np.ndarray, num_nodes: int, seed: int
) -> tuple[Int[np.ndarray, " num_members"], Int[np.ndarray, " num_attributes"]]:
  """Returns the nodes of each attribute in random order, and their numbers."""
  pairs = _check_pairs(pairs, num_nodes)
  values, numbers = np.unique(pairs[:, 1], return_inverse=True)
  # Asked for counts, NumPy sorts, which is fast.
  links, _ = np.unique(numbers * num_nodes + pairs[:, 0], return_counts=True)
  numbers, members = np.divmod(links, num_nodes)
  order = _shuffled_order(numbers, np.random.default_rng(seed))
  return members[order], np.bincount(numbers, minlength=len(values))


def _keep_few(
  nodes: Int[np.ndarray, " size"],
  limit: int,
  rng: np.random.Generator,
  *,
  weights: Float[np.ndarray, " size"] | None = None,
) -> Bool[np.ndarray, " size"]:
  """Marks a few entries of each node, the heaviest; nodes ascend."""
  keys = nodes.astype(np.int64) << 32
  if weights is not None:
    # The bits of positive numbers are in the order of the numbers.
    keys += np.int64(2**32 - 1) - weights.astype(np.float32).view(np.uint32)
  order = _shuffled_order(keys, rng)
  kept = np.empty(len(nodes), bool)
  kept[order] = np.arange(len(nodes)) - np.searchsorted(nodes, nodes) < limit
  return kept


def _shuffled_order(
  keys: Int[np.ndarray, " size"], rng: np.random.Generator
) -> Int[np.ndarray, " size"]:
  """Returns an order in which keys ascend, at random where they are equal."""
  order = rng.permutation(len(keys))
  return order[np.argsort(keys[order])]


def _count_up(
  numbers: Int[np.ndarray, " size"],
) -> tuple[Int[np.ndarray, " total"], Int[np.ndarray, " total"]]:
  """Returns ``(i, 0), ..., (i, numbers[i] - 1)`` for each i, as two arrays."""
  own = np.repeat(np.arange(len(numbers)), numbers)
  ends = np.cumsum(numbers)
  return own, np.arange(len(own)) - (ends - numbers)[own]


def _check_pairs(pairs: np.ndarray, num_nodes: int) -> np.ndarray:
  if pairs.size == 0:
    return np.zeros((0, 2), np.int64)
  if pairs.ndim != 2 or pairs.shape[1] != 2:
    raise ValueError(f"`pairs` must be [num_pairs, 2], got {pairs.shape}.")
  if not np.issubdtype(pairs.dtype, np.integer):
    raise ValueError(f"`pairs` must be integers, got {pairs.dtype}.")
  bad = (pairs[:, 0] < 0) | (pairs[:, 0] >= num_nodes)
  if bad.any():
    position = int(np.argmax(bad))
    raise IndexError(
      f"node {pairs[position, 0]} at position {position} is out of range: "
      f"nodes must lie in [0, {num_nodes})."
    )
  return pairs.astype(np.int64)


def _as_sequences(sequences: Any) -> Int[np.ndarray, "*rows length"]:
  """Returns sequences in one array; those of a list are joined by -1."""
  if not isinstance(sequences, np.ndarray | jnp.ndarray):
    # An empty list has no type of its own.
    parts = [np.asarray(part) for part in sequences if len(part)]
    ends = [np.append(part, -1) for part in parts]
    sequences = np.concatenate([np.zeros(0, np.int64), *ends])
  ids = np.asarray(sequences)
  if not np.issubdtype(ids.dtype, np.integer) or not ids.ndim:
    raise ValueError(
      f"`sequences` must be rows of integers, got {ids.dtype} of shape "
      f"{ids.shape}."
    )
  return ids.astype(np.int64)
