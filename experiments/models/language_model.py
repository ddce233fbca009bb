"""The LSTM language model of Zaremba et al. (2014), with any embedding."""

import math
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from anchor_codes import nn
from anchor_codes.ops import indexing
from experiments.models import lstm, softmax

Carry = list[lstm.State]


def uniform(key: Array, shape: tuple[int, ...], scale: float) -> Array:
  """Draws from the uniform distribution between minus and plus `scale`."""
  return jax.random.uniform(key, shape, minval=-scale, maxval=scale)


class LSTMLayer(nnx.Module):
  """One layer of :func:`experiments.models.lstm.lstm`."""

  def __init__(
    self, features: int, hidden: int, *, scale: float, rngs: nnx.Rngs
  ):
    self.input_kernel = nnx.Param(
      uniform(rngs.params(), (features, 4 * hidden), scale)
    )
    self.hidden_kernel = nnx.Param(
      uniform(rngs.params(), (hidden, 4 * hidden), scale)
    )
    self.bias = nnx.Param(jnp.zeros(4 * hidden))

  def __call__(
    self, inputs: Float[Array, "time batch features"], carry: lstm.State
  ) -> tuple[lstm.State, Float[Array, "time batch hidden"]]:
    """Runs over the time axis, from `carry`."""
    return lstm.lstm(
      inputs,
      carry,
      input_kernel=self.input_kernel[...],
      hidden_kernel=self.hidden_kernel[...],
      bias=self.bias[...],
    )


class Output(nn.CompactEmbed):
  """The output layer: one row and one bias for each word of the vocabulary."""

  def __init__(
    self, num_embeddings: int, features: int, *, scale: float, rngs: nnx.Rngs
  ):
    super().__init__(num_embeddings, features)
    self.kernel = nn.RowParam(
      uniform(rngs.params(), (num_embeddings, features), scale)
    )
    self.bias = nn.RowParam(jnp.zeros(num_embeddings))

  def attend(
    self, query: Float[Array, "*batch features"]
  ) -> Float[Array, "*batch num_embeddings"]:
    """Returns the logits of all words."""
    lead = (1,) * (query.ndim - 1)
    bias = self.bias[...].reshape(*lead, -1)
    return query @ self.kernel[...].T + bias


class TiedOutput(nnx.Module):
  """The output layer that shares its rows with the embedding: biases only."""

  def __init__(self, num_embeddings: int):
    self.bias = nnx.Param(jnp.zeros(num_embeddings))


class Sample(NamedTuple):
  """Candidates of a sampled softmax.

  Attributes:
    targets: Position of each target among the rows of the output layer.
    negatives: Positions of the words drawn, shared by the whole batch.
    target_log_counts: Log of the expected number of draws of each target.
    negative_log_counts: The same for each negative.
  """

  targets: Int[Array, "*batch"]
  negatives: Int[Array, " num_sampled"]
  target_log_counts: Float[Array, "*batch"]
  negative_log_counts: Float[Array, " num_sampled"]


class LanguageModel(nnx.Module):
  """Embedding, LSTM layers with dropout between them, softmax.

  Args:
    embed: Any layer from ids to vectors.
    vocab_size: Number of words.
    hidden: Units of each LSTM layer.
    num_layers: Number of LSTM layers.
    dropout: Rate of the dropout on the input of each layer and on the output.
    sharing: Exchange of ids before the lookup, if any.
    tied: Whether the output layer scores words by their embedding, on its
      compact form: of anchors, ``(h @ A.T) @ T.T``. The embedding is as wide as
      a layer then.
    scale: Parameters start uniform between minus and plus this.
    rngs: Source of randomness of the start.
  """

  def __init__(
    self,
    embed: Any,
    vocab_size: int,
    *,
    hidden: int = 200,
    num_layers: int = 2,
    dropout: float = 0.0,
    sharing: nn.StochasticSharing | None = None,
    tied: bool = False,
    scale: float = 0.1,
    rngs: nnx.Rngs,
  ):
    if tied and embed.features != hidden:
      raise ValueError(
        "`features` must be `hidden` for a tied output layer, got "
        f"{embed.features} and {hidden}."
      )
    widths = [embed.features] + [hidden] * num_layers
    self.embed = embed
    self.sharing = sharing
    self.layers = nnx.List(
      LSTMLayer(width, hidden, scale=scale, rngs=rngs) for width in widths[:-1]
    )
    self.dropout = nnx.Dropout(dropout)
    self.output: Any = (
      TiedOutput(vocab_size)
      if tied
      else Output(vocab_size, hidden, scale=scale, rngs=rngs)
    )
    self.hidden = hidden

  def initial_carry(self, batch_size: int) -> Carry:
    """Returns the state of the layers at the start of a text."""
    zeros = lambda: jnp.zeros((batch_size, self.hidden))
    return [(zeros(), zeros()) for _ in self.layers]

  def share(self, inputs: Int[Array, "batch time"], key: Array) -> Array:
    """Exchanges ids, where the model does so."""
    if self.sharing is None:
      return inputs
    return self.sharing(inputs, rngs=nnx.Rngs(sse=key))

  def __call__(
    self,
    inputs: Int[Array, "batch time"],
    carry: Carry,
    *,
    key: Array | None = None,
  ) -> tuple[Float[Array, "time batch hidden"], Carry]:
    """Returns the hidden vectors that predict the next words.

    Args:
      inputs: Ids of words.
      carry: State of the layers.
      key: Source of the dropout, needed in training.

    Returns:
      The hidden vectors, time first, and the new state.
    """
    hidden = self.embed(inputs.T)
    new_carry = []
    for number, (layer, state) in enumerate(
      zip(self.layers, carry, strict=True)
    ):
      hidden = self._drop(hidden, key, number)
      state, hidden = layer(hidden, state)
      new_carry.append(state)
    return self._drop(hidden, key, len(new_carry)), new_carry

  def logits(
    self, hidden: Float[Array, "*batch hidden"]
  ) -> Float[Array, "*batch vocab_size"]:
    """Scores all words as the next one."""
    if isinstance(self.output, Output):
      return self.output.attend(hidden)
    bias = self.output.bias[...].reshape(*(1,) * (hidden.ndim - 1), -1)
    return self.embed.attend(hidden) + bias

  def _drop(self, hidden: Array, key: Array | None, number: int) -> Array:
    if key is None:
      return hidden
    return self.dropout(hidden, rngs=jax.random.fold_in(key, number))


