"""Trains a text classifier with any embedding, and measures what it costs."""

import functools
import os
import pathlib
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from anchor_codes import nn, ops, steps
from experiments import (
  best_epoch,
  embeddings,
  knowledge,
  optimizers,
  pretrained,
  reporting,
  row_trainer,
  stored_tables,
  training_run,
  transformer_options,
)
from experiments.datasets import classification as datasets
from experiments.datasets import classification_words as words
from experiments.datasets import tokenizers
from experiments.models import text_classifier
from experiments.text_classification_options import (
  TextClassificationConfig,
  check_config,
)


class Trainer(row_trainer.RowTrainer):
  """The compiled functions of one run.

  Args:
    config: Options of the run.
    known: What is known of the words.
    num_classes: Number of classes.
    max_length: Width of the batches.
    num_steps: Steps of all epochs, for the learning rate.
    given: Weights to start from, if any.
  """

  def __init__(
    self,
    config: TextClassificationConfig,
    *,
    known: knowledge.Knowledge,
    num_classes: int,
    max_length: int,
    num_steps: int = 1,
    given: pretrained.Pretrained | None = None,
  ):
    check_config(config)
    self.config = config
    self.given = given
    self.known = known
    self.vocab_size = len(known.counts)
    self.num_classes = num_classes
    rate = transformer_options.learning_rate(
      config, config.learning_rate, num_steps
    )
    factors = {"embed": config.shared_learning_rate}
    if config.encoder_learning_rate != 1:
      factors["encoder"] = config.encoder_learning_rate
    super().__init__(
      optimizer=optimizers.model_optimizer(
        config.optimizer, rate, factors=factors
      ),
      row_optimizers={"embed": embeddings.row_optimizer(config, rate)},
      ids_per_step={"embed": config.batch_size * max_length},
      clip=config.clip or None,
      penalties={"embed": known.penalty()},
      seed=config.seed,
    )
    self._num_correct = jax.jit(self._count_correct)

  def make_model(self) -> text_classifier.TextClassifier:
    """Returns the model at the start of training."""
    config = self.config
    rngs = nnx.Rngs(config.seed)
    embed = embeddings.make_embedding(
      self.vocab_size,
      config,
      scale=config.start_scale,
      rngs=rngs,
      vectors=self.known.vectors,
    )
    self.known.start(embed, jax.random.key(config.seed))
    encoder: Any = config.encoder
    if encoder == "transformer":
      form = self.given and self.given.architecture
      encoder = transformer_options.make_encoder(config, form, rngs=rngs)
    model = text_classifier.TextClassifier(
      embed,
      self.num_classes,
      encoder=encoder,
      num_filters=config.num_filters,
      dropout=config.dropout,
      sharing=self.known.sharing(),
      rngs=rngs,
    )
    if self.given:
      self.given.start(model)
    return model

  def select(
    self,
    model: text_classifier.TextClassifier,
    batch: Any,
    state: steps.TrainState,
    key: Array,
  ) -> steps.Selection:
    """Leaves only the words of a batch."""
    share_key, drop_key = jax.random.split(key)
    where = batch.tokens != words.PADDING_ID
    inputs = model.share(batch.tokens, where, share_key)
    ids, inputs = self.take(model, "embed", inputs)

    def loss(model: text_classifier.TextClassifier) -> tuple[Array, Any]:
      logits = model(inputs, where, key=drop_key)
      value = self._loss(logits, batch.labels, jax.random.fold_in(key, 2))
      total = value + nn.auxiliary_loss(model.embed, inputs)
      return total, ({"loss": value}, state.carry)

    return steps.Selection(ids, model, loss)

  def _loss(self, logits: Array, labels: Array, key: Array) -> Array:
    """Returns the mean loss, of classes that may be exchanged."""
    rate = self.config.label_sharing_rate
    if rate and self.config.label_sharing == "expected":
      return jnp.mean(ops.shared_label_loss(logits, labels, rate=rate))
    if rate:
      labels = ops.sse_se_transition(
        key, labels, num_embeddings=self.num_classes, rate=rate
      )
    return text_classifier.mean_loss(logits, labels)

  def evaluate(self, state: steps.TrainState, texts: words.Batch) -> float:
    """Returns the accuracy on texts: the share that gets its own class.

    Args:
      state: The parameters.
      texts: At least one text; all count.
    """
    batches = evaluation_batches(texts, batch_size=EVALUATION_BATCH_SIZE)
    parameters = state.rows, state.params, state.stats
    return int(self._num_correct(*parameters, batches)) / len(texts.labels)

  def _count_correct(
    self,
    rows: nnx.State,
    params: nnx.State,
    stats: nnx.State,
    batches: words.Batch,
  ) -> Array:
    model = nnx.merge(self.graphdef, rows, params, stats, copy=True)
    model.eval()

    def count(batch: words.Batch) -> Array:
      logits = model(batch.tokens, batch.tokens != words.PADDING_ID)
      return jnp.sum(jnp.argmax(logits, axis=-1) == batch.labels)

    return jnp.sum(jax.lax.map(count, batches))


EVALUATION_BATCH_SIZE = 128


