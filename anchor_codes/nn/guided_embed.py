"""Guidance of a compact embedding by a full table (Chen et al., ICML 2018)."""

from typing import Any, Self

from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from anchor_codes import tables, typing
from anchor_codes.nn import base, centroid_norm, kd_embed
from anchor_codes.ops import drawing, guidance, indexing, lookups


class GuidedEmbed(base.CompactEmbed):
  r"""Trains a compact embedding under the guidance of a full table.

  Definition (Chen et al., "Learning K-way D-dimensional Discrete Codes", ICML
  2018), with the embedding :math:`e_i` and the row :math:`u_i` of the table:

  * *online*, without `guide`: the table is trained alongside. In training each
    occurrence of a symbol is looked up in the table with probability `rate`,
    else in the embedding, and :math:`w\, \mathrm{mean}(e - \text{sg}(u))^2` is
    added to the loss.
  * *pre-trained*, with `guide`: the table is given and stays as it is. It is
    never looked up for the task unless `rate` says so; the same loss is added.
  * *auto-encoding*, with `guide` and weights of `reconstruction` and `codes`:
    an encoder finds logits for the vectors of the table, too; these are
    composed by the codebooks of the embedding, and draw its logits.

  The weights go with a loss that sums over the steps of a text, as there: .1
  online for small models and 1000 for larger ones, 1000, 100 and 10 for the
  three of a table given. Out of training, and in what is stored, there is only
  the embedding.

  Args:
    embed: The compact embedding; a `KDEmbed` for auto-encoding.
    guide: The given table [num_embeddings, features]; None to train one.
    rate: Probability that an occurrence is looked up in the table; None for
      .5 online and 0 with a given table.
    weights: Of the distance of vectors, and of the parts of auto-encoding.
    deterministic: Whether the layer is out of training. Set by
      ``model.train()`` and ``model.eval()``.
    scale: Standard deviation of an entry of a table trained alongside.
    rngs: Source of randomness; its stream `guidance` draws where the table is
      looked up.

  Raises:
    ValueError: If the table does not fit the embedding, is not finite, or an
      option is outside its range.

  >>> student = kd_embed.KDEmbed(100, 8, code_length=4, codebook_size=16,
  ...                            rngs=nnx.Rngs(0))
  >>> embed = GuidedEmbed(student, rngs=nnx.Rngs(1))
  >>> embed(jnp.array([[1, 2, 3]])).shape
  (1, 3, 8)
  >>> embed.to_table().nbytes == student.to_table().nbytes
  True
  """

  def __init__(
    self,
    embed: base.CompactEmbed,
    *,
    guide: Any = None,
    rate: float | None = None,
    weights: guidance.GuidanceWeights | None = None,
    deterministic: bool = False,
    scale: float = 0.1,
    rngs: nnx.Rngs,
  ):
    super().__init__(embed.num_embeddings, embed.features, dtype=embed.dtype)
    is_given = guide is not None
    # Any: an embedding with codes has more methods than all have.
    self.embed: Any = embed
    self.rate = (0.0 if is_given else 0.5) if rate is None else rate
    typing.check_rate("rate", self.rate)
    self.weights = weights or guidance.GuidanceWeights()
    self.deterministic = deterministic
    shape = (embed.num_embeddings, embed.features)
    if guide is None:
      table = drawing.normal_rows(rngs.params(), shape, scale=scale)
      self.guide = base.RowParam(table)
    else:
      guidance.check_guide(guide, shape)
      self.guide = base.GivenRow(jnp.asarray(guide))
    encodes = self.weights.reconstruction > 0 or self.weights.codes > 0
    self.encoder = self._make_encoder(is_given, rngs) if encodes else None
    self.encoder_norm = (
      centroid_norm.CentroidNorm(self.encoder.out_features[-1])
      if self.encoder is not None
      else None
    )
    # No stream where nothing is drawn: it would be a state to carry along.
    self.rngs = rngs.fork() if self.rate else None

  def _make_encoder(self, is_given: bool, rngs: nnx.Rngs) -> Any:
    """Makes the encoder of the vectors of a given table."""
    embed = self.embed
    if not (is_given and isinstance(embed, kd_embed.KDEmbed)):
      raise ValueError(
        "the weights of `reconstruction` and `codes` need a `guide` and an "
        f"`embed` of KDEmbed, got {type(embed).__name__} and "
        f"{'a' if is_given else 'no'} guide."
      )
    size = embed.code_length, embed.codebook_size
    return nnx.LinearGeneral(embed.features, size, rngs=rngs)

  def _lookup(
    self, ids: Int[Array, "*batch"]
  ) -> Float[Array, "*batch features"]:
    vectors = self.embed(ids)
    if self.deterministic or self.rngs is None:
      return vectors
    # `nan`, as the other vectors have: zeros would hide an id outside.
    guides = indexing.take_rows(self.guide[...], ids, fill_value=jnp.nan)
    return guidance.mix_vectors(
      self.rngs.guidance(), vectors, guides, self.rate
    )

  def auxiliary_loss(self, inputs: Any) -> Float[Array, ""]:
    """Returns the guidance, and what the embedding adds by itself.

    Args:
      inputs: The ids of the batch; one outside the table does not count.

    Returns:
      A scalar.
    """
    ids = indexing.as_ids(inputs, num_embeddings=self.num_embeddings)
    guides, inside = lookups.gather(self.guide[...], ids)
    # A copy: this lookup moves no moments.
    embed = nnx.clone(self.embed)
    distance = guidance.guidance_loss(embed(ids), guides, where=inside)
    loss = self.weights.vectors * distance + self.embed.auxiliary_loss(ids)
    if self.encoder is None or self.encoder_norm is None:
      return loss
    logits = self.encoder_norm(
      self.encoder(guides), deterministic=self.deterministic, where=inside
    )
    return loss + guidance.autoencoding_loss(
      guides,
      embed.decode(logits, where=inside),
      logits,
      embed.batch_logits(ids),
      weights=self.weights,
      where=inside,
    )

  def codes(self) -> Int[Array, "num_embeddings code_length"]:
    """Returns the code of each symbol, for an embedding that has codes."""
    return self.embed.codes()

  def attend(self, query: Any) -> Float[Array, "*batch num_embeddings"]:
    """Scores all embeddings; the guide takes no part."""
    return self.embed.attend(query)

  def to_table(self) -> tables.Table:
    """Returns the artefact of the embedding alone."""
    return self.embed.to_table()

  def select(self, ids: Int[Array, " size"]) -> Self:
    """Returns the layer over some of its rows and those of its guide."""
    selected = nnx.clone(self)
    selected.num_embeddings = ids.shape[0]
    selected.embed = self.embed.select(ids)
    rows = indexing.take_rows(self.guide[...], ids, fill_value=0.0)
    selected.guide = type(self.guide)(rows)
    return selected

  def write(self, ids: Int[Array, " size"], selected: Any) -> None:
    """Writes the rows of both back, in place."""
    self.embed.write(ids, selected.embed)
    # A given table does not move.
    if isinstance(self.guide, base.RowParam):
      rows = indexing.put_rows(self.guide[...], ids, selected.guide[...])
      self.guide[...] = rows