def mean_nll(
  model: LanguageModel,
  hidden: Float[Array, "time batch hidden"],
  targets: Int[Array, "time batch"],
  sample: Sample | None,
) -> Float[Array, ""]:
  """Returns the mean loss, over all words or over a sample of them."""
  if sample is None:
    return jnp.mean(full_nll(model, hidden, targets))
  return jnp.mean(sampled_nll(model, hidden, sample))


def full_nll(
  model: LanguageModel,
  hidden: Float[Array, "time batch hidden"],
  targets: Int[Array, "time batch"],
) -> Float[Array, "time batch"]:
  """Returns the negative log likelihood of each target, over all words."""
  # One long axis of rows is the fastest. The batch goes first: where devices
  # share it, each keeps its own rows.
  rows = hidden.swapaxes(0, 1).reshape(-1, hidden.shape[-1])
  nll = softmax.softmax_nll(model.logits(rows), targets.T.ravel())
  return nll.reshape(targets.shape[::-1]).T


def sampled_nll(
  model: LanguageModel,
  hidden: Float[Array, "time batch hidden"],
  sample: Sample,
) -> Float[Array, "time batch"]:
  r"""Estimates the negative log likelihood from a sample of the words.

  Definition (Bengio and Senecal, 2008; Jean et al., 2015): the softmax over the
  target and the words drawn, each logit less the log of how often its word is
  expected to be drawn; a draw that hits the target does not count.

  Args:
    model: Its output layer may hold just the rows of the sample.
    hidden: Vectors that predict the next words.
    sample: The targets and the words drawn.

  Returns:
    One estimate for each target.
  """
  kernel, bias = model.output.kernel[...], model.output.bias[...]
  take = lambda rows, index: jnp.take(rows, index, axis=0, mode="clip")
  own = jnp.sum(hidden * take(kernel, sample.targets), axis=-1)
  own += take(bias, sample.targets) - sample.target_log_counts
  others = hidden @ take(kernel, sample.negatives).T
  shift = take(bias, sample.negatives) - sample.negative_log_counts
  others += shift[None, None]
  hit = sample.targets[..., None] == sample.negatives[None, None]
  others = jnp.where(hit, -jnp.inf, others)
  logits = jnp.concatenate([own[..., None], others], axis=-1)
  return jax.nn.logsumexp(logits, axis=-1) - own


class Sampler(NamedTuple):
  """Draws words by a power of their frequency.

  Attributes:
    cumulative: Cumulative probabilities, [vocab_size].
    log_probabilities: Logarithms of the probabilities, [vocab_size].
    num_sampled: Number of draws, with replacement.
  """

  cumulative: Float[Array, " vocab_size"]
  log_probabilities: Float[Array, " vocab_size"]
  num_sampled: int

  @classmethod
  def from_counts(
    cls, counts: Array, *, num_sampled: int, power: float = 0.75
  ) -> "Sampler":
    """Returns a sampler by ``counts ** power``; each count is at least 1."""
    weights = jnp.maximum(counts, 1).astype(jnp.float32) ** power
    probabilities = weights / weights.sum()
    return cls(jnp.cumsum(probabilities), jnp.log(probabilities), num_sampled)

  def draw(self, key: Array) -> Int[Array, " num_sampled"]:
    """Draws words."""
    points = jax.random.uniform(key, (self.num_sampled,))
    words = jnp.searchsorted(self.cumulative, points)
    last = self.cumulative.shape[0] - 1
    return indexing.clip_ids(words, num_embeddings=last + 1)[0]

  def log_counts(self, words: Int[Array, "*batch"]) -> Array:
    """Returns the log of how often each word is expected among the draws."""
    return self.log_probabilities[words] + math.log(self.num_sampled)
