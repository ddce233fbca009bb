"""Runs that keep the epoch that validation likes best."""

import abc
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from anchor_codes import steps
from experiments import training_run


class BestEpochRun(training_run.TrainingRun):
  """A run whose model in the end is the one with the best validation score.

  The arguments are those of :class:`training_run.TrainingRun`; the options have
  `patience` too: the run ends after so many epochs in a row without a better
  score, 0 for never.

  Attributes:
    best_score: The best score so far, minus infinity before the first.
    best_epoch: The epoch it was measured after, counted from 0; -1 before.
  """

  best_score: float = -np.inf
  best_epoch: int = -1
  # On the host, where it does not take memory from the training.
  _best: Any = None

  def __init__(self, config: Any, *args: Any, **given: Any):
    check_patience(
      config.patience, eval_epochs=getattr(config, "eval_epochs", 1)
    )
    super().__init__(config, *args, **given)

  @abc.abstractmethod
  def validate(self, state: steps.TrainState) -> tuple[float, dict[str, float]]:
    """Returns the score of a state, more is better, and its metrics."""

  def end_epoch(
    self, epoch: int, state: steps.TrainState
  ) -> tuple[None, dict[str, float]]:
    """Validates, and keeps the model if it is better than all before."""
    score, metrics = self.validate(state)
    if score > self.best_score:
      self.best_score, self.best_epoch = score, epoch
      self._best = _parameters(state)
    return None, metrics

  def is_over(self, epoch: int) -> bool:
    """Tells whether the best score is too long ago."""
    waited = epoch - 1 - self.best_epoch
    return bool(self.config.patience) and waited >= self.config.patience

  def forget_best(self) -> None:
    """Starts over: what was best so far is no candidate any more."""
    self.best_score, self.best_epoch, self._best = -np.inf, -1, None

  def best_of(self, state: steps.TrainState) -> steps.TrainState:
    """Returns a state with the parameters that scored best."""
    if self._best is None:
      return state
    rows, params, stats = jax.tree.map(jnp.asarray, self._best)
    return state._replace(rows=rows, params=params, stats=stats)

  def to_checkpoint(
    self, state: steps.TrainState
  ) -> tuple[Any, dict[str, Any]]:
    """Adds the best parameters, which a resumed run may not find again."""
    best = _parameters(state) if self._best is None else self._best
    metadata: dict[str, Any] = {"best_epoch": self.best_epoch}
    if self._best is not None:
      metadata["best_score"] = self.best_score
    return {"state": state, "best": best}, metadata

  def from_checkpoint(
    self, arrays: Any, metadata: dict[str, Any]
  ) -> steps.TrainState:
    """Takes the best parameters back."""
    self.best_epoch = metadata["best_epoch"]
    if "best_score" in metadata:
      self.best_score, self._best = metadata["best_score"], arrays["best"]
    return arrays["state"]


def _parameters(state: steps.TrainState) -> Any:
  # Copies: the buffers of the state are donated to the next chunk.
  return jax.tree.map(np.array, (state.rows, state.params, state.stats))


def check_patience(patience: int, *, eval_epochs: int = 1) -> None:
  """Raises `ValueError` if a run would end before it is validated.

  Args:
    patience: Epochs without a better score before a run ends, 0 for any.
    eval_epochs: Epochs between two validations.

  >>> check_patience(2, eval_epochs=5)
  Traceback (most recent call last):
  ...
  ValueError: `patience` must be at least `eval_epochs`, or 0, got 2 and 5.
  """
  if not patience >= 0:
    raise ValueError(f"`patience` must be non-negative, got {patience}.")
  if 0 < patience < eval_epochs:
    raise ValueError(
      "`patience` must be at least `eval_epochs`, or 0, got "
      f"{patience} and {eval_epochs}."
    )
