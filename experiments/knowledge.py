"""What is known of the symbols of a table before it is trained.

How often they occur, which are related, vectors that somebody else has trained:
they choose what anchors stand for, and which weights go without the penalty.
"""

import dataclasses
import os
from collections.abc import Collection
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from anchor_codes import nn, ops, typing
from anchor_codes.ops import graphs
from experiments import (
  cooccurrence,
  embeddings,
  given_vectors,
  sharing_graphs,
)
from experiments.datasets import relations

STARTS = (*typing.STARTS, "frequent", "clusters")
"""How anchors start: those of a layer, at the most frequent symbols, or at the
centres of clusters of given vectors."""


@dataclasses.dataclass(frozen=True)
class Penalty:
  """Factors of the l1 penalty for the rows of a batch.

  Attributes:
    mode: One of ``typing.PENALTIES``.
    frequencies: Factor of each row, for the mode 'frequency'.
    graph: Which symbols are related, if that is known.
    anchor_ids: The symbol that each anchor stands for, with a graph.
    unrelated: Factor of pairs that are not related; infinity bars them.
  """

  mode: str
  frequencies: Float[Array, "num_embeddings 1"]
  graph: graphs.Graph | None = None
  anchor_ids: Int[Array, " num_anchors"] | None = None
  unrelated: float = 1.0

  def multipliers(
    self,
    ids: Int[Array, " size"],
    transform: Float[Array, "size num_anchors"],
  ) -> Float[Array, "size num_anchors"]:
    """Returns the factors for some rows, given their weights."""
    factors = jnp.ones_like(transform)
    if self.mode == "frequency":
      factors *= ops.take_rows(self.frequencies, ids, fill_value=0.0)
    elif self.mode == "keep_one":
      factors *= ops.keep_largest_multipliers(transform)
    if self.graph is None or self.anchor_ids is None:
      return factors
    known = ops.relation_multipliers(
      self.graph, ids, self.anchor_ids, unrelated=self.unrelated
    )
    # Zero times infinity would be nan: what is barred stays barred.
    return jnp.where(jnp.isinf(known), known, factors * known)


@dataclasses.dataclass(frozen=True)
class Knowledge:
  """What a run knows of the symbols of one table.

  Attributes:
    options: Options of the embedding.
    counts: How often each symbol occurs in training.
    graph: Which symbols are related, None if not asked for.
    vectors: Given vectors, for the start 'clusters'.
    sharing_graph: Between which symbols ids are exchanged, None if not asked
      for; it has no special ones.
    special_ids: Symbols that are never exchanged, such as padding.
  """

  options: embeddings.EmbeddingOptions
  counts: np.ndarray
  graph: graphs.Graph | None = None
  vectors: np.ndarray | None = None
  sharing_graph: graphs.AnyGraph | None = None
  special_ids: tuple[int, ...] = ()

  def sharing(self) -> nn.StochasticSharing | None:
    """Makes the exchange of ids that the options ask for, or None.

    Raises:
      ValueError: If an option is unknown or outside its range.
    """
    return embeddings.make_sharing(
      len(self.counts),
      self.options,
      graph=self.sharing_graph,
      special_ids=self.special_ids,
    )

  @property
  def anchor_ids(self) -> np.ndarray:
    """The most frequent symbols, one for each anchor."""
    order = np.argsort(-self.counts, kind="stable")
    return order[: self.options.num_anchors].astype(np.int32)

  def penalty(self) -> Penalty | None:
    """Returns the factors of the penalty, None if all are 1.

    Raises:
      ValueError: If the mode is unknown, or the anchors stand for no symbols.
    """
    options = self.options
    typing.check_choice("penalty", options.penalty, typing.PENALTIES)
    if self.graph is not None and options.start != "frequent":
      raise ValueError(
        "`relations` need anchors that stand for symbols: `start` must be "
        f"'frequent', got {options.start!r}."
      )
    if options.penalty == "plain" and self.graph is None:
      return None
    return Penalty(
      mode=options.penalty,
      frequencies=ops.frequency_multipliers(jnp.asarray(self.counts)),
      graph=self.graph,
      anchor_ids=jnp.asarray(self.anchor_ids),
      unrelated=options.unrelated,
    )

  def start(self, layer: Any, key: Array) -> None:
    """Changes the start of a layer, where the options ask for it.

    Anchors start at what they stand for; 'dpq' with the start 'clusters' at
    the vectors, cut into parts and clustered.

    Args:
      layer: The layer as it was made, changed in place.
      key: Source of randomness of the clusters.

    Raises:
      ValueError: If the start is unknown, or the vectors do not fit.
    """
    options = self.options
    if options.embedding == "dpq" and options.start == "clusters":
      # Under guidance, the layer is inside of another one.
      getattr(layer, "embed", layer).start_from(self._vectors(layer), key)
    if options.embedding != "anchors":
      return
    typing.check_choice("start", options.start, STARTS)
    if options.start == "frequent":
      # A symbol starts as its own anchor, whose vector is drawn at random.
      places = np.arange(options.num_anchors)
      _set_rows(layer, self.anchor_ids, places, options.weight_scale)
    elif options.start == "clusters":
      self._start_at_clusters(layer, key)

  def _vectors(self, layer: Any) -> Array:
    """Returns the given vectors, which have to fit the layer."""
    shape = (layer.num_embeddings, layer.features)
    if self.vectors is None or self.vectors.shape != shape:
      found = None if self.vectors is None else self.vectors.shape
      raise ValueError(f"`vectors` must have the shape {shape}, got {found}.")
    return jnp.asarray(self.vectors, jnp.float32)

  def _start_at_clusters(self, layer: Any, key: Array) -> None:
    """Starts each symbol at the centre of its cluster of given vectors."""
    options = self.options
    clusters = ops.kmeans(
      key, self._vectors(layer), num_clusters=options.num_anchors
    )
    layer.anchors[...] = clusters.centroids / options.weight_scale
    ids = np.arange(layer.num_embeddings)
    places = np.asarray(clusters.assignments)
    _set_rows(layer, ids, places, options.weight_scale)


