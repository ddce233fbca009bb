"""How a table that is split over devices lies on them.

Each device holds an equal part of the rows and of their optimiser's state, with
padding where the devices do not divide them; see
:mod:`anchor_codes.training.sharded_exchange` for what a step does with them.

>>> rows = pad_rows({"weights": np.ones((5, 2))}, 4)
>>> rows["weights"].shape, row_specs(rows, 8)
((8, 2), {'weights': P...('data',)})
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import PyTree

from anchor_codes import typing

AXIS = "data"
SPLIT, REPLICATED = PartitionSpec(AXIS), PartitionSpec()

Rows = TypeVar("Rows", bound=PyTree)


def pad_rows(rows: Rows, num_shards: int) -> Rows:
  """Appends rows of zeros, so that all devices get the same number.

  Args:
    rows: A pytree of arrays [num_embeddings, ...], of NumPy or of JAX.
    num_shards: Number of devices, at least 1. With more devices than rows the
      last ones hold nothing but padding.

  Returns:
    A pytree like `rows`, with a multiple of `num_shards` rows. Those of the
    padding are never looked up nor written.

  Raises:
    ValueError: If there are no rows or no devices, or more rows than ids of 32
      bits can name.

  >>> print(pad_rows(np.array([1, 2, 3]), 2))
  [1 2 3 0]
  """
  typing.check_at_least("num_shards", num_shards, 1)

  def pad(leaf: Any) -> Any:
    size = _check_num_rows(leaf, num_shards)
    width = [(0, -size % num_shards)] + [(0, 0)] * (leaf.ndim - 1)
    if not width[0][1]:
      return leaf
    xp = jnp if isinstance(leaf, jax.Array) else np
    return xp.pad(leaf, width)

  return jax.tree.map(pad, rows)


def unpad_rows(rows: Rows, num_embeddings: int) -> Rows:
  """Cuts off what :func:`pad_rows` has appended.

  Args:
    rows: A pytree of arrays with at least so many rows.
    num_embeddings: Number of rows of the table.

  Raises:
    ValueError: If there are fewer rows.

  >>> print(unpad_rows(np.array([1, 2, 3, 0]), 3))
  [1 2 3]
  """

  def cut(leaf: Any) -> Any:
    size = leaf.shape[0] if leaf.ndim else 0
    if size < num_embeddings:
      raise ValueError(f"`rows` must be at least {num_embeddings}, got {size}.")
    return leaf[:num_embeddings]

  return jax.tree.map(cut, rows)


def row_specs(tree: PyTree, num_rows: int) -> PyTree:
  """Returns how rows, or the state of their optimiser, lie on the devices.

  Args:
    tree: A pytree of arrays.
    num_rows: Number of rows with padding.

  Returns:
    A pytree of partition specs: split over "data" for an array with so many
    rows, on all devices for any other, such as a count of steps.

  >>> row_specs({"sums": np.ones((8, 2)), "count": np.int32(0)}, 8)
  {'count': P...(), 'sums': P...('data',)}
  """
  return jax.tree.map(
    lambda leaf: SPLIT if np.shape(leaf)[:1] == (num_rows,) else REPLICATED,
    tree,
  )


def check_split(rows: PyTree, num_embeddings: int, num_shards: int) -> int:
  """Checks that rows are split evenly, and returns their number.

  Args:
    rows: A pytree of arrays [num_rows, ...].
    num_embeddings: Number of rows without padding.
    num_shards: Number of devices.

  Returns:
    Number of rows with padding.

  Raises:
    ValueError: If the leaves do not agree on the number of rows, it is too
      small, or the devices do not divide it.

  >>> check_split(np.ones((8, 2)), 5, 4)
  8
  """
  shapes = [np.shape(leaf) for leaf in jax.tree.leaves(rows)]
  num_rows = {shape[:1] for shape in shapes}
  if len(num_rows) != 1 or () in num_rows:
    raise ValueError(
      f"the leaves of `rows` must have the same number of rows, got {shapes}."
    )
  ((size,),) = num_rows
  if size % num_shards or size < num_embeddings:
    raise ValueError(
      f"`rows` must be at least {num_embeddings}, and split evenly over "
      f"{num_shards} devices, got {size}: see pad_rows."
    )
  return size


def _check_num_rows(leaf: Any, num_shards: int) -> int:
  """Returns the number of rows, if ids of 32 bits can name all of them."""
  size = np.shape(leaf)[0] if np.ndim(leaf) else 0
  typing.check_at_least("num_embeddings", size, 1)
  padded = size + -size % num_shards
  limit = np.iinfo(np.int32).max
  if padded > limit:
    raise ValueError(
      f"`rows` must be at most {limit} for ids of 32 bits, got {padded} with "
      "padding; split the vocabulary over several tables, or hash it."
    )
  return size
