"""Weights that are zero stay zero: training on, once the support is chosen."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def keep_zeros(*, active: bool = True) -> optax.GradientTransformation:
  """Ends a chain by leaving weights alone that are exactly zero.

  After pruning, the weights that were taken out neither move nor come back.

  Args:
    active: Whether to do so. Chains with and without have the same state, so
      that training can go from one to the other.

  Returns:
    A gradient transformation without a state; it goes last.

  Raises:
    ValueError: From `update`, if it gets no parameters.

  >>> optimizer = optax.chain(optax.sgd(0.5), keep_zeros())
  >>> params = jnp.array([1.0, 0.0])
  >>> updates, _ = optimizer.update(
  ...     jnp.array([1.0, 1.0]), optimizer.init(params), params
  ... )
  >>> print(optax.apply_updates(params, updates))
  [0.5 0. ]
  """

  def init(params: optax.Params) -> optax.OptState:
    del params
    return optax.EmptyState()

  def update(
    updates: optax.Updates, state: Any, params: optax.Params | None = None
  ) -> tuple[optax.Updates, optax.OptState]:
    if not active:
      return updates, state
    if params is None:
      raise ValueError(
        "keep_zeros looks at the parameters: call its update as "
        "update(updates, state, params), got no params."
      )
    kept = jax.tree.map(lambda u, p: jnp.where(p == 0, 0, u), updates, params)
    return kept, state

  return optax.GradientTransformation(init, update)