def evaluation_batches(texts: words.Batch, *, batch_size: int) -> words.Batch:
  """Cuts texts into batches, the last one filled up.

  Args:
    texts: All texts.
    batch_size: Texts in a batch.

  Returns:
    Batches [num_batches, batch_size, ...]. What fills the last one up are texts
    without words, of the class -1 that no prediction hits.

  >>> batches = evaluation_batches(
  ...     words.Batch(np.ones((3, 1), int), np.arange(3)), batch_size=2)
  >>> print(batches.labels.tolist())
  [[0, 1], [2, -1]]
  """
  missing = -len(texts.labels) % batch_size
  tokens = np.pad(
    texts.tokens, ((0, missing), (0, 0)), constant_values=words.PADDING_ID
  )
  labels = np.pad(texts.labels, (0, missing), constant_values=-1)
  return words.Batch(
    tokens.reshape(-1, batch_size, tokens.shape[1]),
    labels.reshape(-1, batch_size),
  )


def find_tokenizer(
  config: TextClassificationConfig,
  data: datasets.ClassificationDataset,
  given: pretrained.Pretrained | None,
) -> tokenizers.Tokenizer | None:
  """Returns what cuts the texts; None for words without any marks."""
  if given:
    return given.tokenizer
  if config.encoder != "transformer" and not config.subwords:
    return None
  return transformer_options.train_tokenizer(config, data.train.texts)


def encode_dataset(
  config: TextClassificationConfig,
  data: datasets.ClassificationDataset,
  tokenizer: tokenizers.Tokenizer | None,
) -> words.EncodedDataset:
  """Turns texts into ids, with marks if there is a transformer to see them."""
  if tokenizer is None:
    return words.encode_dataset(
      data,
      max_length=config.max_length,
      max_words=config.max_words,
      min_count=config.min_count,
    )
  return tokenizers.encode_dataset(
    data,
    tokenizer,
    max_length=config.max_length,
    marked=config.encoder == "transformer",
  )


class Run(best_epoch.BestEpochRun):
  """One training run: the data, the compiled steps, and what they leave.

  Args:
    config: Options of the run.
    workdir: Folder for all that the run leaves; made if need be.
    data: The texts, where they are loaded already.
    mesh: Devices to train on, all by default.
  """

  def __init__(
    self,
    config: TextClassificationConfig,
    workdir: str | os.PathLike[str],
    *,
    data: datasets.ClassificationDataset | None = None,
    mesh: Mesh | None = None,
  ):
    check_config(config)
    given = None
    if config.pretrained:
      given = pretrained.load_pretrained(config.pretrained)
      config = given.follow(config)
    data = data or datasets.load_classification(
      config.dataset, data_dir=config.data_dir or None
    )
    tokenizer = find_tokenizer(config, data, given)
    self.data = encode_dataset(config, data, tokenizer)
    known = knowledge.load_knowledge(
      config,
      words.count_words(self.data),
      vocabulary=self.data.vocabulary,
      data_dir=config.data_dir,
      sequences=self.data.train.tokens,
      special_ids=tokenizer.special_ids if tokenizer else words.SPECIAL_IDS,
    )
    steps = -(-len(self.data.train.labels) // config.batch_size)
    trainer = Trainer(
      config,
      known=known,
      num_classes=len(data.classes),
      max_length=self.data.train.tokens.shape[1],
      num_steps=steps * config.epochs,
      given=given,
    )
    super().__init__(
      config,
      pathlib.Path(workdir),
      trainer,
      steps_per_epoch=steps,
      mesh=mesh,
    )
    if tokenizer:
      tokenizer.save(self.workdir)
    self.evaluate = trainer.evaluate

  def batches(self, epoch: int, begin: int, end: int) -> words.Batch:
    """Returns batches of texts in an order that each epoch has for itself.

    All texts are in an epoch; some come twice to fill its last batch up.
    """
    size = self.config.batch_size
    rng = np.random.default_rng([self.config.seed, epoch])
    order = rng.permutation(len(self.data.train.labels))
    chosen = np.resize(order, self.bounds[-1][1] * size).reshape(-1, size)
    chosen = chosen[begin:end]
    train = self.data.train
    return words.Batch(train.tokens[chosen], train.labels[chosen])

  def report(self, loss: float) -> dict[str, float]:
    """Returns the mean negative log likelihood of a chunk."""
    return {"train_loss": loss}

  def validate(self, state: steps.TrainState) -> tuple[float, dict[str, float]]:
    """Returns the accuracy on the validation texts."""
    accuracy = self.evaluate(state, self.data.valid)
    return accuracy, {"valid_accuracy": accuracy}

  def finish(
    self, state: steps.TrainState, *, seconds: float
  ) -> reporting.RunResult:
    """Measures the best model, and writes the table and the result."""
    model = self.trainer.model_of(self.best_of(state))
    table = stored_tables.store_embedding(
      model.embed,
      self.config,
      self.workdir / "embedding.safetensors",
      vocabulary=self.data.vocabulary,
    )
    state = self.trainer.replace_model(state, model)
    metrics = {
      "test_accuracy": self.evaluate(state, self.data.test),
      "valid_accuracy": self.evaluate(state, self.data.valid),
      "best_epoch": self.best_epoch + 1,
    }
    return self.write_result(
      "train_text_classifier", state, [table], metrics, seconds=seconds
    )


train_and_evaluate = functools.partial(
  training_run.train_and_evaluate, run_type=Run
)
"""Trains a text classifier and leaves its results in a folder."""
