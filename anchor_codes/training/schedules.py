"""Schedules of temperatures, for codes that are learned by a softmax."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from anchor_codes.typing import check_at_least, check_choice

TemperatureSchedule = Callable[[Int[Array, ""] | int], Float[Array, ""]]

KINDS = ("constant", "exponential", "inverse_time")


def temperature_schedule(
  kind: str,
  *,
  initial: float = 1.0,
  decay_rate: float = 1.0,
  decay_steps: int = 1000,
  lowest: float = 1e-5,
) -> TemperatureSchedule:
  r"""Makes a schedule of the temperature of codes.

  Definitions (the published code of KD codes; Chen et al., ICML 2018), with
  :math:`n = \lfloor \text{count} / \text{decay\_steps} \rfloor`, all clipped
  to ``[lowest, initial]``:

  * ``"constant"``: :math:`\tau = \tau_0`;
  * ``"exponential"``: :math:`\tau = \tau_0 r^n`;
  * ``"inverse_time"``: :math:`\tau = \tau_0 / (1 + r n)`.

  A low temperature makes the gradient that of nearly hard codes. The published
  runs keep the temperature at 1.

  Args:
    kind: One of the three.
    initial: The :math:`\tau_0`, positive.
    decay_rate: The :math:`r`: in ``(0, 1]`` for ``"exponential"``, at least 0
      for ``"inverse_time"``.
    decay_steps: Training lookups between two changes.
    lowest: The least temperature, positive and at most `initial`.

  Returns:
    A function from the number of training lookups to a float32 scalar; it may
    be traced.

  Raises:
    ValueError: If an option is out of range.

  >>> schedule = temperature_schedule(
  ...   "exponential", initial=2.0, decay_rate=0.5, decay_steps=10, lowest=0.75
  ... )
  >>> [float(schedule(count)) for count in (0, 9, 10, 20)]
  [2.0, 2.0, 1.0, 0.75]
  """
  check_choice("kind", kind, KINDS)
  check_at_least("decay_steps", decay_steps, 1)
  _check_positive("lowest", lowest)
  if not lowest <= initial < float("inf"):
    raise ValueError(
      f"`initial` must be finite and at least `lowest`, got {initial} and "
      f"{lowest}."
    )
  if kind == "constant":
    return lambda count: jnp.full((), initial, jnp.float32)
  if kind == "exponential":
    return _exponential(initial, decay_rate, decay_steps, lowest)
  return _inverse_time(initial, decay_rate, decay_steps, lowest)


def _exponential(
  initial: float, decay_rate: float, decay_steps: int, lowest: float
) -> TemperatureSchedule:
  if not 0 < decay_rate <= 1:
    raise ValueError(
      "`decay_rate` must be above 0 and at most 1 for 'exponential', got "
      f"{decay_rate}."
    )

  def schedule(count: Int[Array, ""] | int) -> Float[Array, ""]:
    temperature = initial * decay_rate ** _num_changes(count, decay_steps)
    return jnp.maximum(temperature, lowest)

  return schedule


def _inverse_time(
  initial: float, decay_rate: float, decay_steps: int, lowest: float
) -> TemperatureSchedule:
  if not 0 <= decay_rate < float("inf"):
    raise ValueError(
      "`decay_rate` must be finite and at least 0 for 'inverse_time', got "
      f"{decay_rate}."
    )

  def schedule(count: Int[Array, ""] | int) -> Float[Array, ""]:
    changes = _num_changes(count, decay_steps)
    return jnp.maximum(initial / (1 + decay_rate * changes), lowest)

  return schedule


def _num_changes(
  count: Int[Array, ""] | int, decay_steps: int
) -> Float[Array, ""]:
  # Divided as integers: float32 does not count past 2 ** 24.
  return (jnp.asarray(count) // decay_steps).astype(jnp.float32)


def _check_positive(name: str, value: float) -> None:
  if not 0 < value < float("inf"):
    raise ValueError(f"`{name}` must be positive, got {value}.")
