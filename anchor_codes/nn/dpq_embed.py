"""Differentiable product quantisation (Chen et al., ICML 2020)."""

from typing import Any

import jax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from anchor_codes import tables, typing
from anchor_codes.nn import base, centroid_norm
from anchor_codes.ops import codes as code_ops
from anchor_codes.ops import indexing, lookups

RELAXATIONS = ("softmax", "nearest")


class DPQEmbed(base.CompactEmbed):
  r"""Embeds symbols by quantising a query in parts against learned codebooks.

  Definition (Chen et al., 2020): the query of a symbol is cut into
  `code_length` parts; part :math:`j` chooses
  :math:`c_i^j = \arg\max_k s(q_i^j, K^j_k)`, and the embedding is the
  concatenation of the values :math:`V^j[c_i^j]`.

  * 'softmax' (DPQ-SX): :math:`s` is the inner product, keys and values are
    apart, the gradient passes through the softmax of the scores.
  * 'nearest' (DPQ-VQ): :math:`s` is minus the squared distance, keys are the
    values; the query gets the gradient of the task, the codebooks that of
    :meth:`auxiliary_loss`, to be added to the loss of the task.

  Parameters: `codebooks` [code_length or 1, codebook_size,
  features / code_length], and `keys` of the same shape for 'softmax'; the rows
  are `queries` [num_embeddings, features], needed in training alone.

  Args:
    num_embeddings: Number of symbols.
    features: Width of a vector, divisible by `code_length`.
    code_length: Digits of a code.
    codebook_size: Values of a digit, 2 to 65536.
    shared_codebook: Whether all digits choose from one codebook.
    relaxation: 'softmax' or 'nearest'.
    temperature: Positive temperature of the backward pass of 'softmax'.
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
    temperature: float = 1.0,
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
      allowed=RELAXATIONS,
      temperature=temperature,
    )
    width = typing.code_width("concat", features, code_length)
    self.code_length = code_length
    self.relaxation = relaxation
    self.temperature = temperature
    self.deterministic = deterministic
    self.norm = (
      centroid_norm.CentroidNorm(codebook_size) if score_norm else None
    )
    normal = lambda shape: (
      scale * jax.random.normal(rngs.params(), shape, param_dtype)
    )
    shape = (1 if shared_codebook else code_length, codebook_size, width)
    self.queries = base.RowParam(normal((num_embeddings, features)))
    self.codebooks = nnx.Param(normal(shape))
    self.keys = nnx.Param(normal(shape)) if relaxation == "softmax" else None

  def _lookup(
    self, ids: Int[Array, "*batch"]
  ) -> Float[Array, "*batch features"]:
    queries, inside = lookups.gather(self.queries[...], ids)
    scores = self._scores(
      queries, deterministic=self.deterministic, where=inside
    )
    vectors = lookups.quantize(
      queries,
      scores,
      self.codebooks[...],
      relaxation=self.relaxation,
      temperature=self.temperature,
    )
    size = self.queries[...].shape[0]
    return indexing.nan_outside(vectors, ids, num_embeddings=size)

  def auxiliary_loss(self, inputs: Any) -> Float[Array, ""]:
    r"""Returns the mean squared distance that draws codebooks to queries.

    Zero for 'softmax'. Definition (Chen et al., 2020), for 'nearest':
    :math:`\mathrm{mean}\,(\mathrm{sg}(q) - V[c])^2`.

    Args:
      inputs: The ids of the batch; one outside the table does not count.

    Returns:
      A scalar; its gradient reaches the codebooks alone.
    """
    if self.relaxation != "nearest":
      return super().auxiliary_loss(inputs)
    ids = indexing.as_ids(inputs, num_embeddings=self.num_embeddings)
    queries, inside = lookups.gather(self.queries[...], ids)
    scores = self._scores(
      queries, deterministic=self.deterministic, where=inside, track=False
    )
    return lookups.quantization_loss(
      queries, scores, self.codebooks[...], where=inside
    )

  def codes(self) -> Int[Array, "num_embeddings code_length"]:
    """Returns the code of each symbol, as it is used out of training."""
    scores = self._scores(self.queries[...], deterministic=True)
    return code_ops.assign_codes(scores)

  def attend(
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

  def _scores(
    self,
    queries: Float[Array, "*batch features"],
    *,
    deterministic: bool,
    **options: Any,
  ) -> Float[Array, "*batch code_length codebook_size"]:
    keys = None if self.keys is None else self.keys[...]
    scores = lookups.query_scores(queries, self.codebooks[...], keys)
    if self.norm is None:
      return scores
    return self.norm(scores, deterministic=deterministic, **options)
