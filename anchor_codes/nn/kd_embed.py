"""K-way D-dimensional codes (Chen et al., ICML 2018)."""

import math

import jax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anchor_codes import tables, typing
from anchor_codes.nn import base, centroid_norm
from anchor_codes.ops import codes as code_ops
from anchor_codes.ops import indexing, lookups, relaxations

RELAXATIONS = ("softmax", "gumbel")


class KDEmbed(base.CompactEmbed):
  r"""Embeds symbols by short discrete codes that are learned with the task.

  Definition (Chen et al., 2018): :math:`e_i = f(W^1[c_i^1], \dots, W^D[c_i^D])`
  with :math:`c_i^j = \arg\max_k Q_{ijk}`. The forward pass is always that of
  the hard codes; the gradient reaches the logits :math:`Q` through
  :math:`\mathrm{softmax}(Q / \tau)` (straight-through).

  Parameters: `codebooks` [code_length or 1, codebook_size, code_features], and
  `projection` [code_features, features] for the linear composition; the rows
  are `logits` [num_embeddings, code_length, codebook_size].

  Args:
    num_embeddings: Number of symbols.
    features: Width of a vector.
    code_length: Digits of a code.
    codebook_size: Values of a digit, 2 to 65536.
    composition: How the chosen vectors become one: 'sum', 'concat' (then
      `features` must be divisible by `code_length`) or 'linear'.
    code_features: Width of the chosen vectors, for 'linear' alone;
      `features` by default.
    shared_codebook: Whether all digits choose from one codebook.
    relaxation: 'softmax', or 'gumbel' to draw codes in training.
    temperature: Positive temperature of the backward pass.
    logit_norm: Whether logits are normalised per codebook entry.
    deterministic: Whether the layer is out of training: no noise, stored
      moments. Set by ``model.train()`` and ``model.eval()``.
    dtype: Type of the vectors.
    param_dtype: Type of the parameters.
    scale: Standard deviation of an entry of the vectors at the start.
    rngs: Source of randomness; its stream `codes` draws Gumbel noise.

  Raises:
    ValueError: If an option is outside its range.

  >>> embed = KDEmbed(100, 8, code_length=4, codebook_size=16,
  ...                 rngs=nnx.Rngs(0))
  >>> embed(jnp.array([[1, 2, 3]])).shape
  (1, 3, 8)
  """

  def __init__(
    self,
    num_embeddings: int,
    features: int,
    *,
    code_length: int,
    codebook_size: int,
    composition: typing.Composition = "sum",
    code_features: int | None = None,
    shared_codebook: bool = False,
    relaxation: typing.Relaxation = "softmax",
    temperature: float = 1.0,
    logit_norm: bool = True,
    deterministic: bool = False,
    dtype: base.Dtype | None = None,
    param_dtype: base.Dtype = jnp.float32,
    scale: float = 0.1,
    rngs: nnx.Rngs,
  ):
    super().__init__(num_embeddings, features, dtype=dtype)
    lookups.check_code_options(
      code_length=code_length,
      codebook_size=codebook_size,
      relaxation=relaxation,
      allowed=RELAXATIONS,
      temperature=temperature,
    )
    width = typing.code_width(
      composition, features, code_length, code_features=code_features
    )
    self.composition = composition
    self.relaxation = relaxation
    self.temperature = temperature
    self.deterministic = deterministic
    self.norm = (
      centroid_norm.CentroidNorm(codebook_size) if logit_norm else None
    )
    normal = lambda shape, std: (
      std * jax.random.normal(rngs.params(), shape, param_dtype)
    )
    positions = 1 if shared_codebook else code_length
    terms = 1 if composition == "concat" else code_length
    self.logits = base.RowParam(
      normal((num_embeddings, code_length, codebook_size), 0.1)
    )
    self.codebooks = nnx.Param(
      normal((positions, codebook_size, width), scale / math.sqrt(terms))
    )
    self.projection = (
      nnx.Param(normal((width, features), 1 / math.sqrt(width)))
      if composition == "linear"
      else None
    )
    self.rngs = rngs.fork() if relaxation == "gumbel" else None

  def _lookup(
    self, ids: Int[Array, "*batch"]
  ) -> Float[Array, "*batch features"]:
    logits, inside = lookups.gather(self.logits[...], ids)
    logits = self._normalized(
      logits, deterministic=self.deterministic, where=inside
    )
    if self.rngs is not None and not self.deterministic:
      logits = relaxations.perturb_logits(self.rngs.codes(), logits)
    vectors = relaxations.straight_through_decode(
      logits,
      self.codebooks[...],
      self.temperature,
      self.composition,
      projection=self._projection,
    )
    size = self.logits[...].shape[0]
    return indexing.nan_outside(vectors, ids, num_embeddings=size)

  def codes(self) -> Int[Array, "num_embeddings code_length"]:
    """Returns the code of each symbol, as it is used out of training."""
    logits = self._normalized(self.logits[...], deterministic=True)
    return code_ops.assign_codes(logits)

  def attend(
    self, query: Float[Array, "*batch features"]
  ) -> Float[Array, "*batch num_embeddings"]:
    """Scores all embeddings: the query meets each codebook entry only once."""
    return code_ops.attend_codes(
      query,
      self.codes(),
      self.codebooks[...],
      self.composition,
      projection=self._projection,
    )

  def to_table(self) -> tables.CodeTable:
    """Returns the artefact: packed codes and codebooks."""
    projection = self.projection
    return tables.CodeTable.from_codes(
      base.to_numpy(self.codes()),
      base.to_numpy(self.codebooks),
      composition=self.composition,
      projection=None if projection is None else base.to_numpy(projection),
    )

  def _normalized(
    self,
    logits: Float[Array, "*batch code_length codebook_size"],
    *,
    deterministic: bool,
    where: Bool[Array, "*batch"] | None = None,
  ) -> Float[Array, "*batch code_length codebook_size"]:
    if self.norm is None:
      return logits
    return self.norm(logits, deterministic=deterministic, where=where)

  @property
  def _projection(self) -> Float[Array, "code_features features"] | None:
    return None if self.projection is None else self.projection[...]
