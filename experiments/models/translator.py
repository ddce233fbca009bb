"""An encoder-decoder transformer with any embeddings."""

import math
from typing import Any

import jax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anchor_codes import typing
from experiments.datasets import subwords
from experiments.models import beam_search, transformer
from experiments.models.language_model import Output, TiedOutput


class DecoderBlock(nnx.Module):
  """An encoder's block that looks at the memory of a source as well.

  The arguments are those of an encoder's block, whose norms come first.
  """

  def __init__(
    self,
    features: int,
    *,
    num_heads: int,
    hidden: int,
    dropout: float = 0.1,
    rngs: nnx.Rngs,
  ):
    make_residual = lambda: transformer.Residual(
      features, dropout=dropout, norm_first=True, epsilon=1e-6, rngs=rngs
    )
    self.attention = transformer.Attention(features, num_heads, rngs=rngs)
    self.cross_attention = transformer.Attention(features, num_heads, rngs=rngs)
    self.feed_forward = transformer.FeedForward(features, hidden, rngs=rngs)
    self.around_attention = make_residual()
    self.around_cross_attention = make_residual()
    self.around_feed_forward = make_residual()

  def __call__(
    self,
    hidden: Float[Array, "batch length features"],
    mask: Bool[Array, "batch length keys"],
    memory: transformer.KeysValues,
    memory_mask: Bool[Array, "batch 1 source_length"],
    *,
    past: transformer.KeysValues | None = None,
    start: Array | int = 0,
    key: Array | None = None,
  ) -> tuple[Float[Array, "batch length features"], transformer.KeysValues]:
    """Transforms vectors that see themselves and a memory.

    Args:
      hidden: One vector for each position.
      mask: Who may see whom, among the past if there is one.
      memory: Keys and values of the source, of the cross-attention.
      memory_mask: Which positions belong to the source.
      past: Keys and values of what came before, into which those of `hidden`
        are written.
      start: Where in the past they are written.
      key: Source of the dropout, needed in training.

    Returns:
      The new vectors, and the past with them.
    """
    keys = transformer.split_key(key, 3)
    inputs = self.around_attention.enter(hidden)
    seen = self.attention.keys_values(inputs)
    if past is not None:
      seen = past.put(seen, start)
    output = self.attention(inputs, seen, mask)
    hidden = self.around_attention.leave(hidden, output, keys[0])
    inputs = self.around_cross_attention.enter(hidden)
    output = self.cross_attention(inputs, memory, memory_mask)
    hidden = self.around_cross_attention.leave(hidden, output, keys[1])
    output = self.feed_forward(self.around_feed_forward.enter(hidden))
    return self.around_feed_forward.leave(hidden, output, keys[2]), seen


