"""Blocks of a transformer (Vaswani et al., 2017), for any model made of them.

Masks are booleans [batch, queries, keys], true where a query may look. Dropout
is on where a key is given.
"""

import functools
import math
from typing import NamedTuple, Self

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float

from anchor_codes import typing

ACTIVATIONS = {
  "relu": jax.nn.relu,
  "gelu": jax.nn.gelu,
  "gelu_erf": functools.partial(jax.nn.gelu, approximate=False),
}
"""Functions by name; 'gelu' is computed by a tangent, 'gelu_erf' exactly."""


def sinusoidal_positions(
  length: int, features: int
) -> Float[Array, "length features"]:
  r"""Returns vectors that tell positions apart.

  Definition (Vaswani et al., 2017): :math:`p_{t,2i} = \sin(t / 10000^{2i/d})`
  and :math:`p_{t,2i+1} = \cos(t / 10000^{2i/d})`; here all sines come first.

  Args:
    length: Number of positions.
    features: Width of a vector, even.

  Raises:
    ValueError: If the width is odd.

  >>> print(sinusoidal_positions(2, 2))
  [[0.         1.        ]
   [0.84147096 0.5403023 ]]
  """
  typing.check_divisible("features", features, "2", 2)
  rates = 10_000.0 ** (-np.arange(features // 2) / (features // 2))
  angles = np.arange(length)[:, None] * rates[None]
  positions = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
  return jnp.asarray(positions, jnp.float32)


def causal_mask(length: int) -> Bool[Array, "1 length length"]:
  """Returns the mask that hides what comes later.

  >>> print(causal_mask(2)[0])
  [[ True False]
   [ True  True]]
  """
  return jnp.asarray(np.tril(np.ones((1, length, length), bool)))


class KeysValues(NamedTuple):
  """What queries look at.

  Attributes:
    keys: What they are compared with.
    values: What they take.
  """

  keys: Float[Array, "batch keys heads width"]
  values: Float[Array, "batch keys heads width"]

  def put(self, new: Self, start: Array | int) -> Self:
    """Writes over some positions, from one on."""
    write = lambda old, part: jax.lax.dynamic_update_slice_in_dim(
      old, part, start, axis=1
    )
    return jax.tree.map(write, self, new)


def attend(
  queries: Float[Array, "batch queries heads width"],
  memory: KeysValues,
  mask: Bool[Array, "batch queries keys"],
) -> Float[Array, "batch queries heads width"]:
  r"""Takes the mean of values by how much their keys are like a query.

  Definition (Vaswani et al., 2017): :math:`\operatorname{softmax}(Q K^\top /
  \sqrt d) V`, over the keys that the mask allows. A query that may see none
  sees all alike.

  Args:
    queries: What is asked for.
    memory: What is there.
    mask: Which query may see which key.

  Returns:
    One vector for each query and head.
  """
  scale = 1 / math.sqrt(queries.shape[-1])
  scores = jnp.einsum("bqhd,bkhd->bhqk", queries * scale, memory.keys)
  # A number, and not minus infinity: a row without keys would become nan.
  lowest = jnp.finfo(scores.dtype).min
  weights = jax.nn.softmax(jnp.where(mask[:, None], scores, lowest), axis=-1)
  return jnp.einsum("bhqk,bkhd->bqhd", weights, memory.values)


class Attention(nnx.Module):
  """Attention of several heads, with linear maps before and after it.

  Args:
    features: Width of what comes in and goes out.
    num_heads: Number of heads; divides `features`.
    rngs: Source of randomness of the start.

  Raises:
    ValueError: If the heads do not divide the width.
  """

  def __init__(self, features: int, num_heads: int, *, rngs: nnx.Rngs):
    typing.check_at_least("num_heads", num_heads, 1)
    typing.check_divisible("features", features, "num_heads", num_heads)
    self.num_heads = num_heads
    self.query = _linear(features, features, rngs)
    self.key = _linear(features, features, rngs)
    self.value = _linear(features, features, rngs)
    self.output = _linear(features, features, rngs)

  def keys_values(
    self, inputs: Float[Array, "batch keys features"]
  ) -> KeysValues:
    """Returns what queries look at, for :meth:`__call__`."""
    return KeysValues(
      self._split(self.key(inputs)), self._split(self.value(inputs))
    )

  def __call__(
    self,
    inputs: Float[Array, "batch queries features"],
    memory: KeysValues,
    mask: Bool[Array, "batch queries keys"],
  ) -> Float[Array, "batch queries features"]:
    """Lets inputs look at a memory."""
    found = attend(self._split(self.query(inputs)), memory, mask)
    return self.output(found.reshape(inputs.shape))

  def _split(self, inputs: Array) -> Array:
    return inputs.reshape(*inputs.shape[:-1], self.num_heads, -1)


class FeedForward(nnx.Module):
  """Two linear maps with an activation between them, at each position.

  Args:
    features: Width of what comes in and goes out.
    hidden: Width between the maps.
    activation: One of `ACTIVATIONS`.
    rngs: Source of randomness of the start.
  """

  def __init__(
    self,
    features: int,
    hidden: int,
    *,
    activation: str = "relu",
    rngs: nnx.Rngs,
  ):
    typing.check_at_least("hidden", hidden, 1)
    typing.check_choice("activation", activation, ACTIVATIONS)
    self.activation = activation
    self.inner = _linear(features, hidden, rngs)
    self.output = _linear(hidden, features, rngs)

  def __call__(
    self, inputs: Float[Array, "batch length features"]
  ) -> Float[Array, "batch length features"]:
    """Maps each vector by itself."""
    return self.output(ACTIVATIONS[self.activation](self.inner(inputs)))


class Residual(nnx.Module):
  """What stands around each part of a block: norm, dropout and a sum.

  Args:
    features: Width of the vectors.
    dropout: Rate of the dropout on the output of the part.
    norm_first: Whether the norm is on the way into the part (Xiong et al.,
      2020), or after the sum, as in the first transformers.
    epsilon: Added to the variances of the norm.
    rngs: Source of randomness of the start.
  """

  def __init__(
    self,
    features: int,
    *,
    dropout: float,
    norm_first: bool,
    epsilon: float,
    rngs: nnx.Rngs,
  ):
    self.norm = nnx.LayerNorm(features, epsilon=epsilon, rngs=rngs)
    self.dropout = nnx.Dropout(dropout)
    self.norm_first = norm_first

  def enter(self, hidden: Array) -> Array:
    """Returns what goes into the part."""
    return self.norm(hidden) if self.norm_first else hidden

  def leave(self, hidden: Array, output: Array, key: Array | None) -> Array:
    """Adds the output of the part to what went in."""
    if key is not None:
      output = self.dropout(output, rngs=key)
    total = hidden + output
    return total if self.norm_first else self.norm(total)


class EncoderBlock(nnx.Module):
  """Self-attention and a feed-forward part.

  Args:
    features: Width of the vectors.
    num_heads: Number of heads.
    hidden: Width inside of the feed-forward part.
    dropout: Rate of the dropout.
    activation: One of `ACTIVATIONS`.
    norm_first: See :class:`Residual`.
    epsilon: See :class:`Residual`.
    rngs: Source of randomness of the start.
  """

  def __init__(
    self,
    features: int,
    *,
    num_heads: int,
    hidden: int,
    dropout: float = 0.1,
    activation: str = "relu",
    norm_first: bool = True,
    epsilon: float = 1e-6,
    rngs: nnx.Rngs,
  ):
    make_residual = lambda: Residual(
      features,
      dropout=dropout,
      norm_first=norm_first,
      epsilon=epsilon,
      rngs=rngs,
    )
    self.attention = Attention(features, num_heads, rngs=rngs)
    self.feed_forward = FeedForward(
      features, hidden, activation=activation, rngs=rngs
    )
    self.around_attention = make_residual()
    self.around_feed_forward = make_residual()

  def __call__(
    self,
    hidden: Float[Array, "batch length features"],
    mask: Bool[Array, "batch queries length"],
    *,
    key: Array | None = None,
  ) -> Float[Array, "batch length features"]:
    """Transforms vectors that see each other.

    Args:
      hidden: One vector for each position.
      mask: Who may see whom; the queries may be one for all.
      key: Source of the dropout, needed in training.
    """
    keys = split_key(key, 2)
    inputs = self.around_attention.enter(hidden)
    output = self.attention(inputs, self.attention.keys_values(inputs), mask)
    hidden = self.around_attention.leave(hidden, output, keys[0])
    output = self.feed_forward(self.around_feed_forward.enter(hidden))
    return self.around_feed_forward.leave(hidden, output, keys[1])


class Encoder(nnx.Module):
  """Blocks one above the other, and a norm at the end where they need one.

  Args:
    features: Width of the vectors.
    num_layers: Number of blocks.
    num_heads: Number of heads.
    hidden: Width inside of the feed-forward part.
    dropout: Rate of the dropout.
    activation: One of `ACTIVATIONS`.
    norm_first: See :class:`Residual`.
    epsilon: See :class:`Residual`.
    rngs: Source of randomness of the start.
  """

  def __init__(
    self,
    features: int,
    *,
    num_layers: int,
    num_heads: int,
    hidden: int,
    dropout: float = 0.1,
    activation: str = "relu",
    norm_first: bool = True,
    epsilon: float = 1e-6,
    rngs: nnx.Rngs,
  ):
    typing.check_at_least("num_layers", num_layers, 1)
    self.blocks = nnx.List(
      EncoderBlock(
        features,
        num_heads=num_heads,
        hidden=hidden,
        dropout=dropout,
        activation=activation,
        norm_first=norm_first,
        epsilon=epsilon,
        rngs=rngs,
      )
      for _ in range(num_layers)
    )
    self.norm = (
      nnx.LayerNorm(features, epsilon=epsilon, rngs=rngs)
      if norm_first
      else None
    )

  def __call__(
    self,
    hidden: Float[Array, "batch length features"],
    where: Bool[Array, "batch length"],
    *,
    key: Array | None = None,
  ) -> Float[Array, "batch length features"]:
    """Transforms vectors that see all of their own text.

    Args:
      hidden: One vector for each position.
      where: Which positions belong to the text; the others change nothing.
      key: Source of the dropout, needed in training.
    """
    keys = split_key(key, len(self.blocks))
    for block, block_key in zip(self.blocks, keys, strict=True):
      hidden = block(hidden, where[:, None], key=block_key)
    return hidden if self.norm is None else self.norm(hidden)


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
  init = jax.nn.initializers.xavier_uniform()
  return nnx.Linear(inputs, outputs, kernel_init=init, rngs=rngs)


def split_key(key: Array | None, number: int) -> list[Array | None]:
  """Returns keys for some parts, None for each without dropout."""
  return [None] * number if key is None else list(jax.random.split(key, number))
