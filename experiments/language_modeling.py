"""Trains a language model with any embedding, and measures what it costs."""

import dataclasses
import itertools
import math
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from anchor_codes import tables, training
from experiments import embeddings, language_model_trainer, reporting
from experiments.datasets import language_model as datasets
from experiments.datasets import text


@dataclasses.dataclass(kw_only=True)
class LanguageModelConfig(embeddings.EmbeddingOptions):
  """The small setting of Zaremba et al. (2014), and options of the run.

  Attributes:
    dataset: 'stdlib', 'ptb', 'wikitext-2' or 'text:PATH'.
    data_dir: Folder with one folder for each data set; the environment
      variable `ANCHOR_CODES_DATA` by default.
    max_tokens: Length of the training text, cut off there; 0 for all of it.
    hidden: Units of each LSTM layer.
    num_layers: Number of LSTM layers.
    dropout: Rate of the dropout between layers.
    init_scale: Parameters start uniform between minus and plus this.
    batch_size: Texts side by side.
    num_steps: Words that the gradient goes back.
    epochs: Passes over the training text.
    optimizer: 'sgd' or 'adam', for all but the rows of the embedding.
    learning_rate: Learning rate in the first epochs.
    constant_epochs: Epochs before the learning rate starts to fall.
    decay: Factor of the learning rate for each epoch after that.
    clip: Largest global norm of the gradient.
    num_sampled: Words drawn for a sampled softmax in training; 0 for the full
      one. Evaluation always uses the full one.
    validate_epochs: Whether each epoch ends with validation.
    chunk_steps: Steps in a compiled chunk, about.
    checkpoint_chunks: Chunks between two checkpoints; 0 for none.
    seed: Seed of all randomness.
  """

  dataset: str = "stdlib"
  data_dir: str = ""
  max_tokens: int = 0
  hidden: int = 200
  num_layers: int = 2
  dropout: float = 0.0
  init_scale: float = 0.1
  batch_size: int = 20
  num_steps: int = 20
  epochs: int = 13
  optimizer: str = "sgd"
  learning_rate: float = 1.0
  constant_epochs: int = 4
  decay: float = 0.5
  clip: float = 5.0
  num_sampled: int = 0
  validate_epochs: bool = True
  chunk_steps: int = 100
  checkpoint_chunks: int = 10
  seed: int = 0


