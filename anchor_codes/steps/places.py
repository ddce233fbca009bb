"""Where the tables of a model are: layers by their dotted names."""

import itertools
from collections.abc import Iterable, Iterator
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
    if _is_embedding(node)
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
    # In a path the parts of a named tuple have the names of its fields.
    is_named = hasattr(node, "_fields")
    is_plain = isinstance(node, list | tuple | dict) and not is_named
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
  for _, holder in list(nnx.iter_graph(model)):
    for key, entry in list(_entries(holder)):
      swapped = _swap(entry, old, new)
      if swapped is entry or isinstance(holder, tuple):
        continue  # Tuples are made anew in what holds them.
      if isinstance(holder, list | dict):
        holder[key] = swapped
      else:
        setattr(holder, key, swapped)


def check_table(model: Any, name: str, layer: Any) -> None:
  """Checks that steps can put the rows of a batch in the place of a table.

  Raises:
    ValueError: If the layer is in a container that cannot be changed, or
      another one holds its rows.
  """
  nodes = [node for _, node in nnx.iter_graph(model)]
  entries = itertools.chain.from_iterable(map(_entries, nodes))
  if all(_swap(entry, layer, None) is entry for _, entry in entries):
    raise ValueError(
      f"table {name!r} must be an attribute of a module, or in a list, a dict "
      "or a tuple of one: put it into an nnx.List or nnx.Dict."
    )
  check_rows_are_own(model, name, layer)


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


def without_intermediates(model: Any) -> Any:
  """Returns a model without what its layers have sown in a forward pass.

  Args:
    model: The model, which stays as it is; it is returned if nothing is sown.
  """
  if jax.tree.leaves(nnx.state(model, nnx.Intermediate)):
    model = nnx.clone(model)
    nnx.pop(model, nnx.Intermediate)
  return model


def check_same_variables(after: nnx.State, before: nnx.State) -> nnx.State:
  """Checks that a forward pass has made no variables, and taken none away.

  Args:
    after: The variables after the pass.
    before: Those before it.

  Returns:
    `after`.

  Raises:
    ValueError: If they are other variables: a state keeps its form.
  """
  paths = [set(nnx.to_flat_state(state).paths) for state in (before, after)]
  if others := paths[0] ^ paths[1]:
    names = sorted(".".join(map(str, path)) for path in others)
    raise ValueError(
      "the loss must leave a model the variables that it has, but makes or "
      f"removes {names}: make them before the first step, in `__init__`."
    )
  return after


def check_ids_are_kept(model: Any, name: str, layer: Any) -> None:
  """Checks that no layer of a model exchanges the ids of a table.

  Raises:
    ValueError: If one does: what a step by row gives to a model are positions
      among the rows of its batch, not ids.
  """
  size = layer.num_embeddings
  for path, node in nnx.iter_graph(model):
    is_sharing = isinstance(node, nn.StochasticSharing)
    if is_sharing and node.num_embeddings == size and not node.deterministic:
      raise ValueError(
        f"the ids of table {name!r} must not be exchanged in the model, which "
        "sees positions among the rows of a batch in their place, but "
        f"`{'.'.join(map(str, path))}` is a StochasticSharing of {size} ids: "
        "exchange the ids of the batch before the step, in `prepare` of "
        "compile_chunk, say, or train whole tables, by `lazy=False`."
      )


def trained_rows(layer: Any, size: int) -> nnx.State:
  """Returns the form that some rows of a layer are trained in, no values."""
  ids = jax.ShapeDtypeStruct((size,), jnp.int32)
  return nnx.state(
    jax.eval_shape(lambda ids: nn.select_rows(layer, ids), ids),
    nn.is_trained_row,
  )


def start_rows(name: str, layer: Any, optimizer: Any) -> Any:
  """Starts the optimiser of all rows of a layer.

  Args:
    name: The name of the table, for the error.
    layer: The layer.
    optimizer: An optimiser of optax, or one like those.

  Returns:
    The state of the optimiser.

  Raises:
    ValueError: If it cannot be updated by gradients and rows alone.
  """
  size = layer.num_embeddings
  rows = trained_rows(layer, size)
  try:
    state = optimizer.init(rows)
    if not any(map(_is_form, jax.tree.leaves(state))):
      return state
  except TypeError:
    pass  # It reads the rows, or asks for the type of numbers.
  # Compiled, for no dense rows to be made unless the state has them.
  graphdef, variables = nnx.split(layer)

  @jax.jit
  def start(variables: nnx.State) -> Any:
    every = jnp.arange(size, dtype=jnp.int32)
    selected = nn.select_rows(nnx.merge(graphdef, variables), every)
    return optimizer.init(nnx.state(selected, nn.is_trained_row))

  state = start(variables)
  try:
    jax.eval_shape(optimizer.update, rows, state, rows)
  except TypeError as error:
    raise ValueError(
      f"the optimiser of table {name!r} must need gradients and rows alone, "
      f"got one whose update fails: {error}."
    ) from error
  return state


def _is_embedding(node: Any) -> bool:
  # Streams of random numbers have attributes of any name.
  no_table = isinstance(node, nnx.Rngs | nn.StochasticSharing)
  return hasattr(node, "num_embeddings") and not no_table


def _is_form(leaf: Any) -> bool:
  return isinstance(leaf, jax.ShapeDtypeStruct)


def _is_row(path: Path, node: Any) -> bool:
  return isinstance(node, nnx.Variable) and nn.is_row(path, node)


def _holders(model: Any, value: Any) -> Iterator[tuple[Any, Any]]:
  """Yields all nodes that hold a value, each with the key of it."""
  for _, node in nnx.iter_graph(model):
    yield from ((node, key) for key, entry in _entries(node) if entry is value)


def _entries(node: Any) -> Iterable[tuple[Any, Any]]:
  """Returns what a node holds, each with its key."""
  if isinstance(node, nnx.Pytree):
    return vars(node).items()
  if isinstance(node, dict):
    return node.items()
  return enumerate(node) if isinstance(node, list | tuple) else ()


def _swap(entry: Any, old: Any, new: Any) -> Any:
  """Returns an entry with a layer in the place of another, also in tuples."""
  if entry is old:
    return new
  if not isinstance(entry, tuple):
    return entry
  parts = [_swap(part, old, new) for part in entry]
  if all(part is before for part, before in zip(parts, entry, strict=True)):
    return entry
  is_named = hasattr(entry, "_fields")
  return type(entry)(*parts) if is_named else tuple(parts)
