"""The encoder of BERT (Devlin et al., 2019), and models made of it."""

import dataclasses
from typing import Any

import jax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anchor_codes import nn, typing
from experiments.models import transformer
from experiments.models.language_model import Sample, TiedOutput


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
  """What the weights of an encoder fit, and what they mean.

  Attributes:
    features: Width of the vectors.
    num_layers: Number of blocks.
    num_heads: Number of heads.
    feedforward: Width inside of the feed-forward parts.
    num_positions: Length of the longest text, with its marks.
    norm_first: Whether norms come first in a block; after it in BERT.
    activation: One of ``transformer.ACTIVATIONS``.
    epsilon: Added to the variances of the norms.
    num_segments: Segments that a text may consist of, each with a vector of its
      own; 0 for none. A text to classify is all of the first one.
  """

  features: int
  num_layers: int
  num_heads: int
  feedforward: int
  num_positions: int
  norm_first: bool = True
  activation: str = "gelu"
  epsilon: float = 1e-6
  num_segments: int = 0


class TextTransformer(nnx.Module):
  r"""Blocks of a transformer over the vectors of a text, which see each other.

  Definition (Devlin et al., 2019): the vectors of symbols, positions and
  segments are added and normalised; the vector of the first symbol after all
  blocks goes through a linear map and :math:`\tanh` to stand for the text.

  Args:
    architecture: Sizes and order of the parts.
    dropout: Rate of the dropout on the input and on all parts of the blocks.
    scale: Standard deviation of the vectors of positions at the start.
    rngs: Source of randomness of the start.

  Raises:
    ValueError: If an option is outside its range.
  """

  def __init__(
    self,
    architecture: Architecture,
    *,
    dropout: float = 0.1,
    scale: float = 0.02,
    rngs: nnx.Rngs,
  ):
    sizes = dataclasses.asdict(architecture)
    typing.check_choice(
      "activation", architecture.activation, transformer.ACTIVATIONS
    )
    typing.check_at_least("num_positions", architecture.num_positions, 1)
    typing.check_rate("block_dropout", dropout)
    num_positions, segments = (
      sizes.pop("num_positions"),
      sizes.pop("num_segments"),
    )
    features = sizes["features"]
    normal = lambda *shape: nnx.Param(
      scale * jax.random.normal(rngs.params(), shape)
    )
    self.architecture = architecture
    self.features = features
    self.positions = normal(num_positions, features)
    self.segments = normal(segments, features) if segments else None
    self.norm = nnx.LayerNorm(features, epsilon=architecture.epsilon, rngs=rngs)
    self.dropout = nnx.Dropout(dropout)
    self.layers = transformer.Encoder(
      hidden=sizes.pop("feedforward"), **sizes, dropout=dropout, rngs=rngs
    )
    self.pooler = nnx.Linear(features, features, rngs=rngs)

  def hidden(
    self,
    vectors: Float[Array, "batch length features"],
    where: Bool[Array, "batch length"],
    *,
    key: Array | None = None,
  ) -> Float[Array, "batch length features"]:
    """Returns one vector for each symbol, of what stands around it.

    Args:
      vectors: The vectors of symbols, at most as many as there are positions.
      where: Which of them belong to the text; the others change nothing.
      key: Source of the dropout, needed in training.

    Raises:
      ValueError: If a text is too long.
    """
    keys, length = transformer.split_key(key, 2), vectors.shape[1]
    if length > len(self.positions[...]):
      raise ValueError(
        f"`vectors` must be at most {len(self.positions[...])} in a text, got "
        f"{length}."
      )
    added = self.positions[...][:length]
    if self.segments is not None:
      added = added + self.segments[...][:1]
    hidden = self.norm(vectors + added[None])
    if keys[0] is not None:
      hidden = self.dropout(hidden, rngs=keys[0])
    return self.layers(hidden, where, key=keys[1])

  def __call__(
    self,
    vectors: Float[Array, "batch length features"],
    where: Bool[Array, "batch length"],
    *,
    key: Array | None = None,
  ) -> Float[Array, "batch features"]:
    """Returns one vector for each text, see :meth:`hidden`."""
    hidden = self.hidden(vectors, where, key=key)
    return jnp.tanh(self.pooler(hidden[:, 0]))


