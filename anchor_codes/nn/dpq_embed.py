"""Differentiable product quantisation (Chen et al., ICML 2020)."""

from typing import Any

from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from anchor_codes import tables, typing
from anchor_codes.nn import base, centroid_norm
from anchor_codes.nn import temperature as tempering
from anchor_codes.ops import codes as code_ops
from anchor_codes.ops import (
  drawing,
  entries,
  indexing,
  lookups,
  normalization,
  quantization,
  revival,
)


class DPQEmbed(base.CompactEmbed):
  r"""Embeds symbols by quantising a query in parts against learned codebooks.

  Definition (Chen et al., 2020): the query of a symbol is cut into
  `code_length` parts; part :math:`j` chooses
  :math:`c_i^j = \arg\max_k s(q_i^j, K^j_k)`, and the embedding is the
  concatenation of the values :math:`V^j[c_i^j]`.

  * 'softmax' (DPQ-SX): :math:`s` is the inner product; the gradient passes
    through the softmax of the scores to queries, keys and values.
  * 'nearest' (DPQ-VQ): :math:`s` is minus the squared distance; the query gets
    the gradient of its value. Keys learn from :meth:`auxiliary_loss` alone, to
    be added to the loss of the task; values that are not the keys, from the
    task alone.

  Parameters: `codebooks` [code_length or 1, codebook_size,
  features / code_length], the values, and `keys` of the same shape unless they
  are tied; the rows are `queries` [num_embeddings, features], needed in
  training alone.

  Args:
    num_embeddings: Number of symbols.
    features: Width of a vector, divisible by `code_length`.
    code_length: Digits of a code.
    codebook_size: Values of a digit, 2 to 65536.
    shared_codebook: Whether all digits choose from one codebook.
    relaxation: 'softmax' or 'nearest'.
    tied: Whether the keys are the values; None for the choice of the paper:
      yes for 'nearest', no for 'softmax'.
    temperature: Positive temperature of the backward pass of 'softmax', or a
      schedule: a function from the number of training lookups so far.
    codebook_weight: Weight of the loss that draws keys to queries, for
      'nearest' alone.
    commitment_weight: Weight of the loss that draws queries to keys, for
      'nearest' alone.
    score_norm: Whether scores are normalised per codebook entry.
    deterministic: Whether the layer is out of training: stored moments. Set
      by ``model.train()`` and ``model.eval()``.
    dtype: Type of the vectors.
    param_dtype: Type of the parameters.
    scale: Standard deviation of an entry of the vectors at the start.
    rngs: Source of randomness of the start.

  Raises:
    ValueError: If an option is outside its range.

  >>> embed = DPQEmbed(100, 8, code_length=4, codebook_size=16,
  ...                  rngs=nnx.Rngs(0))
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
    shared_codebook: bool = False,
    relaxation: typing.Relaxation = "softmax",
    tied: bool | None = None,
    temperature: float | typing.Schedule = 1.0,
    codebook_weight: float = 1.0,
    commitment_weight: float = 0.0,
    score_norm: bool = True,
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
      allowed=quantization.RELAXATIONS,
      temperature=temperature,
    )
    quantization.check_quantization_options(
      relaxation=relaxation,
      codebook_weight=codebook_weight,
      commitment_weight=commitment_weight,
    )
    width = typing.code_width("concat", features, code_length)
    self.relaxation = relaxation
    self.tied = relaxation == "nearest" if tied is None else tied
    self.tempering = tempering.Temperature(temperature)
    self.codebook_weight = codebook_weight
    self.commitment_weight = commitment_weight
    self.deterministic = deterministic
    self.norm = (
      centroid_norm.CentroidNorm(codebook_size) if score_norm else None
    )
    normal = lambda shape: drawing.normal_rows(
      rngs.params(), shape, scale=scale, dtype=param_dtype
    )
    shape = (1 if shared_codebook else code_length, codebook_size, width)
    self.queries = base.RowParam(normal((num_embeddings, features)))
    self.codebooks = nnx.Param(normal(shape))
    self.keys = None if self.tied else nnx.Param(normal(shape))

  def _lookup(
    self, ids: Int[Array, "*batch"]
  ) -> Float[Array, "*batch features"]:
    queries, inside = lookups.gather(self.queries[...], ids)
    scores = self._scores(queries, inside)
    vectors = quantization.quantize(
      queries,
      scores,
      self.codebooks[...],
      relaxation=self.relaxation,
      temperature=self.tempering(deterministic=self.deterministic),
      tied=self.tied,
    )
    size = self.queries[...].shape[0]
    return indexing.nan_outside(vectors, ids, num_embeddings=size)

  def auxiliary_loss(self, inputs: Any) -> Float[Array, ""]:
    r"""Returns what draws keys and queries to each other; 0 for 'softmax'.

    Definition (Chen et al., 2020), for 'nearest': the mean of
    :math:`\alpha\,(\mathrm{sg}(q) - K[c])^2 + \beta\,(q -
    \mathrm{sg}(K[c]))^2`, with `codebook_weight` :math:`\alpha` and
    `commitment_weight` :math:`\beta`.

    Args:
      inputs: The ids of the batch. Under a transformation, one outside the
        table does not count: use it for padding.

    Returns:
      A scalar.
    """
    if self.relaxation != "nearest":
      return super().auxiliary_loss(inputs)
    ids = indexing.as_ids(inputs, num_embeddings=self.num_embeddings)
    queries, inside = lookups.gather(self.queries[...], ids)
    # The lookup has moved the moments already: a batch counts once.
    scores = self._scores(queries, inside, track=False)
    return quantization.quantization_loss(
      queries,
      scores,
      self._keys,
      codebook_weight=self.codebook_weight,
      commitment_weight=self.commitment_weight,
      where=inside,
    )

  def codes(self) -> Int[Array, "num_embeddings code_length"]:
    """Returns the code of each symbol, as it is used out of training.

    Raises:
      ValueError: If queries are not finite, and their values are known: their
        codes would mean nothing.
    """
    base.check_finite_rows("queries", self.queries[...])
    stored = self._entries
    return quantization.query_codes(
      self.queries[...],
      self._keys,
      relaxation=self.relaxation,
      moments=stored.moments,
      **({} if self.norm is None else {"epsilon": self.norm.epsilon}),
    )

  def _attend(
    self, query: Float[Array, "*batch features"]
  ) -> Float[Array, "*batch num_embeddings"]:
    """Scores all embeddings: the query meets each codebook entry only once."""
    return code_ops.attend_codes(
      query, self.codes(), self.codebooks[...], "concat"
    )

  def to_table(self) -> tables.CodeTable:
    """Returns the artefact: packed codes and codebooks."""
    return tables.CodeTable.from_codes(
      base.to_numpy(self.codes()),
      base.to_numpy(self.codebooks),
      composition="concat",
    )

  def revive(
    self,
    key: PRNGKeyArray,
    *,
    weights: Float[Array, " num_embeddings"] | None = None,
    noise: float = 0.01,
  ) -> int:
    """Moves keys that no symbol chooses to symbols of crowded ones, in place.

    For the host, between steps; see
    :func:`~anchor_codes.ops.revival.revive_entries`. An optimiser may keep its
    moments of the moved entries: they were zero, or shrink.

    Args:
      key: Random key.
      weights: How often each symbol occurs, alike by default.
      noise: Standard deviation of what is added to the sub-vectors, in terms
        of theirs.

    Returns:
      How many entries were moved.
    """
    revived = revival.revive_entries(
      key,
      self.queries[...],
      self.codes(),
      self._entries,
      relaxation=self.relaxation,
      weights=weights,
      noise=noise,
    )
    self._set_entries(revived.entries)
    return int(revived.num_revived)

  def start_from(
    self,
    vectors: Float[Array, "num_embeddings features"],
    key: PRNGKeyArray,
    *,
    num_iterations: int = 25,
    num_samples: int = 2**16,
  ) -> None:
    """Starts at a full table: queries are its vectors, codebooks its clusters.

    The codebooks are those of product k-means (Jegou et al., TPAMI 2011), and
    so are the keys. For 'nearest' without normalisation the codes are those of
    product k-means, too, and the layer embeds each symbol by the centroids of
    its parts. For 'softmax', whose inner products favour long keys, the codes
    differ: the keys are then no more than well spread directions, and the task
    has to fit the values to them. Stored moments become those of the table, so
    that codes out of training make sense from the start.

    Args:
      vectors: The table, finite.
      key: Random key.
      num_iterations: Steps of k-means.
      num_samples: Vectors to cluster, drawn at random if there are more.

    Raises:
      ValueError: If the vectors have another shape or are not finite, or are
        fewer than the entries of a codebook.
    """
    shape = (self.num_embeddings, self.features)
    if jnp.shape(vectors) != shape:
      raise ValueError(
        f"`vectors` must have shape {shape}, got {jnp.shape(vectors)}."
      )
    queries = jnp.asarray(vectors, self.queries[...].dtype)
    base.check_finite_rows("vectors", queries)
    start = entries.start_entries(
      key,
      queries,
      self._entries,
      relaxation=self.relaxation,
      num_iterations=num_iterations,
      num_samples=num_samples,
    )
    self.queries[...] = queries
    self._set_entries(start)

  @property
  def _keys(self) -> Float[Array, "#code_length codebook_size code_features"]:
    return self.codebooks[...] if self.keys is None else self.keys[...]

  @property
  def _entries(self) -> entries.Entries:
    norm = self.norm
    return entries.Entries(
      self.codebooks[...],
      None if self.keys is None else self.keys[...],
      None
      if norm is None
      else normalization.Moments(norm.mean[...], norm.variance[...]),
    )

  def _set_entries(self, new: entries.Entries) -> None:
    self.codebooks[...] = new.codebooks
    if self.keys is not None:
      self.keys[...] = new.keys
    if self.norm is not None and new.moments is not None:
      self.norm.mean[...], self.norm.variance[...] = new.moments

  def _scores(
    self,
    queries: Float[Array, "*batch features"],
    where: Bool[Array, "*batch"],
    **options: Any,
  ) -> Float[Array, "code_length *batch codebook_size"]:
    scores = quantization.query_scores(
      queries, self._keys, relaxation=self.relaxation
    )
    if self.norm is None:
      return scores
    options["where"] = jnp.broadcast_to(where, scores.shape[:-1])
    return self.norm(scores, deterministic=self.deterministic, **options)
