"""What all training runs share: chunks, checkpoints, and what they leave."""

import abc
import dataclasses
import functools
import os
import pathlib
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from anchor_codes import steps, tables, training, typing
from experiments import (
  chunking,
  code_embeddings,
  embeddings,
  reporting,
  resuming,
  row_trainer,
  stored_tables,
)
from experiments.datasets import fingerprints
from experiments.reporting import histograms


class TrainingRun(abc.ABC):
  """One training run; subclasses bring the batches and the measurements.

  Args:
    config: Options of the run: a dataclass with `dataset`, `embedding`,
      `epochs`, `chunk_steps`, `checkpoint_chunks`, `seed` and `data_dir`.
    workdir: Folder for all that the run leaves; made if need be.
    trainer: The steps.
    steps_per_epoch: Number of steps of an epoch.
    mesh: Devices to train on, all by default.
  """

  counts: Mapping[str, np.ndarray] = types.MappingProxyType({})
  """How often symbols occur, by embedding; alike where nothing is said."""
  data: Any = None
  """What is learned: a resumed run has to find the same again."""

  def __init__(
    self,
    config: Any,
    workdir: pathlib.Path,
    trainer: row_trainer.RowTrainer,
    *,
    steps_per_epoch: int,
    mesh: Mesh | None = None,
  ):
    typing.check_at_least("epochs", config.epochs, 1)
    typing.check_at_least("seed", config.seed, 0)
    workdir.mkdir(parents=True, exist_ok=True)
    self.config = config
    self.workdir = workdir
    self.mesh = training.data_mesh() if mesh is None else mesh
    self.bounds = chunking.chunk_bounds(steps_per_epoch, config.chunk_steps)
    self.use_trainer(trainer)
    self.cares = {
      name: code_embeddings.CodeCare(options)
      for name, options in self.embedding_options().items()
      if options.embedding in code_embeddings.CodeCare.KINDS
    }
    self._chunk_start = 0.0
    self.chunk_seconds: list[float] = []

  @functools.cached_property
  def fingerprint(self) -> str:
    """A digest of the data."""
    return fingerprints.fingerprint(self.data)

  def use_trainer(self, trainer: row_trainer.RowTrainer) -> None:
    """Takes the steps of a trainer from now on."""
    self.trainer = trainer
    self.chunk = training.compile_chunk(
      trainer.step,
      self.mesh,
      prepare=trainer.prepare,
      state_specs=steps.STATE_SPECS,
    )

  @abc.abstractmethod
  def batches(self, epoch: int, begin: int, end: int) -> Any:
    """Returns the batches of some steps of an epoch, [steps, batch, ...]."""

  @abc.abstractmethod
  def report(self, loss: float) -> dict[str, float]:
    """Returns the metrics of a chunk by name, from its mean loss."""

  @abc.abstractmethod
  def end_epoch(
    self, epoch: int, state: steps.TrainState
  ) -> tuple[steps.TrainState | None, dict[str, float]]:
    """Returns a state to go on with, None for the same, and more metrics."""

  @abc.abstractmethod
  def finish(
    self, state: steps.TrainState, *, seconds: float
  ) -> reporting.RunResult:
    """Measures what was trained, and writes the tables and the result.

    Args:
      state: The state in the end.
      seconds: Duration of the training.

    Returns:
      The result, which is in `result.json` too.

    Raises:
      RuntimeError: If a file does not give back what was trained.
    """

  def embedding_options(self) -> dict[str, embeddings.EmbeddingOptions]:
    """Returns the options of each embedding by its attribute of the model."""
    return {"embed": self.config}

  def max_epochs(self) -> int:
    """Returns after how many epochs the run ends at the latest."""
    return self.config.epochs

  def is_over(self, epoch: int) -> bool:
    """Tells whether a run stops early, before an epoch."""
    del epoch
    return False

  def to_checkpoint(
    self, state: steps.TrainState
  ) -> tuple[Any, dict[str, Any]]:
    """Returns the arrays of a checkpoint, and what else to remember."""
    return state, {}

  def from_checkpoint(
    self, arrays: Any, metadata: dict[str, Any]
  ) -> steps.TrainState:
    """Takes back what :meth:`to_checkpoint` has given; returns the state."""
    del metadata
    return arrays

  def example(self, metadata: dict[str, Any]) -> Any:
    """Returns arrays like those of a checkpoint, for their shapes."""
    del metadata
    return self.to_checkpoint(self.put_state(self.trainer.init()))[0]

  def put_state(self, state: Any) -> Any:
    """Puts a state on the devices."""
    return self.chunk.put_state(state)

  def __call__(self, state: Any, batches: Any) -> tuple[Any, Any]:
    """Takes the steps of a chunk; callbacks may have replaced `self.chunk`."""
    return self.chunk(state, batches)

  def train(self, *, resume: bool = False) -> steps.TrainState:
    """Trains to the end, from the start or from the last checkpoint.

    Args:
      resume: Whether to go on from the newest checkpoint in the folder, if
        there is one.

    Returns:
      The state in the end.

    Raises:
      ValueError: If the folder holds the checkpoints of a run that is not to
        be resumed, or of one with other options or other data, or the result
        of a run that left no checkpoints.
      training.CheckpointError: If all checkpoints are damaged.
      training.PreemptedError: If the process is sent SIGTERM, after the chunk
        that it is in; the state is saved if checkpoints are written.
    """
    state, first, restored_step = self.trainer.init(), 0, None
    checkpointer = self._checkpointer()
    saved = checkpointer is not None and bool(checkpointer.steps())
    if not (resume and saved):
      resuming.check_new(self.workdir, has_checkpoints=saved)
    if checkpointer and saved:
      restored_step, arrays, metadata = checkpointer.restore(self._example)
      resuming.check_same(
        self.workdir,
        metadata,
        config=self.config,
        fingerprint=self.fingerprint,
      )
      first = metadata["next_chunk"]
      for name, codes in arrays["codes"].items():
        self.cares[name].history.codes = np.asarray(codes)
      state = self.from_checkpoint(arrays["run"], metadata)
    with (
      training.PeerWatch(),
      training.Preemption() as preemption,
      reporting.MetricsWriter(
        self.workdir, restored_step=restored_step
      ) as writer,
    ):
      return training.run_chunks(
        self,
        self.put_state(state),
        self._chunks(first),
        callbacks=[
          lambda *event: self._finish_chunk(writer, *event),
          lambda *event: self._save(checkpointer, preemption, *event),
        ],
        first_chunk=first,
      )

  def seconds_per_epoch(self) -> float:
    """Returns the duration of an epoch, without compilation and evaluation."""
    if not self.chunk_seconds:
      return 0.0
    return float(np.median(self.chunk_seconds)) * len(self.bounds)

  def write_result(
    self,
    experiment: str,
    state: steps.TrainState,
    artefacts: Sequence[tables.Table],
    metrics: Mapping[str, float],
    *,
    seconds: float,
  ) -> reporting.RunResult:
    """Writes `result.json`.

    Args:
      experiment: Name of the binary.
      state: The state in the end.
      artefacts: The table of each embedding; their sizes are added up.
      metrics: What was measured, by name.
      seconds: Duration of the run.

    Returns:
      The record.
    """
    by_name = dict(zip(self.embedding_options(), artefacts, strict=True))
    result = reporting.RunResult(
      experiment=experiment,
      dataset=self.config.dataset,
      embedding=self.config.embedding,
      seed=self.config.seed,
      metrics={**metrics, **code_embeddings.code_metrics(by_name)},
      embedding_params=sum(table.num_params for table in artefacts),
      embedding_bytes=sum(table.nbytes for table in artefacts),
      dense_bytes=sum(table.dense_bytes for table in artefacts),
      training_bytes=self.trainer.embedding_training_bytes(state),
      num_anchors=sum(getattr(table, "num_anchors", 0) for table in artefacts),
      seconds=seconds,
      seconds_per_epoch=self.seconds_per_epoch(),
      config=dataclasses.asdict(self.config),
    )
    reporting.write_result(result, self.workdir)
    return result

  def _checkpointer(self) -> training.Checkpointer | None:
    if not self.config.checkpoint_chunks:
      return None
    return training.Checkpointer(self.workdir / "checkpoints")

  def _chunks(self, first: int) -> Iterator[Any]:
    """Yields the batches of each chunk from a given one on, with a bar."""
    numbers = range(first, self.max_epochs() * len(self.bounds))
    bar = reporting.progress(
      numbers, description=self.config.embedding, unit="chunk"
    )
    for number in bar:
      epoch, part = divmod(number, len(self.bounds))
      if part == 0 and self.is_over(epoch):
        return
      batches = self.batches(epoch, *self.bounds[part])
      self._chunk_start = time.perf_counter()
      yield batches

  def _finish_chunk(
    self,
    writer: reporting.MetricsWriter,
    number: int,
    state: steps.TrainState,
    metrics: Mapping[str, np.ndarray],
  ) -> steps.TrainState | None:
    """Writes the metrics; the last chunk of an epoch ends it."""
    self.chunk_seconds.append(time.perf_counter() - self._chunk_start)
    report, new_state = self.report(float(np.mean(metrics["loss"]))), None
    epoch, part = divmod(number, len(self.bounds))
    ends_epoch = part + 1 == len(self.bounds)
    if ends_epoch:
      new_state, measured = self.end_epoch(epoch, state)
      report |= measured
    if any(ends_epoch or care.is_due(number) for care in self.cares.values()):
      new_state, measured = self._care_for_codes(
        number, state if new_state is None else new_state, ends_epoch=ends_epoch
      )
      report |= measured
    writer.write(int(state.step), report)
    if ends_epoch and jax.process_count() == 1:
      layers = self._layers(state if new_state is None else new_state)
      histograms.write_histograms(writer, int(state.step), layers)
    return new_state

  def _layers(self, state: steps.TrainState) -> dict[str, Any]:
    """Returns the layer of each embedding."""
    model = self.trainer.model_of(state)
    return {name: getattr(model, name) for name in self.embedding_options()}

  def _care_for_codes(
    self, number: int, state: steps.TrainState, *, ends_epoch: bool
  ) -> tuple[steps.TrainState, dict[str, float]]:
    """Measures the codes of all embeddings after an epoch; may change them."""
    model, epoch = self.trainer.model_of(state), number // len(self.bounds)
    metrics = code_embeddings.care_for(
      self.cares,
      model,
      jax.random.fold_in(jax.random.key(self.config.seed), number),
      chunk=number,
      epoch=epoch if ends_epoch else None,
      is_last=ends_epoch and epoch + 1 == self.max_epochs(),
      counts=self.counts,
    )
    if any(care.changes_layers for care in self.cares.values()):
      state = self.trainer.replace_model(state, model)
    return state, metrics

  def _save(
    self,
    checkpointer: training.Checkpointer | None,
    preemption: training.Preemption,
    number: int,
    state: steps.TrainState,
    metrics: Any,
  ) -> None:
    """Writes a checkpoint if one is due, or the run is to stop."""
    del metrics
    stops, every = preemption.requested(), self.config.checkpoint_chunks
    if checkpointer and (stops or (number + 1) % every == 0):
      arrays, more = self.to_checkpoint(state)
      # The codes of the last epoch, with which the next one is compared.
      codes = {name: care.history.codes for name, care in self.cares.items()}
      codes = {name: c for name, c in codes.items() if c is not None}
      metadata = {
        "config": dataclasses.asdict(self.config),
        "data": self.fingerprint,
        "next_chunk": number + 1,
        "codes": {name: [c.shape, c.dtype.name] for name, c in codes.items()},
      }
      arrays = {"run": arrays, "codes": codes}
      checkpointer.save(int(state.step), arrays, metadata | more)
    if stops:
      what = "saved; go on with --resume" if checkpointer else "not saved"
      preemption.stop(f"Stopped by SIGTERM after step {state.step}, {what}.")

  def _example(self, metadata: dict[str, Any]) -> Any:
    """Returns arrays like those of a whole checkpoint."""
    codes = {name: np.zeros(*form) for name, form in metadata["codes"].items()}
    return {"run": self.example(metadata), "codes": codes}


def train_and_evaluate(
  config: Any,
  workdir: str | os.PathLike[str],
  *,
  run_type: Callable[..., TrainingRun],
  resume: bool = False,
  **given: Any,
) -> reporting.RunResult:
  """Trains from the start to the end, and leaves the results in a folder.

  Args:
    config: Options of the run.
    workdir: Folder for the results, checkpoints and the tables.
    run_type: What makes the run.
    resume: Whether to go on from the newest checkpoint in the folder.
    **given: For the run: `data`, where they are loaded already, and the `mesh`
      of devices to train on, all by default.

  Returns:
    The result.

  Raises:
    ValueError: If an option is outside its range, or the data are not as they
      must be.
    FileNotFoundError: If the data are not there.
  """
  begin = time.perf_counter()
  run = run_type(config, workdir, **given)
  state = run.train(resume=resume)
  result = run.finish(state, seconds=time.perf_counter() - begin)
  stored_tables.write_page(workdir)
  return result
