"""Reductions that respect a mask and do not lose precision."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped


def wide(values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Casts to float32 what is narrower, for sums and comparisons.

  Args:
    values: Floats of any type; float32 and float64 are returned as they are.

  Returns:
    The same values, exactly, in at least float32.

  >>> print(wide(jnp.ones(2, jnp.bfloat16)).dtype)
  float32
  """
  is_narrow = jnp.finfo(values.dtype).bits < 32
  return values.astype(jnp.float32) if is_narrow else values


def as_floats(
  values: Shaped[Array, "*shape"], like: Float[Array, "..."]
) -> Float[Array, "*shape"]:
  """Casts what is no float to the type of parameters; floats keep theirs.

  For queries: parameters that were cast to integers would all be zero.

  Args:
    values: Numbers of any type.
    like: The parameters.

  Returns:
    The same values as floats.

  >>> print(as_floats(jnp.array([1, 2]), jnp.ones(1)))
  [1. 2.]
  """
  values = jnp.asarray(values)
  is_float = jnp.issubdtype(values.dtype, jnp.inexact)
  return values if is_float else values.astype(like.dtype)


def masked_mean(
  values: Float[Array, "*shape"],
  where: Bool[Array, "*leading"] | None = None,
  *,
  axis: int | tuple[int, ...] | None = None,
  axis_name: str | None = None,
) -> Float[Array, "*reduced"]:
  r"""Averages the values at which a mask is true.

  Definition: :math:`\sum_i w_i x_i / \max(1, \sum_i w_i)` with
  :math:`w_i \in \{0, 1\}`, in at least float32.

  Args:
    values: What to average.
    where: Mask of the leading axes of `values`, all true by default. What is
      masked out may be ``nan``.
    axis: Axes to reduce, all by default.
    axis_name: Name of the mapped axis (of ``shard_map`` or ``pmap``) over
      which to average as well.

  Returns:
    The mean; 0 where everything is masked out.

  >>> values = jnp.array([[1.0, 3.0], [8.0, 9.0]])
  >>> print(masked_mean(values, jnp.array([True, False])))
  2.0
  """
  where = jnp.array(True) if where is None else where
  chex.assert_shape(values, (*where.shape, ...))
  missing = tuple(range(where.ndim, values.ndim))
  mask = jnp.broadcast_to(jnp.expand_dims(where, missing), values.shape)
  # Selected, not multiplied by the mask: 0 times `nan` is `nan`.
  total = jnp.sum(jnp.where(mask, wide(values), 0), axis)
  count = jnp.sum(mask, axis, dtype=total.dtype)
  if axis_name is not None:
    # Sums and counts apart: the mean of means is wrong if one device has more
    # padding than another.
    total, count = jax.lax.psum((total, count), axis_name)
  return total / jnp.maximum(count, 1)