class MaskedLanguageModel(nnx.Module):
  """Embedding, encoder, and a head that predicts symbols from their text.

  The head is a layer with a norm, and scores symbols by their embedding.

  Args:
    embed: Any layer from ids to vectors.
    encoder: The encoder, as wide as the embedding.
    sharing: Exchange of ids before the lookup, if any.
    label_sharing: Exchange of the ids that are to be predicted, if any.
    rngs: Source of randomness of the start.
  """

  def __init__(
    self,
    embed: Any,
    encoder: TextTransformer,
    *,
    sharing: nn.StochasticSharing | None = None,
    label_sharing: nn.StochasticSharing | None = None,
    rngs: nnx.Rngs,
  ):
    features, form = encoder.features, encoder.architecture
    self.embed, self.encoder = embed, encoder
    self.sharing, self.label_sharing = sharing, label_sharing
    self.transform = nnx.Linear(features, features, rngs=rngs)
    self.norm = nnx.LayerNorm(features, epsilon=form.epsilon, rngs=rngs)
    self.output = TiedOutput(embed.num_embeddings)

  def share(
    self,
    inputs: Int[Array, "batch length"],
    labels: Int[Array, " size"],
    key: Array,
  ) -> tuple[Int[Array, "batch length"], Int[Array, " size"]]:
    """Exchanges ids of what is read, and of what is to be predicted."""
    keys = jax.random.split(key)
    if self.sharing is not None:
      inputs = self.sharing(inputs, rngs=nnx.Rngs(sse=keys[0]))
    if self.label_sharing is not None:
      labels = self.label_sharing(labels, rngs=nnx.Rngs(sse=keys[1]))
    return inputs, labels

  def __call__(
    self,
    inputs: Int[Array, "batch length"],
    where: Bool[Array, "batch length"],
    places: Int[Array, " size"],
    *,
    key: Array | None = None,
  ) -> Float[Array, "size features"]:
    """Returns the vectors that predict the symbols at some places.

    Args:
      inputs: Ids of symbols.
      where: Which of them belong to the text.
      places: Places among those of the whole batch, row after row.
      key: Source of the dropout, needed in training.
    """
    vectors = jnp.where(where[..., None], self.embed(inputs), 0)
    hidden = self.encoder.hidden(vectors, where, key=key)
    # Only these: there are far more scores of symbols than anything else.
    chosen = hidden.reshape(-1, hidden.shape[-1])[places]
    activate = transformer.ACTIVATIONS[self.encoder.architecture.activation]
    return self.norm(activate(self.transform(chosen)))

  def logits(
    self, hidden: Float[Array, "size features"]
  ) -> Float[Array, "size vocab_size"]:
    """Scores all symbols."""
    return self.embed.attend(hidden) + self.output.bias[...][None]

  def sampled_nll(
    self,
    hidden: Float[Array, "size features"],
    sample: Sample,
    ids: Int[Array, " all"],
  ) -> Float[Array, " size"]:
    r"""Estimates the negative log likelihood from a sample of the symbols.

    Definition (Bengio and Senecal, 2008; Jean et al., 2015): as for
    :func:`experiments.models.language_model.sampled_nll`, with scores by the
    embedding, of which only the rows of the sample are needed.

    Args:
      hidden: Vectors that predict symbols.
      sample: The targets and the symbols drawn, as positions among the rows
        that the embedding holds.
      ids: The ids of the targets and of the symbols drawn, one after another.

    Returns:
      One estimate for each target.
    """
    size = len(sample.targets)
    bias = self.output.bias[...][ids]
    own = jnp.sum(hidden * self.embed(sample.targets), axis=-1)
    own += bias[:size] - sample.target_log_counts
    others = hidden @ self.embed(sample.negatives).T
    others += (bias[size:] - sample.negative_log_counts)[None]
    hit = sample.targets[:, None] == sample.negatives[None]
    others = jnp.where(hit, -jnp.inf, others)
    logits = jnp.concatenate([own[:, None], others], axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - own
