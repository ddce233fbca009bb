"""The optimiser of what a model does not train by row."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
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
