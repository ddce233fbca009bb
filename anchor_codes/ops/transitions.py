r"""Stochastic shared embeddings (SSE): ids that are now and then replaced.

Wu et al., NeurIPS 2019: in training, an id is replaced by another one with a
small probability before its embedding is looked up, so that embeddings learn
from the contexts of others. The maps are functions of a key and of ids, come
before any lookup, and serve labels as well as inputs. Draws are independent
for each occurrence, or, with `per_row`, one map of the whole table is drawn for
all of them. Leave them out at evaluation; nothing needs rescaling.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from anchor_codes.ops.frequencies import Frequencies
from anchor_codes.ops.graphs import AnyGraph
from anchor_codes.typing import (
  check_at_least,
  check_ids,
  check_integer_ids,
  check_rate,
)

_Draw = Callable[[Int[Array, "*batch"]], Int[Array, "*batch"]]

# No float32 tells the laws of larger ratios apart, and the product of this one
# with a degree is none that overflows.
_LARGEST_RATIO = 1e24


def sse_se_transition(
  key: PRNGKeyArray,
  ids: Int[Array, "*batch"],
  *,
  num_embeddings: int,
  rate: float | Float[Array, ""],
  low: int = 0,
  where: Bool[Array, "*batch"] | None = None,
  exclude_self: bool = True,
  per_row: bool = False,
  frequencies: Frequencies | None = None,
) -> Int[Array, "*batch"]:
  r"""Replaces ids by others of the same table, uniformly (SSE-SE).

  Definition (Wu et al., NeurIPS 2019, eq. 5): :math:`p(j, j) = 1 - p_0` and
  :math:`p(j, k) = p_0 / (N - 1)` for :math:`k \ne j`. On the labels of a
  softmax cross-entropy this is label smoothing by :math:`p_0 N / (N - 1)`, in
  expectation.

  Args:
    key: Random key.
    ids: Ids of any shape and integer type: inputs, or labels.
    num_embeddings: The number :math:`N` of ids that can be replaced and drawn,
      those of ``[low, low + num_embeddings)``; with 1 nothing changes.
    rate: Probability :math:`p_0` of replacement, between 0 and 1; it may be
      traced. 0 changes nothing, bit for bit. A traced one below 0, or `nan`,
      acts like 0, and one above 1 like 1.
    low: First ordinary id. Ids below (padding, special symbols) and past the
      end are neither replaced nor drawn.
    where: Positions that may change, all by default.
    exclude_self: Whether an id that is replaced becomes another one. If not,
      it may be drawn itself, as in the code that the paper released: a share
      :math:`p_0 (N - 1) / N` changes.
    per_row: Whether one map of the table is drawn, for :math:`O(N)`, so that
      all occurrences of an id become the same one. Each still follows the law.
    frequencies: Counts :math:`c` of the `num_embeddings` ids to draw in
      proportion to, :math:`p(j, k) = p_0 c_k / \sum_{l \ne j} c_l`; None for
      uniform draws. Where all other counts are 0, the id stays.

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
  key_hit, key_row = jax.random.split(key)
  if frequencies is not None:
    _check_size("frequencies", frequencies.num_embeddings, num_embeddings)

  def draw(nodes: Int[Array, "*batch"]) -> Int[Array, "*batch"]:
    if frequencies is not None:
      return frequencies.draw(key_row, nodes, exclude_self=exclude_self)
    return _draw_uniformly(key_row, nodes, num_embeddings, exclude_self)

  return _replace(
    key_hit,
    ids,
    draw,
    num_embeddings=num_embeddings,
    rate=rate,
    low=low,
    where=where,
    per_row=per_row,
  )


