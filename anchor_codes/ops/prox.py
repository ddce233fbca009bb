r"""Proximal operators of l1 penalties, elementwise and exact.

The proximal operator of a penalty :math:`r` is
:math:`\operatorname{prox}_r(x) = \arg\min_y \frac12 (y - x)^2 + r(y)`; see
Parikh and Boyd, "Proximal Algorithms", 2014, section 6.5.2. All operators here
give exact zeros, so that the nonzero entries can be counted and stored.
"""

import math

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from anchor_codes.typing import check_at_least


def soft_threshold(
  x: Float[Array, "*shape"], threshold: jax.Array | float
) -> Float[Array, "*shape"]:
  r"""Shrinks every entry towards zero.

  Definition: :math:`\arg\min_y \frac12 (y - x)^2 + t |y|
  = \operatorname{sign}(x) \max(|x| - t, 0)`.

  Args:
    x: Any array of floats; ``nan`` stays ``nan``.
    threshold: The :math:`t \ge 0`, a scalar or one for each entry.

  Returns:
    An array like `x`, exactly zero where :math:`|x| \le t`.

  >>> print(soft_threshold(jnp.array([-3.0, -0.5, 0.5, 3.0]), 1.0))
  [-2.  0.  0.  2.]
  """
  # Within the threshold the clip is x itself, and x - x is exactly 0.
  return x - jnp.clip(x, -threshold, threshold)


def nonnegative_soft_threshold(
  x: Float[Array, "*shape"], threshold: jax.Array | float
) -> Float[Array, "*shape"]:
  r"""Shrinks every entry towards zero, and clips negative entries to it.

  Definition: :math:`\arg\min_{y \ge 0} \frac12 (y - x)^2 + t y
  = \max(x - t, 0)`. At :math:`t = 0` it is the projection on the non-negative
  numbers.

  Args:
    x: Any array of floats; ``nan`` stays ``nan``.
    threshold: The :math:`t \ge 0`, a scalar or one for each entry.

  Returns:
    An array like `x`, exactly zero where :math:`x \le t`.

  >>> print(nonnegative_soft_threshold(jnp.array([-3.0, 0.5, 3.0]), 1.0))
  [0. 0. 2.]
  """
  return jax.nn.relu(x - threshold)


def catch_up(
  rows: Float[Array, "*shape"], elapsed: jax.Array | float
) -> Float[Array, "*shape"]:
  r"""Takes all the proximal steps at once that some rows have missed.

  A table that is trained row by row leaves out the proximal step of the rows
  that a batch does not touch. They can be made good later, because the steps
  of :func:`nonnegative_soft_threshold` compose: for :math:`s, t \ge 0`,
  :math:`\max(\max(x - s, 0) - t, 0) = \max(x - s - t, -t, 0)
  = \max(x - (s + t), 0)`, and so on for any number of steps. Only the sum of
  the thresholds matters: keep its running total, and for each row the total at
  which the row was last up to date. (The steps compose as long as nothing but
  the penalty moves a row between two touches, which is true of SGD and Adagrad
  but not of momentum.)

  Args:
    rows: Rows that are behind.
    elapsed: The sum of the thresholds missed, non-negative: a scalar, or one
      for each row, that is, with the leading axes of `rows`.

  Returns:
    The rows as if every step had been taken in its time.

  >>> rows = jnp.array([[0.5, 0.25], [0.5, 0.25]])
  >>> print(catch_up(rows, jnp.array([0.0, 0.375])))
  [[0.5   0.25 ]
   [0.125 0.   ]]
  """
  elapsed = jnp.asarray(elapsed, rows.dtype)
  chex.assert_shape(rows, (*elapsed.shape, ...))
  missing = tuple(range(elapsed.ndim, rows.ndim))
  return nonnegative_soft_threshold(rows, jnp.expand_dims(elapsed, missing))


def yogi_step_sizes(
  num_steps: int,
  *,
  learning_rate: float,
  b1: float = 0.9,
  b2: float = 0.999,
) -> Float[Array, " num_steps"]:
  r"""Returns the step sizes of Yogi with the correction of the bias.

  Definition: :math:`s_j = \eta \sqrt{1 - \beta_2^j} / (1 - \beta_1^j)` for
  :math:`j = 1, 2, \dots`, as ``training.proximal_yogi`` takes them.

  Args:
    num_steps: Number of steps, at least 1.
    learning_rate: The constant :math:`\eta`.
    b1: Decay of the first moment.
    b2: Decay of the second moment.

  Returns:
    The step sizes, that of the first step at position 0.

  >>> print(yogi_step_sizes(2, learning_rate=1.0, b1=0.5, b2=0.0))
  [2.        1.3333334]
  """
  check_at_least("num_steps", num_steps, 1)
  steps = jnp.arange(1, num_steps + 1).astype(float)
  return learning_rate * jnp.sqrt(1 - b2**steps) / (1 - b1**steps)


