"""Guidance of a compact embedding by a full table (Chen et al., ICML 2018).

A table that is trained alongside, or was trained before, tells the compact one
where its vectors should be. Only training needs it.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from anchor_codes.ops import losses
from anchor_codes.typing import check_rate


def mix_vectors(
  key: PRNGKeyArray,
  vectors: Float[Array, "*batch features"],
  guides: Float[Array, "*batch features"],
  rate: float | Float[Array, ""],
) -> Float[Array, "*batch features"]:
  r"""Replaces vectors by those of their guide, each with a probability.

  Definition (online guidance of KD codes; Chen et al., ICML 2018):
  :math:`u_i` with probability `rate`, else :math:`e_i`, independently for each
  occurrence of a symbol. Both learn from the task in turn.

  Args:
    key: Random key.
    vectors: The compact embeddings :math:`e`.
    guides: The vectors :math:`u` of the full table.
    rate: Probability of the guide; it may be traced.

  Returns:
    Vectors in the type of `vectors`.

  Raises:
    ValueError: If `rate` is a number and no probability.

  >>> vectors, guides = jnp.zeros((2, 3)), jnp.ones((2, 3))
  >>> print(mix_vectors(jax.random.key(0), vectors, guides, 1.0))
  [[1. 1. 1.]
   [1. 1. 1.]]
  """
  chex.assert_equal_shape([vectors, guides])
  if isinstance(rate, int | float):
    check_rate("rate", rate)
  # A choice, not a blend: out of training the embedding is alone, so that it
  # has to be used alone in training, too.
  use = jax.random.bernoulli(key, rate, vectors.shape[:-1])
  return jnp.where(use[..., None], guides.astype(vectors.dtype), vectors)


def check_guide(guide: Any, shape: tuple[int, int]) -> None:
  """Raises `ValueError` unless a table can guide embeddings.

  Args:
    guide: The table, as a NumPy or JAX array with known values.
    shape: Number and width of the embeddings.

  >>> check_guide(np.zeros((3, 2)), (4, 2))
  Traceback (most recent call last):
  ...
  ValueError: `guide` must have the shape (4, 2) of the embeddings, got (3, 2).
  """
  if np.shape(guide) != shape:
    raise ValueError(
      f"`guide` must have the shape {shape} of the embeddings, got "
      f"{np.shape(guide)}."
    )
  bad = ~np.isfinite(np.asarray(guide, np.float32)).all(axis=1)
  if bad.any():
    raise ValueError(
      f"`guide` must be finite, got {bad.sum()} rows that are not, the first "
      f"is row {bad.argmax()}."
    )


class GuidanceWeights(NamedTuple):
  """Weights of the parts of the guidance.

  Attributes:
    vectors: Of the distance between embeddings and guides.
    reconstruction: Of the distance between guides and their own coded form.
    codes: Of the distance between the logits of both codes.
  """

  vectors: float = 1.0
  reconstruction: float = 0.0
  codes: float = 0.0


def guidance_loss(
  vectors: Float[Array, "*batch features"],
  guides: Float[Array, "*batch features"],
  *,
  where: Bool[Array, "*leading"] | None = None,
) -> Float[Array, ""]:
  r"""Draws embeddings to their guides.

  Definition (Chen et al., ICML 2018): the mean of :math:`(e - \text{sg}(u))^2`
  over all entries: the guide learns from the task alone.

  Args:
    vectors: The compact embeddings :math:`e`.
    guides: The vectors :math:`u` of the full table.
    where: Mask of leading axes, false for padding.

  Returns:
    The mean, in at least float32; 0 if everything is masked out.

  >>> print(guidance_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
  2.0
  """
  guides = jax.lax.stop_gradient(guides)
  return losses.distillation_loss(vectors, guides, where=where)


def autoencoding_loss(
  guides: Float[Array, "*batch features"],
  reconstructions: Float[Array, "*batch features"],
  guide_logits: Float[Array, "*batch code_length codebook_size"],
  logits: Float[Array, "*batch code_length codebook_size"],
  *,
  weights: GuidanceWeights,
  where: Bool[Array, "*leading"] | None = None,
) -> Float[Array, ""]:
  r"""Codes the guide itself, and draws the codes of the symbols to its codes.

  Definition (pre-trained guidance of KD codes; Chen et al., ICML 2018):
  :math:`\beta\, \mathrm{mean} (\text{sg}(u) - \hat u)^2 + \gamma\,
  \mathrm{mean} (\hat z - z)^2`, where :math:`\hat z` are logits that an encoder
  finds for :math:`u`, :math:`\hat u` is composed from their codes, and
  :math:`z` are the logits of the symbols.

  Args:
    guides: The vectors :math:`u` of the full table.
    reconstructions: The vectors :math:`\hat u`.
    guide_logits: The logits :math:`\hat z`.
    logits: The logits :math:`z`.
    weights: The :math:`\beta` and :math:`\gamma` are `reconstruction` and
      `codes`.
    where: Mask of leading axes, false for padding.

  Returns:
    The weighted sum, in at least float32.

  >>> guides, logits = jnp.ones((1, 2)), jnp.zeros((1, 1, 2))
  >>> weights = GuidanceWeights(reconstruction=3.0, codes=2.0)
  >>> print(autoencoding_loss(guides, 0 * guides, 1 + logits, logits,
  ...                         weights=weights))
  5.0
  """
  chex.assert_equal_shape([guide_logits, logits])
  own = guidance_loss(reconstructions, guides, where=where)
  codes = losses.distillation_loss(guide_logits, logits, where=where)
  return weights.reconstruction * own + weights.codes * codes
