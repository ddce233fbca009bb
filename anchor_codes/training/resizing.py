"""Anchors come and go: parameters and their optimiser's state change shape.

The anchors of a table lie in a *capacity* that is a power of two, so that a
training step is compiled only log2 many times. A place without an anchor holds
zeros in `anchors` and in the rows: the gradient of either is then zero, and it
stays empty without a mask.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from anchor_codes import typing

_Names = tuple[Any, ...]

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

  Sparse rows name their anchors by position: `indices` move along, and
  `weights`, with what an optimiser keeps of each, become zero where their
  anchor goes. A tree with such weights must hold their indices, too.

  Args:
    tree: Parameters, the state of their optimiser, or all of it.
    table: Name of the table in the paths.
    keep: The anchors that stay, in their new order.
    capacity: Places for anchors, at least as many as stay.

  Returns:
    A tree like `tree`; the places behind the anchors that stay hold zeros.

  Raises:
    ValueError: If the anchors to keep repeat, do not exist, or have no room,
      or the tree has no arrays of such a table; if its rows are sparse and have
      more weights than there are places, or come without their indices.

  >>> tree = {"items": {"anchors": np.arange(3.0), "bias": np.ones(9)}}
  >>> print(resize_anchors(tree, table="items", keep=[2, 0], capacity=4))
  {'items': {'anchors': array([2., 0., 0., 0.]), 'bias': array([1., ...])}}
  """
  _check_keep(keep, capacity)
  sparse = _find_sparse(tree, table)
  _check_width(sparse, table, capacity)
  found = False

  def resize(path: tuple[Any, ...], leaf: Any) -> Any:
    nonlocal found
    names = _names(path)
    if names in sparse:
      return _resize_sparse(names[-1], leaf, sparse[names], list(keep))
    axis = _anchor_axis(names, table)
    # Adagrad of whole rows has one number for each row of a transform.
    if axis is None or np.ndim(leaf) <= axis:
      return leaf
    found = True
    return _resize_axis(np.asarray(leaf), axis, list(keep), capacity)

  resized = jax.tree_util.tree_map_with_path(resize, tree)
  if not found:
    raise ValueError(f"the tree has no anchors of a table {table!r}.")
  return resized


def _find_sparse(tree: PyTree, table: str) -> dict[_Names, np.ndarray]:
  """Returns, for each array of sparse rows, the anchors that it belongs to."""
  leaves = {
    _names(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)
  }
  indices = [n for n in leaves if n[-1:] == ("indices",) and table in n[:-1]]
  found = {}
  for names, leaf in leaves.items():
    if names[-1:] != ("weights",) or table not in names[:-1]:
      continue
    # Linen and optimisers keep the two in different branches: what follows the
    # name of the table is the same.
    pairs = [
      other
      for other in indices
      if _below(table, other) == _below(table, names)
      and np.shape(leaves[other]) == np.shape(leaf)
    ]
    if pairs:
      # A moving mean of a model, say, has indices of its own.
      pair = max(pairs, key=lambda other: _num_shared(other, names))
      found |= {other: np.asarray(leaves[other]) for other in pairs}
      found[names] = found[pair]
    elif _is_of_anchors(names, leaves):
      raise ValueError(
        f"the tree must hold the `indices` of the sparse rows of {table!r}, "
        "which name the anchors of the `weights`: resize parameters, codes and "
        "the state of the optimiser in one call."
      )
  return found


def _below(table: str, names: _Names) -> _Names:
  """Returns the part of a path between the name of a table and an array."""
  return names[len(names) - names[::-1].index(table) : -1]


def _num_shared(one: _Names, other: _Names) -> int:
  """Returns how many names two paths have in common at their start."""
  pairs = zip(one, other, strict=False)
  return sum(1 for _ in itertools.takewhile(lambda p: p[0] == p[1], pairs))


def _is_of_anchors(names: _Names, leaves: Mapping[_Names, Any]) -> bool:
  """Tells whether weights without indices stand beside anchors."""
  beside = {kind: leaves.get((*names[:-1], kind)) for kind in ANCHOR_AXES}
  has_anchors = beside["anchors"] is not None and beside["transform"] is None
  # Adagrad of whole rows keeps one number for each.
  return has_anchors and np.ndim(leaves[names]) == 2


def _check_keep(keep: Sequence[int], capacity: int) -> None:
  if len(set(keep)) != len(keep):
    raise ValueError(f"`keep` must not repeat an anchor, got {list(keep)}.")
  if len(keep) > capacity:
    raise ValueError(
      f"`capacity` must have room for the {len(keep)} anchors that stay, got "
      f"{capacity}."
    )


def _check_width(
  sparse: Mapping[_Names, np.ndarray], table: str, capacity: int
) -> None:
  width = max((indices.shape[-1] for indices in sparse.values()), default=0)
  if width > capacity:
    raise ValueError(
      f"`capacity` must have room for the {width} anchors of a sparse row of "
      f"{table!r}, got {capacity}."
    )


def _anchor_axis(names: _Names, table: str) -> int | None:
  # Only the last name counts: a group of parameters that shares an optimiser
  # may be called "anchors", too.
  return ANCHOR_AXES.get(names[-1]) if table in names[:-1] else None


def _names(path: tuple[Any, ...]) -> _Names:
  """Returns the names of the steps of a path, up to that of the array."""
  names = tuple(_name(key) for key in path)
  return names[:-1] if names[-1:] == ("value",) else names  # Variables of NNX.


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


def _resize_sparse(
  kind: str, leaf: Any, indices: np.ndarray, keep: list[int]
) -> np.ndarray:
  """Moves the positions of anchors, or takes the weights of others out."""
  old = np.asarray(leaf)
  stay = np.isin(indices, keep)
  if kind == "weights":
    return np.where(stay, old, np.zeros_like(old))
  places = np.zeros(max([0, *keep]) + 1, old.dtype)
  places[keep] = np.arange(len(keep), dtype=old.dtype)
  # Where no anchor stays the weight is zero, and any position will do.
  return places[np.where(stay, old, 0)]
