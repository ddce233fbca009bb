"""Linen twin of the guidance of a compact embedding."""

import dataclasses
import functools
from typing import Any

from flax import linen
from jax import numpy as jnp
from jaxtyping import Array, Float

from anchor_codes import tables, typing
from anchor_codes.linen import base, centroid_norm, kd_embed
from anchor_codes.ops import drawing, guidance, indexing, lookups


class GuidedEmbed(linen.Module):
  """Linen twin of :class:`anchor_codes.nn.GuidedEmbed`.

  A table that is trained alongside is the parameter `guide`; a given one is a
  variable of the collection `given`. The random stream is `guidance`.

  >>> import jax
  >>> student = kd_embed.KDEmbed(100, 8, code_length=4, codebook_size=16)
  >>> embed = GuidedEmbed(student)
  >>> keys = {"params": jax.random.key(0), "guidance": jax.random.key(1)}
  >>> variables = embed.init(keys, jnp.arange(3))
  >>> variables["params"]["guide"].shape
  (100, 8)
  """

  embed: base.CompactEmbed
  _: dataclasses.KW_ONLY
  guide: Any = None
  rate: float | None = None
  weights: guidance.GuidanceWeights | None = None
  deterministic: bool = False
  scale: float = 0.1

  def setup(self) -> None:
    """Checks the options and declares the table."""
    embed = self.embed
    is_given = self.guide is not None
    rate = (0.0 if is_given else 0.5) if self.rate is None else self.rate
    typing.check_rate("rate", rate)
    self.present_rate = rate
    self.parts = self.weights or guidance.GuidanceWeights()
    shape = (embed.num_embeddings, embed.features)
    if is_given:
      guidance.check_guide(self.guide, shape)
      self.table = self.variable(
        "given", "guide", jnp.asarray, self.guide
      ).value
    else:
      init = functools.partial(drawing.normal_rows, scale=self.scale)
      self.table = self.param("guide", init, shape)
    self.encoder = self.encoder_norm = None
    if self.parts.reconstruction or self.parts.codes:
      self._add_encoder()

  def _add_encoder(self) -> None:
    embed = self.embed
    if self.guide is None or not isinstance(embed, kd_embed.KDEmbed):
      raise ValueError(
        "the weights of `reconstruction` and `codes` need a `guide` and an "
        f"`embed` of KDEmbed, got {type(embed).__name__} and "
        f"{'no' if self.guide is None else 'a'} guide."
      )
    size = embed.code_length, embed.codebook_size
    self.encoder = linen.DenseGeneral(size)
    self.encoder_norm = centroid_norm.CentroidNorm(embed.codebook_size)

  def __call__(self, inputs: Any) -> base.Vectors:
    """Looks up one vector for each id."""
    ids = self._as_ids(inputs)
    vectors = self.embed(ids)
    # No lookup uses the encoder, and Linen makes parameters at the first use.
    if self.is_initializing():
      self.auxiliary_loss(ids)
    if self.deterministic or not self.present_rate:
      return vectors
    # `nan`, as the other vectors have: zeros would hide an id outside.
    guides = indexing.take_rows(self.table, ids, fill_value=jnp.nan)
    key = self.make_rng("guidance")
    return guidance.mix_vectors(key, vectors, guides, self.present_rate)

  def auxiliary_loss(self, inputs: Any) -> Float[Array, ""]:
    """Returns the guidance, and what the embedding adds by itself.

    Apply it without mutable collections: it looks the batch up once more, which
    would move the stored moments a second time.
    """
    ids = self._as_ids(inputs)
    guides, inside = lookups.gather(self.table, ids)
    distance = guidance.guidance_loss(self.embed(ids), guides, where=inside)
    loss = self.parts.vectors * distance + self.embed.auxiliary_loss(ids)
    if self.encoder is None or self.encoder_norm is None:
      return loss
    logits = self.encoder_norm(
      self.encoder(guides), deterministic=self.deterministic, where=inside
    )
    return loss + guidance.autoencoding_loss(
      guides,
      self.embed.decode(logits, where=inside),
      logits,
      self.embed.batch_logits(ids),
      weights=self.parts,
      where=inside,
    )

  def attend(self, query: Any) -> base.Scores:
    """Scores all embeddings; the guide takes no part."""
    return self.embed.attend(query)

  def to_table(self) -> tables.Table:
    """Returns the artefact of the embedding alone."""
    return self.embed.to_table()

  def _as_ids(self, inputs: Any) -> base.Ids:
    size = self.embed.num_embeddings
    return indexing.as_ids(inputs, num_embeddings=size)
