"""The compiled steps of a language model, over the rows of each batch."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jax import numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from anchor_codes import accounting, nn, training, typing
from experiments import embeddings
from experiments.models import language_model


class TrainState(NamedTuple):
  """All that training changes.

  Attributes:
    step: Number of steps taken.
    rows: Variables with one record for each symbol, updated by row.
    params: All other parameters.
    stats: Moving moments.
    row_states: State of the optimiser of each table of `rows`.
    opt_state: State of the optimiser of `params`.
    carry: State of the LSTM layers, split over the devices like the batch.
  """

  step: Any
  rows: Any
  params: Any
  stats: Any
  row_states: Any
  opt_state: Any
  carry: Any


OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam}

STATE_SPECS = TrainState(*[PartitionSpec()] * 6, carry=PartitionSpec("data"))


class Trainer:
  """The compiled functions of one run.

  Args:
    config: Options of the run.
    vocabulary_counts: How often each word occurs in the training text.
    steps_per_epoch: Number of steps of an epoch.
  """

  def __init__(
    self,
    config: Any,
    vocabulary_counts: np.ndarray,
    steps_per_epoch: int,
  ):
    self.config = config
    self.vocab_size = len(vocabulary_counts)
    self.sampler = (
      language_model.Sampler.from_counts(
        jnp.asarray(vocabulary_counts), num_sampled=config.num_sampled
      )
      if config.num_sampled
      else None
    )
    rate = learning_rate_schedule(config, steps_per_epoch)
    typing.check_choice("optimizer", config.optimizer, OPTIMIZERS)
    optimizer = OPTIMIZERS[config.optimizer]
    self.optimizer = optax.partition(
      {
        "embed": optimizer(scaled(rate, config.shared_learning_rate)),
        "model": optimizer(rate),
      },
      part_of_model,
    )
    self.clip = optax.clip_by_global_norm(config.clip)
    self.row_optimizers = {
      "embed": embeddings.row_optimizer(config, rate),
      "output": optimizer(rate),
    }
    self.tables: list[str] = []
    self._total_nll = jax.jit(self._nll)

  def init(self) -> TrainState:
    """Returns the state at the start of training."""
    config = self.config
    rngs = nnx.Rngs(config.seed)
    model = language_model.LanguageModel(
      embeddings.make_embedding(
        self.vocab_size, config, scale=config.start_scale, rngs=rngs
      ),
      self.vocab_size,
      hidden=config.hidden,
      num_layers=config.num_layers,
      dropout=config.dropout,
      sharing=embeddings.make_sharing(self.vocab_size, config),
      scale=config.init_scale,
      rngs=rngs,
    )
    return self.state_of(model)

  def state_of(self, model: language_model.LanguageModel) -> TrainState:
    """Splits a model, and starts the optimisers on it."""
    sampled = ["output"] if self.sampler else []
    has_rows = jax.tree.leaves(nnx.state(model.embed, nn.is_row))
    self.tables = (["embed"] if has_rows else []) + sampled
    self.graphdef, rows, params, stats = self._split(model)
    return TrainState(
      step=jnp.int32(0),
      rows=rows,
      params=params,
      stats=stats,
      row_states={
        name: self._init_rows(name, getattr(model, name))
        for name in self.tables
      },
      opt_state=self.optimizer.init(params),
      carry=model.initial_carry(self.config.batch_size),
    )

  def _init_rows(self, name, layer):
    """Starts the optimiser on rows in the form in which they are trained."""
    ids = jax.ShapeDtypeStruct((self.vocab_size,), jnp.int32)
    rows = jax.eval_shape(lambda ids: trained_rows(layer, ids), ids)
    return self.row_optimizers[name].init(rows)

  def model_of(self, state: TrainState) -> language_model.LanguageModel:
    """Returns the model with the parameters of a state."""
    return nnx.merge(self.graphdef, state.rows, state.params, state.stats)

  def replace_model(
    self, state: TrainState, model: language_model.LanguageModel
  ) -> TrainState:
    """Returns a state with the parameters of a model of the same form."""
    _, rows, params, stats = self._split(model)
    return state._replace(rows=rows, params=params, stats=stats)

  def step(self, state: TrainState, batch: Any) -> tuple[TrainState, Any]:
    """Takes one step on a global batch of inputs and targets."""
    key = jax.random.fold_in(jax.random.key(self.config.seed), state.step)
    model, selected = self.model_of(state), self.model_of(state)
    ids, selected, loss = self._select(selected, batch, state.carry, key)
    selected_def, rows, params, stats = self._split(selected)

    def loss_fn(rows, params):
      # A copy: moments may move inside the trace that makes their variables.
      model = nnx.merge(selected_def, rows, params, stats, copy=True)
      value, aux = loss(model)
      return value, (aux, self._split(model)[-1])

    grad_fn: Any = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
    (_, ((nll, carry), stats)), grads = grad_fn(rows, params)
    clipped: Any = self.clip.update(grads, optax.EmptyState())[0]
    updates, opt_state = self.optimizer.update(
      clipped[1], state.opt_state, params
    )
    rows, row_states = self._update_rows(
      rows, clipped[0], state.row_states, ids
    )
    nnx.update(selected, rows)
    for name in self.tables:
      nn.write_rows(getattr(model, name), ids[name], getattr(selected, name))
    new_state = TrainState(
      step=state.step + 1,
      rows=nnx.state(model, self._is_lazy),
      params=optax.apply_updates(params, updates),
      stats=stats,
      row_states=row_states,
      opt_state=opt_state,
      carry=carry,
    )
    return new_state, {"loss": nll}

  def evaluate(self, state: TrainState, tokens: np.ndarray) -> float:
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

  def embedding_training_bytes(self, state: TrainState) -> int:
    """Returns the bytes that training the embedding takes.

    Parameters, optimiser state, and the gradient that a step materialises:
    that of the rows of a batch, where they are updated by row.
    """
    model = self.model_of(state)
    size = self.config.batch_size * self.config.num_steps
    gradients = model.embed
    if "embed" in self.tables:
      ids = jax.ShapeDtypeStruct((min(size, self.vocab_size),), jnp.int32)
      gradients = jax.eval_shape(
        lambda ids: nn.select_rows(model.embed, ids), ids
      )
    _, _, shared, _ = nnx.split(model.embed, nn.is_row, nnx.Param, ...)
    return accounting.training_bytes(
      nnx.state(model.embed),
      (
        state.row_states.get("embed"),
        jax.eval_shape(self.optimizer.init, shared),
      ),
      nnx.state(gradients, nnx.Param),
    )

  def _nll(self, rows, params, stats, inputs, targets, weights):
    model = nnx.merge(self.graphdef, rows, params, stats, copy=True)
    model.eval()

    def add(carry, batch):
      inputs, targets, weights = batch
      hidden, carry = model(inputs, carry)
      nll = language_model.full_nll(model, hidden, targets.T)
      return carry, jnp.sum(nll * weights.T)

    carry = model.initial_carry(inputs.shape[1])
    _, totals = jax.lax.scan(add, carry, (inputs, targets, weights))
    return jnp.sum(totals)

  def _is_lazy(self, path: tuple[Any, ...], variable: Any) -> bool:
    return path[0] in self.tables and nn.is_row(path, variable)

  def _split(self, model):
    """Splits a model into its graph, lazy rows, parameters, and the rest."""
    return nnx.split(model, self._is_lazy, nnx.Param, ...)

  def _select(self, model, batch, carry, key):
    """Leaves only the rows of the batch in the tables of a model.

    Returns the ids of these rows, the model, and its loss on the batch.
    """
    inputs, targets = batch
    share_key, sample_key, drop_key = jax.random.split(key, 3)
    inputs, ids, sample = model.share(inputs, share_key), {}, None
    if "embed" in self.tables:
      ids["embed"], inputs = self._unique(inputs)
      model.embed = nn.select_rows(model.embed, ids["embed"])
    if self.sampler is not None:
      ids["output"], sample = self._draw(self.sampler, targets.T, sample_key)
      model.output = nn.select_rows(model.output, ids["output"])

    def loss(model):
      hidden, new_carry = model(inputs, carry, key=drop_key)
      nll = language_model.mean_nll(model, hidden, targets.T, sample)
      # The sum over time of the mean over the batch, as in the paper: the
      # learning rate and the largest norm are meant for that.
      value = nll * inputs.shape[1] + nn.auxiliary_loss(model.embed, inputs)
      return value, (nll, new_carry)

    return ids, model, loss

  def _unique(self, ids):
    return training.unique_ids(ids, num_embeddings=self.vocab_size)

  def _draw(self, sampler, targets, key):
    """Draws words, and finds them and the targets among the rows they need."""
    words = sampler.draw(key)
    ids, inverse = self._unique(jnp.concatenate([targets.ravel(), words]))
    return ids, language_model.Sample(
      targets=inverse[: targets.size].reshape(targets.shape),
      negatives=inverse[targets.size :],
      target_log_counts=sampler.log_counts(targets),
      negative_log_counts=sampler.log_counts(words),
    )

  def _update_rows(self, rows, grads, states, ids):
    new_rows, new_states = {}, {}
    for name in self.tables:
      updates, new_states[name] = training.row_updates(
        self.row_optimizers[name],
        rows[name],
        states[name],
        ids[name],
        grads[name],
        num_embeddings=self.vocab_size,
      )
      new_rows[name] = optax.apply_updates(rows[name], updates)
    return nnx.State(new_rows), new_states


def learning_rate_schedule(config: Any, steps_per_epoch: int) -> optax.Schedule:
  """Returns a rate that is constant at first, then falls at each epoch."""

  def schedule(step):
    epoch = step // steps_per_epoch
    drops = jnp.maximum(epoch + 1 - config.constant_epochs, 0)
    return config.learning_rate * config.decay ** drops.astype(jnp.float32)

  return schedule


EVALUATION_STEPS = 35


def part_of_model(params: nnx.State) -> nnx.State:
  """Labels parameters as those of the embedding or those of the model."""

  def label(path, _):
    return "embed" if path[0].key == "embed" else "model"

  return jax.tree_util.tree_map_with_path(label, params)


def scaled(schedule: optax.Schedule, factor: float) -> optax.Schedule:
  """Returns a schedule multiplied by a factor."""
  return lambda step: factor * schedule(step)


def trained_rows(layer: Any, ids: Array) -> nnx.State:
  """Returns rows of a layer, in the form in which they are trained."""
  selected = nn.select_rows(layer, ids)
  return nnx.split(selected, nn.is_row, ...)[1]


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

  def cut(values):
    padded = np.zeros(batch_size * num_batches * num_steps, values.dtype)
    padded[:num_targets] = values
    shape = (batch_size, num_batches, num_steps)
    return np.ascontiguousarray(padded.reshape(shape).swapaxes(0, 1))

  weights = np.ones(num_targets, np.float32)
  return cut(tokens[:-1]), cut(tokens[1:]), cut(weights)
