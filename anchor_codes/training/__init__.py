"""Training: gradient transformations, rows, chunks of steps, checkpoints.

Everything works on any pytree of parameters.
"""

from anchor_codes.training.anchor_controller import (
  AnchorController,
  AnchorPlan,
  AnchorRound,
  AnchorStatistics,
  MarginalController,
  TrendController,
)
from anchor_codes.training.checkpoints import Checkpointer, CheckpointError
from anchor_codes.training.chunks import (
  Chunk,
  compile_chunk,
  data_mesh,
  run_chunks,
)
from anchor_codes.training.freezing import keep_zeros
from anchor_codes.training.memory import available_memory, check_fits
from anchor_codes.training.preemption import PreemptedError, Preemption
from anchor_codes.training.processes import PeerWatch
from anchor_codes.training.proximal import proximal_l1, proximal_yogi
from anchor_codes.training.resizing import anchor_capacity, resize_anchors
from anchor_codes.training.rows import (
  UniqueIds,
  gather_rows,
  row_updates,
  scale_by_row_adagrad,
  scatter_rows,
  unique_ids,
  update_rows,
)
from anchor_codes.training.schedules import temperature_schedule
from anchor_codes.training.sharded_exchange import (
  RowExchange,
  exchange_rows,
  update_sharded_rows,
)
from anchor_codes.training.sharding import pad_rows, row_specs, unpad_rows

__all__ = [
  "AnchorController",
  "AnchorPlan",
  "AnchorRound",
  "AnchorStatistics",
  "CheckpointError",
  "Checkpointer",
  "Chunk",
  "MarginalController",
  "PeerWatch",
  "PreemptedError",
  "Preemption",
  "RowExchange",
  "TrendController",
  "UniqueIds",
  "anchor_capacity",
  "available_memory",
  "check_fits",
  "compile_chunk",
  "data_mesh",
  "exchange_rows",
  "gather_rows",
  "keep_zeros",
  "pad_rows",
  "proximal_l1",
  "proximal_yogi",
  "resize_anchors",
  "row_specs",
  "row_updates",
  "run_chunks",
  "scale_by_row_adagrad",
  "scatter_rows",
  "temperature_schedule",
  "unique_ids",
  "unpad_rows",
  "update_rows",
  "update_sharded_rows",
]
