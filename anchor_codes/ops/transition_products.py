r"""Transitions of stochastic shared embeddings (SSE) as linear operators.

The matrix :math:`P` of all transition probabilities (Wu et al., NeurIPS 2019)
has a row for each id, and is never built: it is a multiple of the identity,
plus rows that are constant, plus the edges of a graph. What a replaced id looks
like in expectation therefore costs no more than reading the table and the
edges.
"""

from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from jax import core
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from anchor_codes.ops.graphs import AnyGraph, ClassGraph, Graph
from anchor_codes.ops.reductions import wide
from anchor_codes.ops.transitions import check_ratio, limit_ratio
from anchor_codes.typing import check_at_least, check_rate


class TransitionWeights(NamedTuple):
  r"""What the distribution of a replaced id is made of.

  Id :math:`j` becomes :math:`k` with probability ``keep[j] * (j == k) +
  everyone[j] + neighbor[j] * (k is a neighbour of j)``; if edges have weights,
  the last term counts by that of the edge over the mean of its row. Without a
  graph the weights are the same for all ids, and scalars.

  Attributes:
    keep: Weight of the id itself; negative if others are more likely than it.
    everyone: Weight of every id, itself included.
    neighbor: Weight that each neighbour has besides.
  """

  keep: Float[Array, "*num_embeddings"]
  everyone: Float[Array, "*num_embeddings"]
  neighbor: Float[Array, "*num_embeddings"]


