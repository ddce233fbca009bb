r"""Stochastic shared embeddings (SSE): ids that are now and then replaced.

Wu et al., NeurIPS 2019: in training, an id is replaced by another one with a
small probability before its embedding is looked up, so that embeddings learn
from the contexts of others. The maps are functions of a key and of ids, come
before any lookup, and serve labels as well as inputs. Draws are independent
for each occurrence. Leave them out at evaluation; nothing needs rescaling.
"""

from typing import Any, TypeGuard

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from anchor_codes.ops.graphs import Graph
from anchor_codes.typing import (
  check_at_least,
  check_ids,
  check_integer_ids,
  check_rate,
)


def sse_se_transition(
  key: PRNGKeyArray,
  ids: Int[Array, "*batch"],
  *,
  num_embeddings: int,
  rate: float | Float[Array, ""],
  low: int = 0,
  where: Bool[Array, "*batch"] | None = None,
) -> Int[Array, "*batch"]:
  r"""Replaces ids by others of the same table, uniformly (SSE-SE).

  Definition (Wu et al., NeurIPS 2019, eq. 5): :math:`p(j, j) = 1 - p_0` and
  :math:`p(j, k) = p_0 / (N - 1)` for :math:`k \ne j`. On the labels of a
  softmax cross-entropy this is label smoothing by :math:`p_0 N / (N - 1)`, in
  expectation.

  Args:
    key: Random key.
    ids: Ids of any shape and integer type.
    num_embeddings: The number :math:`N` of ids that can be replaced and drawn,
      those of ``[low, low + num_embeddings)``; with 1 nothing changes.
    rate: Probability :math:`p_0` of replacement, between 0 and 1; it may be
      traced. 0 changes nothing, bit for bit.
    low: First ordinary id. Ids below (padding, special symbols) and past the
      end are neither replaced nor drawn.
    where: Positions that may change, all by default.

  Returns:
    Ids like `ids`.

  Raises:
    ValueError: If the ids are not integers, their type cannot hold all ids of
      the table, or an option is out of range.

  >>> ids = jnp.array([0, 1, 2, 3])
  >>> key = jax.random.key(0)
  >>> print(sse_se_transition(key, ids, num_embeddings=4, rate=0.0))
  [0 1 2 3]
  >>> changed = sse_se_transition(key, ids, num_embeddings=4, rate=1.0)
  >>> print(changed != ids)
  [ True  True  True  True]
  """
  _check(ids, num_embeddings, rate, low)
  if num_embeddings == 1:
    return ids
  key_hit, key_row = jax.random.split(key)
  # Draws lie in [0, 1): a rate of 0 never hits, and a rate of 1 always does.
  hit = jax.random.uniform(key_hit, ids.shape, jnp.float32) < rate
  hit &= (ids >= low) & (ids <= low + num_embeddings - 1)
  if where is not None:
    chex.assert_shape(where, ids.shape)
    hit &= where
  other = _randint(key_row, ids.shape, num_embeddings - 1)
  # Uniform over all ids but the old one: it is stepped over.
  other = jnp.where(other >= ids.astype(jnp.int32) - low, other + 1, other)
  return jnp.where(hit, (other + low).astype(ids.dtype), ids)


def sse_graph_transition(
  key: PRNGKeyArray,
  ids: Int[Array, "*batch"],
  graph: Graph,
  *,
  rate: float | Float[Array, ""],
  neighbor_ratio: float | Float[Array, ""],
  low: int = 0,
  where: Bool[Array, "*batch"] | None = None,
) -> Int[Array, "*batch"]:
  r"""Replaces ids by others, neighbours in a graph more often (SSE-Graph).

  Definition (Wu et al., NeurIPS 2019, eq. 3): :math:`p(j, j) = 1 - p_0`, and a
  neighbour is :math:`\rho` times as likely as a node that is none,
  :math:`p(j, k) / p(j, l) = \rho`. So a node with :math:`d_j` neighbours is
  replaced by :math:`l` with :math:`q_j = p_0 / (N - 1 + (\rho - 1) d_j)` and by
  a neighbour with :math:`\rho q_j`. The draw takes constant time: with
  probability :math:`(\rho - 1) d_j / (N - 1 + (\rho - 1) d_j)` a uniform
  neighbour, else a uniform other node.

  Args:
    key: Random key.
    ids: Ids of any shape and integer type; node :math:`j` has the id ``j +
      low``.
    graph: Neighbours of each node; its nodes are all that is replaced and
      drawn.
    rate: Probability :math:`p_0` of replacement, between 0 and 1; it may be
      traced. 0 changes nothing, bit for bit.
    neighbor_ratio: The :math:`\rho \ge 1`; it may be traced. With 1, and for
      nodes without neighbours, this is :func:`sse_se_transition`.
    low: First ordinary id; see :func:`sse_se_transition`.
    where: Positions that may change, all by default.

  Returns:
    Ids like `ids`.

  Raises:
    ValueError: As :func:`sse_se_transition`, or if `neighbor_ratio` is a
      number below 1.

  >>> from anchor_codes.ops.graphs import graph_from_edges
  >>> graph = graph_from_edges([(0, 1)], num_nodes=3)
  >>> ids = jnp.array([0, 1])
  >>> print(sse_graph_transition(
  ...     jax.random.key(0), ids, graph, rate=1.0, neighbor_ratio=1e6))
  [1 0]
  """
  _check_ratio(neighbor_ratio)
  num_nodes, num_edges = graph.num_nodes, graph.neighbors.shape[0]
  key_other, key_near, key_edge = jax.random.split(key, 3)
  other = sse_se_transition(
    key_other, ids, num_embeddings=num_nodes, rate=rate, low=low, where=where
  )
  if num_edges == 0:
    return other
  # Special ids read the edges of some node, in vain: `other` leaves them alone.
  local = jnp.clip(ids.astype(jnp.int32) - low, 0, num_nodes - 1)
  start = graph.offsets[local]
  degree = graph.offsets[local + 1] - start
  extra = (neighbor_ratio - 1) * degree.astype(jnp.float32)
  draw = jax.random.uniform(key_near, ids.shape, jnp.float32)
  near = draw * (num_nodes - 1 + extra) < extra
  # Nodes without neighbours draw something as well, but are never `near`.
  step = _randint(key_edge, ids.shape, jnp.maximum(degree, 1))
  edge = jnp.minimum(start + step, num_edges - 1)
  neighbor = (graph.neighbors[edge] + low).astype(ids.dtype)
  # Another id comes out exactly where one is to be replaced.
  return jnp.where((other != ids) & near, neighbor, other)


