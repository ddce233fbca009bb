r"""The exact expected cross-entropy of labels under shared embeddings.

Wu et al., NeurIPS 2019, replace labels as well as inputs: labels are embeddings
whose rows are one-hot. The cross-entropy is linear in those, so the expectation
over all replacements costs no more than the loss itself: it is label smoothing,
uniform or along a graph.
"""

import chex
import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anchor_codes.ops.graphs import AnyGraph
from anchor_codes.ops.reductions import wide
from anchor_codes.ops.transition_products import (
  padded_neighbors,
  transition_weights,
)
from anchor_codes.typing import check_at_least, check_integer_ids


def shared_label_loss(
  logits: Float[Array, "*batch num_classes"],
  labels: Int[Array, "*batch"],
  *,
  rate: float | Float[Array, ""],
  graph: AnyGraph | None = None,
  neighbor_ratio: float | Float[Array, ""] = 1.0,
  num_embeddings: int | None = None,
  low: int = 0,
  where: Bool[Array, "*batch"] | None = None,
  max_degree: int | None = None,
) -> Float[Array, "*batch"]:
  r"""Computes the expected softmax cross-entropy of labels that are replaced.

  Definition: :math:`\sum_k p(y, k) (\log \sum_c e^{z_c} - z_k)` with the
  transitions :math:`p` of Wu et al. (NeurIPS 2019, eqs. 3 and 5). The options
  mean what they mean to :func:`~anchor_codes.ops.transitions.sse_se_transition`
  and :func:`~anchor_codes.ops.transitions.sse_graph_transition`: this is the
  mean over all draws of the loss of the label drawn, and so is its gradient.

  Without a graph it is label smoothing (Szegedy et al., CVPR 2016) with
  :math:`\epsilon = p_0 N / (N - 1)`, where one label in :math:`N` of the
  smoothed part is the true one. With a graph, neighbours of the label get more
  than other classes. Neither makes a target for all classes: time and memory
  beside those of the logits are ``max_degree`` for each label.

  Args:
    logits: Scores of the classes.
    labels: The true classes; one outside of the logits gives ``nan``. To leave
      padding out, average with
      :func:`~anchor_codes.ops.reductions.masked_mean`.
    rate: Probability :math:`p_0` of replacement, between 0 and 1; it may be
      traced.
    graph: Neighbours of each class; node ``i`` is the class ``i + low``.
    neighbor_ratio: How many times as likely as another class a neighbour is,
      at least 1; it may be traced.
    num_embeddings: The number :math:`N` of classes that are replaced and drawn,
      from `low` on; by default the nodes of the graph, else all that there are.
    low: First ordinary class. Those below (padding, special symbols) and past
      the end are neither replaced nor drawn: their loss is the plain one.
    where: Labels that may change, all by default; the others have the plain
      loss.
    max_degree: Upper limit of the degrees, by default the largest one; needed
      where the graph is traced. A label with more neighbours gives ``nan``.

  Returns:
    The loss of each label, in at least float32.

  Raises:
    ValueError: If the labels are not integers, an option is out of range, the
      graph has another size than `num_embeddings`, or classes are missing in
      the logits.

  >>> logits, label = jnp.array([2.0, 0.0, 0.0]), jnp.array(0)
  >>> for rate in (0.0, 0.1):
  ...   print(f"{shared_label_loss(logits, label, rate=rate):.4f}")
  0.2395
  0.4395
  """
  check_integer_ids(labels)
  chex.assert_shape(logits, (*labels.shape, None))
  num_classes = logits.shape[-1]
  size = _num_shared(num_embeddings, graph, low=low, num_classes=num_classes)
  weights = transition_weights(
    num_embeddings=size,
    rate=rate,
    graph=graph,
    neighbor_ratio=neighbor_ratio,
    dtype=wide(logits).dtype,
  )
  change = (labels >= low) & (labels <= low + size - 1)
  if where is not None:
    chex.assert_equal_shape([where, labels])
    change &= where
  scores = _shift(wide(logits))
  nodes = jnp.clip(labels.astype(jnp.int32) - low, 0, size - 1)
  keep, everyone, neighbor = (w[nodes] if w.ndim else w for w in weights)
  own = _score_at(scores, labels)
  shared = keep * own
  total = jnp.sum(scores[..., low : low + size], axis=-1)
  shared += _weighted(everyone, total)
  if graph is not None:
    near, shares = padded_neighbors(graph, nodes, max_degree=max_degree)
    found = jnp.take_along_axis(scores, near + low, axis=-1)
    total = jnp.sum(_weighted(shares.astype(found.dtype), found), axis=-1)
    shared += _weighted(neighbor, total)
  return jax.nn.logsumexp(scores, axis=-1) - jnp.where(change, shared, own)


def _num_shared(
  num_embeddings: int | None,
  graph: AnyGraph | None,
  *,
  low: int,
  num_classes: int,
) -> int:
  """Returns how many classes are replaced and drawn."""
  check_at_least("low", low, 0)
  size = num_embeddings
  if size is None:
    size = num_classes - low if graph is None else graph.num_nodes
  check_at_least("num_embeddings", size, 1)
  if low + size > num_classes:
    raise ValueError(
      "`logits` must have `low + num_embeddings` classes, got "
      f"{num_classes} and {low} + {size}."
    )
  return size


def _shift(scores: Array) -> Array:
  """Moves the largest score to 0, which no loss can tell, but roundings can."""
  largest = jnp.max(scores, axis=-1, keepdims=True)
  return scores - jax.lax.stop_gradient(largest)


def _weighted(weight: Array, total: Array) -> Array:
  # Without a weight, also where a class is masked: 0 times infinity is nan.
  used = weight > 0
  return jnp.where(used, weight * jnp.where(used, total, 0), 0)


def _score_at(scores: Array, labels: Array) -> Array:
  # Sent past the end, negative labels are filled as well; they would wrap.
  labels = jnp.where(labels < 0, scores.shape[-1], labels.astype(jnp.int32))
  found = jnp.take_along_axis(
    scores, labels[..., None], axis=-1, mode="fill", fill_value=jnp.nan
  )
  return found[..., 0]
