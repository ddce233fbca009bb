"""What the tests of learned codes share: parameters by hand, compiled calls."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def fill(make: Callable[[], Any], **params: Any) -> Any:
  """Makes a layer with given parameters, and draws none of them."""
  layer = nnx.eval_shape(make)
  values = {name: jnp.asarray(value) for name, value in params.items()}
  if layer.norm is not None:
    size = layer.norm.mean.shape
    values["norm"] = {"mean": jnp.zeros(size), "variance": jnp.ones(size)}
  nnx.update(layer, values)
  return layer


# Compiled, because op by op JAX would compile each primitive.
@functools.partial(jax.jit, static_argnames="method")
def _call(layer, inputs, method):
  result = getattr(layer, method)(inputs)
  return result, nnx.state(layer, nnx.Not(nnx.Param))


def call(layer: Any, inputs: Any, method: str = "__call__") -> jax.Array:
  """Calls a layer, or a method of it; what the call moves, moves."""
  result, state = _call(layer, jnp.asarray(inputs), method)
  nnx.update(layer, state)
  return result


codes = jax.jit(lambda layer: layer.codes())


@jax.jit
def gradients(layer: Any, ids: Any, cotangent: Any) -> tuple[Any, Any]:
  """Computes the gradients of the vectors, and of the auxiliary loss."""
  graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

  def task(params):
    model = nnx.merge(graphdef, params, rest, copy=True)
    return jnp.sum(model(ids) * cotangent)

  def auxiliary(params):
    return nnx.merge(graphdef, params, rest, copy=True).auxiliary_loss(ids)

  first, second = (jax.grad(loss)(params) for loss in (task, auxiliary))
  return nnx.to_pure_dict(first), nnx.to_pure_dict(second)


def moments(layer: Any) -> list[list[float]]:
  """Returns the stored moments, for comparisons."""
  return [layer.norm.mean[...].tolist(), layer.norm.variance[...].tolist()]
