r"""Differentiable product quantisation: queries, keys and values.

The query of a symbol is cut into parts; each part chooses a key of its
codebook, and stands for the value of that key (DPQ; Chen et al., ICML 2020).
There are two relaxations: 'softmax' (DPQ-SX) scores keys by the inner product,
'nearest' (DPQ-VQ) by the distance. Keys and values are *tied* if they are one
array.

Scores have the positions of the code as their *first* axis here, as products of
parts with codebooks do: they are the largest arrays of a step by far, and to
bring the positions behind the batch, forth and back, took half of its time.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt

from anchor_codes import typing
from anchor_codes.ops import (
  codes,
  compositions,
  losses,
  normalization,
  relaxations,
  scores,
)
from anchor_codes.ops.reductions import wide

RELAXATIONS = ("softmax", "nearest")

_BLOCK_ENTRIES = 2**22  # Scores to hold at a time: 16 MiB.


def query_scores(
  queries: Float[Array, "*batch features"],
  keys: Float[Array, "#code_length codebook_size code_features"],
  *,
  relaxation: str,
) -> Float[Array, "code_length *batch codebook_size"]:
  r"""Scores keys against the parts of queries.

  Definition (DPQ; Chen et al., ICML 2020): :math:`\langle q_j, K_{jk} \rangle`
  for 'softmax', :math:`-\|q_j - K_{jk}\|^2` for 'nearest'.

  Args:
    queries: Vectors to cut into parts as wide as a key.
    keys: What the parts are compared with; a leading axis of 1 shares one
      codebook among all positions.
    relaxation: 'softmax' or 'nearest'.

  Returns:
    Larger is closer; at least float32.

  Raises:
    ValueError: If the relaxation is neither.

  >>> keys = jnp.array([[[0.0], [1.0]]])
  >>> print(query_scores(jnp.array([0.5, 2.0]), keys, relaxation="nearest"))
  [[-0.25 -0.25]
   [-4.   -1.  ]]
  """
  typing.check_choice("relaxation", relaxation, RELAXATIONS)
  score = scores.dot_scores
  if relaxation == "nearest":
    score = scores.squared_distance_scores
  return _for_each_position(score, keys, out_axis=0)(
    jnp.moveaxis(_parts(queries, keys), -2, 0), keys
  )


def query_codes(
  queries: Float[Array, "num_embeddings features"],
  keys: Float[Array, "#code_length codebook_size code_features"],
  *,
  relaxation: str,
  moments: normalization.Moments | None = None,
  epsilon: float = 1e-3,
) -> UInt[Array, "num_embeddings code_length"]:
  """Chooses the codes of a whole table, in blocks.

  The scores ``[num_embeddings, code_length, codebook_size]`` are never stored
  at once.

  Args:
    queries: One query for each symbol.
    keys: What their parts are compared with.
    relaxation: 'softmax' or 'nearest'.
    moments: Stored moments to normalise the scores with, none if None.
    epsilon: Added to the variance.

  Returns:
    Codes in the smallest unsigned type.

  >>> keys = jnp.array([[[0.0], [1.0]]])
  >>> queries = jnp.array([[0.4, 2.0], [0.6, -1.0]])
  >>> print(query_codes(queries, keys, relaxation="nearest"))
  [[0 1]
   [1 0]]
  """

  def choose(
    queries: Float[Array, "*batch features"],
  ) -> UInt[Array, "*batch code_length"]:
    values = query_scores(queries, keys, relaxation=relaxation)
    if moments is not None:
      values = normalization.normalize_scores(values, *moments, epsilon=epsilon)
    return _choose(values)

  _, size, width = keys.shape
  # A query has features / width parts, of `size` scores each.
  block = max(_BLOCK_ENTRIES * width // (queries.shape[1] * size), 1)
  if queries.shape[0] <= block:
    return choose(queries)
  return jax.lax.map(choose, queries, batch_size=block)


def query_moments(
  queries: Float[Array, "num_embeddings features"],
  keys: Float[Array, "#code_length codebook_size code_features"],
  *,
  relaxation: str,
  weights: Float[Array, " num_embeddings"] | None = None,
) -> normalization.Moments:
  r"""Computes the moments of the scores of a whole table.

  What :func:`~anchor_codes.ops.normalization.centroid_moments` gives for all
  scores, but exact from mean :math:`m_j` and covariance :math:`C_j` of the
  parts: the scores are :math:`s = \langle \phi, a \rangle + b` with
  :math:`\phi = (q, \|q\|^2)` and :math:`a = (2 K, -1)` for distances, so that
  position :math:`j` has mean :math:`\langle m_j, a \rangle + b` and variance
  :math:`a^T C_j a`.

  Args:
    queries: One query for each symbol.
    keys: What their parts are compared with.
    relaxation: 'softmax' or 'nearest'.
    weights: Non-negative weight of each symbol, such as how often it occurs;
      1 by default.

  Returns:
    Mean and variance of each entry over all symbols and positions.

  >>> keys = jnp.array([[[1.0], [-2.0]]])
  >>> queries = jnp.array([[1.0, 3.0]])
  >>> mean, variance = query_moments(queries, keys, relaxation="softmax")
  >>> print(mean, variance)
  [ 2. -4.] [1. 4.]
  """
  typing.check_choice("relaxation", relaxation, RELAXATIONS)
  parts, keys = wide(_parts(queries, keys)), wide(keys)
  directions, offsets = keys, jnp.zeros(keys.shape[:2], keys.dtype)
  if relaxation == "nearest":
    norms = jnp.sum(jnp.square(parts), axis=-1, keepdims=True)
    parts = jnp.concatenate([parts, norms], axis=-1)
    minus = jnp.full((*keys.shape[:2], 1), -1, keys.dtype)
    directions = jnp.concatenate([2 * keys, minus], axis=-1)
    offsets = -jnp.sum(jnp.square(keys), axis=-1)
  if weights is None:
    weights = jnp.ones(parts.shape[0], parts.dtype)
  chex.assert_shape(weights, parts.shape[:1])
  weights = jnp.asarray(weights, parts.dtype)  # The sum of counts may overflow.
  shares = weights / jnp.sum(weights)
  return _linear_moments(parts, directions, offsets, shares)


def quantize(
  queries: Float[Array, "*batch features"],
  values: Float[Array, "code_length *batch codebook_size"],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
  *,
  relaxation: str,
  temperature: float | Float[Array, ""] = 1.0,
  tied: bool = True,
) -> Float[Array, "*batch features"]:
  """Replaces the parts of queries by their best values, differentiably.

  The estimators of DPQ (Chen et al., ICML 2020).

  Args:
    queries: Vectors to quantise.
    values: Scores of the keys as of :func:`query_scores`, normalised or not.
    codebooks: The values.
    relaxation: 'softmax', as
      :func:`~anchor_codes.ops.relaxations.straight_through_decode`, or
      'nearest': the query gets the gradient of its value.
    temperature: Positive temperature of 'softmax'.
    tied: Whether the values are the keys. For 'nearest', tied values learn by
      :func:`quantization_loss` alone, as in
      :func:`~anchor_codes.ops.relaxations.nearest_lookup`; others get the
      gradient too, as in :func:`share_gradient`.

  Returns:
    The concatenation of the chosen values.

  Raises:
    ValueError: If the relaxation is neither, or the temperature not positive.

  >>> queries, codebooks = jnp.array([0.4, 2.0]), jnp.array([[[0.0], [1.0]]])
  >>> values = query_scores(queries, codebooks, relaxation="nearest")
  >>> print(quantize(queries, values, codebooks, relaxation="nearest"))
  [0. 1.]
  """
  typing.check_choice("relaxation", relaxation, RELAXATIONS)
  if relaxation == "softmax":
    look_up = lambda values, codebook: relaxations.straight_through_lookup(
      values, codebook, temperature
    )
    chosen = _for_each_position(look_up, codebooks, out_axis=-2)(
      values, codebooks
    )
  else:
    chosen = codes.lookup_codes(_choose(values), codebooks)
    estimator = relaxations.straight_through if tied else share_gradient
    chosen = estimator(chosen, _parts(queries, codebooks))
  return compositions.compose(chosen, "concat")


def quantization_loss(
  queries: Float[Array, "*batch features"],
  values: Float[Array, "code_length *batch codebook_size"],
  keys: Float[Array, "#code_length codebook_size code_features"],
  *,
  codebook_weight: float = 1.0,
  commitment_weight: float = 0.0,
  where: Bool[Array, "*batch"] | None = None,
) -> Float[Array, ""]:
  r"""Draws the chosen keys and the queries to each other.

  Definition (DPQ-VQ; Chen et al., ICML 2020): the mean of :math:`\alpha\,
  (K_c - \mathrm{sg}(q))^2 + \beta\,(q - \mathrm{sg}(K_c))^2`, see
  :func:`~anchor_codes.ops.losses.codebook_loss` and
  :func:`~anchor_codes.ops.losses.commitment_loss`.

  Args:
    queries: Vectors to quantise.
    values: Scores of the keys as of :func:`query_scores`, normalised or not.
    keys: The keys.
    codebook_weight: The :math:`\alpha`, which moves the keys.
    commitment_weight: The :math:`\beta`, which moves the queries.
    where: Mask of the queries that count, all by default.

  Returns:
    A scalar.

  >>> queries, keys = jnp.array([0.5, 2.0]), jnp.array([[[0.0], [1.0]]])
  >>> values = query_scores(queries, keys, relaxation="nearest")
  >>> print(quantization_loss(queries, values, keys))
  0.625
  """
  chosen = codes.decode_codes(_choose(values), keys, "concat")
  loss = codebook_weight * losses.codebook_loss(queries, chosen, where=where)
  if commitment_weight:
    commitment = losses.commitment_loss(queries, chosen, where=where)
    loss = loss + commitment_weight * commitment
  return loss


@jax.custom_vjp
def share_gradient(
  value: Float[Array, "*shape"], other: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
  r"""Returns a value whose gradient reaches another array, too.

  The straight-through estimator (Bengio et al., 2013) beside the true
  derivative: :math:`\partial y / \partial \text{value} = I` and
  :math:`\partial y / \partial \text{other} := I`.

  Args:
    value: The value.
    other: What gets every cotangent as well; of the same shape and type.

  Returns:
    The array `value`.

  >>> loss = lambda value, other: share_gradient(value, other) ** 2
  >>> print(*jax.grad(loss, argnums=(0, 1))(3.0, 2.0))
  6.0 6.0
  """
  del other
  return value


# The rule calls the function itself, so that second derivatives use it too.
share_gradient.defvjp(
  lambda value, other: (share_gradient(value, other), None),
  lambda _, cotangent: (cotangent, cotangent),
)


def check_quantization_options(
  *, relaxation: str, codebook_weight: float, commitment_weight: float
) -> None:
  """Raises `ValueError` unless the weights of the losses are valid.

  >>> check_quantization_options(
  ...   relaxation="softmax", codebook_weight=1.0, commitment_weight=0.25
  ... )
  Traceback (most recent call last):
  ...
  ValueError: `commitment_weight` must be 0 for the relaxation 'softmax', got...
  """
  weights = {
    "codebook_weight": codebook_weight,
    "commitment_weight": commitment_weight,
  }
  for name, weight in weights.items():
    if not weight >= 0:
      raise ValueError(f"`{name}` must be at least 0, got {weight}.")
  if relaxation == "softmax" and commitment_weight:
    raise ValueError(
      "`commitment_weight` must be 0 for the relaxation 'softmax', got "
      f"{commitment_weight}: its queries learn through the scores."
    )


def _linear_moments(
  parts: Float[Array, "num_embeddings code_length width"],
  directions: Float[Array, "#code_length codebook_size width"],
  offsets: Float[Array, "#code_length codebook_size"],
  shares: Float[Array, " num_embeddings"],
) -> normalization.Moments:
  """Computes the moments of scores that are linear in the parts."""
  # Centred before the product, or the covariance would be a small difference of
  # large moments.
  means = jnp.einsum("n,njw->jw", shares, parts)
  centred = parts - means[None, :, :]
  weighted = centred * jnp.expand_dims(shares, (1, 2))
  covariances = jnp.einsum("njv,njw->jvw", weighted, centred)
  directions = jnp.broadcast_to(
    directions, (parts.shape[1], *directions.shape[1:])
  )
  offsets = jnp.broadcast_to(offsets, directions.shape[:2])
  position_means = jnp.einsum("jw,jkw->jk", means, directions) + offsets
  mean = jnp.mean(position_means, axis=0)
  # The law of total variance: within the positions, and between them.
  within = jnp.einsum("jkv,jvw,jkw->jk", directions, covariances, directions)
  between = jnp.square(position_means - mean[None, :])
  return normalization.Moments(mean, jnp.mean(within + between, axis=0))


def _for_each_position(
  function: Callable[[Array, Array], Array],
  codebooks: Float[Array, "#code_length codebook_size code_features"],
  *,
  out_axis: int,
) -> Callable[[Array, Array], Array]:
  """Maps a function of one position and its codebook over all positions."""

  def apply(part: Array, codebook: Array) -> Array:
    # The functions have an axis of positions of their own: here of one.
    found = function(jnp.expand_dims(part, -2), codebook)
    return jnp.squeeze(found, -2)

  if codebooks.shape[0] == 1:
    return jax.vmap(apply, in_axes=(0, None), out_axes=out_axis)
  per_position = lambda part, codebook: apply(part, codebook[None])
  return jax.vmap(per_position, out_axes=out_axis)


def _choose(
  values: Float[Array, "code_length *batch codebook_size"],
) -> UInt[Array, "*batch code_length"]:
  return jnp.moveaxis(codes.assign_codes(values), 0, -1)


def _parts(
  queries: Float[Array, "*batch features"],
  keys: Float[Array, "#code_length codebook_size code_features"],
) -> Float[Array, "*batch code_length code_features"]:
  *batch, features = queries.shape
  width = keys.shape[-1]
  # No -1: the batch may be empty.
  return jnp.reshape(queries, (*batch, features // width, width))
