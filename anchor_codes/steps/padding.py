"""Rows of zeros at the end of tables that several devices share."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array

from anchor_codes import nn, training
from anchor_codes.steps import places, states


def pad_state(
  state: states.TrainState, paths: Mapping[str, places.Path], num_shards: int
) -> states.TrainState:
  """Appends rows to all tables and to what their optimisers keep of each.

  Args:
    state: The state.
    paths: Where the tables are, by name.
    num_shards: What is to divide the number of rows.
  """
  row_states = {}
  for name, path in paths.items():
    rows = jax.tree.leaves(places.state_at(state.rows, path))
    row_states[name] = jax.tree.map(
      lambda leaf, size=rows[0].shape[:1]: (
        training.pad_rows(leaf, num_shards) if leaf.shape[:1] == size else leaf
      ),
      state.row_states[name],
    )
  rows = jax.tree.map(lambda r: training.pad_rows(r, num_shards), state.rows)
  return state._replace(rows=rows, row_states=row_states)


def pad_like(rows: Any, others: Any) -> Any:
  """Appends rows until there are as many as in others, if there are fewer."""
  # By leaves: states and mappings of the same arrays are different trees.
  leaves, structure = jax.tree.flatten(rows)
  padded = [
    training.pad_rows(leaf, max(leaf.shape[0], other.shape[0]))
    for leaf, other in zip(leaves, jax.tree.leaves(others), strict=True)
  ]
  return jax.tree.unflatten(structure, padded)


def unpad_layer(layer: Any) -> None:
  """Cuts off the rows of a layer that are no embeddings, in place."""
  rows, size = nnx.state(layer, nn.is_row), layer.num_embeddings
  if any(leaf.shape[0] != size for leaf in jax.tree.leaves(rows)):
    nnx.update(layer, training.unpad_rows(rows, size))


def num_rows(layer: Any) -> int:
  """Returns the number of rows of a layer, with those that pad it."""
  return jax.tree.leaves(nnx.state(layer, nn.is_row))[0].shape[0]


def beyond(layer: Any, ids: Array) -> Array:
  """Moves ids that stand for no row past those that pad a layer."""
  size = num_rows(layer)
  if size == layer.num_embeddings:
    return ids
  return jnp.where(ids < layer.num_embeddings, ids, size)
