r"""Which weights to keep under a budget: optimal brain damage.

Definition (LeCun, Denker, Solla, "Optimal Brain Damage", 1989): taking a weight
:math:`w` out of a trained model raises the loss by about its saliency
:math:`\frac12 h w^2`, with the curvature :math:`h`; the mean square of the
gradient, which Adam keeps as its second moment, stands in for it. A symbol that
occurs often has large gradients, so that its row keeps more weights.
"""

from collections.abc import Sequence

import chex
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float

from anchor_codes import typing


def saliency(
  weights: Float[Array, "*shape"], curvature: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
  r"""Estimates the rise of the loss without each weight.

  Definition (LeCun et al., 1989): :math:`\frac12 h w^2`.

  Args:
    weights: Weights of a trained model.
    curvature: Second derivatives, or mean squares of the gradient; for rows
      that are updated only when a batch holds them, times how often it does.

  Returns:
    The saliency of each weight, 0 for a weight of 0.

  >>> print(saliency(jnp.array([2.0, 0.0]), jnp.array([0.5, 9.0])))
  [1. 0.]
  """
  chex.assert_equal_shape([weights, curvature])
  return 0.5 * curvature * weights**2


def most_salient(
  saliencies: Sequence[Float[Array, "..."]], *, num_nonzeros: int
) -> list[Bool[Array, "..."]]:
  """Chooses the weights to keep, under one budget for all arrays.

  Args:
    saliencies: Non-negative numbers, one array for each table.
    num_nonzeros: How many weights to keep in all, at least 1.

  Returns:
    For each array where it keeps its weights: the `num_nonzeros` largest, the
    first ones of a tie. A saliency of 0 is never kept.

  Raises:
    ValueError: If the budget is not positive.

  >>> kept = most_salient(
  ...   [jnp.array([[3.0, 1.0]]), jnp.array([0.0, 2.0])], num_nonzeros=2)
  >>> print(*kept)
  [[ True False]] [False  True]
  """
  typing.check_at_least("num_nonzeros", num_nonzeros, 1)
  flat = jnp.concatenate([part.ravel() for part in saliencies])
  # By rank: with a threshold in its place a tie would break the budget.
  order = jnp.argsort(-flat, stable=True)[:num_nonzeros]
  kept = jnp.zeros(flat.shape, bool).at[order].set(True) & (flat > 0)
  ends = np.cumsum([part.size for part in saliencies])[:-1]
  parts = jnp.split(kept, ends)
  return [
    part.reshape(like.shape)
    for part, like in zip(parts, saliencies, strict=True)
  ]


def pruning_budget(step: int, *, num_steps: int, start: int, end: int) -> int:
  r"""Returns how many weights to keep after one of several rounds of pruning.

  Definition: :math:`n_t = n_0 (n_T / n_0)^{t/T}`: each round takes out the same
  share of what is left, so that the model can recover in between.

  Args:
    step: The round, 1 to `num_steps`.
    num_steps: Number of rounds.
    start: Weights before the first round.
    end: Weights after the last one.

  Returns:
    The number of weights, at least `end`; `start` if that is less than `end`.

  Raises:
    ValueError: If there is no round, or `end` is not positive.

  >>> [pruning_budget(t, num_steps=3, start=800, end=100) for t in (1, 2, 3)]
  [400, 200, 100]
  """
  typing.check_at_least("num_steps", num_steps, 1)
  typing.check_at_least("end", end, 1)
  if start <= end:
    return start
  return max(end, round(start * (end / start) ** (step / num_steps)))
