"""Where the tables of a model are: layers by their dotted names."""

from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx
from jax import numpy as jnp

from anchor_codes import nn

Path = tuple[Any, ...]


def find_layer(model: Any, name: str) -> tuple[Path, Any]:
  """Finds an embedding in a model.

  Args:
    model: The model.
    name: Its name: the attributes that lead to it, and the positions in lists,
      joined by dots.

  Returns:
    Its path in the states of the model, and the layer.

  Raises:
    ValueError: If there is no such embedding. One that the model holds under
      several names has only the first of them.

  >>> model = nnx.List([nnx.Embed(5, 2, rngs=nnx.Rngs(0))])
  >>> path, layer = find_layer(model, "0")
  >>> path, layer.num_embeddings
  ((0,), 5)
  """
  known = {
    ".".join(map(str, path)): (path, node)
    for path, node in nnx.iter_graph(model)
    if hasattr(node, "num_embeddings")
  }
  if name not in known:
    raise ValueError(
      f"a table must be an embedding of the model, one of {sorted(known)}, "
      f"got {name!r}."
    )
  return known[name]


def layer_at(model: Any, path: Path) -> Any:
  """Returns the layer at a path of :func:`find_layer`."""
  node = model
  for key in path:
    is_plain = isinstance(node, list | tuple | dict)
    node = node[key] if is_plain else getattr(node, str(key))
  return node


def state_at(state: Any, path: Path) -> Any:
  """Returns the part of a state that belongs to the layer at a path."""
  for key in path:
    state = state[key]
  return state


def replace_layer(model: Any, old: Any, new: Any) -> None:
  """Puts a layer in the place of another, wherever a model holds it.

  Args:
    model: The model, changed in place.
    old: The layer to replace.
    new: What comes in its place.
  """
  for holder, key in list(_holders(model, old)):
    if isinstance(holder, list | dict):
      holder[key] = new
    else:
      setattr(holder, key, new)


def check_rows_are_own(model: Any, name: str, layer: Any) -> None:
  """Checks that nothing but a layer itself holds its rows.

  Raises:
    ValueError: If another layer holds them too: what is left of a small table
      would not be what that layer sees.
  """
  inside = {id(node) for _, node in nnx.iter_graph(layer)}
  rows = [node for path, node in nnx.iter_graph(layer) if _is_row(path, node)]
  for row in rows:
    for holder, key in _holders(model, row):
      if id(holder) not in inside:
        raise ValueError(
          f"the rows of table {name!r} must belong to it alone, but "
          f"`{key}` of {type(holder).__name__} holds them too: share the "
          "layer, not its variable."
        )


def trained_rows(layer: Any, size: int) -> nnx.State:
  """Returns the form that some rows of a layer are trained in, no values."""
  ids = jax.ShapeDtypeStruct((size,), jnp.int32)
  return nnx.state(
    jax.eval_shape(lambda ids: nn.select_rows(layer, ids), ids),
    nn.is_trained_row,
  )


def _is_row(path: Path, node: Any) -> bool:
  return isinstance(node, nnx.Variable) and nn.is_row(path, node)


def _holders(model: Any, value: Any) -> Iterator[tuple[Any, Any]]:
  """Yields all nodes that hold a value, each with the key of it."""
  for _, node in nnx.iter_graph(model):
    if isinstance(node, nnx.Pytree):
      entries: Any = vars(node).items()
    elif isinstance(node, dict):
      entries = node.items()
    elif isinstance(node, list):
      entries = enumerate(node)
    else:
      continue
    yield from ((node, key) for key, entry in entries if entry is value)
