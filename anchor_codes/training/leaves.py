"""The leaves of a state, as a checkpoint stores them and reads them again."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from anchor_codes import typing
from anchor_codes.training import digests


def flatten(state: Any) -> dict[str, Any]:
  """Returns the leaves of a state by their paths, in native byte order.

  Raises:
    TypeError: If a leaf is a number or text, not an array.

  >>> flatten({"w": np.zeros(2, ">f4")})
  {"state['w']": array([0., 0.], dtype=float32)}
  """
  arrays = {}
  for path, leaf in jax.tree.leaves_with_path(state):
    name = "state" + jax.tree_util.keystr(path)
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
      raise TypeError(
        f"{name} must be an array, got {leaf!r}; put it into the metadata."
      )
    arrays[name] = _native(leaf)
  return arrays


def _native(leaf: Any) -> Any:
  """Returns an array whose bytes are in the order that Orbax reads them in."""
  if not isinstance(leaf.dtype, np.dtype) or leaf.dtype.isnative:
    return leaf
  dtype = leaf.dtype.newbyteorder("=")
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return leaf.update(dtype=dtype)
  return leaf.astype(dtype)


def flatten_rows(num_rows: Any, state: Any) -> dict[str, int]:
  """Returns how many rows of each leaf are no padding, 0 for all of them.

  Raises:
    ValueError: If a leaf has fewer rows, or a number is negative or none.

  >>> flatten_rows({"w": 3, "v": 0}, {"w": np.zeros(4), "v": np.zeros(4)})
  {"state['v']": 0, "state['w']": 3}
  """
  numbers = jax.tree.leaves(jax.tree.broadcast(num_rows, state))
  rows = {}
  for (name, leaf), number in zip(flatten(state).items(), numbers, strict=True):
    typing.check_at_least(f"num_rows of {name}", number, 0)
    # Python's numbers: JSON does not know those of NumPy.
    rows[name] = int(number)
    size = leaf.shape[0] if leaf.shape else 0
    if size < number:
      raise ValueError(
        f"{name} must have at least {number} rows, got {size}; its `num_rows` "
        "is 0 if it has no padding."
      )
  return rows


def stored(arrays: dict[str, Any]) -> dict[str, Any]:
  """Returns all arrays but those without elements, which Orbax refuses.

  >>> stored({"empty": np.zeros((0, 2)), "scalar": np.int32(7)})
  {'scalar': np.int32(7)}
  """
  return {name: leaf for name, leaf in arrays.items() if math.prod(leaf.shape)}


def empty(leaf: Any) -> Any:
  """Returns what an example without elements stands for; others as they are.

  >>> empty(jax.ShapeDtypeStruct((0, 2), np.float32)).shape
  (0, 2)
  """
  if isinstance(leaf, jax.ShapeDtypeStruct) and not math.prod(leaf.shape):
    return jax.numpy.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
  return leaf


def abstract(leaf: Any) -> Any:
  """Returns what Orbax wants to know of an array that it is to read.

  >>> abstract(jax.numpy.zeros(2)).dtype
  dtype('float32')
  """
  if isinstance(leaf, np.ndarray | np.generic):
    return np.asarray(leaf)
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  sharding = leaf.sharding or here
  if digests.is_key(leaf):
    leaf = jax.eval_shape(jax.random.key_data, leaf)
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def check_fit(
  step: int,
  recorded: dict[str, Any],
  arrays: dict[str, Any],
  num_rows: dict[str, int],
) -> None:
  """Checks that a step holds the arrays of the example, padding aside.

  Args:
    step: Its number.
    recorded: Its arrays, as `describe_arrays` has described them.
    arrays: Those of the example.
    num_rows: How many of their rows are no padding.

  Raises:
    ValueError: If an array is missing, or of another shape or type, or of a
      type that JAX is to hold, by the example, and cannot.

  >>> check_fit(5, {}, {"w": np.zeros(2)}, {"w": 0})
  Traceback (most recent call last):
  ValueError: checkpoint 5 does not fit the example: w is missing in the ...
  """
  ours = {
    name: _form(leaf.dtype, leaf.shape, num_rows[name])
    for name, leaf in arrays.items()
  }
  theirs = {
    name: _form(entry["dtype"], entry["shape"], entry.get("num_rows", 0))
    for name, entry in recorded.items()
  }
  for name in ours | theirs:
    if ours.get(name) != theirs.get(name):
      raise ValueError(
        f"checkpoint {step} does not fit the example: {name} is "
        f"{theirs.get(name, 'missing')} in the checkpoint and "
        f"{ours.get(name, 'missing')} in the example. Shapes that change "
        "from step to step need a function of the metadata as the example, "
        "and padding needs its `num_rows`."
      )
  for name, leaf in arrays.items():
    _check_held(name, leaf)


def _check_held(name: str, leaf: Any) -> None:
  """Checks that JAX can hold an array as the type that it was saved in."""
  if isinstance(leaf, np.ndarray | np.generic) or digests.is_key(leaf):
    return
  held = jax.dtypes.canonicalize_dtype(leaf.dtype)
  if held != leaf.dtype:
    raise ValueError(
      f"{name} is {leaf.dtype}, which JAX would cut to {held}: put an array of "
      "NumPy into the example, such as `np.zeros(shape, dtype)`, or set "
      "`jax_enable_x64`."
    )


def _form(dtype: Any, shape: Sequence[int], num_rows: int) -> str:
  return f"{dtype}{[*([num_rows] if num_rows else shape[:1]), *shape[1:]]}"
