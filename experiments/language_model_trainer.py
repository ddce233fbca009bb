"""The compiled steps of a language model, over the rows of each batch."""

from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array

from anchor_codes import nn, steps
from experiments import embeddings, knowledge, optimizers, row_trainer
from experiments.models import language_model


class Trainer(row_trainer.RowTrainer):
  """The compiled functions of one run.

  Args:
    config: Options of the run.
    vocabulary_counts: How often each word occurs in the training text.
    steps_per_epoch: Number of steps of an epoch.
    known: What is known of the words; their counts by default.
  """

  def __init__(
    self,
    config: Any,
    vocabulary_counts: np.ndarray,
    steps_per_epoch: int,
    known: knowledge.Knowledge | None = None,
  ):
    if config.tied and config.num_sampled:
      raise ValueError(
        "`num_sampled` must be 0 for a tied output layer, which is trained by "
        f"the full softmax, got {config.num_sampled}."
      )
    self.config = config
    self.known = known or knowledge.Knowledge(config, vocabulary_counts)
    self.vocab_size = len(vocabulary_counts)
    self.sampler = (
      language_model.Sampler.from_counts(
        jnp.asarray(vocabulary_counts), num_sampled=config.num_sampled
      )
      if config.num_sampled
      else None
    )
    rate = learning_rate_schedule(config, steps_per_epoch)
    super().__init__(
      optimizer=optimizers.model_optimizer(
        config.optimizer, rate, factors={"embed": config.shared_learning_rate}
      ),
      row_optimizers=self._row_optimizers(rate),
      ids_per_step={"embed": config.batch_size * config.num_steps},
      clip=config.clip,
      lazy_from=config.lazy_from,
      penalties={"embed": self.known.penalty()},
      seed=config.seed,
    )
    self._total_nll = jax.jit(self._nll)

  def _row_optimizers(
    self, rate: optax.Schedule
  ) -> dict[str, optax.GradientTransformation]:
    """Returns the optimisers; the full softmax trains all of its rows."""
    rows = {"embed": embeddings.row_optimizer(self.config, rate)}
    if self.sampler is not None:
      rows["output"] = optimizers.OPTIMIZERS[self.config.optimizer](rate)
    return rows

  def make_model(self) -> language_model.LanguageModel:
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
    return language_model.LanguageModel(
      embed,
      self.vocab_size,
      hidden=config.hidden,
      num_layers=config.num_layers,
      dropout=config.dropout,
      sharing=self.known.sharing(),
      tied=config.tied,
      scale=config.init_scale,
      rngs=rngs,
    )

  def initial_carry(
    self, model: language_model.LanguageModel
  ) -> language_model.Carry:
    """Returns the state of the LSTM layers at the start of a text."""
    return model.initial_carry(self.config.batch_size)

  def select(
    self,
    model: language_model.LanguageModel,
    batch: Any,
    state: steps.TrainState,
    key: Array,
  ) -> steps.Selection:
    """Leaves only the words of a batch, and those drawn for its softmax."""
    inputs, targets = batch
    share_key, sample_key, drop_key = jax.random.split(key, 3)
    inputs = model.share(inputs, share_key)
    # A tied output layer scores all words: all rows have a gradient.
    ids, inputs = self.take(model, "embed", inputs, whole=self.config.tied)
    output_ids, sample = self._draw(model, targets.T, sample_key)

    def loss(model: language_model.LanguageModel) -> tuple[Array, Any]:
      hidden, carry = model(inputs, state.carry, key=drop_key)
      nll = language_model.mean_nll(model, hidden, targets.T, sample)
      # The sum over time of the mean over the batch, as in the paper: the
      # learning rate and the largest norm are meant for that.
      value = nll * inputs.shape[1] + nn.auxiliary_loss(model.embed, inputs)
      return value, ({"loss": nll}, carry)

    return steps.Selection(ids | output_ids, model, loss)

  def _draw(
    self, model: language_model.LanguageModel, targets: Array, key: Array
  ) -> tuple[dict[str, Array], language_model.Sample | None]:
    """Draws words, and finds them and the targets among the rows they need."""
    if self.sampler is None:
      return {}, None
    words = self.sampler.draw(key)
    ids, positions = self.take(
      model, "output", jnp.concatenate([targets.ravel(), words])
    )
    return ids, language_model.Sample(
      targets=positions[: targets.size].reshape(targets.shape),
      negatives=positions[targets.size :],
      target_log_counts=self.sampler.log_counts(targets),
      negative_log_counts=self.sampler.log_counts(words),
    )

  def evaluate(self, state: steps.TrainState, tokens: np.ndarray) -> float:
    """Returns the perplexity of a text: every token counts.

    Args:
      state: The parameters.
      tokens: Ids of the text; the first one is not predicted.

    Returns:
      The exponential of the mean negative log likelihood.
    """
    batches = evaluation_batches(
      tokens, batch_size=self.config.batch_size, num_steps=EVALUATION_STEPS
    )
    parameters = state.rows, state.params, state.stats
    total = self._total_nll(*parameters, *batches)
    return float(np.exp(total / (len(tokens) - 1)))

  def _nll(
    self,
    rows: nnx.State,
    params: nnx.State,
    stats: nnx.State,
    inputs: Array,
    targets: Array,
    weights: Array,
  ) -> Array:
    model = nnx.merge(self.graphdef, rows, params, stats, copy=True)
    model.eval()

    def add(
      carry: language_model.Carry, batch: Any
    ) -> tuple[language_model.Carry, Array]:
      inputs, targets, weights = batch
      hidden, carry = model(inputs, carry)
      nll = language_model.full_nll(model, hidden, targets.T)
      return carry, jnp.sum(nll * weights.T)

    carry = model.initial_carry(inputs.shape[1])
    _, totals = jax.lax.scan(add, carry, (inputs, targets, weights))
    return jnp.sum(totals)


def learning_rate_schedule(config: Any, steps_per_epoch: int) -> optax.Schedule:
  """Returns a rate that is constant at first, then falls at each epoch."""

  def schedule(step: Any) -> Any:
    epoch = step // steps_per_epoch
    drops = jnp.maximum(epoch + 1 - config.constant_epochs, 0)
    return config.learning_rate * config.decay ** drops.astype(jnp.float32)

  return schedule


EVALUATION_STEPS = 35


def evaluation_batches(
  tokens: np.ndarray, *, batch_size: int, num_steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Cuts a text into batches for evaluation; nothing is left out.

  Args:
    tokens: Ids of the text.
    batch_size: Number of streams that the text is cut into.
    num_steps: Tokens of each stream in a batch.

  Returns:
    Inputs, targets and weights, all [num_batches, batch_size, num_steps]; the
    weight is 0 where a stream is filled up.

  >>> _, targets, weights = evaluation_batches(
  ...     np.arange(6), batch_size=2, num_steps=2)
  >>> print(targets.tolist(), weights.sum())
  [[[1, 2], [5, 0]], [[3, 4], [0, 0]]] 5.0
  """
  num_targets = len(tokens) - 1
  length = -(-num_targets // batch_size)
  num_batches = -(-length // num_steps)

  def cut(values: np.ndarray) -> np.ndarray:
    padded = np.zeros(batch_size * num_batches * num_steps, values.dtype)
    padded[:num_targets] = values
    shape = (batch_size, num_batches, num_steps)
    return np.ascontiguousarray(padded.reshape(shape).swapaxes(0, 1))

  weights = np.ones(num_targets, np.float32)
  return cut(tokens[:-1]), cut(tokens[1:]), cut(weights)
