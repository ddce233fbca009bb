"""Text classifiers with any embedding: a word CNN, a mean, or any encoder."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anchor_codes import nn, typing

ENCODERS = ("cnn", "mean")
"""Encoders that a classifier makes by itself."""


class Filters(nnx.Module):
  """Filters of one width, slid over the words of a text.

  A sum of products, one for each word of a window: ``lax.conv`` is twenty times
  as slow on a CPU inside of a ``lax.scan``, where training steps are.
  """

  def __init__(
    self, width: int, features: int, num_filters: int, *, rngs: nnx.Rngs
  ):
    init = jax.nn.initializers.lecun_normal(in_axis=(0, 1))
    shape = (width, features, num_filters)
    self.kernel = nnx.Param(init(rngs.params(), shape))
    self.bias = nnx.Param(jnp.zeros(num_filters))

  def __call__(
    self, vectors: Float[Array, "batch length features"]
  ) -> Float[Array, "batch length num_filters"]:
    """Returns the outputs of the windows that begin at each word.

    Beyond the end of `vectors` a window sees zeros.
    """
    kernel, length = self.kernel[...], vectors.shape[1]
    padded = jnp.pad(vectors, ((0, 0), (0, len(kernel) - 1), (0, 0)))
    outputs = sum(
      padded[:, offset : offset + length] @ weights
      for offset, weights in enumerate(kernel)
    )
    return outputs + self.bias[...][None, None]


class WordCNN(nnx.Module):
  r"""Filters over the words of a text, and the largest output of each.

  Definition (Kim, "Convolutional Neural Networks for Sentence Classification",
  2014): for each filter of width :math:`h`, :math:`\max_t \operatorname{ReLU}
  (w \cdot x_{t:t+h-1} + b)`. Windows begin at each word of the text; one that
  reaches past its end sees zeros there, so that a text shorter than a filter
  has windows too.

  Args:
    features: Width of a word's vector.
    widths: Widths of the filters in words.
    num_filters: Number of filters of each width.
    rngs: Source of randomness of the start.
  """

  def __init__(
    self,
    features: int,
    *,
    widths: Sequence[int] = (3, 4, 5),
    num_filters: int = 100,
    rngs: nnx.Rngs,
  ):
    self.filters = nnx.List(
      Filters(width, features, num_filters, rngs=rngs) for width in widths
    )
    self.features = num_filters * len(widths)

  def __call__(
    self,
    vectors: Float[Array, "batch length features"],
    where: Bool[Array, "batch length"],
    *,
    key: Array | None = None,
  ) -> Float[Array, "batch hidden"]:
    """Returns one vector for each text; zeros for one without words.

    Args:
      vectors: The vectors of the words, zeros after the end of a text.
      where: Which of them belong to the text.
      key: Not used: there is no dropout inside.
    """
    del key
    # ReLU is never negative: the zeros of the padding cannot be the maximum.
    outputs = [jax.nn.relu(filters(vectors)) for filters in self.filters]
    mask = where[..., None]
    return jnp.concatenate(
      [jnp.max(jnp.where(mask, output, 0), axis=1) for output in outputs],
      axis=-1,
    )


class MeanOfWords(nnx.Module):
  """The mean of the vectors of a text (Joulin et al., 2017)."""

  def __init__(self, features: int):
    self.features = features

  def __call__(
    self,
    vectors: Float[Array, "batch length features"],
    where: Bool[Array, "batch length"],
    *,
    key: Array | None = None,
  ) -> Float[Array, "batch features"]:
    """Returns one vector for each text; zeros for one without words."""
    del key
    number = jnp.sum(where, axis=1, dtype=vectors.dtype)
    return jnp.sum(vectors, axis=1) / jnp.maximum(number, 1)[:, None]


class TextClassifier(nnx.Module):
  """Embedding, encoder, dropout, and a linear layer.

  Args:
    embed: Any layer from ids to vectors.
    num_classes: Number of classes.
    encoder: 'cnn', 'mean', or a module from the vectors of texts to one for
      each, with its width in `features`.
    widths: Widths of the filters, for 'cnn'.
    num_filters: Number of filters of each width, for 'cnn'.
    dropout: Rate of the dropout on the vector of a text.
    sharing: Exchange of ids before the lookup, if any.
    rngs: Source of randomness of the start.

  Raises:
    ValueError: If the encoder is unknown.
  """

  def __init__(
    self,
    embed: Any,
    num_classes: int,
    *,
    encoder: Any = "cnn",
    widths: Sequence[int] = (3, 4, 5),
    num_filters: int = 100,
    dropout: float = 0.5,
    sharing: nn.StochasticSharing | None = None,
    rngs: nnx.Rngs,
  ):
    self.embed = embed
    self.sharing = sharing
    if not isinstance(encoder, str):
      self.encoder = encoder
    elif encoder == "cnn":
      self.encoder = WordCNN(
        embed.features, widths=widths, num_filters=num_filters, rngs=rngs
      )
    else:
      typing.check_choice("encoder", encoder, ENCODERS)
      self.encoder = MeanOfWords(embed.features)
    self.dropout = nnx.Dropout(dropout)
    self.output = nnx.Linear(self.encoder.features, num_classes, rngs=rngs)

  def share(
    self,
    inputs: Int[Array, "batch length"],
    where: Bool[Array, "batch length"],
    key: Array,
  ) -> Int[Array, "batch length"]:
    """Exchanges the ids of words, where the model does so."""
    if self.sharing is None:
      return inputs
    return jnp.where(
      where, self.sharing(inputs, rngs=nnx.Rngs(sse=key)), inputs
    )

  def __call__(
    self,
    inputs: Int[Array, "batch length"],
    where: Bool[Array, "batch length"],
    *,
    key: Array | None = None,
  ) -> Float[Array, "batch num_classes"]:
    """Returns the logits of the classes.

    Args:
      inputs: Ids of the words.
      where: Which of them belong to the text; the others change nothing.
      key: Source of the dropout, needed in training.

    Returns:
      One row for each text.
    """
    vectors = jnp.where(where[..., None], self.embed(inputs), 0)
    inner = None if key is None else jax.random.fold_in(key, 1)
    hidden = self.encoder(vectors, where, key=inner)
    if key is not None:
      hidden = self.dropout(hidden, rngs=key)
    return self.output(hidden)


def mean_loss(
  logits: Float[Array, "batch num_classes"], labels: Int[Array, " batch"]
) -> Float[Array, ""]:
  """Returns the mean negative log likelihood of the labels."""
  chosen = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
  return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)
