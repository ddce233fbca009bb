"""The embeddings that every experiment can be run with."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from anchor_codes import nn, tables, training, typing
from anchor_codes.ops import graphs
from experiments import code_embeddings, code_options


@dataclasses.dataclass(kw_only=True)
class EmbeddingOptions(code_options.CodeOptions):
  """Options of the embedding; each kind reads its own, see also `CodeOptions`.

  Attributes:
    embedding: One of `KINDS`.
    features: Width of a vector.
    num_anchors: Anchors, for 'anchors'.
    num_nonzeros: Weights kept in a row, for 'anchors'; 0 for dense rows.
    weight_scale: Largest weight at the start, for 'anchors'.
    start: 'random', 'antipodal' for anchors in pairs of opposite sign,
      'frequent' for anchors that stand for the most frequent symbols, or
      'clusters' for the centres of clusters of `vectors`.
    vectors: A .npy file with one vector for each symbol, or the .safetensors
      file of a table, for 'clusters', for codes of clusters, and for guidance;
      'cooccurrence' for those of the words' neighbours in the training text.
    start_scale: Standard deviation of an entry of the vectors at the start.
    l1: Strength of the l1 penalty on the rows, for 'anchors'.
    penalty: 'plain', 'frequency' for a penalty in proportion to how often a
      symbol occurs, or 'keep_one' to spare the largest weight of each row.
    relations: 'framenet', 'ppdb' or 'wordnet' to spare the weights of anchors
      that stand for related words; none by default.
    unrelated: Factor of the penalty for all other pairs of words of which the
      relations know; 'inf' bars them.
    rank: Inner width, for 'low_rank'.
    num_buckets: Buckets of each hash function, for 'hash' and 'qr'.
    num_hashes: Number of hash functions, for 'hash'.
    row_learning_rate: Learning rate of the rows, relative to that of the model.
    shared_learning_rate: Learning rate of the shared part, relative to that of
      the model.
    row_optimizer: 'sgd', 'row_adagrad' (one number of state for each row),
      'adam', or 'yogi' with the proximal step in its metric, for the rows.
    stored_dtype: 'float32' or 'float16', the type in which the vectors and
      weights of the trained embedding are stored, and tested.
    sharing: 'none', 'se' or 'graph', exchange of ids in training; 'graph' makes
      neighbours likelier.
    sharing_rate: Probability that an id is exchanged.
    neighbor_ratio: How much more likely a neighbour is, for 'graph'.
    sharing_graph: Who are neighbours, for 'graph'; see
      :mod:`experiments.sharing_graphs` for words.
  """

  embedding: str = "full"
  features: int = 200
  num_anchors: int = 200
  num_nonzeros: int = 8
  weight_scale: float = 1.0
  start: str = "random"
  vectors: str = ""
  start_scale: float = 0.05
  l1: float = 1e-4
  penalty: str = "plain"
  relations: str = ""
  unrelated: float = 1.0
  rank: int = 16
  num_buckets: int = 400
  num_hashes: int = 2
  row_learning_rate: float = 1.0
  shared_learning_rate: float = 1.0
  row_optimizer: str = "sgd"
  stored_dtype: str = "float32"
  sharing: str = "none"
  sharing_rate: float = 0.01
  neighbor_ratio: float = 10.0
  sharing_graph: str = ""


def _full(vocab_size, options, start):
  def init(key, shape, dtype):
    return start.scale * jax.random.normal(key, shape, dtype)

  return nnx.Embed(
    vocab_size, options.features, embedding_init=init, rngs=start.rngs
  )


def _anchors(vocab_size, options, start):
  return nn.AnchorEmbed(
    vocab_size,
    options.features,
    num_anchors=options.num_anchors,
    num_nonzeros=options.num_nonzeros or None,
    weight_scale=options.weight_scale,
    # Other starts are made from what is known of the symbols.
    start=options.start if options.start in typing.STARTS else "random",
    scale=start.scale,
    rngs=start.rngs,
  )


def _low_rank(vocab_size, options, start):
  return nn.LowRankEmbed(
    vocab_size,
    options.features,
    rank=options.rank,
    scale=start.scale,
    rngs=start.rngs,
  )


def _hash(vocab_size, options, start):
  return nn.HashEmbed(
    vocab_size,
    options.features,
    num_buckets=options.num_buckets,
    num_hashes=options.num_hashes,
    scale=start.scale,
    rngs=start.rngs,
  )


def _qr(vocab_size, options, start):
  return nn.QREmbed(
    vocab_size,
    options.features,
    num_buckets=options.num_buckets,
    scale=start.scale,
    rngs=start.rngs,
  )


ROW_OPTIMIZERS = {
  "sgd": optax.identity,
  "row_adagrad": training.scale_by_row_adagrad,
  "adam": optax.scale_by_adam,
}

STORED_DTYPES = ("float32", "float16")

SHARING = ("none", "se", "graph")
"""How ids are exchanged in training."""

KINDS = {
  "full": _full,
  "anchors": _anchors,
  "kd": code_embeddings.make_kd,
  "dpq": code_embeddings.make_dpq,
  "fixed": code_embeddings.make_fixed,
  "low_rank": _low_rank,
  "hash": _hash,
  "qr": _qr,
}


def make_embedding(
  vocab_size: int,
  options: EmbeddingOptions,
  *,
  scale: float,
  rngs: nnx.Rngs,
  vectors: np.ndarray | None = None,
) -> Any:
  """Makes the embedding that the options ask for.

  Args:
    vocab_size: Number of symbols.
    options: Which embedding, and its sizes.
    scale: Standard deviation of an entry of the vectors at the start.
    rngs: Source of randomness of the start.
    vectors: What `options.vectors` names, where that is needed.

  Returns:
    A layer from ids to vectors.

  Raises:
    ValueError: If an option is unknown or outside its range, or there is not
      enough memory.
  """
  typing.check_choice("embedding", options.embedding, tuple(KINDS))
  # Now, and not only when the training is over.
  typing.check_choice("stored_dtype", options.stored_dtype, STORED_DTYPES)
  # As large are, at least, the rows and what they are drawn from.
  training.check_fits(2 * 4 * vocab_size * _row_width(options))
  start = code_embeddings.Start(scale, rngs, vectors)
  return KINDS[options.embedding](vocab_size, options, start)


def _row_width(options: EmbeddingOptions) -> int:
  """Returns how many numbers a row has while it is trained."""
  widths = {
    "full": options.features,
    "anchors": 2 * options.num_nonzeros or options.num_anchors,
    "kd": code_options.code_length(options) * options.codebook_size,
    "dpq": options.features,
    "fixed": code_options.code_length(options) // 4,
    "low_rank": options.rank,
  }
  guide = options.features if options.guidance != "none" else 0
  return widths.get(options.embedding, 0) + guide


def make_sharing(
  vocab_size: int,
  options: EmbeddingOptions,
  *,
  graph: graphs.AnyGraph | None = None,
  low: int = 0,
  special_ids: Sequence[int] = (),
) -> nn.StochasticSharing | None:
  """Makes the exchange of ids that the options ask for, or None.

  Args:
    vocab_size: Number of symbols.
    options: Which exchange, and its rate.
    graph: Neighbours of the symbols that are not special, for 'graph'.
    low: First ordinary id: those below are neither replaced nor drawn.
    special_ids: More ids of which that holds.

  Returns:
    A layer from ids to ids.

  Raises:
    ValueError: If an option is unknown or outside its range, or there is no
      graph where one is needed.
  """
  typing.check_choice("sharing", options.sharing, SHARING)
  if options.sharing == "none":
    return None
  if options.sharing == "graph" and graph is None:
    raise ValueError("`sharing` 'graph' needs a graph: set `sharing_graph`.")
  return nn.StochasticSharing(
    vocab_size,
    rate=options.sharing_rate,
    graph=graph if options.sharing == "graph" else None,
    neighbor_ratio=options.neighbor_ratio,
    low=low,
    special_ids=special_ids,
  )


def round_layer(layer: Any, options: EmbeddingOptions) -> None:
  """Rounds the parameters of a trained layer to the type they are stored in.

  Args:
    layer: The layer, changed in place; its parameters keep their type.
    options: What to round to.

  Raises:
    ValueError: If the type is unknown.
  """
  typing.check_choice("stored_dtype", options.stored_dtype, STORED_DTYPES)
  round_to = lambda p: p.astype(options.stored_dtype).astype(p.dtype)
  nnx.update(layer, jax.tree.map(round_to, nnx.state(layer, nnx.Param)))


def stored_table(layer: Any, options: EmbeddingOptions) -> tables.Table:
  """Returns the artefact of a layer in the type it is stored in."""
  return nn.to_table(layer).astype(options.stored_dtype)


def row_optimizer(
  options: EmbeddingOptions,
  learning_rate: optax.Schedule,
  *,
  keep_zeros: bool = False,
) -> optax.GradientTransformation:
  """Returns the optimiser of the rows of the embedding.

  Args:
    options: Which optimiser, its rate, and the penalty of the rows.
    learning_rate: Learning rate of the model at each step.
    keep_zeros: Whether weights of 'anchors' that are zero stay zero.

  Returns:
    A gradient transformation for the rows of a batch; for 'anchors' it ends
    with the proximal step of the penalty.

  Raises:
    ValueError: If an option is unknown or outside its range.
  """
  allowed = (*ROW_OPTIMIZERS, "yogi")
  typing.check_choice("row_optimizer", options.row_optimizer, allowed)
  anchors = options.embedding == "anchors"
  if options.guidance == "online":
    return _guided_optimizer(options, learning_rate)
  schedule = lambda step: options.row_learning_rate * learning_rate(step)
  if options.row_optimizer == "yogi":
    if not anchors:
      raise ValueError("`row_optimizer` 'yogi' is for 'anchors' only.")
    steps: list[Any] = [training.proximal_yogi(schedule, l1=options.l1)]
  else:
    steps: list[Any] = [
      ROW_OPTIMIZERS[options.row_optimizer](),
      optax.scale_by_learning_rate(schedule),
    ]
    if anchors:
      steps.append(training.proximal_l1(schedule, l1=options.l1))
  if anchors:
    steps.append(training.keep_zeros(active=keep_zeros))
  return optax.chain(*steps)


def _guided_optimizer(
  options: EmbeddingOptions, learning_rate: optax.Schedule
) -> optax.GradientTransformation:
  """Returns an optimiser of rows, and of those of a table alongside them."""
  others = {"guidance": "none"}
  guide = {
    **others,
    "embedding": "full",
    "row_optimizer": options.guide_optimizer,
    "row_learning_rate": 1.0,
  }
  optimizers: dict[Any, optax.GradientTransformation] = {
    name: row_optimizer(dataclasses.replace(options, **changes), learning_rate)
    for name, changes in (("rows", others), ("guide", guide))
  }
  label = lambda path, _: "guide" if path[0].key == "guide" else "rows"
  return optax.partition(
    optimizers, lambda rows: jax.tree.map_with_path(label, rows)
  )
