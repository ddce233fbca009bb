"""Steps that touch only the rows of a batch, for a model with any tables.

A model holds embeddings as attributes. Those with one record for each symbol
are *tables*: a step gathers the rows of its batch, differentiates with respect
to these, and writes them back. Everything else is trained as a whole.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import optax
from flax import nnx
from jax import numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from anchor_codes import accounting, nn, training


class Penalty(Protocol):
  """Factors of the penalty, for the rows of a batch."""

  def multipliers(self, ids: Array, transform: Array, /) -> Array:
    """Returns the factors of the weights of some rows."""
    ...


class TrainState(NamedTuple):
  """All that training changes.

  Attributes:
    step: Number of steps taken.
    rows: Variables with one record for each symbol; the trained ones are
      updated by row.
    params: All other parameters.
    stats: Moving moments.
    row_states: State of the optimiser of each table of `rows`.
    opt_state: State of the optimiser of `params`.
    carry: What a batch hands on to the next one, such as the state of an LSTM,
      split over the devices like the batch; usually empty.
  """

  step: Any
  rows: Any
  params: Any
  stats: Any
  row_states: Any
  opt_state: Any
  carry: Any


STATE_SPECS = TrainState(*[PartitionSpec()] * 6, carry=PartitionSpec("data"))
"""How the state lies on several devices."""


class Selection(NamedTuple):
  """What a step works on.

  Attributes:
    ids: The distinct ids of the rows in use, by the name of their table.
    model: The model, with only these rows in its tables.
    loss: From such a model to the number to minimise and a pair: the metrics,
      a mapping with a "loss", and the new `carry`.
  """

  ids: dict[str, Array]
  model: Any
  loss: Callable[[Any], tuple[Array, tuple[dict[str, Array], Any]]]


class RowTrainer(abc.ABC):
  """Training of one model; subclasses say what it is and what it minimises.

  Args:
    optimizer: The optimiser of all that is not trained by row.
    row_optimizers: The optimiser of the rows of each table, by the attribute
      of the model that holds the table. A layer without rows, such as one that
      hashes its ids, is left to `optimizer`.
    ids_per_step: How many ids a step looks up in each embedding whose cost
      :meth:`embedding_training_bytes` counts, by attribute.
    clip: Largest global norm of the gradient, None for any.
    lazy_from: A table is updated by row if it has more rows than so many for
      each id of a batch; a smaller one as a whole, which costs little then,
      and is exact for optimisers with moments.
    penalties: For tables of anchors, the factors of the penalty of their
      weights, by attribute; 1 by default.
    seed: Seed of the randomness of the steps.
  """

  def __init__(
    self,
    *,
    optimizer: optax.GradientTransformation,
    row_optimizers: Mapping[str, optax.GradientTransformation],
    ids_per_step: Mapping[str, int],
    clip: float | None = None,
    lazy_from: float = 0.0,
    penalties: Mapping[str, Penalty | None] | None = None,
    seed: int = 0,
  ):
    self.optimizer = optimizer
    self.row_optimizers = row_optimizers
    self.ids_per_step = ids_per_step
    self.clip = optax.clip_by_global_norm(jnp.inf if clip is None else clip)
    self.lazy_from = lazy_from
    self.penalties = penalties or {}
    self.seed = seed
    # Attributes with rows to train: known once `state_of` has seen a model.
    self.tables: tuple[str, ...] = ()

  @abc.abstractmethod
  def make_model(self) -> Any:
    """Returns the model at the start of training."""

  @abc.abstractmethod
  def select(
    self, model: Any, batch: Any, state: TrainState, key: Array
  ) -> Selection:
    """Leaves only the rows of a batch in the tables of a model.

    Args:
      model: A model of the step's own, to be changed in place by :meth:`take`.
      batch: The global batch.
      state: The state before the step.
      key: Source of the randomness of the step.
    """

  def prepare(self, state: TrainState, batches: Any) -> Any:
    """Returns the batches of a chunk as its steps get them.

    Args:
      state: The state before the first step.
      batches: What the chunk is given, [steps, batch, ...].
    """
    del state
    return batches

  def step_key(self, step: Any) -> Array:
    """Returns the source of the randomness of a step."""
    return jax.random.fold_in(jax.random.key(self.seed), step)

  def initial_carry(self, model: Any) -> Any:
    """Returns what the first batch gets from the one before it."""
    del model
    return ()

  def init(self) -> TrainState:
    """Returns the state at the start of training."""
    return self.state_of(self.make_model())

  def state_of(self, model: Any) -> TrainState:
    """Splits a model, and starts the optimisers on it."""
    layers = {name: getattr(model, name) for name in self.row_optimizers}
    self.tables = tuple(
      name
      for name, layer in layers.items()
      if jax.tree.leaves(nnx.state(layer, nn.is_row))
    )
    row_states = {
      name: self.row_optimizers[name].init(
        _trained_rows(layers[name], layers[name].num_embeddings)
      )
      for name in self.tables
    }
    self.graphdef, rows, params, stats = self._split(model)
    return TrainState(
      step=jnp.int32(0),
      rows=rows,
      params=params,
      stats=stats,
      row_states=row_states,
      opt_state=self.optimizer.init(params),
      carry=self.initial_carry(model),
    )

  def model_of(self, state: TrainState) -> Any:
    """Returns a model with the parameters of a state, which stays as it is."""
    variables = state.rows, state.params, state.stats
    return nnx.merge(self.graphdef, *variables, copy=True)

  def replace_model(self, state: TrainState, model: Any) -> TrainState:
    """Returns a state with the parameters of a model of the same form."""
    _, rows, params, stats = self._split(model)
    return state._replace(rows=rows, params=params, stats=stats)

  def take(
    self, model: Any, name: str, ids: Array, *, whole: bool = False
  ) -> tuple[dict[str, Array], Array]:
    """Leaves only the rows of some ids in an embedding, for :meth:`select`.

    Args:
      model: The model, changed in place.
      name: The attribute that holds the embedding.
      ids: The ids that the batch looks up, of any shape.
      whole: Whether to take all rows nevertheless, since the step needs them.

    Returns:
      The distinct ids by the name of the table, and the positions of the ids
      among them; without rows to take, an empty mapping and the ids.
    """
    if name not in self.tables:
      return {}, ids
    layer = getattr(model, name)
    size = layer.num_embeddings
    if self.is_lazy(size, ids.size) and not whole:
      rows, positions = training.unique_ids(ids, num_embeddings=size)
    else:
      rows, positions = jnp.arange(size, dtype=jnp.int32), ids
    setattr(model, name, nn.select_rows(layer, rows))
    return {name: rows}, positions

  def is_lazy(self, num_embeddings: int, num_ids: int) -> bool:
    """Tells whether a step leaves out the rows that it does not look up."""
    return num_embeddings > self.lazy_from * num_ids

  def step(
    self, state: TrainState, batch: Any
  ) -> tuple[TrainState, dict[str, Array]]:
    """Takes one step on a global batch."""
    key = self.step_key(state.step)
    model = self.model_of(state)
    ids, selected, loss = self.select(self.model_of(state), batch, state, key)
    selected_def, rows, given, params, stats = nnx.split(
      selected,
      nnx.All(self._is_lazy, nn.is_trained_row),
      self._is_lazy,
      nnx.Param,
      ...,
    )

    def loss_fn(rows: nnx.State, params: nnx.State) -> tuple[Array, Any]:
      # A copy: moments may move inside the trace that makes their variables.
      model = nnx.merge(selected_def, rows, given, params, stats, copy=True)
      value, aux = loss(model)
      return value, (aux, self._split(model)[-1])

    grad_fn: Any = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
    (_, ((metrics, carry), stats)), grads = grad_fn(rows, params)
    clipped: Any = self.clip.update(grads, optax.EmptyState())[0]
    updates, opt_state = self.optimizer.update(
      clipped[1], state.opt_state, params
    )
    row_states = {
      name: self._move_rows(
        name, model, selected, ids[name], clipped[0][name], states
      )
      for name, states in state.row_states.items()
    }
    new_state = TrainState(
      step=state.step + 1,
      rows=nnx.state(model, self._is_lazy),
      params=optax.apply_updates(params, updates),
      stats=stats,
      row_states=row_states,
      opt_state=opt_state,
      carry=carry,
    )
    return new_state, metrics

  def embedding_training_bytes(self, state: TrainState) -> int:
    """Returns the bytes that training the embeddings takes.

    Parameters, optimiser state, and the gradient that a step materialises:
    that of the rows of a batch, where they are updated by row.
    """
    model, params = self.model_of(state), state.params
    layers = {name: getattr(model, name) for name in self.ids_per_step}
    shared = nnx.State(
      {name: params[name] for name in layers if name in params}
    )
    rows = [
      _trained_rows(layer, min(self.ids_per_step[name], layer.num_embeddings))
      for name, layer in layers.items()
      if name in self.tables
    ]
    opt_state = jax.eval_shape(self.optimizer.init, shared)
    row_states = [state.row_states.get(name) for name in layers]
    return accounting.training_bytes(
      [nnx.state(layer) for layer in layers.values()],
      (row_states, opt_state),
      (rows, shared),
    )

  def _is_lazy(self, path: tuple[Any, ...], variable: Any) -> bool:
    return path[0] in self.tables and nn.is_row(path, variable)

  def _split(self, model: Any) -> tuple[Any, ...]:
    """Splits a model into its graph, lazy rows, parameters, and the rest."""
    return nnx.split(model, self._is_lazy, nnx.Param, ...)

  def _move_rows(
    self,
    name: str,
    model: Any,
    selected: Any,
    ids: Array,
    grads: Any,
    state: Any,
  ) -> optax.OptState:
    """Updates the selected rows of a table, and writes them into the model."""
    table, part = getattr(model, name), getattr(selected, name)
    rows, size = nnx.state(part, nn.is_trained_row), table.num_embeddings
    optimizer, penalty = self.row_optimizers[name], self.penalties.get(name)
    factors = None
    if penalty is not None:
      factors = jax.tree.map(lambda w: penalty.multipliers(ids, w), rows)
    updates, state = training.row_updates(
      optimizer,
      rows,
      state,
      ids,
      grads,
      num_embeddings=size,
      multipliers=factors,
    )
    nnx.update(part, optax.apply_updates(rows, updates))
    nn.write_rows(table, ids, part)
    return state


def _trained_rows(layer: Any, size: int) -> nnx.State:
  """Returns the form that some rows of a layer are trained in, no values."""
  ids = jax.ShapeDtypeStruct((size,), jnp.int32)
  return nnx.state(
    jax.eval_shape(lambda ids: nn.select_rows(layer, ids), ids),
    nn.is_trained_row,
  )
