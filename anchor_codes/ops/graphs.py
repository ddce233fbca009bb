"""Graphs of ids, stored by the neighbours of each node."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from anchor_codes.typing import check_at_least


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

  >>> graph = Graph(offsets=jnp.array([0, 1, 2]), neighbors=jnp.array([1, 0]))
  >>> graph.num_nodes
  2
  """

  offsets: Int[Array, "num_nodes+1"]
  neighbors: Int[Array, " num_edges"]

  @property
  def num_nodes(self) -> int:
    """Number of nodes."""
    return self.offsets.shape[0] - 1


def graph_from_edges(edges: Any, *, num_nodes: int) -> Graph:
  """Builds an undirected graph from pairs of nodes, on the host.

  Args:
    edges: Integers [num_edges, 2]: an array or a list of pairs, in any order.
      Each pair counts in both directions; pairs that repeat and pairs of equal
      nodes are dropped. It may be empty.
    num_nodes: Number of nodes; some may have no edge.

  Returns:
    A symmetric graph with sorted rows.

  Raises:
    ValueError: If the edges are not pairs of integers, or there are 2 ** 31 of
      them or more.
    IndexError: If a node is not in ``[0, num_nodes)``; it names the first such
      edge.

  >>> graph = graph_from_edges([(0, 1), (2, 1), (1, 0)], num_nodes=4)
  >>> print(graph.offsets, graph.neighbors)
  [0 1 3 4 4] [1 0 2 1]
  """
  check_at_least("num_nodes", num_nodes, 1)
  pairs = _check_edges(np.asarray(edges), num_nodes)
  pairs = pairs[pairs[:, 0] != pairs[:, 1]]
  both = np.concatenate([pairs, pairs[:, ::-1]])
  # One number for each pair: sorting it sorts by node, then by neighbour.
  links = np.unique(both[:, 0] * num_nodes + both[:, 1])
  # Offsets are int32, for JAX has no wider integers by default.
  if links.size >= 2**31:
    raise ValueError(f"`edges` must be fewer than 2 ** 31, got {links.size}.")
  nodes, neighbors = np.divmod(links, num_nodes)
  offsets = np.zeros(num_nodes + 1, np.int64)
  np.cumsum(np.bincount(nodes, minlength=num_nodes), out=offsets[1:])
  return Graph(
    offsets=jnp.asarray(offsets, jnp.int32),
    neighbors=jnp.asarray(neighbors, jnp.int32),
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