class Translator(nnx.Module):
  """Embeddings, encoder, decoder, softmax (Vaswani et al., 2017).

  Norms come first in each block. The vectors of subwords are multiplied by the
  root of their width, and positions are added.

  Args:
    source: Any layer from ids of the source's subwords to vectors.
    target: The same for the target, or None to share that of the source.
    num_layers: Blocks of the encoder, and of the decoder.
    num_heads: Number of heads.
    hidden: Width inside of the feed-forward parts.
    dropout: Rate of the dropout on the input and on all parts of the blocks.
    tied: Whether the output layer scores subwords by the target's embedding, on
      its compact form.
    rngs: Source of randomness of the start.

  Raises:
    ValueError: If an option is outside its range.
  """

  def __init__(
    self,
    source: Any,
    target: Any | None = None,
    *,
    num_layers: int = 3,
    num_heads: int = 4,
    hidden: int = 512,
    dropout: float = 0.1,
    tied: bool = True,
    rngs: nnx.Rngs,
  ):
    features, size = source.features, source.num_embeddings
    # Refused now, and not when the first positions are made.
    typing.check_divisible("features", features, "2", 2)
    self.source, self.target = source, target
    sizes = {"num_heads": num_heads, "hidden": hidden, "dropout": dropout}
    self.encoder = transformer.Encoder(
      features, num_layers=num_layers, **sizes, rngs=rngs
    )
    self.blocks = nnx.List(
      DecoderBlock(features, **sizes, rngs=rngs) for _ in range(num_layers)
    )
    self.norm = nnx.LayerNorm(features, rngs=rngs)
    self.dropout = nnx.Dropout(dropout)
    self.output: Any = (
      TiedOutput(size)
      if tied
      else Output(size, features, scale=math.sqrt(3 / features), rngs=rngs)
    )
    self.features = features

  @property
  def target_embedding(self) -> Any:
    """The embedding of the target, which may be that of the source."""
    return self.source if self.target is None else self.target

  def encode(
    self,
    sources: Int[Array, "batch source_length"],
    where: Bool[Array, "batch source_length"],
    *,
    key: Array | None = None,
  ) -> Float[Array, "batch source_length features"]:
    """Reads sentences.

    Args:
      sources: Ids of subwords.
      where: Which of them belong to the sentence; the others change nothing.
      key: Source of the dropout, needed in training.

    Returns:
      One vector for each subword.
    """
    first, rest = transformer.split_key(key, 2)
    positions = transformer.sinusoidal_positions(
      sources.shape[1], self.features
    )
    hidden = self._start(self.source, sources, positions, first)
    return self.encoder(hidden, where, key=rest)

  def decode(
    self,
    inputs: Int[Array, "batch length"],
    memory: Float[Array, "batch source_length features"],
    where: Bool[Array, "batch source_length"],
    *,
    key: Array | None = None,
  ) -> Float[Array, "batch length features"]:
    """Returns the vectors that predict the next subwords.

    Args:
      inputs: Ids of the target's subwords, none of which sees later ones.
      memory: The sentences that were read.
      where: Which vectors of the memory belong to a sentence.
      key: Source of the dropout, needed in training.
    """
    first, rest = transformer.split_key(key, 2)
    length = inputs.shape[1]
    positions = transformer.sinusoidal_positions(length, self.features)
    hidden = self._start(self.target_embedding, inputs, positions, first)
    mask, seen = transformer.causal_mask(length), self.keys_values(memory)
    for number, (block, part) in enumerate(zip(self.blocks, seen, strict=True)):
      block_key = None if rest is None else jax.random.fold_in(rest, number)
      hidden, _ = block(hidden, mask, part, where[:, None], key=block_key)
    return self.norm(hidden)

  def keys_values(
    self, memory: Float[Array, "batch source_length features"]
  ) -> list[transformer.KeysValues]:
    """Returns what each block of the decoder sees of sentences."""
    return [block.cross_attention.keys_values(memory) for block in self.blocks]

  def logits(
    self, hidden: Float[Array, "*batch features"]
  ) -> Float[Array, "*batch vocab_size"]:
    """Scores all subwords as the next one."""
    if isinstance(self.output, Output):
      return self.output.attend(hidden)
    bias = self.output.bias[...].reshape(*(1,) * (hidden.ndim - 1), -1)
    return self.target_embedding.attend(hidden) + bias

  def translate(
    self,
    sources: Int[Array, "batch source_length"],
    *,
    beam_size: int = 4,
    max_length: int = 64,
    length_penalty: float = 1.0,
  ) -> beam_search.Found:
    """Searches for translations.

    Args:
      sources: Ids of subwords, filled up with padding.
      beam_size: Hypotheses of a sentence; 1 for the greedy search.
      max_length: Subwords of a translation with its end, at most.
      length_penalty: See :func:`beam_search.beam_search`.

    Returns:
      The best translations and their scores.
    """
    where = sources != subwords.PADDING_ID
    seen = self.keys_values(self.encode(sources, where))
    positions = transformer.sinusoidal_positions(max_length, self.features)

    def step(
      tokens: Array, position: Array, visible: Array, cache: Any
    ) -> tuple[Array, Any]:
      now = jax.lax.dynamic_slice_in_dim(positions, position, 1)
      hidden = self._start(self.target_embedding, tokens, now, None)
      new_cache = []
      for block, part, past in zip(self.blocks, seen, cache, strict=True):
        # The hypotheses of a sentence are its queries: it is not copied.
        hidden, past = block(
          hidden,
          visible,
          part,
          where[:, None],
          past=past,
          start=position * beam_size,
        )
        new_cache.append(past)
      return self._possible(self.logits(self.norm(hidden))), new_cache

    return beam_search.beam_search(
      step,
      [_empty_cache(part, max_length * beam_size) for part in seen],
      batch_size=len(sources),
      beam_size=beam_size,
      max_length=max_length,
      length_penalty=length_penalty,
      begin_id=subwords.BEGIN_ID,
      end_id=subwords.END_ID,
      padding_id=subwords.PADDING_ID,
    )

  def _possible(self, logits: Array) -> Array:
    """Leaves out what no translation holds."""
    impossible = jnp.arange(logits.shape[-1]) < subwords.END_ID
    return jnp.where(impossible[None, None], -jnp.inf, logits)

  def _start(
    self, embed: Any, ids: Array, positions: Array, key: Array | None
  ) -> Array:
    """Looks up vectors, and adds their positions."""
    hidden = embed(ids) * math.sqrt(self.features) + positions[None]
    return hidden if key is None else self.dropout(hidden, rngs=key)


def _empty_cache(
  like: transformer.KeysValues, size: int
) -> transformer.KeysValues:
  make = lambda a: jnp.zeros((a.shape[0], size, *a.shape[2:]), a.dtype)
  return jax.tree.map(make, like)