def transition_weights(
  *,
  num_embeddings: int,
  rate: float | Float[Array, ""],
  graph: AnyGraph | None = None,
  neighbor_ratio: float | Float[Array, ""] = 1.0,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> TransitionWeights:
  r"""Splits the transition matrix into an identity, constant rows, and edges.

  Definition (Wu et al., NeurIPS 2019, eqs. 3 and 5, with rows that sum to 1):
  :math:`q_j = p_0 / (N - 1 + (\rho - 1) d_j)` for every id, :math:`(\rho - 1)
  q_j` for a neighbour besides, and :math:`1 - p_0 - q_j` for :math:`j` itself.
  So SSE-SE keeps an id with probability :math:`1 - \epsilon`, :math:`\epsilon
  = p_0 N / (N - 1)`, and else draws any id, itself included. Draws that do not
  exclude the id itself are, without a graph, the law of the rate :math:`p_0 (N
  - 1) / N`.

  Args:
    num_embeddings: The number :math:`N` of ids; with 1 nothing is replaced.
    rate: Probability :math:`p_0` of replacement, between 0 and 1; it may be
      traced.
    graph: Neighbours of each id, of any kind, for SSE-Graph.
    neighbor_ratio: The :math:`\rho \ge 1`; it may be traced.
    dtype: Type of the weights.

  Returns:
    The weights.

  Raises:
    ValueError: If an option is out of range, or the graph is of another size.

  >>> weights = transition_weights(num_embeddings=5, rate=0.2)
  >>> print(f"{weights.keep:.4f} {weights.everyone:.4f}")
  0.7500 0.0500
  """
  check_at_least("num_embeddings", num_embeddings, 1)
  _check_options(num_embeddings, rate, graph, neighbor_ratio)
  extra = jnp.asarray(limit_ratio(neighbor_ratio), dtype) - 1
  degrees = jnp.zeros((), dtype)
  if graph is not None:
    degrees = graph.degrees(jnp.arange(num_embeddings)).astype(dtype)
  # One embedding has nothing to be replaced by, whatever the rate.
  rate = jnp.asarray(rate if num_embeddings > 1 else 0.0, dtype)
  others = max(num_embeddings - 1, 1)
  total = others + extra * degrees
  everyone = rate / total
  # In this order a share that is far below 1 does not vanish on the way.
  neighbor = rate * (extra / total)
  return TransitionWeights(1 - rate - everyone, everyone, neighbor)


def transition_product(
  values: Float[Array, " num_embeddings *features"],
  *,
  rate: float | Float[Array, ""],
  graph: AnyGraph | None = None,
  neighbor_ratio: float | Float[Array, ""] = 1.0,
  transpose: bool = False,
) -> Float[Array, " num_embeddings *features"]:
  r"""Multiplies the transition matrix by a vector or a table.

  Definition: :math:`(P x)_j = \sum_k p(j, k) x_k`, what stands in place of
  :math:`x_j` in expectation (Wu et al., NeurIPS 2019). Of a table these are
  the expected rows: a score that is linear in them, such as a dot product of
  independently replaced users and items, has their score as its expectation.
  The transpose is :math:`(P^\top y)_k = \sum_j p(j, k) y_j`: how much of
  :math:`y` lands on each row. Time grows as ``num_embeddings + num_edges``.

  Args:
    values: A number or a vector for each id.
    rate: Probability of replacement, between 0 and 1; it may be traced.
    graph: Neighbours of each id, for SSE-Graph.
    neighbor_ratio: How many times as likely as another id a neighbour is, at
      least 1; it may be traced.
    transpose: Whether to multiply by :math:`P^\top`.

  Returns:
    The product, in at least float32.

  Raises:
    ValueError: If an option is out of range, or the graph is of another size.

  >>> print(transition_product(jnp.array([3.0, 0.0, 0.0]), rate=0.5))
  [1.5  0.75 0.75]
  """
  chex.assert_rank(values, set(range(1, 9)))
  values = wide(values)
  weights = transition_weights(
    num_embeddings=values.shape[0],
    rate=rate,
    graph=graph,
    neighbor_ratio=neighbor_ratio,
    dtype=values.dtype,
  )
  keep, everyone, neighbor = (_like(w, values) for w in weights)
  if transpose:
    product = keep * values + jnp.sum(everyone * values, axis=0, keepdims=True)
    near = neighbor * values
  else:
    product = keep * values + everyone * jnp.sum(values, axis=0, keepdims=True)
    near = values
  if graph is None:
    return product
  sums = _neighbor_sums(near, graph, transpose=transpose)
  return product + (sums if transpose else neighbor * sums)


def largest_degree(graph: AnyGraph) -> int:
  """Returns the largest number of neighbours of a node, on the host.

  Args:
    graph: A graph that is known; not an argument of a function under
      ``jax.jit``.

  Returns:
    The number, 0 without edges.

  Raises:
    ValueError: If the graph is traced: no array can have a traced size.

  >>> from anchor_codes.ops.graphs import graph_from_edges
  >>> largest_degree(graph_from_edges([(0, 1), (0, 2)], num_nodes=4))
  2
  """
  if isinstance(graph.offsets, core.Tracer):
    raise ValueError(
      "`max_degree` must be given where the graph is traced, got None."
    )
  size = np.diff(np.asarray(graph.offsets)).max(initial=0)
  # A class links each member to all others, but not to itself.
  return int(size if isinstance(graph, Graph) else max(size - 1, 0))


def padded_neighbors(
  graph: AnyGraph,
  nodes: Int[Array, "*batch"],
  *,
  max_degree: int | None = None,
) -> tuple[Int[Array, "*batch places"], Float[Array, "*batch places"]]:
  """Gathers the neighbours of some nodes, as many places for each of them.

  Args:
    graph: The graph.
    nodes: Nodes of any shape; those outside the graph read another node.
    max_degree: Upper limit of the degrees, by default the largest one; needed
      where the graph is traced.

  Returns:
    Neighbours and their weights: 1, or that of the edge over the mean of its
    row, and 0 where a place is empty. A node with more neighbours than places
    has weights of ``nan``: leaving some out in silence would be another graph.

  Raises:
    ValueError: If `max_degree` is negative, or missing where it is needed.

  >>> from anchor_codes.ops.graphs import graph_from_edges
  >>> graph = graph_from_edges([(0, 1), (0, 2)], num_nodes=4)
  >>> neighbors, weights = padded_neighbors(graph, jnp.array([0, 3]))
  >>> print(neighbors[0], weights)
  [1 2] [[1. 1.]
   [0. 0.]]
  """
  places = largest_degree(graph) if max_degree is None else max_degree
  check_at_least("max_degree", places, 0)
  if not isinstance(graph, Graph):
    places += 1  # Every node is among the members of its class.
  nodes = jnp.clip(nodes.astype(jnp.int32), 0, graph.num_nodes - 1)[..., None]
  start, end, entries = _row_bounds(graph, nodes)
  steps = jnp.arange(places, dtype=jnp.int32)
  steps = jnp.expand_dims(steps, range(nodes.ndim - 1))
  weights = (steps < end - start).astype(jnp.float32)
  weights = jnp.where(end - start > places, jnp.nan, weights)
  if entries.shape[0] == 0:
    return jnp.zeros(weights.shape, jnp.int32), weights
  at = jnp.minimum(start + steps, entries.shape[0] - 1)
  if not isinstance(graph, Graph):
    weights = jnp.where(entries[at] == nodes, 0, weights)
  elif graph.weights is not None:
    # Places that are empty read the weight of another edge.
    weights *= _edge_weights(graph)[at]
  return entries[at], weights


def _row_bounds(
  graph: AnyGraph, nodes: Int[Array, "*batch"]
) -> tuple[Int[Array, "*batch"], Int[Array, "*batch"], Int[Array, " size"]]:
  """Returns where the neighbours of nodes start and end, and in what."""
  if isinstance(graph, Graph):
    return graph.offsets[nodes], graph.offsets[nodes + 1], graph.neighbors
  classes = graph.classes[nodes]
  start, end = graph.offsets[classes], graph.offsets[classes + 1]
  return start, jnp.where(classes < 0, start, end), graph.members


def _neighbor_sums(values: Array, graph: AnyGraph, *, transpose: bool) -> Array:
  """Sums over the neighbours of each node, or over whose neighbour it is."""
  if not isinstance(graph, Graph):
    return _class_sums(values, graph)
  if graph.neighbors.shape[0] == 0:
    return jnp.zeros_like(values)
  source, target = graph.neighbors, _edge_nodes(graph)
  if transpose:
    source, target = target, source
  parts = values[source]
  if graph.weights is not None:
    parts *= _like(_edge_weights(graph).astype(values.dtype), values)
  return jax.ops.segment_sum(
    parts, target, graph.num_nodes, indices_are_sorted=not transpose
  )


def _class_sums(values: Array, graph: ClassGraph) -> Array:
  """Sums over the other members of the class of each node."""
  num_classes = graph.offsets.shape[0] - 1
  # Nodes without a class are put in one more, and then left out.
  classes = jnp.where(graph.classes < 0, num_classes, graph.classes)
  sums = jax.ops.segment_sum(values, classes, num_classes + 1)
  others = sums[classes] - values
  return jnp.where(_like(graph.classes < 0, values), 0, others)


def _edge_nodes(graph: Graph) -> Int[Array, " num_edges"]:
  """Returns where each edge starts."""
  return jnp.repeat(
    jnp.arange(graph.num_nodes),
    jnp.diff(graph.offsets),
    total_repeat_length=graph.neighbors.shape[0],
  )


def _edge_weights(graph: Graph) -> Float[Array, " num_edges"]:
  """Returns the weights of edges over the mean of their row."""
  if graph.weights is None:
    return jnp.ones(graph.neighbors.shape, jnp.float32)
  nodes, weights = _edge_nodes(graph), graph.weights.values
  degrees = jnp.diff(graph.offsets).astype(weights.dtype)
  sums = jax.ops.segment_sum(weights, nodes, graph.num_nodes)
  return weights * degrees[nodes] / sums[nodes]


def _like(weight: Array, values: Array) -> Array:
  """Gives a weight, of all rows or of each, the rank of the values."""
  size = weight.shape[0] if weight.ndim else 1
  return weight.reshape(size, *(1,) * (values.ndim - 1))


def _check_options(
  num_embeddings: int, rate: Any, graph: AnyGraph | None, neighbor_ratio: Any
) -> None:
  if _is_number(rate):
    check_rate("rate", rate)
  if _is_number(neighbor_ratio):
    check_ratio(neighbor_ratio)
  if graph is not None and graph.num_nodes != num_embeddings:
    raise ValueError(
      f"`graph` must be of `num_embeddings` ids, got {graph.num_nodes} and "
      f"{num_embeddings}."
    )


def _is_number(value: Any) -> bool:
  # Arrays may be traced, and then have no value to check.
  return isinstance(value, int | float | np.number)
