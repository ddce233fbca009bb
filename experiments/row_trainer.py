"""Training by row in the experiments: steps, and the model they start from."""

import abc
from collections.abc import Mapping
from typing import Any

from anchor_codes import steps


class RowTrainer(steps.RowSteps):
  """Training of one model; subclasses say what it is and what it minimises.

  Args:
    ids_per_step: How many ids a step looks up in each embedding whose cost
      :meth:`embedding_training_bytes` counts, by attribute.
    **options: Those of :class:`~anchor_codes.steps.RowSteps`.
  """

  def __init__(self, *, ids_per_step: Mapping[str, int], **options: Any):
    super().__init__(**options)
    self.ids_per_step = ids_per_step

  @abc.abstractmethod
  def make_model(self) -> Any:
    """Returns the model at the start of training."""

  def prepare(self, state: steps.TrainState, batches: Any) -> Any:
    """Returns the batches of a chunk as its steps get them.

    Args:
      state: The state before the first step.
      batches: What the chunk is given, [steps, batch, ...].
    """
    del state
    return batches

  def init(self) -> steps.TrainState:
    """Returns the state at the start of training."""
    return self.state_of(self.make_model())

  def embedding_training_bytes(self, state: steps.TrainState) -> int:
    """Returns the bytes that training the embeddings takes.

    Parameters, optimiser state, and the gradient that a step materialises:
    that of the rows of a batch, where they are updated by row.
    """
    return self.table_training_bytes(state, self.ids_per_step)
