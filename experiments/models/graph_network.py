"""Graph convolutional networks, whose first layer is any embedding of words."""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anchor_codes import nn, typing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseMatrix:
  """A matrix by its entries; a pytree, whose number of rows is static.

  Attributes:
    rows: Row of each entry, ascending.
    columns: Column of each entry; entries of the same place add up.
    values: Value of each entry.
    num_rows: Number of rows, those without entries included.
  """

  rows: Int[Array, " num_entries"]
  columns: Int[Array, " num_entries"]
  values: Float[Array, " num_entries"]
  num_rows: int = dataclasses.field(metadata={"static": True})

  def __matmul__(
    self, dense: Float[Array, "num_columns features"]
  ) -> Float[Array, "num_rows features"]:
    """Multiplies by a dense matrix: a gather and a sum over segments.

    >>> matrix = SparseMatrix(
    ...     rows=jnp.array([0, 2]), columns=jnp.array([1, 0]),
    ...     values=jnp.array([2.0, 3.0]), num_rows=3)
    >>> print(matrix @ jnp.array([[1.0], [10.0]]))
    [[20.]
     [ 0.]
     [ 3.]]
    """
    terms = jnp.take(dense, self.columns, axis=0) * self.values[:, None]
    return jax.ops.segment_sum(
      terms,
      self.rows,
      num_segments=self.num_rows,
      indices_are_sorted=True,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
  """What a network sees of a graph; a pytree.

  Attributes:
    features: The words of each node [num_nodes, num_words].
    adjacency: What its neighbours give to each node [num_nodes, num_nodes].
  """

  features: SparseMatrix
  adjacency: SparseMatrix


def normalized_adjacency(
  edges: Int[np.ndarray, "num_edges 2"], *, num_nodes: int
) -> SparseMatrix:
  r"""Builds the propagation matrix of a graph convolution, on the host.

  Definition (Kipf and Welling, ICLR 2017): :math:`\hat A = D^{-1/2} (A + I)
  D^{-1/2}` with the degrees :math:`D` of :math:`A + I`. A node without edges
  keeps its own value.

  Args:
    edges: Each undirected edge once, without self loops.
    num_nodes: Number of nodes.

  Returns:
    A symmetric matrix of ``2 * num_edges + num_nodes`` entries.

  >>> matrix = normalized_adjacency(np.array([[0, 2]]), num_nodes=3)
  >>> print(matrix.rows, matrix.columns, matrix.values.round(2))
  [0 0 1 2 2] [0 2 1 0 2] [0.5 0.5 1.  0.5 0.5]
  """
  loops = np.arange(num_nodes)
  rows = np.concatenate([edges[:, 0], edges[:, 1], loops])
  columns = np.concatenate([edges[:, 1], edges[:, 0], loops])
  order = np.lexsort((columns, rows))
  rows, columns = rows[order], columns[order]
  scale = 1 / np.sqrt(np.bincount(rows, minlength=num_nodes))
  return SparseMatrix(
    rows=jnp.asarray(rows, jnp.int32),
    columns=jnp.asarray(columns, jnp.int32),
    values=jnp.asarray(scale[rows] * scale[columns], jnp.float32),
    num_rows=num_nodes,
  )


class GraphNetwork(nnx.Module):
  r"""A graph convolutional network of two layers.

  Definition (Kipf and Welling, ICLR 2017): :math:`\mathrm{softmax}(\hat A\,
  \mathrm{ReLU}(\hat A X W_0)\, W_1)`, without biases. A row of :math:`W_0` is
  the vector of a word, so that :math:`X W_0` adds up the vectors of the words
  of a node, and any embedding of words may give them.

  Args:
    embed: Any layer from ids of words to vectors.
    num_classes: Number of classes.
    dropout: Rate of the dropout on the words of the nodes and on the hidden
      layer, from 0 to less than 1.
    sharing: Exchange of words before the lookup, if any.
    rngs: Source of randomness of the start.

  Raises:
    ValueError: If the rate is out of range.
  """

  def __init__(
    self,
    embed: Any,
    num_classes: int,
    *,
    dropout: float = 0.5,
    sharing: nn.StochasticSharing | None = None,
    rngs: nnx.Rngs,
  ):
    typing.check_rate("dropout", dropout)
    if dropout == 1:
      raise ValueError("`dropout` must be less than 1, got 1.")
    init = jax.nn.initializers.glorot_uniform()
    self.embed = embed
    self.sharing = sharing
    self.dropout = nnx.Dropout(dropout)
    self.kernel = nnx.Param(init(rngs.params(), (embed.features, num_classes)))

  def word_vectors(self) -> Float[Array, "num_words features"]:
    """Looks up the vectors of all words, the weights of the first layer."""
    return self.embed(jnp.arange(self.embed.num_embeddings))

  def __call__(
    self,
    vectors: Float[Array, "num_words features"],
    graph: Graph,
    *,
    key: Array | None = None,
  ) -> Float[Array, "num_nodes num_classes"]:
    """Returns the logits of the classes.

    Args:
      vectors: Those of :meth:`word_vectors`: looked up once for a step, for
        they may also be penalised.
      graph: The graph.
      key: Source of dropout and exchange, needed in training.

    Returns:
      One row for each node.
    """
    features, drop_key = graph.features, key
    if key is not None:
      share_key, word_key, drop_key = jax.random.split(key, 3)
      features = self._drop_words(self._share(features, share_key), word_key)
    hidden = jax.nn.relu(graph.adjacency @ (features @ vectors))
    if drop_key is not None:
      hidden = self.dropout(hidden, rngs=drop_key)
    return graph.adjacency @ (hidden @ self.kernel[...])

  def _share(self, features: SparseMatrix, key: Array) -> SparseMatrix:
    if self.sharing is None:
      return features
    words = self.sharing(features.columns, rngs=nnx.Rngs(sse=key))
    return dataclasses.replace(features, columns=words)

  def _drop_words(self, features: SparseMatrix, key: Array) -> SparseMatrix:
    # Zeros of a dense matrix would stay zeros: only entries need to be drawn.
    values = self.dropout(features.values, rngs=key)
    return dataclasses.replace(features, values=values)


def masked_loss(
  logits: Float[Array, "num_nodes num_classes"],
  labels: Int[Array, " num_nodes"],
  where: Bool[Array, " num_nodes"],
) -> Float[Array, ""]:
  """Returns the mean negative log likelihood of the labels of some nodes.

  Args:
    logits: Scores of the classes.
    labels: The class of each node; any number where it does not count.
    where: Which nodes count, at least one.
  """
  known = jnp.where(where, labels, 0)
  chosen = jnp.take_along_axis(logits, known[:, None], axis=-1)[:, 0]
  losses = jax.nn.logsumexp(logits, axis=-1) - chosen
  return jnp.mean(losses, where=where)
