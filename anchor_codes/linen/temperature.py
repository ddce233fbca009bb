"""Linen twin of temperatures: fixed, or on a schedule."""

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float

from anchor_codes import typing
from anchor_codes.ops import relaxations


class Temperature(linen.Module):
  """Linen twin of :class:`anchor_codes.nn.Temperature`.

  >>> temperature = Temperature(lambda count: 0.5 ** count.astype(float))
  >>> temperature.init({}, deterministic=True)
  {'batch_stats': {'count': Array(0, dtype=int32)}}
  """

  temperature: float | typing.Schedule

  def setup(self) -> None:
    """Checks the temperature, or declares the counter of a schedule."""
    if callable(self.temperature):
      zero = lambda: jnp.zeros((), jnp.int32)
      self.count = self.variable("batch_stats", "count", zero)
    else:
      relaxations.check_temperature(self.temperature)

  def __call__(
    self, *, deterministic: bool, track: bool = True
  ) -> Float[Array, ""]:
    """Returns the present temperature."""
    if not callable(self.temperature):
      return relaxations.check_temperature(self.temperature)
    count = self.count.value
    # The lookup in `init` is no step of training.
    mutable = self.is_mutable_collection("batch_stats")
    if track and not deterministic and mutable and not self.is_initializing():
      self.count.value = count + 1
    return relaxations.check_temperature(self.temperature(count))
