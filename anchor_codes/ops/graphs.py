"""Graphs of ids, stored by the neighbours of each node, or by classes.

Both kinds are pytrees, and answer the same questions: how many neighbours nodes
have, and which one a key draws. :mod:`anchor_codes.ops.graph_builders` makes
them from what is known of the ids.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from anchor_codes.ops.aliases import alias_tables
from anchor_codes.typing import check_at_least, check_integer_ids


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeWeights:
  """Weights of the edges of a graph, ready to be drawn from; a pytree.

  Attributes:
    values: The weights, positive and finite.
    acceptance: Probability with which an edge that was drawn uniformly stays.
    aliases: The neighbour that is taken in its place otherwise, see
      :func:`~anchor_codes.ops.aliases.alias_tables`.
  """

  values: Float[Array, " num_edges"]
  acceptance: Float[Array, " num_edges"]
  aliases: Int[Array, " num_edges"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
  """Neighbours of each node, in compressed sparse rows (CSR); a pytree.

  The neighbours of node ``i`` are ``neighbors[offsets[i]:offsets[i + 1]]``. A
  row holds no node twice and never ``i`` itself. Graphs of
  :func:`graph_from_edges` are symmetric, with sorted rows.

  Attributes:
    offsets: Where the neighbours of each node start, and where the last ones
      end: ascending from 0 to ``num_edges``.
    neighbors: Nodes in ``[0, num_nodes)``; each undirected edge counts twice.
    weights: Weight of each entry of `neighbors`, or None for all alike.

  >>> graph = Graph(offsets=jnp.array([0, 1, 2]), neighbors=jnp.array([1, 0]))
  >>> graph.num_nodes
  2
  >>> print(graph.draw(jax.random.key(0), jnp.array([0, 1, 1])))
  [1 0 0]
  """

  offsets: Int[Array, "num_nodes+1"]
  neighbors: Int[Array, " num_edges"]
  weights: EdgeWeights | None = None

  @property
  def num_nodes(self) -> int:
    """Number of nodes."""
    return self.offsets.shape[0] - 1

  def degrees(self, nodes: Int[Array, "*batch"]) -> Int[Array, "*batch"]:
    """Counts the neighbours of nodes in ``[0, num_nodes)``."""
    nodes = nodes.astype(jnp.int32)  # A narrow type may not hold the next one.
    return self.offsets[nodes + 1] - self.offsets[nodes]

  def draw(
    self, key: PRNGKeyArray, nodes: Int[Array, "*batch"]
  ) -> Int[Array, "*batch"]:
    """Draws a neighbour of each node, in proportion to the weights.

    Args:
      key: Random key.
      nodes: Nodes in ``[0, num_nodes)``.

    Returns:
      Nodes; any for one without neighbours.
    """
    num_edges = self.neighbors.shape[0]
    if num_edges == 0:
      return nodes
    key_alias = None
    if self.weights is not None:
      key, key_alias = jax.random.split(key)
    step = _randint(key, nodes.shape, jnp.maximum(self.degrees(nodes), 1))
    edge = jnp.minimum(self.offsets[nodes] + step, num_edges - 1)
    if self.weights is None or key_alias is None:
      return self.neighbors[edge]
    coin = jax.random.uniform(key_alias, nodes.shape, jnp.float32)
    stays = coin < self.weights.acceptance[edge]
    return jnp.where(stays, self.neighbors[edge], self.weights.aliases[edge])

  def row(self, node: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns neighbours of a node, and their weights divided by the mean."""
    start, end = np.asarray(self.offsets)[node : node + 2]
    neighbors = np.asarray(self.neighbors)[start:end]
    if self.weights is None or not neighbors.size:
      return neighbors, np.ones(neighbors.size)
    values = np.asarray(self.weights.values, np.float64)[start:end]
    return neighbors, values / values.mean()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassGraph:
  """A graph that links all nodes of a class, without its edges; a pytree.

  Dense classes, such as the users of one age, would have edges in proportion to
  the square of their size; this takes two numbers for each node.

  Attributes:
    offsets: Where the members of each class start, and where the last ones
      end.
    members: The nodes that have a class, sorted by class.
    classes: The class of each node, -1 for none.

  >>> graph = graph_from_classes([0, 1, 0, -1])
  >>> print(graph.offsets, graph.members, graph.degrees(jnp.arange(4)))
  [0 2 3] [0 2 1] [1 0 1 0]
  """

  offsets: Int[Array, " num_offsets"]
  members: Int[Array, " num_members"]
  classes: Int[Array, " num_nodes"]

  @property
  def num_nodes(self) -> int:
    """Number of nodes."""
    return self.classes.shape[0]

  def degrees(self, nodes: Int[Array, "*batch"]) -> Int[Array, "*batch"]:
    """Counts the other members of the class of each node."""
    start, end = self._bounds(nodes)
    return jnp.maximum(end - start - 1, 0)

  def draw(
    self, key: PRNGKeyArray, nodes: Int[Array, "*batch"]
  ) -> Int[Array, "*batch"]:
    """Draws another member of the class of each node.

    Args:
      key: Random key.
      nodes: Nodes in ``[0, num_nodes)``.

    Returns:
      Nodes; any for one that is alone in its class or has none.
    """
    if self.members.shape[0] == 0:
      return nodes
    start, end = self._bounds(nodes)
    step = _randint(key, nodes.shape, jnp.maximum(end - start - 1, 1))
    place = jnp.minimum(start + step, self.members.shape[0] - 1)
    drawn = self.members[place]
    # Drawn among all members but the last, who stands in for the node itself.
    last = self.members[jnp.maximum(end, 1) - 1]
    return jnp.where(drawn == nodes, last, drawn)

  def row(self, node: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns neighbours of a node, and their weights, which are 1."""
    classes = np.asarray(self.classes)
    same = np.flatnonzero(classes == classes[node])
    neighbors = same[same != node] if classes[node] >= 0 else same[:0]
    return neighbors, np.ones(neighbors.size)

  def _bounds(
    self, nodes: Int[Array, "*batch"]
  ) -> tuple[Int[Array, "*batch"], Int[Array, "*batch"]]:
    """Returns where the members of the classes of nodes start and end."""
    classes = self.classes[nodes]
    known = jnp.maximum(classes, 0)
    start = self.offsets[known]
    return start, jnp.where(classes < 0, start, self.offsets[known + 1])


AnyGraph = Graph | ClassGraph
"""What :func:`~anchor_codes.ops.transitions.sse_graph_transition` takes."""


def graph_from_edges(
  edges: Any, *, num_nodes: int, weights: Any = None
) -> Graph:
  """Builds an undirected graph from pairs of nodes, on the host.

  Args:
    edges: Integers [num_edges, 2]: an array or a list of pairs, in any order.
      Each pair counts in both directions; pairs of equal nodes are dropped, and
      so are pairs that repeat, whose weights are added up. It may be empty.
    num_nodes: Number of nodes; some may have no edge.
    weights: A positive number for each pair, kept as float32; None for a graph
      without weights.

  Returns:
    A symmetric graph with sorted rows.

  Raises:
    ValueError: If the edges are not pairs of integers, there are 2 ** 31 of
      them or more, or the weights are not one positive number for each.
    IndexError: If a node is not in ``[0, num_nodes)``; it names the first such
      edge.

  >>> graph = graph_from_edges([(0, 1), (2, 1), (1, 0)], num_nodes=4)
  >>> print(graph.offsets, graph.neighbors)
  [0 1 3 4 4] [1 0 2 1]
  >>> graph = graph_from_edges(
  ...     [(0, 1), (2, 1), (1, 0)], num_nodes=3, weights=[1.0, 5.0, 2.0])
  >>> print(graph.weights.values)
  [3. 3. 5. 5.]
  """
  check_at_least("num_nodes", num_nodes, 1)
  pairs = _check_edges(np.asarray(edges), num_nodes)
  values = None if weights is None else _check_weights(weights, len(pairs))
  keep = pairs[:, 0] != pairs[:, 1]
  pairs = pairs[keep]
  both = np.concatenate([pairs, pairs[:, ::-1]])
  # One number for each pair: sorting it sorts by node, then by neighbour.
  links = both[:, 0] * num_nodes + both[:, 1]
  if values is None:
    # Asked for counts, NumPy sorts: ten times as fast as the hash table that it
    # uses otherwise.
    links, _ = np.unique(links, return_counts=True)
  else:
    links, places = np.unique(links, return_inverse=True)
    values = np.bincount(places, np.tile(values[keep], 2), len(links))
  nodes, neighbors = np.divmod(links, num_nodes)
  return graph_from_rows(nodes, neighbors, num_nodes=num_nodes, weights=values)


def graph_from_rows(
  nodes: Int[np.ndarray, " num_edges"],
  neighbors: Int[np.ndarray, " num_edges"],
  *,
  num_nodes: int,
  weights: Float[np.ndarray, " num_edges"] | None = None,
) -> Graph:
  """Builds a graph from directed edges that are sorted already, on the host.

  Args:
    nodes: Where each edge starts, ascending.
    neighbors: Where it ends: no node twice, and never the start.
    num_nodes: Number of nodes.
    weights: A positive number for each edge, if they differ.

  Returns:
    The graph; it need not be symmetric.

  Raises:
    ValueError: If there are 2 ** 31 edges or more.

  >>> graph = graph_from_rows(np.array([0, 0]), np.array([1, 2]), num_nodes=3)
  >>> print(graph.offsets, graph.neighbors)
  [0 2 2 2] [1 2]
  """
  # Offsets are int32, for JAX has no wider integers by default.
  if nodes.size >= 2**31:
    raise ValueError(f"`edges` must be fewer than 2 ** 31, got {nodes.size}.")
  offsets = np.zeros(num_nodes + 1, np.int64)
  np.cumsum(np.bincount(nodes, minlength=num_nodes), out=offsets[1:])
  edge_weights = None
  if weights is not None:
    acceptance, entries = alias_tables(offsets, weights)
    edge_weights = EdgeWeights(
      values=jnp.asarray(weights, jnp.float32),
      acceptance=jnp.asarray(acceptance),
      aliases=jnp.asarray(neighbors[entries], jnp.int32),
    )
  return Graph(
    offsets=jnp.asarray(offsets, jnp.int32),
    neighbors=jnp.asarray(neighbors, jnp.int32),
    weights=edge_weights,
  )


def graph_from_classes(
  classes: Any, *, num_classes: int | None = None
) -> ClassGraph:
  """Builds the graph that links all nodes of a class, on the host.

  Args:
    classes: Integers [num_nodes], the class of each node; -1 for a node that
      has none, and no neighbours.
    num_classes: Number of classes. By default as many as there are, which may
      have any numbers: the graph numbers them anew, in their order.

  Returns:
    The graph.

  Raises:
    ValueError: If the classes are not integers in one row, or there are none.
    IndexError: If a class is not in ``[-1, num_classes)``; it names the first
      such node.

  >>> graph = graph_from_classes([7, 2, 7])
  >>> print(graph.row(0)[0])
  [2]
  """
  classes = np.asarray(classes)
  if classes.ndim != 1 or not classes.size:
    raise ValueError(f"`classes` must be [num_nodes], got {classes.shape}.")
  check_integer_ids(classes)
  limit = int(classes.max()) + 1 if num_classes is None else num_classes
  bad = (classes < -1) | (classes >= limit)
  if bad.any():
    node = int(np.argmax(bad))
    raise IndexError(
      f"class {classes[node]} of node {node} is out of range: classes must lie "
      f"in [0, {limit}), or be -1 for none."
    )
  known = np.flatnonzero(classes >= 0)
  numbers = classes[known]
  if num_classes is None:
    # A large number would take memory for all below it, or 64 bits.
    names, numbers = np.unique(numbers, return_inverse=True)
    limit = names.size
  counts = np.bincount(numbers.astype(np.int64), minlength=max(limit, 1))
  numbered = np.full(classes.size, -1)
  numbered[known] = numbers
  return ClassGraph(
    offsets=jnp.asarray(np.append(0, np.cumsum(counts)), jnp.int32),
    members=jnp.asarray(known[np.argsort(numbers, kind="stable")], jnp.int32),
    classes=jnp.asarray(numbered, jnp.int32),
  )


def _check_edges(edges: np.ndarray, num_nodes: int) -> np.ndarray:
  if edges.size == 0:
    return np.zeros((0, 2), np.int64)
  if edges.ndim != 2 or edges.shape[1] != 2:
    raise ValueError(f"`edges` must be [num_edges, 2], got {edges.shape}.")
  if not np.issubdtype(edges.dtype, np.integer):
    raise ValueError(f"`edges` must be integers, got {edges.dtype}.")
  bad = ((edges < 0) | (edges >= num_nodes)).any(axis=1)
  if bad.any():
    position = int(np.argmax(bad))
    edge = tuple(int(node) for node in edges[position])
    raise IndexError(
      f"edge {edge} at position {position} is out of range for a graph of "
      f"{num_nodes} nodes: nodes must lie in [0, {num_nodes})."
    )
  # The number of a pair is up to num_nodes ** 2, which 32 bits do not hold.
  return edges.astype(np.int64)


def _check_weights(weights: Any, num_edges: int) -> np.ndarray:
  values = np.asarray(weights, np.float32)
  if values.shape != (num_edges,):
    raise ValueError(
      f"`weights` must be one number for each of {num_edges} edges, got shape "
      f"{values.shape}."
    )
  # In this form `nan` is refused, too.
  bad = ~((values > 0) & (values < np.inf))
  if bad.any():
    position = int(np.argmax(bad))
    raise ValueError(
      "`weights` must be positive and finite, got "
      f"{np.asarray(weights)[position]} at position {position}."
    )
  return values


def _randint(
  key: PRNGKeyArray, shape: tuple[int, ...], maximum: Int[Array, "*batch"]
) -> Int[Array, "*batch"]:
  return jax.random.randint(key, shape, 0, maximum, jnp.int32)
