r"""Centroid normalisation: batch normalisation of scores per codebook entry.

An entry that is close to most queries would be chosen all the time. DPQ (Chen
et al., ICML 2020) therefore normalises the scores of each entry :math:`k` over
the batch and all positions of the code, without scale or centre, and chooses by
the normalised ones: :math:`\hat s_{njk} = (s_{njk} - \mu_k) / \sqrt{\sigma_k^2
+ \epsilon}`. Normalising each position over its entries, the usual mistake,
could never change a choice.

>>> scores = jnp.array([[[10.0, 1.0]], [[12.0, 2.0]]])
>>> print(jnp.argmax(scores, -1).T)
[[0 0]]
>>> print(jnp.argmax(normalize_scores(scores, *centroid_moments(scores)), -1).T)
[[1 0]]
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from anchor_codes.ops.reductions import masked_mean, wide
from anchor_codes.typing import check_rate


class Affine(NamedTuple):
  """The map of each feature that a normalisation is out of training.

  Attributes:
    scale: Factor of each feature.
    offset: Added to each feature after that.
  """

  scale: Float[Array, " features"]
  offset: Float[Array, " features"]


class Moments(NamedTuple):
  """Statistics of the scores of each codebook entry.

  Attributes:
    mean: Mean score of each entry.
    variance: Biased variance of the score of each entry.
  """

  mean: Float[Array, " codebook_size"]
  variance: Float[Array, " codebook_size"]


def centroid_moments(
  scores: Float[Array, "*batch codebook_size"],
  *,
  where: Bool[Array, "*leading"] | None = None,
  axis_name: str | None = None,
) -> Moments:
  r"""Computes mean and variance of the score of each codebook entry.

  Definition (DPQ; Chen et al., ICML 2020): :math:`\mu_k` and the biased
  :math:`\sigma_k^2` of :math:`s_{njk}` over all :math:`n` and :math:`j`.

  Args:
    scores: Scores of a batch; all axes but the last are pooled.
    where: Mask of leading axes of the scores, false for padding.
    axis_name: Name of the mapped axis (of ``shard_map`` or ``pmap``) over
      which to pool as well.

  Returns:
    Moments in at least float32; zeros if everything is masked out.

  >>> mean, variance = centroid_moments(jnp.array([[10.0, 1.0], [12.0, 2.0]]))
  >>> print(mean, variance)
  [11.   1.5] [1.   0.25]
  """
  pooled = tuple(range(scores.ndim - 1))
  mean = masked_mean(scores, where, axis=pooled, axis_name=axis_name)
  # Two passes: the mean square less the square of the mean would cancel where
  # scores lie far from zero for their spread, as distances do.
  deviations = wide(scores) - jnp.broadcast_to(mean, scores.shape)
  variance = masked_mean(
    jnp.square(deviations), where, axis=pooled, axis_name=axis_name
  )
  return Moments(mean, variance)


def normalize_scores(
  scores: Float[Array, "*batch codebook_size"],
  mean: Float[Array, " codebook_size"],
  variance: Float[Array, " codebook_size"],
  *,
  epsilon: float = 1e-3,
) -> Float[Array, "*batch codebook_size"]:
  r"""Normalises the scores of each codebook entry.

  Definition (DPQ; Chen et al., ICML 2020): :math:`(s_{njk} - \mu_k) /
  \sqrt{\sigma_k^2 + \epsilon}`.

  Args:
    scores: Scores, larger is closer.
    mean: Mean of each entry: of the batch in training, the moving one after.
    variance: Variance of each entry.
    epsilon: Positive, keeps entries of constant score finite.

  Returns:
    Normalised scores, at least float32.

  Raises:
    ValueError: If `epsilon` is not positive.

  >>> mean, variance = jnp.array([11.0, 1.5]), jnp.array([1.0, 0.25])
  >>> scores = normalize_scores(jnp.array([[11.0, 1.5]]), mean, variance)
  >>> print(scores)
  [[0. 0.]]
  """
  if not epsilon > 0:
    raise ValueError(f"`epsilon` must be positive, got {epsilon}.")
  chex.assert_shape([mean, variance], scores.shape[-1:])
  scale = jax.lax.rsqrt(variance + epsilon)
  centred = wide(scores) - jnp.broadcast_to(mean, scores.shape)
  return centred * jnp.broadcast_to(scale, scores.shape)


def update_moments(
  old: tuple[Float[Array, " codebook_size"], Float[Array, " codebook_size"]],
  new: tuple[Float[Array, " codebook_size"], Float[Array, " codebook_size"]],
  *,
  momentum: float = 0.99,
) -> Moments:
  r"""Moves running moments towards those of a batch.

  Definition: :math:`m \leftarrow \beta m + (1 - \beta) m_\text{batch}`, for
  mean and variance. They start at zeros and ones.

  Args:
    old: Running mean and variance.
    new: Mean and variance of the batch.
    momentum: The :math:`\beta`, between 0 and 1.

  Returns:
    The new running moments.

  Raises:
    ValueError: If `momentum` is out of range.

  >>> old = Moments(jnp.zeros(2), jnp.ones(2))
  >>> new = Moments(jnp.array([11.0, 1.5]), jnp.array([1.0, 0.25]))
  >>> mean, variance = update_moments(old, new, momentum=0.75)
  >>> print(mean, variance)
  [2.75  0.375] [1.     0.8125]
  """
  check_rate("momentum", momentum)
  mean, variance = (
    momentum * before + (1 - momentum) * batch
    for before, batch in zip(old, new, strict=True)
  )
  return Moments(mean, variance)


def scale_and_shift(
  vectors: Float[Array, "*batch features"],
  scale: Float[Array, " features"],
  bias: Float[Array, " features"],
) -> Float[Array, "*batch features"]:
  r"""Ends a batch normalisation, :math:`\gamma \odot x + \beta`.

  Definition (Ioffe and Szegedy, ICML 2015).

  Args:
    vectors: Normalised vectors.
    scale: The trained :math:`\gamma`.
    bias: The trained :math:`\beta`.

  Returns:
    Vectors in the type of the scale.

  >>> print(scale_and_shift(jnp.ones(2), jnp.array([2.0, 3.0]), jnp.ones(2)))
  [3. 4.]
  """
  chex.assert_shape([scale, bias], vectors.shape[-1:])
  scaled = wide(vectors) * jnp.broadcast_to(wide(scale), vectors.shape)
  shifted = scaled + jnp.broadcast_to(wide(bias), vectors.shape)
  return shifted.astype(scale.dtype)


def normalization_affine(
  moments: Moments,
  *,
  scale: Float[Array, " features"] | None = None,
  bias: Float[Array, " features"] | None = None,
  epsilon: float = 1e-3,
) -> Affine:
  r"""Returns the map that a normalisation with stored moments is.

  Definition: :math:`x \mapsto \gamma (x - \mu) / \sqrt{\sigma^2 +
  \epsilon} + \beta`.

  Args:
    moments: Stored mean and variance.
    scale: The trained :math:`\gamma`, ones if None.
    bias: The trained :math:`\beta`, zeros if None.
    epsilon: As for :func:`normalize_scores`.

  Returns:
    Factor and offset of each feature, at least float32.

  >>> moments = Moments(jnp.array([2.0]), jnp.array([3.0]))
  >>> factor, offset = normalization_affine(moments, epsilon=1.0)
  >>> print(factor, offset)
  [0.5] [-1.]
  """
  mean, variance = moments
  factor = jax.lax.rsqrt(wide(variance) + epsilon)
  if scale is not None:
    factor = factor * wide(scale)
  offset = -mean * factor
  return Affine(factor, offset if bias is None else offset + wide(bias))
