"""Linen twin of K-way D-dimensional codes."""

from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from anchor_codes import tables, typing
from anchor_codes.linen import base, centroid_norm, output_norm
from anchor_codes.linen import temperature as tempering
from anchor_codes.ops import codes as code_ops
from anchor_codes.ops import (
  compositions,
  folding,
  indexing,
  lookups,
  losses,
  relaxations,
)

Logits = Float[Array, "*batch code_length codebook_size"]


class KDEmbed(base.CompactEmbed, kw_only=True):
  """Linen twin of :class:`anchor_codes.nn.KDEmbed`.

  >>> import jax
  >>> embed = KDEmbed(100, 8, code_length=4, codebook_size=16)
  >>> variables = embed.init(jax.random.key(0), 3)
  >>> jax.tree.map(lambda array: array.shape, variables["params"])
  {'codebooks': (4, 16, 8), 'logits': (100, 4, 16)}
  >>> vectors, moved = embed.apply(variables, [3, 5], mutable=["batch_stats"])
  """

  code_length: int
  codebook_size: int
  composition: typing.Composition = "sum"
  code_features: int | None = None
  hidden: int | None = None
  num_layers: int = 1
  shared_codebook: bool = False
  relaxation: typing.Relaxation = "softmax"
  temperature: float | typing.Schedule = 1.0
  entropy_weight: float = 0.0
  code_dropout: float = 0.0
  logit_norm: bool = True
  output_norm: bool = False
  deterministic: bool = False

  def _declare(self) -> None:
    lookups.check_code_options(
      code_length=self.code_length,
      codebook_size=self.codebook_size,
      relaxation=self.relaxation,
      allowed=("softmax", "gumbel"),
      temperature=self.temperature,
    )
    lookups.check_regularizers(
      entropy_weight=self.entropy_weight, code_dropout=self.code_dropout
    )
    parameters = compositions.code_parameters(
      self.composition,
      features=self.features,
      code_length=self.code_length,
      codebook_size=self.codebook_size,
      code_features=self.code_features,
      shared_codebook=self.shared_codebook,
      hidden=self.hidden,
      num_layers=self.num_layers,
      has_bias=not self.output_norm,
      scale=self.scale,
    )
    size = self.codebook_size
    rows = self.num_embeddings, self.code_length
    self.logits = self._normal("logits", 0.1, *rows, size)
    self.shared = {
      name: self._normal(name, std, *shape)
      for name, (shape, std) in parameters.items()
    }
    self.tempering = tempering.Temperature(self.temperature)
    self.norm = centroid_norm.CentroidNorm(size) if self.logit_norm else None
    self._add_output_norms(width=parameters["codebooks"].shape[-1])

  def _add_output_norms(self, width: int) -> None:
    self.inner_norm = self.outer_norm = None
    if self.output_norm and self.composition == "linear":
      self.inner_norm = centroid_norm.CentroidNorm(width)
    if self.output_norm:
      self.outer_norm = output_norm.OutputNorm(
        self.features,
        initial_scale=self.scale,
        param_dtype=self.param_dtype,
      )

  def batch_logits(self, inputs: Any) -> Logits:
    """Returns the logits of a batch, normalised as `decode` wants them."""
    return self._batch_logits(self._as_ids(inputs), track=False).rows

  def decode(
    self,
    logits: Logits,
    *,
    where: Bool[Array, "*batch"] | None = None,
    track: bool = False,
  ) -> base.Vectors:
    """Composes embeddings of given logits, which may belong to no symbol."""
    # Not a lookup of training: a schedule must not move on.
    temperature = self.tempering(deterministic=True)
    return self._decode(logits, temperature, where=where, track=track)

  def auxiliary_loss(self, inputs: Any) -> Float[Array, ""]:
    """Returns the weighted entropy of the soft codes of a batch."""
    if not self.entropy_weight:
      return super().auxiliary_loss(inputs)
    logits, inside = self._batch_logits(self._as_ids(inputs), track=False)
    temperature = self.tempering(deterministic=True)
    entropy = losses.code_entropy(logits, temperature, where=inside)
    return self.entropy_weight * entropy

  def codes(self) -> Int[Array, "num_embeddings code_length"]:
    """Returns the code of each symbol, as it is used out of training."""
    base.check_finite_rows("logits", self.logits)
    return self._codes()

  def _lookup(self, ids: base.Ids) -> base.Vectors:
    logits, inside = self._batch_logits(ids, track=True)
    if self.relaxation == "gumbel" and not self.deterministic:
      logits = relaxations.perturb_logits(self.make_rng("codes"), logits)
    temperature = self.tempering(deterministic=self.deterministic)
    vectors = self._decode(logits, temperature, where=inside, track=True)
    size = self.num_embeddings
    return indexing.nan_outside(vectors, ids, num_embeddings=size)

  def _attend(self, query: base.Vectors) -> base.Scores:
    folded = self._folded
    return code_ops.attend_codes(
      query,
      self._codes(),
      folded.codebooks,
      folded.composition,
      projection=folded.projection,
      bias=folded.bias,
      network=self._network,
    )

  def _to_table(self) -> tables.CodeTable:
    folded = folding.fold_smaller(self._folded)
    given = {"projection": folded.projection, "bias": folded.bias}
    given |= self._network
    arrays: Any = {
      name: np.asarray(a) for name, a in given.items() if a is not None
    }
    return tables.CodeTable.from_codes(
      np.asarray(self.codes()),
      np.asarray(folded.codebooks),
      composition=folded.composition,
      **arrays,
    )

  def _decode(
    self,
    logits: Logits,
    temperature: Float[Array, ""],
    *,
    where: Bool[Array, "*batch"] | None,
    track: bool,
  ) -> base.Vectors:
    norm_options: Any = {
      "deterministic": self.deterministic,
      "where": where,
      "track": track,
    }
    drops = self.code_dropout > 0 and not self.deterministic
    combined = lookups.combine_best(
      self.make_rng("codes") if drops else None,
      logits,
      self.shared["codebooks"],
      temperature=temperature,
      composition=self.composition,
      rate=self.code_dropout,
    )
    if self.inner_norm is not None:
      normalized = self.inner_norm(combined, **norm_options)
      # Moments need float32; the projection is to stay in its own type.
      combined = normalized.astype(combined.dtype)
    vectors = compositions.finish(
      combined,
      self.composition,
      projection=self.shared.get("projection"),
      bias=self.shared.get("bias"),
      network=self._network,
    )
    if self.outer_norm is not None:
      vectors = self.outer_norm(vectors, **norm_options)
    return vectors

  def _batch_logits(self, ids: base.Ids, *, track: bool) -> lookups.Gathered:
    logits, inside = lookups.gather(self.logits, ids)
    if self.norm is not None:
      logits = self.norm(
        logits, deterministic=self.deterministic, where=inside, track=track
      )
    return lookups.Gathered(logits, inside)

  def _codes(self) -> Int[Array, "num_embeddings code_length"]:
    logits = self.logits
    if self.norm is not None:
      logits = self.norm(logits, deterministic=True)
    return code_ops.assign_codes(logits)

  @property
  def _network(self) -> dict[str, Array]:
    names = ("kernels", "biases", "states")
    return {n: self.shared[n] for n in names if n in self.shared}

  @property
  def _folded(self) -> folding.Folded:
    """The linear parts, with what the norms are out of training."""
    inner, outer = self.inner_norm, self.outer_norm
    parts = folding.Folded(
      self.composition,
      self.shared["codebooks"],
      self.shared.get("projection"),
      self.shared.get("bias"),
    )
    return folding.fold_norms(
      parts,
      code_length=self.code_length,
      inner=None if inner is None else inner.affine(),
      outer=None if outer is None else outer.affine(),
    )
