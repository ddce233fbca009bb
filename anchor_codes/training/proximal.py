r"""Proximal gradient steps, for parameters that are to become sparse.

Train the mixture weights of :class:`AnchorEmbed` with one of these, and the
rest of the model with any optimiser, side by side in ``optax.partition``.

The penalty of single entries is scaled by `multipliers`, an extra argument of
``update`` that ``optax.chain`` and ``optax.partition`` hand on; see
:mod:`anchor_codes.ops.penalties` for some:

>>> optimizer = optax.chain(optax.sgd(1.0), proximal_l1(1.0, l1=0.5))
>>> params, gradients = jnp.ones((2, 2)), jnp.zeros((2, 2))
>>> updates, _ = optimizer.update(
...   gradients,
...   optimizer.init(params),
...   params,
...   multipliers=jnp.array([[0.0, 1.0]]),
... )
>>> print(optax.apply_updates(params, updates))
[[1.  0.5]
 [1.  0.5]]
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from anchor_codes import typing
from anchor_codes.ops import prox


def proximal_l1(
  learning_rate: optax.ScalarOrSchedule,
  *,
  l1: float,
  nonnegative: bool = True,
) -> optax.GradientTransformationExtraArgs:
  r"""Ends a chain with the proximal step of an l1 penalty.

  The chain before it has turned gradients into updates :math:`u`. This link
  replaces :math:`p + u` by :math:`\operatorname{prox}(p + u)`, the minimiser of
  :math:`\frac12 (y - p - u)^2 + \eta \lambda |y|`, and returns the difference
  from :math:`p`. After SGD with the learning rate :math:`\eta` it is proximal
  gradient descent (Parikh and Boyd, "Proximal Algorithms", 2014, section 4.2);
  after an adaptive method every entry has the same threshold nevertheless, and
  :func:`proximal_yogi` is the transformation that scales it as the step.

  Args:
    learning_rate: The :math:`\eta` of the chain, or a schedule of it: a
      function of the number of steps taken before.
    l1: The strength :math:`\lambda` of the penalty, non-negative.
    nonnegative: Whether entries below zero are clipped to it. Negative entries
      are shrunk towards zero otherwise.

  Returns:
    A gradient transformation; it goes last. It has a state only if
    `learning_rate` is a schedule. Its update takes `multipliers` of the
    penalty, ones by default: a pytree like the parameters, whose leaves have
    the rank of theirs and broadcast against them, or are None for ones. They
    are non-negative; 0 leaves the bound at zero alone, and infinity makes an
    entry exactly 0, even with ``l1=0``.

  Raises:
    ValueError: If `l1` is negative, and from `update` if it gets no parameters.

  >>> optimizer = optax.chain(optax.sgd(0.5), proximal_l1(0.5, l1=1.0))
  >>> params = jnp.array([2.0, 0.25])
  >>> updates, _ = optimizer.update(
  ...     jnp.array([1.0, -0.25]), optimizer.init(params), params
  ... )
  >>> print(optax.apply_updates(params, updates))
  [1. 0.]
  """
  _check_nonnegative("l1", l1)
  threshold = (
    prox.nonnegative_soft_threshold if nonnegative else prox.soft_threshold
  )

  def init(params: optax.Params) -> optax.OptState:
    del params
    if callable(learning_rate):
      return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))
    return optax.EmptyState()

  def update(
    updates: optax.Updates,
    state: Any,
    params: optax.Params | None = None,
    *,
    multipliers: Any = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, optax.OptState]:
    del extra_args
    _check_params("proximal_l1", params)
    if callable(learning_rate):
      rate = learning_rate(state.count)
      state = optax.ScaleByScheduleState(state.count + 1)
    else:
      rate = learning_rate

    def move(p: jax.Array, factor: Any, u: jax.Array) -> jax.Array:
      penalty = _scale(jnp.asarray(rate * l1, p.dtype), factor, p)
      # An update of exactly -p: adding it gives an exact zero.
      return threshold(p + u, penalty) - p

    return _map_params(move, params, multipliers, updates), state

  return optax.GradientTransformationExtraArgs(init, update)


def proximal_yogi(
  learning_rate: optax.ScalarOrSchedule,
  *,
  l1: float,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-3,
  initial_accumulator: float = 1e-6,
) -> optax.GradientTransformationExtraArgs:
  r"""Takes Yogi steps together with the proximal step of an l1 penalty.

  Definition (Liang et al., "Anchor & Transform", ICLR 2021, with the optimiser
  of Zaheer et al., "Adaptive Methods for Nonconvex Optimization", 2018), for
  every entry :math:`p` with the gradient :math:`g` at step
  :math:`t = 1, 2, \dots`:

  .. math::

    m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
    v &\leftarrow v - (1 - \beta_2) \operatorname{sign}(v - g^2) g^2 \\
    s &= \frac{\eta}{\sqrt v + \epsilon}
         \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \\
    p &\leftarrow \max(p - s m - s \lambda, 0)

  The threshold has the scale :math:`s` of the step of its entry, which makes
  it the exact proximal operator in Yogi's metric: neither the learning rate
  nor the preconditioner moves the stationary points, and an entry stays zero
  exactly when :math:`-\partial L / \partial p \le \lambda / (1 - \beta_1^t)`,
  whose right side soon is :math:`\lambda`. The result is non-negative with
  ``l1=0``, too.

  It is not ``optax.yogi`` with a threshold: the first moment starts at zero,
  and the correction of the bias is a part of the step size, so that it scales
  `eps`, too.

  Entries without a gradient shrink at every step. Use it for all the rows at
  once, or know that under :func:`update_rows` the penalty acts on a row only
  when a batch touches it.

  Args:
    learning_rate: The :math:`\eta`, or a schedule of it: a function of the
      number of steps taken before.
    l1: The strength :math:`\lambda` of the penalty, non-negative, in units of
      the loss.
    b1: Decay of the first moment, from 0 to below 1.
    b2: Decay of the second moment, from 0 to below 1.
    eps: Added to the root of the second moment.
    initial_accumulator: The second moment :math:`v` before the first step.

  Returns:
    A gradient transformation, complete with its step size. Its state is that of
    ``optax.scale_by_adam``: `count`, `mu` for :math:`m`, `nu` for :math:`v`.
    Its update takes `multipliers` of :math:`\lambda`, as that of
    :func:`proximal_l1`.

  Raises:
    ValueError: If `l1` is negative or a decay is out of its range, and from
      `update` if it gets no parameters.

  >>> optimizer = proximal_yogi(0.01, l1=1e-3)
  >>> params = jnp.array([0.05, 0.0001])
  >>> updates, _ = optimizer.update(
  ...     jnp.array([0.01, 0.0005]), optimizer.init(params), params
  ... )
  >>> print(optax.apply_updates(params, updates).round(4))
  [0.0469 0.    ]
  """
  _check_nonnegative("l1", l1)
  for name, decay in (("b1", b1), ("b2", b2)):
    typing.check_rate(name, decay)
    if decay == 1:  # Its moment would never move: the step divides by zero.
      raise ValueError(f"`{name}` must be less than 1, got {decay}.")

  def init(params: optax.Params) -> optax.ScaleByAdamState:
    return optax.ScaleByAdamState(
      count=jnp.zeros((), jnp.int32),
      mu=optax.tree.zeros_like(params),
      nu=optax.tree.full_like(params, initial_accumulator),
    )

  def update(
    updates: optax.Updates,
    state: Any,
    params: optax.Params | None = None,
    *,
    multipliers: Any = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, optax.OptState]:
    del extra_args
    _check_params("proximal_yogi", params)
    mu = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, updates, state.mu)
    nu = jax.tree.map(
      lambda g, v: v - (1 - b2) * jnp.sign(v - g * g) * g * g,
      updates,
      state.nu,
    )
    step = _step_size(learning_rate, state.count, b1=b1, b2=b2)

    def move(
      p: jax.Array, factor: Any, m: jax.Array, v: jax.Array
    ) -> jax.Array:
      scale = step.astype(p.dtype) / (jnp.sqrt(v) + eps)
      penalty = _scale(l1 * scale, factor, p)
      return prox.nonnegative_soft_threshold(p - scale * m, penalty) - p

    moves = _map_params(move, params, multipliers, mu, nu)
    return moves, optax.ScaleByAdamState(state.count + 1, mu, nu)

  return optax.GradientTransformationExtraArgs(init, update)


def _scale(threshold: jax.Array, factor: Any, p: jax.Array) -> jax.Array:
  """Multiplies a threshold; infinity stays so, even times zero."""
  if factor is None:
    return threshold
  factor = jnp.asarray(factor, p.dtype)
  chex.assert_equal_rank([factor, p])
  chex.assert_is_broadcastable(factor.shape, p.shape)
  # The product first loses its infinities, or 0 * inf would be nan.
  finite = jnp.where(jnp.isinf(factor), 0, factor) * threshold
  return jnp.where(jnp.isinf(factor), jnp.inf, finite).astype(p.dtype)


def _map_params(
  function: Callable[..., jax.Array],
  params: Any,
  multipliers: Any,
  *trees: Any,
) -> Any:
  """Maps over parameters, the multiplier of each or None, and other trees."""
  if multipliers is None:
    return jax.tree.map(lambda p, *xs: function(p, None, *xs), params, *trees)
  # Of what another part of a partition moves, multipliers may hold anything.
  is_masked = lambda x: isinstance(x, optax.MaskedNode)
  move = lambda p, *xs: p if is_masked(p) else function(p, *xs)
  return jax.tree.map(move, params, multipliers, *trees, is_leaf=is_masked)


def _step_size(
  learning_rate: optax.ScalarOrSchedule,
  count: jax.Array,
  *,
  b1: float,
  b2: float,
) -> jax.Array:
  """Yogi's step size after `count` steps, with the correction of the bias."""
  rate = learning_rate(count) if callable(learning_rate) else learning_rate
  t = count.astype(float) + 1
  return jnp.asarray(rate, t.dtype) * jnp.sqrt(1 - b2**t) / (1 - b1**t)


def _check_nonnegative(name: str, value: float) -> None:
  if value < 0:
    raise ValueError(f"`{name}` must be non-negative, got {value}.")


def _check_params(name: str, params: Any) -> None:
  if params is None:
    raise ValueError(
      f"{name} moves the parameters themselves: call its update as "
      "update(updates, state, params), got no params."
    )
