"""Anchors come and go: parameters and their optimiser's state change shape.

The anchors of a table lie in a *capacity* that is a power of two, so that a
training step is compiled only log2 many times. A place without an anchor holds
zeros in `anchors` and in the rows: the gradient of either is then zero, and it
stays empty without a mask.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from anchor_codes import typing

ANCHOR_AXES = {"anchors": 0, "transform": 1, "support": 1}
"""The axis of the anchors in the arrays of a table, by their name."""


def anchor_capacity(num_anchors: int) -> int:
  """Returns the smallest power of two that has room for some anchors.

  Args:
    num_anchors: Number of anchors, at least 1.

  Raises:
    ValueError: If there is no anchor.

  >>> [anchor_capacity(n) for n in (1, 2, 3, 40)]
  [1, 2, 4, 64]
  """
  typing.check_at_least("num_anchors", num_anchors, 1)
  # By bits: a logarithm could round a power of two up to the next.
  return 1 << (num_anchors - 1).bit_length()


def resize_anchors(
  tree: PyTree, *, table: str, keep: Sequence[int], capacity: int
) -> PyTree:
  """Keeps some anchors of a table, in a new capacity, on the host.

  Every array is resized whose path in the tree leads through `table` and ends
  with a name of `ANCHOR_AXES`, if it has that axis. The state of an optimiser
  has the paths of its parameters, so that one call resizes a whole training
  state.

  Args:
    tree: Parameters, the state of their optimiser, or all of it.
    table: Name of the table in the paths.
    keep: The anchors that stay, in their new order.
    capacity: Places for anchors, at least as many as stay.

  Returns:
    A tree like `tree`; the places behind the anchors that stay hold zeros.

  Raises:
    ValueError: If the anchors to keep repeat, do not exist, or have no room,
      or the tree has no arrays of such a table.

  >>> tree = {"items": {"anchors": np.arange(3.0), "bias": np.ones(9)}}
  >>> print(resize_anchors(tree, table="items", keep=[2, 0], capacity=4))
  {'items': {'anchors': array([2., 0., 0., 0.]), 'bias': array([1., ...])}}
  """
  _check_keep(keep, capacity)
  found = False

  def resize(path: tuple[Any, ...], leaf: Any) -> Any:
    nonlocal found
    axis = _anchor_axis(path, table)
    # Adagrad of whole rows has one number for each row of a transform.
    if axis is None or np.ndim(leaf) <= axis:
      return leaf
    found = True
    return _resize_axis(np.asarray(leaf), axis, list(keep), capacity)

  resized = jax.tree_util.tree_map_with_path(resize, tree)
  if not found:
    raise ValueError(f"the tree has no anchors of a table {table!r}.")
  return resized


def _check_keep(keep: Sequence[int], capacity: int) -> None:
  if len(set(keep)) != len(keep):
    raise ValueError(f"`keep` must not repeat an anchor, got {list(keep)}.")
  if len(keep) > capacity:
    raise ValueError(
      f"`capacity` must have room for the {len(keep)} anchors that stay, got "
      f"{capacity}."
    )


def _anchor_axis(path: tuple[Any, ...], table: str) -> int | None:
  names = [_name(key) for key in path]
  if names[-1:] == ["value"]:  # Of a variable of NNX.
    names.pop()
  # Only the last name counts: a group of parameters that shares an optimiser
  # may be called "anchors", too.
  return ANCHOR_AXES.get(names[-1]) if table in names[:-1] else None


def _name(key: Any) -> Any:
  """Returns the name of a step of a path: a key, an attribute, a position."""
  return getattr(key, "key", getattr(key, "name", getattr(key, "idx", None)))


def _resize_axis(
  array: np.ndarray, axis: int, keep: list[int], capacity: int
) -> np.ndarray:
  size = array.shape[axis]
  bad = [k for k in keep if not 0 <= k < size]
  if bad:
    raise ValueError(f"`keep` must lie in [0, {size}), got {bad[0]}.")
  kept = np.take(array, keep, axis=axis)
  width = [(0, 0)] * array.ndim
  width[axis] = (0, capacity - len(keep))
  return np.pad(kept, width)