def transition_row(
  i: int,
  *,
  num_embeddings: int,
  rate: float,
  graph: Graph | None = None,
  neighbor_ratio: float = 1.0,
) -> np.ndarray:
  r"""Returns the exact distribution of what an id becomes.

  Definition (Wu et al., NeurIPS 2019, eqs. 3 and 5): the row :math:`p(i,
  \cdot)` of :func:`sse_graph_transition`, or of :func:`sse_se_transition`
  without a graph. On the host, for reports and tests.

  Args:
    i: The id, from 0 (``low`` is not counted).
    num_embeddings: Number of ids.
    rate: Probability of replacement.
    graph: Neighbours of each node.
    neighbor_ratio: How many times as likely as another node a neighbour is.

  Returns:
    Probabilities float64 [num_embeddings] that sum to 1.

  Raises:
    ValueError: If an option is out of range, or the graph is of another size.
    IndexError: If the id is out of range.

  >>> print(transition_row(1, num_embeddings=3, rate=0.2))
  [0.1 0.8 0.1]
  >>> from anchor_codes.ops.graphs import graph_from_edges
  >>> graph = graph_from_edges([(0, 1)], num_nodes=3)
  >>> print(transition_row(
  ...     1, num_embeddings=3, rate=0.2, graph=graph, neighbor_ratio=3.0))
  [0.15 0.8  0.05]
  """
  check_at_least("num_embeddings", num_embeddings, 1)
  check_ids(np.asarray(i), num_embeddings)
  check_rate("rate", rate)
  _check_ratio(neighbor_ratio)
  if graph is not None and graph.num_nodes != num_embeddings:
    raise ValueError(
      "`graph` must have `num_embeddings` nodes, got "
      f"{graph.num_nodes} and {num_embeddings}."
    )
  if num_embeddings == 1:
    return np.ones(1)
  likelihood = np.ones(num_embeddings)
  if graph is not None:
    start, end = np.asarray(graph.offsets[i : i + 2])
    likelihood[np.asarray(graph.neighbors)[start:end]] = neighbor_ratio
  likelihood[i] = 0
  row = rate * likelihood / likelihood.sum()
  row[i] = 1 - rate
  return row


def _check(
  ids: Int[Array, "*batch"],
  num_embeddings: int,
  rate: float | Float[Array, ""],
  low: int,
) -> None:
  check_integer_ids(ids)
  check_at_least("num_embeddings", num_embeddings, 1)
  check_at_least("low", low, 0)
  if _is_number(rate):
    check_rate("rate", rate)
  # Ids are drawn in int32, whatever their type.
  largest = low + num_embeddings - 1
  if largest > min(jnp.iinfo(ids.dtype).max, 2**31 - 1):
    raise ValueError(
      f"`ids` of type {ids.dtype} cannot hold the largest id {largest}."
    )


def _check_ratio(neighbor_ratio: float | Float[Array, ""]) -> None:
  if _is_number(neighbor_ratio) and not neighbor_ratio >= 1:
    raise ValueError(
      f"`neighbor_ratio` must be at least 1, got {neighbor_ratio}."
    )


def _randint(
  key: PRNGKeyArray, shape: tuple[int, ...], maximum: int | Int[Array, "*batch"]
) -> Int[Array, "*batch"]:
  return jax.random.randint(key, shape, 0, maximum, jnp.int32)


def _is_number(value: Any) -> TypeGuard[float]:
  return isinstance(value, int | float | np.number)