def yogi_catch_up(
  rows: Float[Array, "num_rows ..."],
  mu: Float[Array, "num_rows ..."],
  nu: Float[Array, "num_rows ..."],
  last: Int[Array, " num_rows"],
  *,
  now: Int[Array, ""] | int,
  step_sizes: Float[Array, " num_steps"],
  l1: float,
  b1: float = 0.9,
  eps: float = 1e-3,
) -> Float[Array, "num_rows ..."]:
  r"""Takes all the steps at once that some rows have missed under Yogi.

  A row without a gradient keeps its second moment, its first moment fades as
  :math:`\beta_1^k`, and its threshold stays. The steps of
  ``training.proximal_yogi`` from :math:`t_0` to :math:`t` then add up, since
  their increments change sign at most once, from growing to shrinking, so that
  clipping at zero is final:

  .. math::

    p_t = \max\Bigl(0,\; p_{t_0} - \frac{\sum_{t_0 < j \le t} s_j
          (m\,\beta_1^{j - t_0} + \lambda)}{\sqrt v + \epsilon}\Bigr)

  The first moment is then to be multiplied by :math:`\beta_1^{t - t_0}`; here
  it is summed over the steps in which it fades, 256 for the usual decay of 0.9.

  Args:
    rows: Rows that are behind.
    mu: Their first moments :math:`m` after the step :math:`t_0`.
    nu: Their second moments :math:`v`.
    last: For each row the number of steps :math:`t_0` that it has taken.
    now: The number of steps :math:`t` to come to, at most ``num_steps``.
    step_sizes: What :func:`yogi_step_sizes` returns.
    l1: The strength :math:`\lambda` of the penalty.
    b1: Decay of the first moment, as of the step sizes.
    eps: The :math:`\epsilon` of the optimiser.

  Returns:
    The rows as if every step had been taken in its time.

  >>> rows = jnp.array([[0.5, 0.25], [0.5, 0.25]])
  >>> print(yogi_catch_up(rows, 0 * rows, 0 * rows + 0.25, jnp.array([2, 0]),
  ...                     now=2, step_sizes=jnp.array([1.0, 1.0]), l1=0.125,
  ...                     eps=0.0))
  [[0.5  0.25]
   [0.   0.  ]]
  """
  chex.assert_equal_shape([rows, mu, nu])
  chex.assert_shape(last, rows.shape[:1])
  # With running totals a row costs one subtraction, however long it has waited.
  # Those of the differences from the last size: totals of the sizes themselves
  # grow until float32 has no digits left for a single step.
  start = jnp.zeros(1, step_sizes.dtype)
  size = step_sizes[-1]
  totals = jnp.concatenate([start, jnp.cumsum(step_sizes - size)])
  waited = jnp.asarray(now - last, step_sizes.dtype)
  elapsed = waited * size + (totals[now] - totals[last])
  num_ahead = min(_fading_steps(b1), step_sizes.shape[0])
  ahead = jnp.arange(1, num_ahead + 1, dtype=last.dtype)[None, :]
  steps = last[:, None] + ahead
  # The minimum keeps reads inside; steps that far are masked below.
  sizes = step_sizes[jnp.minimum(steps, step_sizes.shape[0]) - 1]
  fading = b1 ** ahead.astype(step_sizes.dtype)
  drift = jnp.sum(jnp.where(steps <= now, sizes * fading, 0), axis=1)
  axes = tuple(range(1, rows.ndim))
  spread = lambda sums: jnp.expand_dims(sums.astype(rows.dtype), axes)
  moved = mu * spread(drift) + l1 * spread(elapsed)
  return jax.nn.relu(rows - moved / (jnp.sqrt(nu) + eps))


def _fading_steps(b1: float) -> int:
  """Returns after how many steps 2e-12 of a first moment is left."""
  return math.ceil(math.log(2e-12) / math.log(b1)) if b1 > 0 else 1