class Run:
  """One training run: the data, the compiled steps, and what they leave.

  Args:
    config: Options of the run.
    workdir: Folder for all that the run leaves; made if need be.
    data: The text, where it is loaded already.
    mesh: Devices to train on, all by default.
  """

  def __init__(
    self,
    config: LanguageModelConfig,
    workdir: str | os.PathLike[str],
    *,
    data: text.TextDataset | None = None,
    mesh: Mesh | None = None,
  ):
    self.config = config
    self.workdir = pathlib.Path(workdir)
    self.workdir.mkdir(parents=True, exist_ok=True)
    self.data = data or datasets.load_text(
      config.dataset, data_dir=config.data_dir or None
    )
    self.batches = text.batch_tokens(
      self.data.train[: config.max_tokens or None],
      batch_size=config.batch_size,
      num_steps=config.num_steps,
    )
    size = len(self.data.vocabulary)
    steps = len(self.batches[0])
    self.bounds = chunk_bounds(steps, config.chunk_steps)
    self.trainer = language_model_trainer.Trainer(
      config, np.bincount(self.data.train, minlength=size), steps
    )
    self.chunk = training.compile_chunk(
      self.trainer.step,
      training.data_mesh() if mesh is None else mesh,
      state_specs=language_model_trainer.STATE_SPECS,
    )
    self.chunk_seconds: list[float] = []

  def train(self, *, resume: bool = False) -> language_model_trainer.TrainState:
    """Trains to the end, from the start or from the last checkpoint.

    Args:
      resume: Whether to go on from the newest checkpoint in the folder, if
        there is one.

    Returns:
      The state in the end.

    Raises:
      ValueError: If the folder holds the checkpoints of a run that is not to
        be resumed, or of one with other options.
      training.CheckpointError: If all checkpoints are damaged.
    """
    state, first, restored_step = self.trainer.init(), 0, None
    checkpointer = self._checkpointer()
    if checkpointer and checkpointer.steps():
      if not resume:
        raise ValueError(
          f"{self.workdir} holds the checkpoints of another run: go on with it "
          "by --resume, or choose another --workdir."
        )
      abstract = self.chunk.put_state(state)
      restored_step, state, metadata = checkpointer.restore(abstract)
      self._check_config(metadata["config"])
      first = metadata["next_chunk"]
    with reporting.MetricsWriter(
      self.workdir, restored_step=restored_step
    ) as writer:
      return training.run_chunks(
        self.chunk,
        self.chunk.put_state(state),
        self._chunks(first),
        callbacks=[
          lambda *event: self._finish_chunk(writer, *event),
          lambda *event: self._save(checkpointer, *event),
        ],
        first_chunk=first,
      )

  def _checkpointer(self) -> training.Checkpointer | None:
    if not self.config.checkpoint_chunks:
      return None
    return training.Checkpointer(self.workdir / "checkpoints")

  def _chunks(self, first: int) -> Iterator[Any]:
    """Yields the batches of each chunk from a given one on, with a bar."""
    inputs, targets = self.batches
    numbers = range(first, self.config.epochs * len(self.bounds))
    bar = reporting.progress(
      numbers, description=self.config.embedding, unit="chunk"
    )
    for number in bar:
      begin, end = self.bounds[number % len(self.bounds)]
      start = time.perf_counter()
      yield inputs[begin:end], targets[begin:end]
      self.chunk_seconds.append(time.perf_counter() - start)

  def _finish_chunk(self, writer, number, state, metrics):
    """Writes the loss; an epoch ends with validation and a fresh start."""
    step = int(state.step)
    loss = float(np.mean(metrics["loss"]))
    report = {"train_perplexity": math.exp(loss)}
    if (number + 1) % len(self.bounds):
      writer.write(step, report)
      return None
    if self.config.validate_epochs:
      valid = self.trainer.evaluate(state, self.data.valid)
      report["valid_perplexity"] = valid
    writer.write(step, report)
    return state._replace(
      carry=[
        tuple(np.zeros(part.shape, part.dtype) for part in layer)
        for layer in state.carry
      ]
    )

  def _save(self, checkpointer, number, state, metrics):
    del metrics
    every = self.config.checkpoint_chunks
    if checkpointer and (number + 1) % every == 0:
      metadata = {
        "config": dataclasses.asdict(self.config),
        "next_chunk": number + 1,
      }
      checkpointer.save(int(state.step), state, metadata)

  def _check_config(self, saved: dict[str, Any]) -> None:
    """Refuses to go on with other options than the run was started with."""
    given = dataclasses.asdict(self.config)
    for name in given:
      if name != "data_dir" and given[name] != saved.get(name):
        raise ValueError(
          f"`{name}` must stay {saved.get(name)!r} when a run is resumed, "
          f"got {given[name]!r}."
        )

  def finish(
    self, state: language_model_trainer.TrainState, *, seconds: float
  ) -> reporting.RunResult:
    """Measures the trained model, and writes the table and the result.

    Args:
      state: The state in the end.
      seconds: Duration of the training.

    Returns:
      The result, which is in `result.json` too.

    Raises:
      RuntimeError: If the file does not give back what was trained.
    """
    model = self.trainer.model_of(state)
    model.embed.eval()
    embeddings.round_layer(model.embed, self.config)
    state = self.trainer.replace_model(state, model)
    layer = model.embed
    table = embeddings.stored_table(layer, self.config)
    if self.config.embedding != "full":
      path = self.workdir / "embedding.safetensors"
      dataclasses.replace(table, vocabulary=self.data.vocabulary).save(path)
      check_file(path, layer)
    evaluate = self.trainer.evaluate
    result = reporting.RunResult(
      experiment="train_language_model",
      dataset=self.config.dataset,
      embedding=self.config.embedding,
      seed=self.config.seed,
      metrics={
        "test_perplexity": evaluate(state, self.data.test),
        "valid_perplexity": evaluate(state, self.data.valid),
      },
      embedding_params=table.num_params,
      embedding_bytes=table.nbytes,
      dense_bytes=table.dense_bytes,
      training_bytes=self.trainer.embedding_training_bytes(state),
      num_anchors=getattr(table, "num_anchors", 0),
      seconds=seconds,
      seconds_per_epoch=self.seconds_per_epoch(),
      config=dataclasses.asdict(self.config),
    )
    reporting.write_result(result, self.workdir)
    return result

  def seconds_per_epoch(self) -> float:
    """Returns the duration of an epoch, without compilation and evaluation."""
    if not self.chunk_seconds:
      return 0.0
    return float(np.median(self.chunk_seconds)) * len(self.bounds)


