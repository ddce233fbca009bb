"""Trains a language model with any embedding, and measures what it costs."""

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from anchor_codes import steps, typing
from experiments import (
  embeddings,
  knowledge,
  language_model_trainer,
  reporting,
  stored_tables,
  training_run,
)
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
    tied: Whether the output layer shares its rows with the embedding; needs
      `features` equal to `hidden`, and the full softmax.
    num_sampled: Words drawn for a sampled softmax in training; 0 for the full
      one. Evaluation always uses the full one.
    lazy_from: An embedding with more rows than this, for each word of a batch,
      is updated by row; a smaller one as a whole. By row always by default.
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
  tied: bool = False
  num_sampled: int = 0
  lazy_from: float = 0.0
  validate_epochs: bool = True
  chunk_steps: int = 100
  checkpoint_chunks: int = 10
  seed: int = 0


SETTINGS: dict[str, dict[str, Any]] = {
  "small": {},
  "medium": {
    "features": 650,
    "hidden": 650,
    "num_steps": 35,
    "dropout": 0.5,
    "init_scale": 0.05,
    "start_scale": 0.029,
    "epochs": 39,
    "constant_epochs": 6,
    "decay": 0.8,
  },
  "large": {
    "features": 1500,
    "hidden": 1500,
    "num_steps": 35,
    "dropout": 0.65,
    "init_scale": 0.04,
    "start_scale": 0.023,
    "epochs": 55,
    "constant_epochs": 14,
    "decay": 1 / 1.15,
    "clip": 10.0,
  },
}
"""What the settings of Zaremba et al. (2014) change. Embeddings start with the
standard deviation of their uniform distribution."""


def apply_setting(
  config: LanguageModelConfig, setting: str, *, given: Collection[str] = ()
) -> LanguageModelConfig:
  """Returns the options of one of the settings of Zaremba et al. (2014).

  Args:
    config: Options, with the defaults of 'small'.
    setting: One of `SETTINGS`.
    given: Names of the options that stay as they are.

  Returns:
    The options of the setting, save those that were given.

  Raises:
    ValueError: If the setting is unknown.

  >>> apply_setting(LanguageModelConfig(), "medium", given=["epochs"]).epochs
  13
  """
  typing.check_choice("setting", setting, tuple(SETTINGS))
  changes = SETTINGS[setting]
  kept = {name: changes[name] for name in changes if name not in given}
  return dataclasses.replace(config, **kept)


class Run(training_run.TrainingRun):
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
    self.data = data or datasets.load_text(
      config.dataset, data_dir=config.data_dir or None
    )
    self.inputs, self.targets = text.batch_tokens(
      self.data.train[: config.max_tokens or None],
      batch_size=config.batch_size,
      num_steps=config.num_steps,
    )
    size, steps = len(self.data.vocabulary), len(self.inputs)
    counts = np.bincount(self.data.train, minlength=size)
    self.counts = {"embed": counts}
    known = knowledge.load_knowledge(
      config,
      counts,
      vocabulary=self.data.vocabulary,
      data_dir=config.data_dir,
      tokens=self.data.train,
      sequences=self.data.train[: config.max_tokens or None],
      special_ids=special_ids(self.data.vocabulary),
    )
    trainer = language_model_trainer.Trainer(config, counts, steps, known)
    super().__init__(
      config,
      pathlib.Path(workdir),
      trainer,
      steps_per_epoch=steps,
      mesh=mesh,
    )
    self.evaluate = trainer.evaluate

  def batches(self, epoch: int, begin: int, end: int) -> Any:
    """Returns the next part of the text, the same in every epoch."""
    del epoch
    return self.inputs[begin:end], self.targets[begin:end]

  def report(self, loss: float) -> dict[str, float]:
    """Returns the perplexity of the training text."""
    return {"train_perplexity": math.exp(loss)}

  def end_epoch(
    self, epoch: int, state: steps.TrainState
  ) -> tuple[steps.TrainState, dict[str, float]]:
    """Validates, and makes the text start anew."""
    del epoch
    report = {}
    if self.config.validate_epochs:
      report["valid_perplexity"] = self.evaluate(state, self.data.valid)
    carry = [
      tuple(np.zeros(part.shape, part.dtype) for part in layer)
      for layer in state.carry
    ]
    return state._replace(carry=carry), report

  def finish(
    self, state: steps.TrainState, *, seconds: float
  ) -> reporting.RunResult:
    """Measures the trained model, and writes the table and the result."""
    model = self.trainer.model_of(state)
    table = stored_tables.store_embedding(
      model.embed,
      self.config,
      self.workdir / "embedding.safetensors",
      vocabulary=self.data.vocabulary,
    )
    state = self.trainer.replace_model(state, model)
    metrics = {
      "test_perplexity": self.evaluate(state, self.data.test),
      "valid_perplexity": self.evaluate(state, self.data.valid),
    }
    return self.write_result(
      "train_language_model", state, [table], metrics, seconds=seconds
    )


def special_ids(vocabulary: Sequence[str]) -> list[int]:
  """Returns the ids that stand for no word: they are not exchanged.

  >>> special_ids(["a", text.UNKNOWN, "b"])
  [1]
  """
  marks = (text.END_OF_LINE, text.UNKNOWN)
  return [i for i, word in enumerate(vocabulary) if word in marks]


train_and_evaluate = functools.partial(
  training_run.train_and_evaluate, run_type=Run
)
"""Trains a language model and leaves its results in a folder."""
