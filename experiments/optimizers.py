"""The optimiser of what a model does not train by row, and learning rates."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from anchor_codes import typing

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  "sgd": optax.sgd,
  "adam": optax.adam,
}


def model_optimizer(
  name: str, rate: optax.Schedule, *, factors: Mapping[str, float]
) -> optax.GradientTransformation:
  """Returns one optimiser with rates of their own for some parts of a model.

  Args:
    name: One of `OPTIMIZERS`.
    rate: Learning rate of the model at each step.
    factors: Learning rate of a part relative to that of the model, by the
      attribute that holds the part.

  Returns:
    A gradient transformation of states of the model.

  Raises:
    ValueError: If the name is unknown.
  """
  typing.check_choice("optimizer", name, OPTIMIZERS)
  make = OPTIMIZERS[name]
  parts = {part: make(scaled(rate, f)) for part, f in factors.items()}

  def labels(params: nnx.State) -> nnx.State:
    def label(path: tuple[Any, ...], _: Any) -> str:
      return path[0].key if path[0].key in parts else ""

    return jax.tree_util.tree_map_with_path(label, params)

  return optax.partition({"": make(rate), **parts}, labels)


def scaled(schedule: optax.Schedule, factor: float) -> optax.Schedule:
  """Returns a schedule multiplied by a factor."""
  return lambda step: factor * schedule(step)


def linear_decay(rate: float, begin: int, length: int) -> optax.Schedule:
  """Returns a rate that is constant, and then falls linearly to zero.

  Args:
    rate: The rate at the start.
    begin: The step from which it falls.
    length: Steps until it is zero; 0 for a constant rate.

  >>> schedule = linear_decay(0.1, 10, 10)
  >>> [f"{schedule(jnp.int32(step)):.2f}" for step in (0, 10, 15, 20)]
  ['0.10', '0.10', '0.05', '0.00']
  """
  if not length:
    return lambda step: jnp.float32(rate)

  def schedule(step: Any) -> jax.Array:
    left = 1 - (jnp.asarray(step, jnp.float32) - begin) / length
    return rate * jnp.clip(left, 0, 1)

  return schedule


def staircase(
  schedule: optax.Schedule, decay: float, epoch_steps: int
) -> optax.Schedule:
  """Returns a rate that falls by a factor after each epoch.

  Args:
    schedule: The rate without it.
    decay: The factor.
    epoch_steps: Steps of an epoch.

  >>> schedule = staircase(lambda step: 0.1, 0.5, 10)
  >>> [f"{schedule(jnp.int32(step)):.3f}" for step in (0, 9, 10, 25)]
  ['0.100', '0.100', '0.050', '0.025']
  """

  def decayed(step: Any) -> jax.Array:
    epochs = jnp.asarray(step) // epoch_steps
    factor = decay ** epochs.astype(jnp.float32)
    return jnp.asarray(schedule(step)) * factor

  return decayed
