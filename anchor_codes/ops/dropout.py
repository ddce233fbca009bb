"""Dropout of whole digits of codes, and of single entries of vectors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def drop_digits(
  key: PRNGKeyArray,
  vectors: Float[Array, "*batch code_length code_features"],
  rate: float,
) -> Float[Array, "*batch code_length code_features"]:
  r"""Drops the vectors of random digits, each example its own.

  Dropout (Srivastava et al., JMLR 2014) of whole digits, as in the published
  code of KD codes (Chen et al., ICML 2018): each vector becomes zero with a
  probability :math:`r`, and the others are scaled by :math:`1 / (1 - r)`, so
  that the mean of their sum stays.

  Args:
    key: Random key.
    vectors: One vector for each position of each code.
    rate: The probability :math:`r`, in ``[0, 1)``.

  Returns:
    Vectors of the same shape and type.

  Raises:
    ValueError: If the rate is out of range.

  >>> dropped = drop_digits(jax.random.key(0), jnp.ones((50, 4, 1)), 0.75)
  >>> print(jnp.unique(dropped))
  [0. 4.]
  """
  check_dropout("rate", rate)
  # One draw for each digit: what is lost is a digit, not some of its features.
  keep = jax.random.bernoulli(key, 1 - rate, vectors.shape[:-1])
  kept = jnp.where(keep[..., None], 1 / (1 - rate), 0.0)
  return vectors * jnp.broadcast_to(kept, vectors.shape).astype(vectors.dtype)


def drop_entries(
  key: PRNGKeyArray, vectors: Float[Array, "..."], rate: float
) -> Float[Array, "..."]:
  r"""Drops random entries of vectors.

  Dropout (Srivastava et al., JMLR 2014): each entry becomes zero with a
  probability :math:`r`, and the others are scaled by :math:`1 / (1 - r)`.

  Args:
    key: Random key.
    vectors: Vectors of any shape.
    rate: The probability :math:`r`, in ``[0, 1)``.

  Returns:
    Vectors of the same shape and type.

  Raises:
    ValueError: If the rate is out of range.

  >>> print(jnp.unique(drop_entries(jax.random.key(0), jnp.ones(50), 0.75)))
  [0. 4.]
  """
  return vectors * _entry_mask(key, vectors, rate)


def drop_gradients(
  key: PRNGKeyArray, vectors: Float[Array, "..."], rate: float
) -> Float[Array, "..."]:
  r"""Drops random entries of the gradient of vectors, not of the vectors.

  The released code of SSE (Wu et al., NeurIPS 2019) does this in place of
  dropout: the loss is that of whole vectors, and each entry of the gradient
  becomes zero with a probability :math:`r`, or is scaled by :math:`1 / (1 -
  r)`. The gradient is unbiased, a plain one with noise.

  Args:
    key: Random key.
    vectors: Vectors of any shape.
    rate: The probability :math:`r`, in ``[0, 1)``.

  Returns:
    The vectors, to the bit.

  Raises:
    ValueError: If the rate is out of range.

  >>> loss = lambda v: jnp.sum(drop_gradients(jax.random.key(0), v, 0.75))
  >>> value, gradient = jax.value_and_grad(loss)(jnp.ones(50))
  >>> print(value, jnp.unique(gradient))
  50.0 [0. 4.]
  """
  return _scale_gradient(vectors, _entry_mask(key, vectors, rate))


@jax.custom_vjp
def _scale_gradient(
  vectors: Float[Array, "..."], factors: Float[Array, "..."]
) -> Float[Array, "..."]:
  del factors
  return vectors


_scale_gradient.defvjp(
  lambda vectors, factors: (vectors, factors),
  lambda factors, gradient: (gradient * factors, None),
)


def _entry_mask(
  key: PRNGKeyArray, vectors: Float[Array, "..."], rate: float
) -> Float[Array, "..."]:
  check_dropout("rate", rate)
  keep = jax.random.bernoulli(key, 1 - rate, vectors.shape)
  return jnp.where(keep, 1 / (1 - rate), 0.0).astype(vectors.dtype)


def check_dropout(name: str, rate: float) -> None:
  """Raises `ValueError` unless the rate leaves something.

  >>> check_dropout("rate", 1.0)
  Traceback (most recent call last):
  ...
  ValueError: `rate` must be at least 0 and below 1, got 1.0.
  """
  if not 0 <= rate < 1:
    raise ValueError(f"`{name}` must be at least 0 and below 1, got {rate}.")