def sse_graph_transition(
  key: PRNGKeyArray,
  ids: Int[Array, "*batch"],
  graph: AnyGraph,
  *,
  rate: float | Float[Array, ""],
  neighbor_ratio: float | Float[Array, ""],
  low: int = 0,
  where: Bool[Array, "*batch"] | None = None,
  exclude_self: bool = True,
  per_row: bool = False,
) -> Int[Array, "*batch"]:
  r"""Replaces ids by others, neighbours in a graph more often (SSE-Graph).

  Definition (Wu et al., NeurIPS 2019, eq. 3): :math:`p(j, j) = 1 - p_0`, and a
  neighbour is :math:`\rho` times as likely as a node that is none,
  :math:`p(j, k) / p(j, l) = \rho`. So a node with :math:`d_j` neighbours is
  replaced by :math:`l` with :math:`q_j = p_0 / (N - 1 + (\rho - 1) d_j)` and by
  a neighbour with :math:`\rho q_j`. The draw takes constant time: a neighbour
  with probability :math:`(\rho - 1) d_j / (N - 1 + (\rho - 1) d_j)`, else a
  uniform other node.

  In a graph with weights, a neighbour is :math:`1 + (\rho - 1) w_{jk} / \bar
  w_j` times as likely as a node that is none, where :math:`\bar w_j` is the
  mean weight of the neighbours of :math:`j`: their scale does not matter, a
  neighbour is :math:`\rho` times as likely on average, and with equal weights
  this is the law without them.

  Args:
    key: Random key.
    ids: Ids of any shape and integer type; node :math:`j` has the id ``j +
      low``.
    graph: Neighbours of each node, or a graph of classes; its nodes are all
      that is replaced and drawn.
    rate: Probability :math:`p_0` of replacement; see :func:`sse_se_transition`.
    neighbor_ratio: The :math:`\rho \ge 1`; it may be traced. With 1, and for
      nodes without neighbours, this is :func:`sse_se_transition`.
    low: First ordinary id; see :func:`sse_se_transition`.
    where: Positions that may change, all by default.
    exclude_self: Whether an id that is replaced becomes another one. If not,
      :math:`j` counts as a node that is no neighbour: :math:`N` takes the place
      of :math:`N - 1`.
    per_row: Whether one map of the table is drawn; see
      :func:`sse_se_transition`.

  Returns:
    Ids like `ids`.

  Raises:
    ValueError: As :func:`sse_se_transition`, or if `neighbor_ratio` is a
      number below 1 or infinite.

  >>> from anchor_codes.ops.graphs import graph_from_edges
  >>> graph = graph_from_edges([(0, 1)], num_nodes=3)
  >>> ids = jnp.array([0, 1])
  >>> print(sse_graph_transition(
  ...     jax.random.key(0), ids, graph, rate=1.0, neighbor_ratio=1e6))
  [1 0]
  """
  _check_ratio(neighbor_ratio)
  neighbor_ratio, size = limit_ratio(neighbor_ratio), graph.num_nodes
  key_other, key_near, key_edge = jax.random.split(key, 3)
  key_hit, key_row = jax.random.split(key_other)

  def draw(nodes: Int[Array, "*batch"]) -> Int[Array, "*batch"]:
    other = _draw_uniformly(key_row, nodes, size, exclude_self)
    extra = (neighbor_ratio - 1) * graph.degrees(nodes).astype(jnp.float32)
    coin = jax.random.uniform(key_near, nodes.shape, jnp.float32)
    # Nodes without neighbours draw something as well, but are never `near`.
    near = coin * (size - exclude_self + extra) < extra
    return jnp.where(near, graph.draw(key_edge, nodes), other)

  return _replace(
    key_hit,
    ids,
    draw,
    num_embeddings=size,
    rate=rate,
    low=low,
    where=where,
    per_row=per_row,
  )


