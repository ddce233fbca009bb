"""Losses that train codes beside the loss of the task."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from anchor_codes.ops.reductions import masked_mean, wide
from anchor_codes.ops.relaxations import check_temperature


def distillation_loss(
  predictions: Float[Array, "*batch features"],
  targets: Float[Array, "*batch features"],
  *,
  where: Bool[Array, "*leading"] | None = None,
) -> Float[Array, ""]:
  r"""Computes the mean squared difference to the vectors of a teacher.

  Definition (guidance of KD codes; Chen et al., ICML 2018): the mean of
  :math:`(e - u)^2` over all entries.

  Args:
    predictions: Composed embeddings.
    targets: Vectors of a full table. Stop their gradient if the teacher is to
      learn from the task alone.
    where: Mask of leading axes, false for padding.

  Returns:
    The mean, in at least float32; 0 if everything is masked out.

  >>> print(distillation_loss(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])))
  2.0
  """
  chex.assert_equal_shape([predictions, targets])
  return masked_mean(jnp.square(wide(predictions) - wide(targets)), where)


def codebook_loss(
  queries: Float[Array, "*batch features"],
  chosen: Float[Array, "*batch features"],
  *,
  where: Bool[Array, "*leading"] | None = None,
) -> Float[Array, ""]:
  r"""Pulls the chosen codebook entries to their queries.

  Definition (DPQ-VQ; Chen et al., ICML 2020): the mean of :math:`(c -
  \text{sg}(q))^2` over all entries, with no gradient to the queries.

  Args:
    queries: The vectors that were quantised.
    chosen: The codebook entries chosen for them, by a lookup that lets the
      gradient through, such as :func:`~anchor_codes.ops.codes.lookup_codes`.
    where: Mask of leading axes, false for padding.

  Returns:
    The mean, in at least float32; 0 if everything is masked out.

  >>> loss = codebook_loss(jnp.array([0.5, 1.0]), jnp.array([1.0, 1.0]))
  >>> print(loss)
  0.125
  """
  return distillation_loss(chosen, jax.lax.stop_gradient(queries), where=where)


def commitment_loss(
  queries: Float[Array, "*batch features"],
  chosen: Float[Array, "*batch features"],
  *,
  where: Bool[Array, "*leading"] | None = None,
) -> Float[Array, ""]:
  r"""Pulls queries to the codebook entries chosen for them.

  Definition (VQ-VAE; van den Oord et al., NeurIPS 2017): the mean of
  :math:`(q - \text{sg}(c))^2` over all entries, with no gradient to the
  codebook.

  Args:
    queries: The vectors that were quantised.
    chosen: The codebook entries chosen for them.
    where: Mask of leading axes, false for padding.

  Returns:
    The mean, in at least float32; 0 if everything is masked out.

  >>> loss = commitment_loss(jnp.array([0.5, 1.0]), jnp.array([1.0, 1.0]))
  >>> print(loss)
  0.125
  """
  return distillation_loss(queries, jax.lax.stop_gradient(chosen), where=where)


def code_entropy(
  logits: Float[Array, "*batch codebook_size"],
  temperature: float | Float[Array, ""],
  *,
  where: Bool[Array, "*leading"] | None = None,
) -> Float[Array, ""]:
  r"""Computes the mean entropy of soft codes, in nats.

  Definition (regulariser of KD codes; Chen et al., ICML 2018): the mean of
  :math:`-\sum_k p_k \log p_k` with :math:`p = \text{softmax}(z / \tau)`.
  Minimise it for confident codes.

  Args:
    logits: Scores of the entries of each codebook.
    temperature: The scalar :math:`\tau > 0`.
    where: Mask of leading axes, false for padding.

  Returns:
    The mean, between 0 and ``log(codebook_size)``.

  Raises:
    ValueError: If the temperature is a number that is not positive.

  >>> print(f"{code_entropy(jnp.array([1.0, 2.0, 0.5]), 1.0):.4f}")
  0.9060
  """
  logits = wide(logits)
  # A temperature that learned would lower the entropy by falling.
  temperature = jax.lax.stop_gradient(check_temperature(temperature))
  log_probs = jax.nn.log_softmax(logits / temperature.astype(logits.dtype))
  # From logarithms: a probability that underflows counts as 0, where p * log(p)
  # would be 0 * -inf.
  entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
  return masked_mean(entropy, where)
