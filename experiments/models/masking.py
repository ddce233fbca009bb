"""Which symbols of a text are hidden, to be predicted from the others."""

import math
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Bool, Int

from anchor_codes import typing

MASKED, REPLACED = 0.8, 0.1
"""Shares of the places to predict that hold the mask, and another symbol."""


class Masked(NamedTuple):
  """Texts with some symbols to predict.

  Attributes:
    inputs: What stands there now.
    places: The places to predict among those of the batch, row after row.
    labels: What stood at these places.
    where: Which of the places are any; the others fill up.
  """

  inputs: Int[Array, "batch length"]
  places: Int[Array, " size"]
  labels: Int[Array, " size"]
  where: Bool[Array, " size"]


def mask_tokens(
  key: Array,
  tokens: Int[Array, "batch length"],
  *,
  is_ordinary: np.ndarray,
  mask_id: int,
  rate: float = 0.15,
) -> Masked:
  """Chooses symbols to predict, and hides most of them.

  Definition (Devlin et al., 2019): each symbol is chosen with the probability
  `rate`. Of the chosen ones 80 % become the mask, 10 % another symbol, any with
  the same probability, and 10 % stay.

  Args:
    key: Source of randomness.
    tokens: Ids of symbols.
    is_ordinary: Which symbols of the vocabulary may be chosen and drawn,
      bool [vocab_size]: padding and marks are not.
    mask_id: Id of the mask.
    rate: Probability that a symbol is chosen, between 0 and 1.

  Returns:
    As many places as :func:`capacity` says: should more be chosen, which
    hardly ever happens, the last ones are hidden, but not predicted.

  Raises:
    ValueError: If the rate is out of range, or no symbol is ordinary.

  >>> masked = mask_tokens(
  ...   jax.random.key(0), jnp.array([[2, 5, 6, 0]]), rate=1.0, mask_id=3,
  ...   is_ordinary=np.arange(7) > 3
  ... )
  >>> print(masked.places, masked.labels, masked.where)
  [1 2 0 0] [5 6 2 2] [ True  True False False]
  """
  typing.check_rate("mask_rate", rate)
  ordinary = np.flatnonzero(is_ordinary)
  typing.check_at_least("the number of ordinary symbols", len(ordinary), 1)
  keys = jax.random.split(key, 3)
  chosen = jax.random.bernoulli(keys[0], rate, tokens.shape)
  chosen &= jnp.asarray(is_ordinary)[tokens]
  draws = jax.random.randint(keys[1], tokens.shape, 0, len(ordinary))
  drawn = jnp.asarray(ordinary, tokens.dtype)[draws]
  point = jax.random.uniform(keys[2], tokens.shape)
  inputs = jnp.where(point < MASKED + REPLACED, drawn, tokens)
  inputs = jnp.where(point < MASKED, jnp.asarray(mask_id, tokens.dtype), inputs)
  size = capacity(tokens.size, rate)
  places = jnp.nonzero(chosen.ravel(), size=size, fill_value=0)[0]
  return Masked(
    inputs=jnp.where(chosen, inputs, tokens),
    places=places,
    labels=tokens.ravel()[places],
    where=jnp.arange(size) < jnp.sum(chosen),
  )


def capacity(number: int, rate: float) -> int:
  """Returns how many of some symbols are chosen, but for one batch in millions.

  That is five standard deviations more than the mean.

  >>> capacity(2048, 0.15), capacity(2048, 1.0), capacity(4, 0.15)
  (389, 2048, 4)
  """
  spread = math.sqrt(number * rate * (1 - rate))
  return min(number, math.ceil(number * rate + 5 * spread) + 1)
