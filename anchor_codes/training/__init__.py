"""Training: gradient transformations, rows, chunks of steps, checkpoints.

Everything works on any pytree of parameters.
"""

from anchor_codes.training.checkpoints import Checkpointer, CheckpointError
from anchor_codes.training.chunks import (
  Chunk,
  compile_chunk,
  data_mesh,
  run_chunks,
)
from anchor_codes.training.proximal import proximal_l1, proximal_yogi
from anchor_codes.training.rows import (
  UniqueIds,
  gather_rows,
  row_updates,
  scale_by_row_adagrad,
  scatter_rows,
  unique_ids,
  update_rows,
)

__all__ = [
  "CheckpointError",
  "Checkpointer",
  "Chunk",
  "UniqueIds",
  "compile_chunk",
  "data_mesh",
  "gather_rows",
  "proximal_l1",
  "proximal_yogi",
  "row_updates",
  "run_chunks",
  "scale_by_row_adagrad",
  "scatter_rows",
  "unique_ids",
  "update_rows",
]
