"""Causal self-attention blocks as in SASRec, and dropout that is fast on CPUs.

The block of Kang and McAuley (2018) is not that of other transformers: only the
queries are normalised, the residual adds them as they are then, and there is no
matrix behind the heads. Wu et al. (2020) use the same.
"""

import jax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float

from anchor_codes import typing

EPSILON = 1e-8
"""Added to the variance by all normalisations."""


def byte_dropout(
  key: Array | None, inputs: Float[Array, "*shape"], rate: float
) -> Float[Array, "*shape"]:
  """Drops numbers at random and scales the others, one random byte for each.

  Random bits take a fifth of a step on a CPU if each number costs a word of
  them, as with ``flax.nnx.Dropout``; this is four times as fast. The rate is
  rounded to a multiple of 1/256, and the scale fits what it has become.

  Args:
    key: Source of randomness; None leaves the inputs alone.
    inputs: Numbers of any shape.
    rate: Probability that a number is dropped, below 1.

  Returns:
    An array like `inputs`, with the same mean.

  >>> ones = jnp.ones((64, 64))
  >>> print(jnp.unique(byte_dropout(jax.random.key(0), ones, 0.5)))
  [0. 2.]
  """
  threshold = min(round(rate * 256), 255)
  if key is None or threshold == 0:
    return inputs
  words = jax.random.bits(key, (-(-inputs.size // 4),), jnp.uint32)
  octets = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)
  kept = octets[: inputs.size].reshape(inputs.shape) >= threshold
  return jnp.where(kept, inputs * (256 / (256 - threshold)), 0)


def layer_norm(features: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
  """Makes a normalisation over the features, as all of the model are."""
  # Not the fast variance, a difference of squares: EPSILON is below its error.
  return nnx.LayerNorm(
    features, epsilon=EPSILON, use_fast_variance=False, rngs=rngs
  )


class AttentionBlock(nnx.Module):
  r"""Attention to what came before, and a layer for each position.

  Definition, with :math:`q = \operatorname{norm}(x)`: :math:`y =
  \operatorname{norm}'(q + \operatorname{attend}(q W_q, x W_k, x W_v))`, and the
  result :math:`y + W_2 \operatorname{ReLU}(W_1 y)`, zero at padding.

  Args:
    features: Width of the vectors.
    num_heads: Number of heads, a divisor of the width.
    dropout: Rate of the dropout, on attention and on both layers.
    rngs: Source of randomness of the start.

  Raises:
    ValueError: If the heads do not divide the width.
  """

  def __init__(
    self, features: int, *, num_heads: int, dropout: float, rngs: nnx.Rngs
  ):
    typing.check_at_least("num_heads", num_heads, 1)
    typing.check_divisible("features", features, "num_heads", num_heads)
    init = nnx.initializers.glorot_uniform()
    layer = lambda: nnx.Linear(features, features, kernel_init=init, rngs=rngs)
    norm = lambda: layer_norm(features, rngs)
    self.num_heads = num_heads
    self.rate = dropout
    self.query, self.key, self.value = layer(), layer(), layer()
    self.attention_norm, self.layer_norm = norm(), norm()
    self.inner, self.outer = layer(), layer()

  def __call__(
    self,
    inputs: Float[Array, "batch length features"],
    where: Bool[Array, "batch length"],
    *,
    key: Array | None = None,
  ) -> Float[Array, "batch length features"]:
    """Returns one vector for each position, which sees none that comes later.

    Args:
      inputs: Vectors, zeros at padding.
      where: Which positions are no padding; no other is attended to.
      key: Source of the dropout, None outside of training.
    """
    keys = [None] * 3 if key is None else jax.random.split(key, 3)
    queries = self.attention_norm(inputs)
    hidden = queries + self._attend(queries, inputs, where, keys[0])
    normed = self.layer_norm(hidden)
    inner = byte_dropout(
      keys[1], jax.nn.relu(apply_by_row(self.inner, normed)), self.rate
    )
    outer = byte_dropout(keys[2], apply_by_row(self.outer, inner), self.rate)
    return jnp.where(where[..., None], normed + outer, 0)

  def _attend(
    self, queries: Array, inputs: Array, where: Array, key: Array | None
  ) -> Array:
    query = self._split_heads(self.query, queries)
    keys = self._split_heads(self.key, inputs)
    values = self._split_heads(self.value, inputs)
    logits = jnp.einsum("htd,hsd->hts", query, keys) / query.shape[-1] ** 0.5
    logits = mask_logits(logits, jnp.repeat(where, self.num_heads, axis=0))
    weights = byte_dropout(key, jax.nn.softmax(logits, axis=-1), self.rate)
    return self._join_heads(jnp.einsum("hts,hsd->htd", weights, values))

  def _split_heads(self, layer: nnx.Linear, inputs: Array) -> Array:
    """Applies a layer; gives each head a matrix [length, width] of its own."""
    # Products of matrices, without axes in between: half the time on a CPU.
    batch, length, features = inputs.shape
    shape = (batch, length, self.num_heads, features // self.num_heads)
    outputs = apply_by_row(layer, inputs).reshape(shape).swapaxes(1, 2)
    return outputs.reshape(-1, length, shape[-1])

  def _join_heads(self, heads: Array) -> Array:
    _, length, width = heads.shape
    joined = heads.reshape(-1, self.num_heads, length, width).swapaxes(1, 2)
    return joined.reshape(-1, length, self.num_heads * width)


def apply_by_row(
  layer: nnx.Linear, inputs: Float[Array, "*batch features"]
) -> Float[Array, "*batch outputs"]:
  """Applies a linear layer to rows as one matrix.

  The gradient of its kernel is then a product of two matrices, which takes a
  CPU half as long as a contraction over several axes.

  >>> layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
  >>> apply_by_row(layer, jnp.ones((4, 5, 3))).shape
  (4, 5, 2)
  """
  outputs = layer(inputs.reshape(-1, inputs.shape[-1]))
  return outputs.reshape(*inputs.shape[:-1], outputs.shape[-1])


def mask_logits(
  logits: Float[Array, "batch length length"],
  where: Bool[Array, "batch length"],
) -> Float[Array, "batch length length"]:
  """Bars each position from those after it, and from padding.

  A position without any to see gets a mean of all, which is not used; infinity
  in place of the large number would make it ``nan``.

  >>> masked = mask_logits(jnp.zeros((1, 2, 2)), jnp.array([[True, True]]))
  >>> print(jax.nn.softmax(masked)[0])
  [[1.  0. ]
   [0.5 0.5]]
  """
  length = where.shape[-1]
  causal = jnp.tril(jnp.ones((length, length), jnp.bool_))
  seen = causal[None] & where[:, None]
  return jnp.where(seen, logits, jnp.finfo(logits.dtype).min)
