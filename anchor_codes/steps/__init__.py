"""Training steps whose cost is that of their batch, for any Flax NNX model.

:func:`row_sparse_train_step` makes one of a loss; :class:`RowSteps` is what it
is built on, for steps that choose their rows themselves.
"""

from anchor_codes.steps.batches import RowOptions
from anchor_codes.steps.lazy import LazyTransformation, lazy_proximal_l1
from anchor_codes.steps.row_steps import RowSteps
from anchor_codes.steps.states import (
  STATE_SPECS,
  Penalty,
  Selection,
  TrainState,
)
from anchor_codes.steps.train_step import (
  LAZY_FROM,
  RowSparseStep,
  row_sparse_train_step,
)

__all__ = [
  "LAZY_FROM",
  "STATE_SPECS",
  "LazyTransformation",
  "Penalty",
  "RowOptions",
  "RowSparseStep",
  "RowSteps",
  "Selection",
  "TrainState",
  "lazy_proximal_l1",
  "row_sparse_train_step",
]
