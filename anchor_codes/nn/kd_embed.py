"""K-way D-dimensional codes (Chen et al., ICML 2018)."""

from typing import Any

from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from anchor_codes import tables, typing
from anchor_codes.nn import base, centroid_norm, output_norm, table_parts
from anchor_codes.nn import temperature as tempering
from anchor_codes.ops import codes as code_ops
from anchor_codes.ops import (
  compositions,
  drawing,
  folding,
  indexing,
  lookups,
  losses,
  normalization,
  relaxations,
  revival,
)

RELAXATIONS = ("softmax", "gumbel")


class KDEmbed(table_parts.FromCodes, base.CompactEmbed):
  r"""Embeds symbols by short discrete codes that are learned with the task.

  Definition (Chen et al., 2018): :math:`e_i = f(W^1[c_i^1], \dots, W^D[c_i^D])`
  with :math:`c_i^j = \arg\max_k Q_{ijk}`. The forward pass is always that of
  the hard codes; the gradient reaches the logits :math:`Q` through
  :math:`\mathrm{softmax}(Q / \tau)` (straight-through).

  Parameters: `codebooks` [code_length or 1, codebook_size, code_features];
  `projection` [code_features or hidden, features] for 'linear', 'mlp' and
  'lstm'; `bias` [features], `kernels`, `biases` and (for 'lstm') `states` for
  the last two, see :func:`anchor_codes.typing.network_shapes`; the rows are
  `logits` [num_embeddings, code_length, codebook_size].

  Args:
    num_embeddings: Number of symbols.
    features: Width of a vector.
    code_length: Digits of a code.
    codebook_size: Values of a digit, 2 to 65536.
    composition: How the chosen vectors become one, see
      :func:`~anchor_codes.ops.compositions.compose`: 'sum', 'concat' (then
      `features` must be divisible by `code_length`), 'linear', 'mlp' or 'lstm'.
    code_features: Width of the chosen vectors, for 'linear' and 'lstm' alone;
      `features` by default.
    hidden: Width of the layers of 'mlp' and 'lstm'; `features` by default.
    num_layers: Number of layers of 'mlp'.
    shared_codebook: Whether all digits choose from one codebook.
    relaxation: 'softmax', or 'gumbel' to draw codes in training.
    temperature: Positive temperature of the backward pass, or a schedule: a
      function from the number of training lookups to it, such as
      :func:`anchor_codes.training.temperature_schedule` makes.
    entropy_weight: Weight of the entropy of the soft codes in
      :meth:`auxiliary_loss`, at least 0; draws to confident codes.
    code_dropout: Probability that a digit is dropped in training, below 1.
    logit_norm: Whether logits are normalised per codebook entry.
    output_norm: Whether the vectors are batch-normalised, and for 'linear' the
      sums before the projection, too. Of the latter there is nothing to train:
      the projection scales, and the outer norm undoes a bias; for the same
      reason 'mlp' and 'lstm' have no `bias` then.
    deterministic: Whether the layer is out of training: no noise, stored
      moments. Set by ``model.train()`` and ``model.eval()``.
    dtype: Type of the vectors.
    param_dtype: Type of the parameters.
    scale: Standard deviation of an entry of the vectors at the start; the
      published code with its output norm starts at 1.
    rngs: Source of randomness; its stream `codes` draws Gumbel noise, and
      which digits to drop.

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
    hidden: int | None = None,
    num_layers: int = 1,
    shared_codebook: bool = False,
    relaxation: typing.Relaxation = "softmax",
    temperature: float | typing.Schedule = 1.0,
    entropy_weight: float = 0.0,
    code_dropout: float = 0.0,
    logit_norm: bool = True,
    output_norm: bool = False,
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
    lookups.check_regularizers(
      entropy_weight=entropy_weight, code_dropout=code_dropout
    )
    parameters = compositions.code_parameters(
      composition,
      features=features,
      code_length=code_length,
      codebook_size=codebook_size,
      code_features=code_features,
      shared_codebook=shared_codebook,
      hidden=hidden,
      num_layers=num_layers,
      has_bias=not output_norm,
      scale=scale,
    )
    self.code_length = code_length
    self.codebook_size = codebook_size
    self.composition = composition
    self.relaxation = relaxation
    self.tempering = tempering.Temperature(temperature)
    self.entropy_weight = entropy_weight
    self.code_dropout = code_dropout
    self.deterministic = deterministic
    normal = lambda shape, std: drawing.normal_rows(
      rngs.params(), shape, scale=std, dtype=param_dtype
    )
    param = lambda name: (
      nnx.Param(normal(*parameters[name])) if name in parameters else None
    )
    self.logits = base.RowParam(
      normal((num_embeddings, code_length, codebook_size), 0.1)
    )
    self.codebooks = nnx.Param(normal(*parameters["codebooks"]))
    self.projection = param("projection")
    self.bias = param("bias")
    self.kernels = param("kernels")
    self.biases = param("biases")
    self.states = param("states")
    self._add_norms(logit_norm, output_norm, scale, param_dtype)
    is_noisy = relaxation == "gumbel" or code_dropout > 0
    self.rngs = rngs.fork() if is_noisy else None

  def _add_norms(
    self, logits: bool, outputs: bool, scale: float, dtype: base.Dtype
  ) -> None:
    norm = centroid_norm.CentroidNorm
    self.norm = norm(self.codebook_size) if logits else None
    width = self.codebooks[...].shape[-1]
    is_linear = self.composition == "linear"
    self.inner_norm = norm(width) if outputs and is_linear else None
    self.outer_norm = (
      output_norm.OutputNorm(
        self.features, initial_scale=scale, param_dtype=dtype
      )
      if outputs
      else None
    )

  def _lookup(
    self, ids: Int[Array, "*batch"]
  ) -> Float[Array, "*batch features"]:
    logits, inside = self._batch_logits(ids, track=True)
    is_drawn = self.relaxation == "gumbel" and not self.deterministic
    if is_drawn and self.rngs is not None:
      logits = relaxations.perturb_logits(self.rngs.codes(), logits)
    temperature = self.tempering(deterministic=self.deterministic)
    vectors = self._decode(logits, temperature, where=inside, track=True)
    size = self.logits[...].shape[0]
    return indexing.nan_outside(vectors, ids, num_embeddings=size)

  def batch_logits(
    self, inputs: Any
  ) -> Float[Array, "*batch code_length codebook_size"]:
    """Returns the logits of a batch, normalised as :meth:`decode` wants them.

    In training by the moments of the batch, which move no stored ones.

    Args:
      inputs: Ids; one outside the table does not count for the moments.

    Returns:
      The logits without noise.
    """
    ids = indexing.as_ids(inputs, num_embeddings=self.num_embeddings)
    return self._batch_logits(ids, track=False).rows

  def decode(
    self,
    logits: Float[Array, "*batch code_length codebook_size"],
    *,
    where: Bool[Array, "*batch"] | None = None,
    track: bool = False,
  ) -> Float[Array, "*batch features"]:
    """Composes embeddings of given logits, which may belong to no symbol.

    By the codebooks, composition and norms of the layer, at its present
    temperature. An encoder and this make an auto-encoder.

    Args:
      logits: Scores of the entries of each codebook, normalised or not.
      where: Mask of what counts for the moments of an output norm, all by
        default.
      track: Whether the moments of the batch move the stored ones.

    Returns:
      One vector for each row of logits.
    """
    temperature = self.tempering(deterministic=True)
    return self._decode(logits, temperature, where=where, track=track)

  def auxiliary_loss(self, inputs: Any) -> Float[Array, ""]:
    r"""Returns the weighted entropy of the soft codes of a batch.

    Definition (Chen et al., 2018): :math:`\lambda` times the mean of
    :math:`-\sum_k p_k \log p_k` over tokens and digits, with the weight
    :math:`\lambda` and the softmax :math:`p` at the present temperature.

    Args:
      inputs: The ids of the batch. Under a transformation, one outside the
        table does not count: use it for padding.

    Returns:
      A scalar, zero for a weight of zero. No stored moment moves.
    """
    if not self.entropy_weight:
      return super().auxiliary_loss(inputs)
    ids = indexing.as_ids(inputs, num_embeddings=self.num_embeddings)
    logits, inside = self._batch_logits(ids, track=False)
    temperature = self.tempering(deterministic=True)
    entropy = losses.code_entropy(logits, temperature, where=inside)
    return self.entropy_weight * entropy

  def codes(self) -> Int[Array, "num_embeddings code_length"]:
    """Returns the code of each symbol, as it is used out of training.

    Raises:
      ValueError: If logits are not finite, and their values are known: their
        codes would mean nothing.
    """
    base.check_finite_rows("logits", self.logits[...])
    return self._codes()

  def _attend(
    self, query: Float[Array, "*batch features"]
  ) -> Float[Array, "*batch num_embeddings"]:
    """Scores all embeddings: the query meets each codebook entry only once.

    For 'mlp' and 'lstm' embeddings are composed, in blocks of symbols.
    """
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

  def to_table(self) -> tables.CodeTable:
    """Returns the artefact: packed codes and codebooks.

    Norms are folded into the codebooks or the projection; the projection of
    'linear' is folded into the codebooks where that is smaller.

    Raises:
      ValueError: If logits are not finite.
    """
    folded = folding.fold_smaller(self._folded)
    given = {"projection": folded.projection, "bias": folded.bias}
    given |= self._network
    arrays: Any = {
      name: base.to_numpy(a) for name, a in given.items() if a is not None
    }
    return tables.CodeTable.from_codes(
      base.to_numpy(self.codes()),
      base.to_numpy(folded.codebooks),
      composition=folded.composition,
      **arrays,
    )

  def revive(self, key: PRNGKeyArray, *, num_symbols: int = 1) -> int:
    """Lets symbols choose the entries that no symbol chooses, in place.

    For the host; see :func:`~anchor_codes.ops.revival.revive_logits`.

    Args:
      key: Random key.
      num_symbols: How many symbols to move to each entry, at most.

    Returns:
      How many entries were revived.
    """
    norm, options = self.norm, {}
    if norm is not None:
      moments = normalization.Moments(norm.mean[...], norm.variance[...])
      options = {"moments": moments, "epsilon": norm.epsilon}
    logits, num_revived = revival.revive_logits(
      key,
      self.logits[...],
      self.codes(),
      num_symbols=num_symbols,
      **options,
    )
    self.logits[...] = logits
    return int(num_revived)

  def _decode(
    self,
    logits: Float[Array, "*batch code_length codebook_size"],
    temperature: Float[Array, ""],
    *,
    where: Bool[Array, "*batch"] | None,
    track: bool,
  ) -> Float[Array, "*batch features"]:
    options: Any = {"deterministic": self.deterministic}
    options |= {"where": where, "track": track}
    drops = self.code_dropout > 0 and not self.deterministic
    combined = lookups.combine_best(
      self.rngs.codes() if drops and self.rngs is not None else None,
      logits,
      self.codebooks[...],
      temperature=temperature,
      composition=self.composition,
      rate=self.code_dropout,
    )
    if self.inner_norm is not None:
      normalized = self.inner_norm(combined, **options)
      combined = normalized.astype(combined.dtype)
    vectors = compositions.finish(
      combined,
      self.composition,
      projection=_value(self.projection),
      bias=_value(self.bias),
      network=self._network,
    )
    if self.outer_norm is not None:
      vectors = self.outer_norm(vectors, **options)
    return vectors

  def _batch_logits(
    self, ids: Int[Array, "*batch"], *, track: bool
  ) -> lookups.Gathered:
    logits, inside = lookups.gather(self.logits[...], ids)
    if self.norm is not None:
      logits = self.norm(
        logits, deterministic=self.deterministic, where=inside, track=track
      )
    return lookups.Gathered(logits, inside)

  def _codes(self) -> Int[Array, "num_embeddings code_length"]:
    logits = self.logits[...]
    if self.norm is not None:
      logits = self.norm(logits, deterministic=True)
    return code_ops.assign_codes(logits)

  @property
  def _network(self) -> dict[str, Array]:
    names = ("kernels", "biases", "states")
    arrays = {name: _value(getattr(self, name)) for name in names}
    return {n: array for n, array in arrays.items() if array is not None}

  @property
  def _folded(self) -> folding.Folded:
    """The linear parts, with what the norms are out of training."""
    inner, outer = self.inner_norm, self.outer_norm
    parts = folding.Folded(
      self.composition,
      self.codebooks[...],
      _value(self.projection),
      _value(self.bias),
    )
    return folding.fold_norms(
      parts,
      code_length=self.code_length,
      inner=None if inner is None else inner.affine(),
      outer=None if outer is None else outer.affine(),
    )


def _value(param: nnx.Param | None) -> Array | None:
  return None if param is None else param[...]