def transition_row(
  i: int,
  *,
  num_embeddings: int,
  rate: float,
  graph: AnyGraph | None = None,
  neighbor_ratio: float = 1.0,
  exclude_self: bool = True,
  frequencies: Frequencies | None = None,
) -> np.ndarray:
  r"""Returns the exact distribution of what an id becomes.

  Definition (Wu et al., NeurIPS 2019, eqs. 3 and 5): the row :math:`p(i,
  \cdot)` of :func:`sse_graph_transition`, or of :func:`sse_se_transition`
  without a graph. On the host, for reports and tests.

  Args:
    i: The id, from 0 (``low`` is not counted).
    num_embeddings: Number of ids.
    rate: Probability of replacement.
    graph: Neighbours of each node, if any.
    neighbor_ratio: How many times as likely as another node a neighbour is.
    exclude_self: Whether an id that is replaced becomes another one.
    frequencies: Counts to draw in proportion to, for a table without a graph.

  Returns:
    Probabilities float64 [num_embeddings] that sum to 1.

  Raises:
    ValueError: If an option is out of range, the graph or the frequencies are
      of another size, or both are given.
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
  check_one_law(graph, frequencies)
  likelihood = np.ones(num_embeddings)
  if graph is not None:
    _check_size("graph", graph.num_nodes, num_embeddings)
    neighbors, weights = graph.row(i)
    likelihood[neighbors] += (neighbor_ratio - 1) * weights
  if frequencies is not None:
    _check_size("frequencies", frequencies.num_embeddings, num_embeddings)
    likelihood = np.diff(np.asarray(frequencies.cumulative, float), prepend=0)
  if exclude_self:
    likelihood[i] = 0
  stays = np.arange(num_embeddings) == i
  if num_embeddings == 1 or not likelihood.any():
    return stays.astype(float)
  return (1 - rate) * stays + rate * likelihood / likelihood.sum()


def check_one_law(graph: AnyGraph | None, frequencies: Any) -> None:
  """Raises `ValueError` if ids are to follow a graph and their counts.

  >>> check_one_law(None, None)
  """
  if graph is not None and frequencies is not None:
    raise ValueError("`graph` and counts must not be given together.")


def check_ratio(neighbor_ratio: float) -> None:
  """Raises `ValueError` unless a ratio is a finite number of at least 1.

  >>> check_ratio(0.5)
  Traceback (most recent call last):
  ...
  ValueError: `neighbor_ratio` must be at least 1, and finite, got 0.5.
  """
  # In this form `nan` is refused, too.
  if not 1 <= neighbor_ratio < float("inf"):
    raise ValueError(
      f"`neighbor_ratio` must be at least 1, and finite, got {neighbor_ratio}."
    )


def limit_ratio(
  neighbor_ratio: float | Float[Array, ""],
) -> float | Float[Array, ""]:
  """Returns a ratio whose product with a degree does not overflow.

  Args:
    neighbor_ratio: How many times as likely as another node a neighbour is.

  Returns:
    The ratio, or one that draws neighbours alone as well as it does.

  >>> limit_ratio(2.0), limit_ratio(1e38)
  (2.0, 1e+24)
  """
  if _is_number(neighbor_ratio):
    return min(neighbor_ratio, _LARGEST_RATIO)
  return jnp.minimum(neighbor_ratio, _LARGEST_RATIO)


def _draw_uniformly(
  key: PRNGKeyArray,
  nodes: Int[Array, "*batch"],
  size: int,
  exclude_self: bool,
) -> Int[Array, "*batch"]:
  drawn = jax.random.randint(
    key, nodes.shape, 0, size - exclude_self, jnp.int32
  )
  if not exclude_self:
    return drawn
  # Uniform over all nodes but the old one: it is stepped over.
  return jnp.where(drawn >= nodes, drawn + 1, drawn)


def _replace(
  key: PRNGKeyArray,
  ids: Int[Array, "*batch"],
  draw: _Draw,
  *,
  num_embeddings: int,
  rate: float | Float[Array, ""],
  low: int,
  where: Bool[Array, "*batch"] | None,
  per_row: bool,
) -> Int[Array, "*batch"]:
  """Replaces some ids by what is drawn for them, counted from `low`."""
  _check(ids, num_embeddings, rate, low)
  if where is not None:
    chex.assert_shape(where, ids.shape)
  if num_embeddings == 1:
    return ids
  may_change = (ids >= low) & (ids <= low + num_embeddings - 1)
  if where is not None:
    may_change &= where
  # Other ids draw as some ordinary one does, in vain.
  local = jnp.clip(ids.astype(jnp.int32) - low, 0, num_embeddings - 1)
  nodes = jnp.arange(num_embeddings, dtype=jnp.int32) if per_row else local
  # Draws lie in [0, 1): a rate of 0 never hits, and a rate of 1 always does.
  hit = jax.random.uniform(key, nodes.shape, jnp.float32) < rate
  new = jnp.where(hit, draw(nodes), nodes)
  new = new[local] if per_row else new
  return jnp.where(may_change, (new + low).astype(ids.dtype), ids)


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


def _check_size(name: str, size: int, num_embeddings: int) -> None:
  if size != num_embeddings:
    raise ValueError(
      f"`{name}` must be of `num_embeddings` ids, got {size} and "
      f"{num_embeddings}."
    )


def _check_ratio(neighbor_ratio: float | Float[Array, ""]) -> None:
  if _is_number(neighbor_ratio):
    check_ratio(neighbor_ratio)


def _is_number(value: Any) -> TypeGuard[float]:
  return isinstance(value, int | float | np.number)
