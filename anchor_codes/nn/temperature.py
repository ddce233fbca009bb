"""Temperatures of soft choices: fixed, or on a schedule."""

from typing import Any

from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float

from anchor_codes import typing
from anchor_codes.ops import relaxations


class Temperature(nnx.Module):
  """Holds a temperature, and counts training lookups if it needs to.

  Args:
    temperature: A positive number, or a schedule: a function from the number
      of training lookups before this one, an int32 scalar that may be traced,
      to a positive temperature.

  Attributes:
    count: Training lookups so far, for a schedule; None for a number.

  Raises:
    ValueError: If it is a number that is not positive.

  >>> temperature = Temperature(lambda count: 0.5 ** count.astype(float))
  >>> [float(temperature(deterministic=False)) for _ in range(2)]
  [1.0, 0.5]
  >>> print(temperature.count[...])
  2
  """

  def __init__(self, temperature: float | typing.Schedule):
    self.temperature: Any = temperature
    if not callable(temperature):
      relaxations.check_temperature(temperature)
    # Of the kind of stored moments: lookups move it, gradients do not, and a
    # checkpoint has it.
    self.count = (
      nnx.BatchStat(jnp.zeros((), jnp.int32)) if callable(temperature) else None
    )

  def __call__(
    self, *, deterministic: bool, track: bool = True
  ) -> Float[Array, ""]:
    """Returns the present temperature.

    Args:
      deterministic: Whether the layer is out of training: nothing is counted.
      track: Whether this is a lookup to count.
    """
    if self.count is None:
      return relaxations.check_temperature(self.temperature)
    count = self.count[...]
    if track and not deterministic:
      self.count[...] = count + 1
    return relaxations.check_temperature(self.temperature(count))
