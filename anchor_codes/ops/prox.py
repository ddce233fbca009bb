r"""Proximal operators of l1 penalties, elementwise and exact.

The proximal operator of a penalty :math:`r` is
:math:`\operatorname{prox}_r(x) = \arg\min_y \frac12 (y - x)^2 + r(y)`; see
Parikh and Boyd, "Proximal Algorithms", 2014, section 6.5.2. All operators here
give exact zeros, so that the nonzero entries can be counted and stored.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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
