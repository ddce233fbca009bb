"""The compiled steps of the pre-training, over the rows of each batch."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array

from anchor_codes import nn, steps, typing
from experiments import (
  embeddings,
  knowledge,
  optimizers,
  pretrained,
  row_trainer,
  transformer_options,
)
from experiments.datasets import classification_words as words
from experiments.datasets import tokenizers
from experiments.models import language_model, masking, softmax
from experiments.models import text_transformer as models

EVALUATION_BATCH_SIZE = 32

_HEAD = ("transform", "norm", "output")


class Evaluation(NamedTuple):
  """How well hidden symbols are predicted.

  Attributes:
    nll: Mean negative log likelihood.
    accuracy: Share of those that score best.
  """

  nll: float
  accuracy: float


class Trainer(row_trainer.RowTrainer):
  """The compiled functions of one run.

  Args:
    config: Options of the run.
    known: What is known of the symbols.
    tokenizer: Which symbols are marks.
    max_length: Width of the batches.
    num_steps: Steps of all epochs, for the learning rate.
    given: Weights to start from, if any.
  """

  def __init__(
    self,
    config: Any,
    *,
    known: knowledge.Knowledge,
    tokenizer: tokenizers.Tokenizer,
    max_length: int,
    num_steps: int = 1,
    given: pretrained.Pretrained | None = None,
  ):
    for name in ("mask_rate", "label_sharing_rate"):
      typing.check_rate(name, getattr(config, name))
    typing.check_at_least("num_sampled", config.num_sampled, 0)
    self.config = config
    self.known = known
    self.marks = tokenizer.marks
    self.given = given
    self.vocab_size = len(known.counts)
    self.is_ordinary = np.ones(self.vocab_size, bool)
    self.is_ordinary[list(tokenizer.special_ids)] = False
    self.sampler = (
      language_model.Sampler.from_counts(
        jnp.asarray(known.counts), num_sampled=config.num_sampled
      )
      if config.num_sampled
      else None
    )
    rate = transformer_options.learning_rate(
      config, config.learning_rate, num_steps
    )
    super().__init__(
      optimizer=optimizers.model_optimizer(
        config.optimizer, rate, factors={"embed": config.shared_learning_rate}
      ),
      row_optimizers={"embed": embeddings.row_optimizer(config, rate)},
      ids_per_step={"embed": config.batch_size * max_length},
      clip=config.clip or None,
      penalties={"embed": known.penalty()},
      seed=config.seed,
    )
    self._total = jax.jit(self._measure)

  def make_model(self) -> models.MaskedLanguageModel:
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
    form = self.given and self.given.architecture
    model = models.MaskedLanguageModel(
      embed,
      transformer_options.make_encoder(config, form, rngs=rngs),
      sharing=self.known.sharing(),
      label_sharing=self._label_sharing(),
      rngs=rngs,
    )
    if self.given:
      head = [part for part in _HEAD if self.given.has(part)]
      self.given.start(model, parts=("embed", "encoder", *head))
    return model

  def _label_sharing(self) -> nn.StochasticSharing | None:
    """Makes the exchange of labels; along the graph if inputs have one."""
    config, rate = self.config, self.config.label_sharing_rate
    if not rate:
      return None
    kind = "se" if config.sharing == "none" else config.sharing
    options = dataclasses.replace(config, sharing=kind, sharing_rate=rate)
    return dataclasses.replace(self.known, options=options).sharing()

  def _mask(self, key: Array, tokens: Array) -> masking.Masked:
    return masking.mask_tokens(
      key,
      tokens,
      is_ordinary=self.is_ordinary,
      mask_id=self.marks.mask,
      rate=self.config.mask_rate,
    )

  def select(
    self,
    model: models.MaskedLanguageModel,
    batch: Any,
    state: steps.TrainState,
    key: Array,
  ) -> steps.Selection:
    """Hides symbols, and leaves only the rows of what is needed."""
    mask_key, share_key, sample_key, drop_key = jax.random.split(key, 4)
    where = batch != words.PADDING_ID
    masked = self._mask(mask_key, batch)
    inputs, labels = model.share(masked.inputs, masked.labels, share_key)
    drawn = self._draw(sample_key)
    scored = jnp.concatenate([labels, drawn.astype(labels.dtype)])
    # The full softmax scores all symbols: all rows have a gradient.
    ids, found = self.take(
      model,
      "embed",
      jnp.concatenate([inputs.ravel(), scored]),
      whole=self.sampler is None,
    )
    inputs = found[: inputs.size].reshape(inputs.shape)
    sample = self._sample(found[inputs.size :], scored, len(labels))

    def loss(model: models.MaskedLanguageModel) -> tuple[Array, Any]:
      hidden = model(inputs, where, masked.places, key=drop_key)
      if sample is None:
        nll = softmax.softmax_nll(model.logits(hidden), labels)
      else:
        nll = model.sampled_nll(hidden, sample, scored)
      value = _mean(nll, masked.where)
      total = value + nn.auxiliary_loss(model.embed, inputs)
      return total, ({"loss": value}, state.carry)

    return steps.Selection(ids, model, loss)

  def _draw(self, key: Array) -> Array:
    if self.sampler is None:
      return jnp.zeros(0, jnp.int32)
    return self.sampler.draw(key)

  def _sample(
    self, positions: Array, ids: Array, num_labels: int
  ) -> language_model.Sample | None:
    """Returns the candidates, which are labels and then symbols drawn."""
    if self.sampler is None:
      return None
    log_counts = self.sampler.log_counts(ids)
    return language_model.Sample(
      targets=positions[:num_labels],
      negatives=positions[num_labels:],
      target_log_counts=log_counts[:num_labels],
      negative_log_counts=log_counts[num_labels:],
    )

  def evaluate(self, state: steps.TrainState, tokens: np.ndarray) -> Evaluation:
    """Measures predictions of symbols, the same ones whenever it is called.

    Args:
      state: The parameters.
      tokens: Ids of texts, at least one.
    """
    missing = -len(tokens) % EVALUATION_BATCH_SIZE
    tokens = np.pad(
      tokens, ((0, missing), (0, 0)), constant_values=words.PADDING_ID
    )
    batches = tokens.reshape(-1, EVALUATION_BATCH_SIZE, tokens.shape[1])
    parameters = state.rows, state.params, state.stats
    nll, hits, number = map(float, self._total(*parameters, batches))
    return Evaluation(nll / max(number, 1), hits / max(number, 1))

  def _measure(
    self,
    rows: nnx.State,
    params: nnx.State,
    stats: nnx.State,
    batches: Array,
  ) -> tuple[Array, Array, Array]:
    model = nnx.merge(self.graphdef, rows, params, stats, copy=True)
    model.eval()

    def measure(numbered: tuple[Array, Array]) -> tuple[Array, Array, Array]:
      number, tokens = numbered
      masked = self._mask(jax.random.fold_in(jax.random.key(0), number), tokens)
      where = tokens != words.PADDING_ID
      logits = model.logits(model(masked.inputs, where, masked.places))
      nll = softmax.softmax_nll(logits, masked.labels)
      hit = jnp.argmax(logits, axis=-1) == masked.labels
      weights = masked.where.astype(nll.dtype)
      return (
        jnp.sum(nll * weights),
        jnp.sum(hit.astype(nll.dtype) * weights),
        jnp.sum(weights),
      )

    numbers = jnp.arange(len(batches))
    sums = jax.lax.map(measure, (numbers, batches))
    return sums[0].sum(), sums[1].sum(), sums[2].sum()


def _mean(values: Array, where: Array) -> Array:
  weights = where.astype(values.dtype)
  return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1)