def train_and_evaluate(
  config: LanguageModelConfig,
  workdir: str | os.PathLike[str],
  *,
  resume: bool = False,
  data: text.TextDataset | None = None,
  mesh: Mesh | None = None,
) -> reporting.RunResult:
  """Trains a language model and leaves its results in a folder.

  Args:
    config: Options of the run.
    workdir: Folder for the results, checkpoints and the table.
    resume: Whether to go on from the newest checkpoint in the folder.
    data: The text, where it is loaded already.
    mesh: Devices to train on, all by default.

  Returns:
    The result.

  Raises:
    ValueError: If an option is outside its range.
    FileNotFoundError: If the data are not there.
  """
  begin = time.perf_counter()
  run = Run(config, workdir, data=data, mesh=mesh)
  state = run.train(resume=resume)
  return run.finish(state, seconds=time.perf_counter() - begin)


def chunk_bounds(num_steps: int, target: int) -> list[tuple[int, int]]:
  """Cuts an epoch into chunks of about `target` steps, equal if that can be.

  A chunk of another length is compiled again, so that a divisor of the number
  of steps between half and twice the target is taken where there is one.

  Args:
    num_steps: Steps of an epoch.
    target: Steps of a chunk, about.

  Returns:
    The first step of each chunk, and the one after its last.

  >>> chunk_bounds(12, 5)
  [(0, 6), (6, 12)]
  >>> chunk_bounds(13, 5)
  [(0, 4), (4, 8), (8, 13)]
  """
  lengths = range(max(target // 2, 1), min(2 * target, num_steps) + 1)
  divisors = [length for length in lengths if num_steps % length == 0]
  if divisors:
    length = min(divisors, key=lambda length: abs(length - target))
    number = num_steps // length
  else:
    number = max(round(num_steps / target), 1)
  edges = [part * num_steps // number for part in range(number + 1)]
  return list(itertools.pairwise(edges))


def check_file(path: pathlib.Path, layer: Any) -> None:
  """Checks that NumPy reads from a file what the layer has learned.

  Args:
    path: The artefact.
    layer: The layer it was made from.

  Raises:
    RuntimeError: If a vector differs by more than 1e-5, or a code at all.
  """
  table = tables.load(path)
  ids = np.arange(table.num_embeddings)
  difference = float(np.abs(table.lookup(ids) - np.asarray(layer(ids))).max())
  if not difference <= 1e-5:
    raise RuntimeError(
      f"{path}: a vector differs from the layer's by {difference}."
    )
  if isinstance(table, tables.CodeTable) and not np.array_equal(
    table.codes, np.asarray(layer.codes())
  ):
    raise RuntimeError(f"{path}: codes differ from those of the layer.")
