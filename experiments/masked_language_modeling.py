"""Pre-trains a text's transformer on the texts of a task (Devlin et al., 2019).

What it leaves, a classifier starts from; see :mod:`experiments.pretrained`.
"""

import dataclasses
import functools
import math
import os
import pathlib

import numpy as np
from jax.sharding import Mesh

from anchor_codes import steps, typing
from experiments import (
  best_epoch,
  knowledge,
  masked_language_trainer,
  pretrained,
  reporting,
  stored_tables,
  training_run,
  transformer_options,
)
from experiments.datasets import classification as datasets
from experiments.datasets import classification_words as words
from experiments.datasets import tokenizers


@dataclasses.dataclass(kw_only=True)
class MaskedLanguageConfig(transformer_options.TransformerOptions):
  """Options of a run of the pre-training.

  Attributes:
    max_pieces: Pieces of `max_length` that a text is cut into at most; 0 for
      all of it.
    mask_rate: Probability that a symbol is to be predicted.
    num_sampled: Symbols drawn for a sampled softmax in training; 0 for the full
      one. Validation always uses the full one.
    batch_size: Pieces of texts in a batch.
    epochs: Passes over the training texts.
    patience: Epochs without a better validation loss before the training ends,
      0 for any.
    optimizer: 'sgd' or 'adam', for all but the rows of the embedding.
    learning_rate: Learning rate of the model.
    chunk_steps: Steps in a compiled chunk, about.
    checkpoint_chunks: Chunks between two checkpoints; 0 for none.
    seed: Seed of all randomness.
  """

  max_pieces: int = 1
  mask_rate: float = 0.15
  num_sampled: int = 0
  batch_size: int = 64
  epochs: int = 20
  patience: int = 0
  optimizer: str = "adam"
  learning_rate: float = 1e-3
  chunk_steps: int = 50
  checkpoint_chunks: int = 10
  seed: int = 0


class Run(best_epoch.BestEpochRun):
  """One training run: the data, the compiled steps, and what they leave.

  Only the training texts are learned from, and the validation texts choose the
  epoch; the test texts are not even read.

  Args:
    config: Options of the run.
    workdir: Folder for all that the run leaves; made if need be.
    data: The texts, where they are loaded already.
    mesh: Devices to train on, all by default.
  """

  trainer: masked_language_trainer.Trainer

  def __init__(
    self,
    config: MaskedLanguageConfig,
    workdir: str | os.PathLike[str],
    *,
    data: datasets.ClassificationDataset | None = None,
    mesh: Mesh | None = None,
  ):
    typing.check_at_least("batch_size", config.batch_size, 1)
    given = None
    if config.pretrained:
      given = pretrained.load_pretrained(config.pretrained)
      config = given.follow(config)
    data = data or datasets.load_classification(
      config.dataset, data_dir=config.data_dir or None
    )
    self.data = data
    self.tokenizer = (
      given.tokenizer
      if given
      else transformer_options.train_tokenizer(config, data.train.texts)
    )
    self.train_tokens, self.valid_tokens = (
      tokenizers.encode_texts(
        self.tokenizer,
        split.texts,
        max_length=config.max_length,
        max_pieces=config.max_pieces,
      )
      for split in (data.train, data.valid)
    )
    steps = -(-len(self.train_tokens) // config.batch_size)
    trainer = masked_language_trainer.Trainer(
      config,
      known=self._load_knowledge(config),
      tokenizer=self.tokenizer,
      max_length=self.train_tokens.shape[1],
      num_steps=steps * config.epochs,
      given=given,
    )
    super().__init__(
      config, pathlib.Path(workdir), trainer, steps_per_epoch=steps, mesh=mesh
    )

  def _load_knowledge(
    self, config: MaskedLanguageConfig
  ) -> knowledge.Knowledge:
    """Returns what is known of the symbols."""
    vocabulary = self.tokenizer.vocabulary
    counts = np.bincount(self.train_tokens.ravel(), minlength=len(vocabulary))
    counts[words.PADDING_ID] = 0
    return knowledge.load_knowledge(
      config,
      counts,
      vocabulary=vocabulary,
      data_dir=config.data_dir,
      sequences=self.train_tokens,
      special_ids=self.tokenizer.special_ids,
    )

  def batches(self, epoch: int, begin: int, end: int) -> np.ndarray:
    """Returns batches of texts in an order that each epoch has for itself."""
    size = self.config.batch_size
    rng = np.random.default_rng([self.config.seed, epoch])
    order = rng.permutation(len(self.train_tokens))
    chosen = np.resize(order, self.bounds[-1][1] * size).reshape(-1, size)
    return self.train_tokens[chosen[begin:end]]

  def report(self, loss: float) -> dict[str, float]:
    """Returns the mean negative log likelihood of what was hidden."""
    return {"train_loss": loss}

  def validate(self, state: steps.TrainState) -> tuple[float, dict[str, float]]:
    """Returns the log likelihood of what is hidden of the validation texts."""
    found = self.trainer.evaluate(state, self.valid_tokens)
    metrics = {
      "valid_perplexity": math.exp(found.nll),
      "valid_accuracy": found.accuracy,
    }
    return -found.nll, metrics

  def finish(
    self, state: steps.TrainState, *, seconds: float
  ) -> reporting.RunResult:
    """Writes all weights of the best model, its table, and the result."""
    model = self.trainer.model_of(self.best_of(state))
    table = stored_tables.store_embedding(
      model.embed,
      self.config,
      self.workdir / "embedding.safetensors",
      vocabulary=self.tokenizer.vocabulary,
    )
    pretrained.save_weights(
      self.workdir,
      model,
      form=transformer_options.form_of(self.config),
      tokenizer=self.tokenizer,
    )
    state = self.trainer.replace_model(state, model)
    metrics = self.validate(state)[1] | {"best_epoch": self.best_epoch + 1}
    return self.write_result(
      "train_masked_language_model", state, [table], metrics, seconds=seconds
    )


train_and_evaluate = functools.partial(
  training_run.train_and_evaluate, run_type=Run
)
"""Pre-trains a transformer and leaves its weights in a folder."""
