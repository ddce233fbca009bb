"""Steps that touch only the rows of a batch, for a model with any tables.

A model holds embeddings as attributes. Those with one record for each symbol
are *tables*: a step gathers the rows of its batch, differentiates with respect
to these, and writes them back. Everything else is trained as a whole.
"""

import abc
from collections.abc import Mapping
from typing import Any

import jax
import optax
from flax import nnx
from jax import numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from anchor_codes import accounting, nn, training
from anchor_codes.ops import indexing
from anchor_codes.steps import lazy, padding, places, states

RowOptimizer = optax.GradientTransformation | lazy.LazyTransformation


class RowSteps(abc.ABC):
  """Training steps of one model; subclasses say what a step minimises.

  :func:`~anchor_codes.steps.row_sparse_train_step` is for most models. Derive
  from this where a step chooses its rows itself: those that it draws for a
  sampled softmax, say.

  Args:
    optimizer: The optimiser of all that is not trained by row.
    row_optimizers: The optimiser of the rows of each table, by the name of the
      table: the attributes of the model that lead to it, joined by dots. A
      layer without rows, such as one that hashes its ids, is left to
      `optimizer`.
    clip: Largest global norm of the gradient, None for any.
    lazy_from: A table is updated by row if it has more rows than so many for
      each id of a batch; a smaller one as a whole, which costs little then,
      and is exact for optimisers with moments.
    penalties: For tables of anchors, the factors of the penalty of their
      weights, by name; 1 by default, and for a `LazyTransformation`.
    seed: Seed of the randomness of the steps.
  """

  def __init__(
    self,
    *,
    optimizer: optax.GradientTransformation,
    row_optimizers: Mapping[str, RowOptimizer],
    clip: float | None = None,
    lazy_from: float = 0.0,
    penalties: Mapping[str, states.Penalty | None] | None = None,
    seed: int = 0,
  ):
    self.optimizer = optimizer
    self.row_optimizers: Mapping[str, Any] = row_optimizers
    self.clip = optax.clip_by_global_norm(jnp.inf if clip is None else clip)
    self.lazy_from = lazy_from
    self.penalties = penalties or {}
    lazy.check_factors(row_optimizers, self.penalties)
    self.seed = seed
    # Where rows to train are: known once `state_of` has seen a model.
    self.paths: dict[str, places.Path] = {}
    self.graphdef: Any = None

  @property
  def tables(self) -> tuple[str, ...]:
    """Names of the tables with rows to train."""
    return tuple(self.paths)

  @abc.abstractmethod
  def select(
    self, model: Any, batch: Any, state: states.TrainState, key: Array
  ) -> states.Selection:
    """Leaves only the rows of a batch in the tables of a model.

    Args:
      model: A model of the step's own, to be changed in place by :meth:`take`.
      batch: The global batch.
      state: The state before the step.
      key: Source of the randomness of the step.
    """

  def step_key(self, step: Any) -> Array:
    """Returns the source of the randomness of a step."""
    return jax.random.fold_in(jax.random.key(self.seed), step)

  def initial_carry(self, model: Any) -> Any:
    """Returns what the first batch gets from the one before it."""
    del model
    return ()

  def state_of(self, model: Any) -> states.TrainState:
    """Splits a model, and starts the optimisers on it.

    Args:
      model: The model. The state has its arrays, not copies of them.

    Raises:
      ValueError: If a table is no embedding of the model, or in a container
        that cannot be changed, or shares its rows with another layer, or if
        its optimiser needs more than gradients and rows.
    """
    found = {n: places.find_layer(model, n) for n in self.row_optimizers}
    found = {
      name: (path, layer)
      for name, (path, layer) in found.items()
      if jax.tree.leaves(nnx.state(layer, nn.is_row))
    }
    for name, (_, layer) in found.items():
      places.check_table(model, name, layer)
    self.paths = {name: path for name, (path, _) in found.items()}
    row_states = {
      name: places.start_rows(name, layer, self.row_optimizers[name])
      for name, (_, layer) in found.items()
    }
    self.graphdef, rows, params, stats = self._split(model)
    return states.TrainState(
      step=jnp.int32(0),
      rows=rows,
      params=params,
      stats=stats,
      row_states=row_states,
      opt_state=self.optimizer.init(params),
      carry=self.initial_carry(model),
    )

  def model_of(self, state: states.TrainState) -> Any:
    """Returns a model with the parameters of a state, which stays as it is.

    Raises:
      ValueError: If the steps have not seen a model yet.
    """
    model = self._padded_model_of(state)
    for path in self.paths.values():
      padding.unpad_layer(places.layer_at(model, path))
    return model

  def _padded_model_of(self, state: states.TrainState) -> Any:
    if self.graphdef is None:
      raise ValueError("the steps must have seen a model: make a state first.")
    variables = state.rows, state.params, state.stats
    # A copy of the variables; they hold the same arrays.
    return nnx.merge(self.graphdef, *variables, copy=True)

  def pad(self, state: states.TrainState, num_shards: int) -> states.TrainState:
    """Appends rows of zeros, so that so many devices can share the rows.

    Args:
      state: The state, with or without such rows.
      num_shards: Number of devices.

    Returns:
      A state for :meth:`split_specs`; :meth:`model_of` cuts the rows off again.
    """
    return padding.pad_state(state, self.paths, num_shards)

  def replace_model(
    self, state: states.TrainState, model: Any
  ) -> states.TrainState:
    """Returns a state with the parameters of a model of the same form."""
    _, rows, params, stats = self._split(model)
    rows = padding.pad_like(rows, state.rows)
    return state._replace(rows=rows, params=params, stats=stats)

  def take(
    self, model: Any, name: str, ids: Array, *, whole: bool = False
  ) -> tuple[dict[str, Array], Array]:
    """Leaves only the rows of some ids in an embedding, for :meth:`select`.

    Args:
      model: The model, changed in place.
      name: The name of the embedding.
      ids: The ids that the batch looks up, of any shape.
      whole: Whether to take all rows nevertheless, since the step needs them.

    Returns:
      The distinct ids by the name of the table, and the positions of the ids
      among them, that of an id outside the table past their end; without rows
      to take, an empty mapping and the ids.
    """
    if name not in self.paths:
      return {}, ids
    size = places.layer_at(model, self.paths[name]).num_embeddings
    rows, positions = self.find_rows(ids, num_embeddings=size, whole=whole)
    self.keep_rows(model, name, rows)
    return {name: rows}, positions

  def find_rows(
    self, ids: Array, *, num_embeddings: int, whole: bool = False
  ) -> tuple[Array, Array]:
    """Returns the rows that a step needs, and the positions of ids in them."""
    if self.is_lazy(num_embeddings, ids.size) and not whole:
      rows, positions = training.unique_ids(ids, num_embeddings=num_embeddings)
      if rows.size == 1:
        # `nnx.Embed` gives the only row of a table for any id.
        rows = jnp.append(rows, jnp.int32(num_embeddings))
    else:
      rows = jnp.arange(num_embeddings, dtype=jnp.int32)
      positions = jnp.asarray(ids).astype(jnp.int32)
    inside = indexing.inside_table(ids, num_embeddings=num_embeddings)
    # Outside the small table, too: a row of zeros would hide a wrong id.
    return rows, jnp.where(inside, positions, rows.size)

  def keep_rows(self, model: Any, name: str, rows: Array) -> None:
    """Leaves only some rows in a table of a model, in place."""
    layer = places.layer_at(model, self.paths[name])
    places.replace_layer(model, layer, nn.select_rows(layer, rows))

  def is_lazy(self, num_embeddings: int, num_ids: int) -> bool:
    """Tells whether a step leaves out the rows that it does not look up."""
    return num_embeddings > self.lazy_from * num_ids

  def step(
    self, state: states.TrainState, batch: Any
  ) -> tuple[states.TrainState, dict[str, Array]]:
    """Takes one step on a global batch."""
    model, key = self._padded_model_of(state), self.step_key(state.step)
    ids, selected, loss = self.select(
      self._padded_model_of(state), batch, state, key
    )
    ids = {
      name: padding.beyond(places.layer_at(model, self.paths[name]), rows)
      for name, rows in ids.items()
    }
    self._catch_up(selected, ids, state)
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
      after = places.check_same_variables(self._split(model)[-1], stats)
      return value, (aux, after)

    grad_fn: Any = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
    (_, ((metrics, carry), stats)), grads = grad_fn(rows, params)
    clipped: Any = self.clip.update(grads, optax.EmptyState())[0]
    updates, opt_state = self.optimizer.update(
      clipped[1], state.opt_state, params
    )
    row_states = {
      name: self._move_rows(
        name, model, selected, ids[name], clipped[0], row_state
      )
      for name, row_state in state.row_states.items()
    }
    new_state = states.TrainState(
      step=state.step + 1,
      rows=nnx.state(model, self._is_lazy),
      params=optax.apply_updates(params, updates),
      stats=stats,
      row_states=row_states,
      opt_state=opt_state,
      carry=carry,
    )
    return new_state, metrics

  def flush(self, state: states.TrainState) -> states.TrainState:
    """Catches all rows up, before evaluation and export.

    Args:
      state: The state.

    Returns:
      The state as if no row had been left out of any step. That differs from
      `state` for optimisers that are a :class:`LazyTransformation` only.
    """
    model, row_states = self._padded_model_of(state), dict(state.row_states)
    for name, optimizer in self._lazy_optimizers().items():
      layer = places.layer_at(model, self.paths[name])
      rows = nnx.state(layer, nn.is_trained_row)
      nnx.update(layer, optimizer.catch_up(rows, row_states[name], None))
      row_states[name] = optimizer.settle(row_states[name])
    rows = nnx.state(model, self._is_lazy)
    return state._replace(rows=rows, row_states=row_states)

  def split_specs(self, state: states.TrainState) -> states.TrainState:
    """Returns how the state lies on several devices that share the rows.

    Args:
      state: The state, for its shapes.

    Returns:
      For ``compile_chunk(..., state_specs=...)``: the rows and what their
      optimisers keep of each are split over the mesh axis "data", which must
      divide their number, see :meth:`pad`; `STATE_SPECS` is for rows on every
      device.
    """
    row_states = {}
    for name, path in self.paths.items():
      rows = jax.tree.leaves(places.state_at(state.rows, path))
      row_states[name] = training.row_specs(
        state.row_states[name], rows[0].shape[0]
      )
    return states.STATE_SPECS._replace(
      rows=PartitionSpec("data"), row_states=row_states
    )

  def table_training_bytes(
    self, state: states.TrainState, ids_per_step: Mapping[str, int]
  ) -> int:
    """Returns the bytes that training some embeddings takes.

    Parameters, optimiser state, and the gradient that a step materialises:
    that of the rows of a batch, where they are updated by row.

    Args:
      state: The state.
      ids_per_step: How many ids a step looks up in each embedding that counts,
        by name; 0 leaves its gradient out.
    """
    model = self.model_of(state)
    found = {name: places.find_layer(model, name) for name in ids_per_step}
    layers = {name: layer for name, (_, layer) in found.items()}
    # Of the whole model only what belongs to these layers.
    prefixes = [path for path, _ in found.values()]
    is_shared = lambda path, _: any(path[: len(p)] == p for p in prefixes)
    shared = nnx.filter_state(state.params, is_shared)
    rows = []
    for name, layer in layers.items():
      size, num_ids = layer.num_embeddings, ids_per_step[name]
      by_row = not num_ids or self.is_lazy(size, num_ids)
      count = min(num_ids, size) if by_row else size
      if name in self.paths:
        rows.append(places.trained_rows(layer, count))
    opt_state = jax.eval_shape(self.optimizer.init, shared)
    row_states = [state.row_states.get(name) for name in layers]
    return accounting.training_bytes(
      [nnx.state(layer) for layer in layers.values()],
      (row_states, opt_state),
      (rows, shared),
    )

  def _is_lazy(self, path: places.Path, variable: Any) -> bool:
    within = any(path[: len(p)] == p for p in self.paths.values())
    return within and nn.is_row(path, variable)

  def _split(self, model: Any) -> tuple[Any, ...]:
    """Splits a model into its graph, lazy rows, parameters, and the rest."""
    model = places.without_intermediates(model)
    return nnx.split(model, self._is_lazy, nnx.Param, ...)

  def _lazy_optimizers(self) -> dict[str, lazy.LazyTransformation]:
    return {
      name: self.row_optimizers[name]
      for name in self.paths
      if isinstance(self.row_optimizers[name], lazy.LazyTransformation)
    }

  def _catch_up(
    self, selected: Any, ids: Mapping[str, Array], state: states.TrainState
  ) -> None:
    """Brings the selected rows up to date, in place, before they are read."""
    for name, optimizer in self._lazy_optimizers().items():
      part = places.layer_at(selected, self.paths[name])
      rows = nnx.state(part, nn.is_trained_row)
      row_state = state.row_states[name]
      nnx.update(part, optimizer.catch_up(rows, row_state, ids[name]))

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
    path = self.paths[name]
    table, part = places.layer_at(model, path), places.layer_at(selected, path)
    rows = nnx.state(part, nn.is_trained_row)
    size = padding.num_rows(table)
    optimizer, penalty = self.row_optimizers[name], self.penalties.get(name)
    factors = None
    if penalty is not None:
      factors = jax.tree.map(lambda w: penalty.multipliers(ids, w), rows)
    updates, state = training.row_updates(
      optimizer,
      rows,
      state,
      ids,
      places.state_at(grads, path),
      num_embeddings=size,
      multipliers=factors,
    )
    nnx.update(part, optax.apply_updates(rows, updates))
    nn.write_rows(table, ids, part)
    return state
