r"""Multipliers of the l1 penalty on mixture weights.

A row of the transform survives the proximal steps of Liang et al. ("Anchor &
Transform", ICLR 2021) only if its gradient, which is in proportion to how often
its symbol occurs, is larger than :math:`\lambda_2`: the penalty is a cut-off of
frequency. These functions compute factors :math:`\ge 0` of the penalty of each
row or weight, which ``training.proximal_l1`` and ``training.proximal_yogi``
take as `multipliers`; 0 frees a weight, and infinity keeps it at 0.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from anchor_codes.ops.graphs import Graph
from anchor_codes.typing import check_integer_ids


def frequency_multipliers(
  counts: Num[Array, " num_embeddings"],
) -> Float[Array, "num_embeddings 1"]:
  r"""Scales the penalty of each row by how often its symbol occurs.

  Definition: :math:`\lambda_2 V p_i`, with the relative frequency :math:`p_i`
  of symbol i among :math:`V`. As the mean gradient of a row is in proportion
  to :math:`p_i` as well, what survives no longer depends on it.

  Args:
    counts: How often each symbol occurs, non-negative.

  Returns:
    Factors with the mean 1; exactly 0 for symbols that do not occur, and for
    all if none does.

  >>> print(frequency_multipliers(jnp.array([6, 0, 2, 0])))
  [[3.]
   [0.]
   [1.]
   [0.]]
  """
  chex.assert_rank(counts, 1)
  counts = counts.astype(jnp.float32)  # The sum of integers may overflow.
  mean = jnp.mean(counts)
  return (counts / jnp.where(mean > 0, mean, 1))[:, None]


def keep_largest_multipliers(
  transform: Float[Array, "num_embeddings num_anchors"],
) -> Float[Array, "num_embeddings num_anchors"]:
  """Frees the largest weight of each row, so that no penalty empties a row.

  A gradient alone can still move the last weight to zero. All weights of a row
  of zeros are free, so that it takes up whichever anchor lowers the loss; the
  largest of them remains free in the next step.

  Args:
    transform: Dense rows of non-negative weights, all or those of a batch.

  Returns:
    0 at the largest weight of each row, the first of equal ones, and in rows
    without a positive weight; else 1.

  >>> print(keep_largest_multipliers(jnp.array([[0.5, 2.0, 2.0], [0, 0, 0]])))
  [[1. 0. 1.]
   [0. 0. 0.]]
  """
  chex.assert_rank(transform, 2)
  largest = jnp.argmax(transform, axis=1)[:, None]
  # By position: compared by value, all of several equal weights would be free.
  others = jnp.arange(transform.shape[1])[None, :] != largest
  is_alive = jnp.max(transform, axis=1, keepdims=True) > 0
  return (others & is_alive).astype(jnp.float32)


def relation_multipliers(
  graph: Graph,
  ids: Int[Array, " size"],
  anchor_ids: Int[Array, " num_anchors"],
  *,
  related: float = 0.0,
  unrelated: float = 1.0,
) -> Float[Array, "size num_anchors"]:
  r"""Eases the penalty on weights of anchors that stand for related symbols.

  Definition (Liang et al., ICLR 2021, domain knowledge): the penalty leaves
  out the pairs :math:`(i, k)` whose symbols are known to be related, and holds
  the others back; :math:`\lambda_2 L_{ik}` with `related` and `unrelated` for
  :math:`L_{ik}`. A symbol is related to itself. Each pair is one binary
  search, for the rows of a batch alone.

  Args:
    graph: Neighbours of each symbol, its rows sorted as those of
      :func:`graph_from_edges`.
    ids: The symbols of the rows. One outside the graph, which stands for
      padding, is related to none.
    anchor_ids: The symbol of each anchor; one outside the graph is related to
      none.
    related: Factor for related pairs, non-negative.
    unrelated: Factor for the others; infinity bars them.

  Returns:
    The factors. A row without any related anchor, of which the graph says
    nothing, has ones, so that it is not emptied.

  Raises:
    ValueError: If the ids are not integers, or a factor is negative.

  >>> from anchor_codes.ops.graphs import graph_from_edges
  >>> graph = graph_from_edges([(0, 1), (1, 2)], num_nodes=4)
  >>> print(relation_multipliers(
  ...   graph, jnp.array([0, 2, 3]), jnp.array([0, 1]), unrelated=jnp.inf
  ... ))
  [[ 0.  0.]
   [inf  0.]
   [ 1.  1.]]
  """
  check_integer_ids(ids)
  check_integer_ids(anchor_ids)
  chex.assert_rank([ids, anchor_ids], 1)
  _check_factor("related", related)
  _check_factor("unrelated", unrelated)
  is_related = _are_related(graph, ids[:, None], anchor_ids[None, :])
  factors = jnp.where(is_related, related, unrelated)
  known = jnp.any(is_related, axis=1, keepdims=True)
  return jnp.where(known, factors, 1).astype(jnp.float32)


def _are_related(
  graph: Graph, ids: Int[Array, "size 1"], others: Int[Array, "1 num_anchors"]
) -> Bool[Array, "size num_anchors"]:
  ids, others = ids.astype(jnp.int32), others.astype(jnp.int32)
  num_nodes, num_edges = graph.num_nodes, graph.neighbors.shape[0]
  is_equal = (ids == others) & (ids >= 0) & (ids < num_nodes)
  if num_edges == 0:
    return is_equal
  # Only to read something: what was clipped is taken out in the end.
  nodes = jnp.clip(ids, 0, num_nodes - 1)
  shape = jnp.broadcast_shapes(ids.shape, others.shape)
  start = jnp.broadcast_to(graph.offsets[nodes], shape)
  end = jnp.broadcast_to(graph.offsets[nodes + 1], shape)

  def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = bounds
    middle = low + (high - low) // 2  # The sum may overflow.
    neighbor = graph.neighbors[jnp.minimum(middle, num_edges - 1)]
    is_right = (low < high) & (neighbor < others)
    return jnp.where(is_right, middle + 1, low), jnp.where(
      is_right, high, middle
    )

  # A row has fewer than `num_nodes` neighbours, and halves to nothing.
  num_steps = min(num_nodes, num_edges).bit_length()
  place, _ = jax.lax.fori_loop(0, num_steps, halve, (start, end))
  found = graph.neighbors[jnp.minimum(place, num_edges - 1)] == others
  is_neighbor = found & (place < end) & (nodes == ids)
  return is_equal | is_neighbor


def _check_factor(name: str, value: float) -> None:
  if not value >= 0:
    raise ValueError(f"`{name}` must be non-negative, got {value}.")
