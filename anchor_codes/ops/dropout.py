"""Dropout of whole digits of codes."""

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


def check_dropout(name: str, rate: float) -> None:
  """Raises `ValueError` unless the rate leaves something.

  >>> check_dropout("rate", 1.0)
  Traceback (most recent call last):
  ...
  ValueError: `rate` must be at least 0 and below 1, got 1.0.
  """
  if not 0 <= rate < 1:
    raise ValueError(f"`{name}` must be at least 0 and below 1, got {rate}.")
