"""Finds sparse rows: mixtures of a few anchors near some vectors."""

import numpy as np

_BLOCK = 256
_NUM_SWEEPS = 30  # Of coordinate descent, for weights that are not negative.


def sparse_weights(
  vectors: np.ndarray,
  anchors: np.ndarray,
  *,
  num_nonzeros: int,
  non_negative: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  r"""Finds mixtures of a few anchors near some vectors.

  Orthogonal matching pursuit (Pati et al., 1993): the anchor of the largest
  correlation with the rest joins, the weights of all that have joined are
  those of the least squared error, from their normal equations (Rubinstein et
  al., "Batch Orthogonal Matching Pursuit", 2008).

  Args:
    vectors: float32 [size, features].
    anchors: float32 [num_anchors, features].
    num_nonzeros: Anchors for each row; never more than there are.
    non_negative: Whether weights must not be negative: anchors of negative
      correlation do not join then.

  Returns:
    Indices int64 and weights float32 [size, num_nonzeros]. A slot that is not
    needed has the weight 0.

  >>> anchors = np.float32([[1, 0], [1, 1], [0, 1]])
  >>> indices, weights = sparse_weights(
  ...     np.float32([[0, 3], [5, 4]]), anchors, num_nonzeros=2
  ... )
  >>> print((weights[..., None] * anchors[indices]).sum(axis=1).round(4))
  [[0. 3.]
   [5. 4.]]
  """
  num_slots = min(num_nonzeros, len(anchors))
  gram = anchors @ anchors.T
  indices = np.zeros((len(vectors), num_nonzeros), np.int64)
  weights = np.zeros((len(vectors), num_nonzeros), np.float32)
  for start in range(0, len(vectors), _BLOCK):
    block = slice(start, start + _BLOCK)
    products = vectors[block] @ anchors.T
    found = _pursue(products, gram, num_slots, non_negative)
    indices[block, :num_slots], weights[block, :num_slots] = found
  return indices, weights


def _pursue(
  products: np.ndarray, gram: np.ndarray, num_slots: int, non_negative: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Finds weights from the products of vectors and anchors alone."""
  size, row = len(products), np.arange(len(products))
  lengths = np.sqrt(np.maximum(gram.diagonal(), np.finfo(np.float32).tiny))
  used = np.zeros(products.shape, bool)
  indices = np.zeros((size, num_slots), np.int64)
  weights = np.zeros((size, 0), np.float32)
  rest = products
  for slot in range(num_slots):
    gains = rest / lengths
    gains = np.where(used, -np.inf, gains if non_negative else np.abs(gains))
    best = gains.argmax(axis=1)
    indices[:, slot], used[row, best] = best, True
    chosen = indices[:, : slot + 1]
    targets = products[row[:, None], chosen]
    systems = gram[chosen[:, :, None], chosen[:, None, :]]
    solve = _non_negative_solution if non_negative else _solution
    weights = solve(systems, targets)
    rest = products.copy()
    for i in range(slot + 1):
      rest -= weights[:, i, None] * gram[chosen[:, i]]
  return indices, weights


def _solution(systems: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """Solves normal equations, also of anchors that depend on each other."""
  systems = systems.astype(np.float64)
  diagonal = np.einsum("nii->ni", systems)  # A view.
  # An anchor that the others can mix has nothing to add, and none to take.
  diagonal += 1e-6 * diagonal.max(axis=1, keepdims=True) + 1e-30
  solved = np.linalg.solve(systems, targets[..., None].astype(np.float64))
  return solved[..., 0].astype(np.float32)


def _non_negative_solution(
  systems: np.ndarray, targets: np.ndarray
) -> np.ndarray:
  """Approaches the best weights of at least 0, one weight after another."""
  weights = np.zeros(targets.shape, np.float32)
  diagonal = np.maximum(np.einsum("nii->ni", systems), 1e-30)
  for _ in range(_NUM_SWEEPS):
    for i in range(targets.shape[1]):
      products = np.einsum("nj,nj->n", systems[:, i], weights)
      step = (targets[:, i] - products) / diagonal[:, i]
      weights[:, i] = np.maximum(weights[:, i] + step, 0)
  return weights
