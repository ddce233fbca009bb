"""Anchors for given vectors: sparse coding with a learned dictionary."""

import numpy as np

from anchor_codes import tables
from anchor_codes.compression import clustering
from anchor_codes.compression.points import Points, round_array
from anchor_codes.tables import pursuit

_NUM_ROUNDS = 8


def fit_anchors(
  rng: np.random.Generator,
  points: Points,
  *,
  num_anchors: int,
  num_nonzeros: int,
  non_negative: bool = False,
) -> tables.AnchorTable:
  r"""Fits anchors, and rows that mix a few of them.

  Sparse rows by matching pursuit take turns with the anchors of the least
  squared error for them, :math:`A = (T^T T)^{-1} T^T X` (method of optimal
  directions; Engan et al., ICASSP 1999). An anchor that no row uses starts
  again at a row.

  Args:
    rng: Random numbers.
    points: What to fit.
    num_anchors: Number of anchors.
    num_nonzeros: Anchors that mix a row.
    non_negative: Whether weights must not be negative.

  Returns:
    A table of the points with int8 weights and anchors.
  """
  anchors = _unit(
    clustering.draw_centroids(rng, points, num_clusters=num_anchors)
  )
  options = {"num_nonzeros": num_nonzeros, "non_negative": non_negative}
  for _ in range(_NUM_ROUNDS):
    indices, weights = pursuit.sparse_weights(
      points.vectors, anchors, **options
    )
    anchors = _update(rng, points, indices, weights, anchors)
  rounded, scales = round_array(anchors)
  return _make_table(points.vectors, rounded, scales, **options)


def _make_table(
  vectors: np.ndarray,
  anchors: np.ndarray,
  scales: np.ndarray,
  *,
  num_nonzeros: int,
  non_negative: bool,
) -> tables.AnchorTable:
  # Weights of both signs say that both are allowed.
  weights = np.ones((1, num_nonzeros), np.int8)
  if not non_negative:
    weights[0, 0] = -1
  empty = tables.AnchorTable(
    anchors,
    anchor_scales=scales,
    weights=weights,
    weight_scales=np.ones(1, np.float16),
    indices=np.zeros((1, num_nonzeros), np.int64),
  )
  return empty._encode(vectors)


def _update(
  rng: np.random.Generator,
  points: Points,
  indices: np.ndarray,
  weights: np.ndarray,
  anchors: np.ndarray,
) -> np.ndarray:
  """Returns the anchors of the least squared error for given rows."""
  size = len(anchors)
  gram, target = np.zeros((size, size)), np.zeros(anchors.shape)
  rows = np.arange(_ROWS)[:, None]
  for start in range(0, len(indices), _ROWS):
    block = slice(start, start + _ROWS)
    transform = np.zeros((len(indices[block]), size), np.float32)
    np.add.at(
      transform, (rows[: len(transform)], indices[block]), weights[block]
    )
    weighted = transform * points.weights[block, None]
    gram += weighted.T @ transform
    target += weighted.T @ points.vectors[block]
  unused = gram.diagonal() <= 0
  gram[np.diag_indices(size)] += 1e-6 * gram.diagonal().max() + 1e-30
  found = np.linalg.solve(gram, target).astype(np.float32)
  if unused.any():
    count = int(np.count_nonzero(unused))
    found[unused] = clustering.draw_centroids(rng, points, num_clusters=count)
  return _unit(found)


_ROWS = 4096


def _unit(anchors: np.ndarray) -> np.ndarray:
  lengths = np.linalg.norm(anchors, axis=1, keepdims=True)
  return anchors / np.where(lengths > 0, lengths, 1)