def load_knowledge(
  options: embeddings.EmbeddingOptions,
  counts: np.ndarray,
  *,
  vocabulary: tuple[str, ...],
  data_dir: str | os.PathLike[str] | None = None,
  tokens: np.ndarray | None = None,
  sequences: np.ndarray | None = None,
  special_ids: Collection[int] = (),
) -> Knowledge:
  """Loads what the options of an embedding of words ask for.

  Args:
    options: Options of the embedding.
    counts: How often each word occurs in training.
    vocabulary: The words.
    data_dir: Folder of the lexicons.
    tokens: The training text as ids, where it is one text.
    sequences: The ids that are trained on, one text in each row, where they
      are in an order; by default `tokens`.
    special_ids: Ids that are no words, or of no word in particular.

  Returns:
    What is known.

  Raises:
    FileNotFoundError: If a lexicon or the vectors are not there.
    ValueError: If an option is unknown, or the graph has no edge.
  """
  graph = vectors = None
  if options.relations:
    graph = relations.load_relations(
      options.relations, vocabulary=vocabulary, data_dir=data_dir or None
    )
  if options.vectors == "cooccurrence":
    if tokens is None:
      raise ValueError(
        "`vectors` 'cooccurrence' needs one long text to train on, got "
        "something else; give the path of a file."
      )
    vectors = cooccurrence.cooccurrence_vectors(
      tokens, num_embeddings=len(counts), rank=options.features
    )
  elif options.vectors:
    vectors = given_vectors.load_vectors(options.vectors, vocabulary=vocabulary)
  special = tuple(sorted(special_ids))
  sharing_graph = None
  if options.sharing == "graph":
    sharing_graph = sharing_graphs.load_sharing_graph(
      options.sharing_graph,
      vocabulary=vocabulary,
      special_ids=special,
      sequences=tokens if sequences is None else sequences,
      data_dir=data_dir or None,
    )
  return Knowledge(options, counts, graph, vectors, sharing_graph, special)


def _set_rows(
  layer: Any, ids: np.ndarray, places: np.ndarray, weight: float
) -> None:
  """Gives rows one anchor each, in place of what they had."""
  if layer.num_nonzeros is None:
    one_hot = jax.nn.one_hot(places, layer.num_anchors)
    rows = layer.transform[...]
    layer.transform[...] = rows.at[ids].set(weight * one_hot)
    return
  indices, weights = layer.indices[...], layer.weights[...]
  layer.indices[...] = indices.at[ids, 0].set(jnp.asarray(places, jnp.int32))
  layer.weights[...] = weights.at[ids].set(0).at[ids, 0].set(weight)
