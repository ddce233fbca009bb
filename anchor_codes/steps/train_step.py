"""A row-sparse training step of a model of one's own.

>>> import jax
>>> from flax import nnx
>>> from jax import numpy as jnp
>>> from anchor_codes import nn, steps
>>> class Factorization(nnx.Module):
...   def __init__(self, rngs):
...     self.users = nnx.Embed(1000, 4, rngs=rngs)
...     self.items = nn.AnchorEmbed(500, 4, num_anchors=6, rngs=rngs,
...                                 num_nonzeros=2)
>>> def loss_fn(model, batch):
...   products = model.users(batch["user"]) * model.items(batch["item"])
...   return jnp.mean((products.sum(axis=-1) - batch["rating"]) ** 2)
>>> step = steps.row_sparse_train_step(
...   loss_fn,
...   optimizer=optax.sgd(1e-2),
...   tables={
...     "users": steps.RowOptions(
...       fields=["user"], optimizer=optax.adagrad(0.1)
...     ),
...     "items": steps.RowOptions(
...       fields=["item"],
...       optimizer=steps.lazy_proximal_l1(optax.sgd(0.1), 0.1, l1=1e-3),
...     ),
...   },
... )
>>> state = step.init(Factorization(nnx.Rngs(0)))
>>> run = jax.jit(step, donate_argnums=0)
>>> batch = {"user": jnp.array([1, 7]), "item": jnp.array([4, 4]),
...          "rating": jnp.array([1.0, 0.5])}
>>> losses = []
>>> for _ in range(3):
...   state, metrics = run(state, batch)
...   losses.append(metrics["loss"])
>>> print(losses[2] < losses[0])
True
>>> model = step.model_of(step.flush(state))
"""

import collections
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import optax
from jaxtyping import Array

from anchor_codes.steps import batches, places, row_steps, states

LossFn = Callable[..., Any]
"""``loss_fn(model, batch)``, with a key in the end for `with_key`."""

# Measured on two cores, with 4,096 ids, width 64, Adam and Adagrad. For 1, 2, 4
# and 8 rows for each id a step by row takes 0.4, 0.7, 2.3 and 3 times less time
# in a full table, and 0.9, 1.7, 2.7 and 4.5 times less in one of 256 anchors.
LAZY_FROM = 4.0
"""Rows of a table for each id of a batch, beyond which it is updated by row."""


class RowSparseStep(row_steps.RowSteps):
  """A training step; :func:`row_sparse_train_step` makes one.

  A pure function from a state and a batch to the new state and metrics, to be
  compiled by ``jax.jit`` with the state donated, scanned, or given to
  :func:`~anchor_codes.training.compile_chunk`.
  """

  def __init__(
    self,
    loss_fn: LossFn,
    *,
    optimizer: optax.GradientTransformation,
    tables: Mapping[str, batches.RowOptions],
    lazy_from: float,
    clip: float | None,
    seed: int,
    with_key: bool,
  ):
    super().__init__(
      optimizer=optimizer,
      row_optimizers={name: o.optimizer for name, o in tables.items()},
      clip=clip,
      lazy_from=lazy_from,
      seed=seed,
    )
    if clip is None:
      # A bound of infinity would have the norm computed all the same.
      self.clip = optax.identity()
    self.loss_fn = loss_fn
    self.options = dict(tables)
    self.with_key = with_key
    self.sizes: dict[str, int] = {}

  def init(self, model: Any) -> states.TrainState:
    """Returns the state at the start of training.

    Args:
      model: The model. The state takes over its arrays: where states are
        donated, the model must not be used again.

    Raises:
      ValueError: If a table is no embedding of the model or shares its rows
        with another layer, if tables share a field but not all of their
        fields, their padding and their size, or if the model has a
        :class:`~anchor_codes.nn.StochasticSharing` of as many ids as a table
        that may be updated by row.
    """
    state = self.state_of(model)
    layers = {n: places.find_layer(model, n)[1] for n in self.options}
    self.sizes = {name: layer.num_embeddings for name, layer in layers.items()}
    for name in self.paths if self.lazy_from < math.inf else ():
      places.check_ids_are_kept(model, name, layers[name])
    self._check_shared_fields()
    return state

  def __call__(
    self, state: states.TrainState, batch: Any
  ) -> tuple[states.TrainState, dict[str, Array]]:
    """Takes one step.

    Args:
      state: What :meth:`init` or the last step has returned.
      batch: A mapping of arrays, nested or not.

    Returns:
      The new state, and the metrics: the "loss", and those of the loss.

    Raises:
      ValueError: If a field is not in the batch, or holds no integers.
      IndexError: If an id is outside its table, and its value is known. Under
        a transformation such as ``jax.jit`` it gives a vector of ``nan``, as in
        every layer, and so a loss that shows it.
    """
    self.check_batch(batch)
    return self.step(state, batch)

  def check_batch(self, batch: Any) -> None:
    """Checks the ids of a batch, for the host: compiled steps see no values.

    Args:
      batch: One batch, or several in one.

    Raises:
      ValueError: If a field is not in the batch, or holds no integers.
      IndexError: If an id is outside its table.
    """
    for name, size in self.sizes.items():
      batches.check_ids(batch, self.options[name], num_embeddings=size)

  def select(
    self, model: Any, batch: Any, state: states.TrainState, key: Array
  ) -> states.Selection:
    """Leaves only the rows of a batch, and puts positions in place of ids."""
    ids: dict[str, Array] = {}
    replaced = batch
    for names in self._groups():
      tables = [name for name in names if name in self.paths]
      if not tables:
        continue
      options, size = self.options[names[0]], self.sizes[names[0]]
      joined = batches.join_ids(batch, options)
      rows, positions = self.find_rows(joined, num_embeddings=size)
      found = batches.split_positions(positions, batch, options)
      replaced = batches.with_fields(replaced, found)
      for name in tables:
        self.keep_rows(model, name, rows)
        ids[name] = rows

    def loss(model: Any) -> tuple[Array, Any]:
      keys = (key,) if self.with_key else ()
      result = self.loss_fn(model, replaced, *keys)
      value, metrics = result if isinstance(result, tuple) else (result, {})
      return value, ({"loss": value, **metrics}, state.carry)

    return states.Selection(ids, model, loss)

  def training_bytes(self, state: states.TrainState, batch: Any = None) -> int:
    """Returns the bytes that training the tables takes.

    Args:
      state: The state.
      batch: A batch, whose rows have a gradient; without one these do not
        count.

    Returns:
      The bytes of the parameters of the embeddings in `tables`, of the state
      of their optimisers, and of the gradients that a step makes of them.
    """
    counts = dict.fromkeys(self.options, 0)
    if batch is not None:
      for name, options in self.options.items():
        counts[name] = batches.num_ids(batch, options)
    return self.table_training_bytes(state, counts)

  def _groups(self) -> list[list[str]]:
    """Returns the tables that find their rows together, by their fields."""
    groups = collections.defaultdict(list)
    for name, options in self.options.items():
      groups[tuple(sorted(options.fields))].append(name)
    return list(groups.values())

  def _check_shared_fields(self) -> None:
    """Checks that positions in one table are positions in the others."""
    forms = {
      name: (*sorted(o.fields), o.padding_id, self.sizes[name], has_rows)
      for name, o in self.options.items()
      for has_rows in [name in self.paths]
    }
    for one, other in itertools.combinations(forms, 2):
      first, second = self.options[one].fields, self.options[other].fields
      if set(first) & set(second) and forms[one] != forms[other]:
        raise ValueError(
          "tables that share a field must share all fields, `padding_id` and "
          f"`num_embeddings`, and all have rows or none, got {one!r} and "
          f"{other!r}: give one of them a field of its own with the same ids."
        )


def row_sparse_train_step(
  loss_fn: LossFn,
  *,
  optimizer: optax.GradientTransformation,
  tables: Mapping[str, batches.RowOptions],
  lazy: bool | Literal["auto"] = "auto",
  clip: float | None = None,
  seed: int = 0,
  with_key: bool = False,
) -> RowSparseStep:
  r"""Makes a training step that costs what its batch costs.

  It leaves only the rows of the batch in the tables, puts the positions of the
  ids among these rows in place of the ids, differentiates the loss of that
  small model, and writes the moved rows and their part of the state of their
  optimiser back. With donated states neither time nor temporary memory grow
  with `num_embeddings`.

  The loss is written as for whole tables, under two conditions. It reaches the
  rows by the ids of `fields` only: one that scores all symbols, as by
  ``attend``, would see those of the batch, and needs ``lazy=False``. And what
  uses ids for something else than the lookup in their table has to find them
  in another field of the batch; ids are exchanged, as by
  :class:`~anchor_codes.nn.StochasticSharing`, before the step. Call
  :func:`~anchor_codes.nn.auxiliary_loss` with the layer and these fields.

  SGD, Adagrad, :func:`~anchor_codes.training.scale_by_row_adagrad` and
  :func:`lazy_proximal_l1` train as on the whole table. Optimisers with moments
  do not: in a row that no batch touches these wait, moments and all. So
  ``optax.adam`` by row is the "lazy Adam" of other libraries, another
  optimiser; its first step in a row that comes late is up to
  :math:`(1 - \beta_1) / \sqrt{1 - \beta_2}`, or 3.2, times the learning rate,
  because the correction of the bias counts all steps.

  Args:
    loss_fn: From a model and a batch to the loss, a scalar, or to a pair of it
      and a mapping of metrics.
    optimizer: The optimiser of all that has no rows.
    tables: How to train the rows of each embedding, by the attributes that lead
      to it, joined by dots: ``"items"``, ``"tower.items"``, ``"towers.0"``. An
      embedding without rows, such as one with given codes, is left to
      `optimizer`; so are those that are not named.
    lazy: Whether to update by row: True, False for the whole table at each
      step, or 'auto' for tables with more than `LAZY_FROM` rows for each id of
      a batch.
    clip: Largest global norm of the gradient, None for any.
    seed: Seed of the keys.
    with_key: Whether `loss_fn` takes a random key as its third argument,
      another one at each step.

  Returns:
    The step.

  Raises:
    ValueError: If `lazy` is none of these.

  >>> loss_fn = lambda model, batch: model(batch["id"]).sum()
  >>> row_sparse_train_step(loss_fn, optimizer=optax.sgd(1.0), tables={},
  ...                       lazy="always")
  Traceback (most recent call last):
  ValueError: `lazy` must be True, False or 'auto', got 'always'.
  """
  if lazy not in (True, False, "auto"):
    raise ValueError(f"`lazy` must be True, False or 'auto', got {lazy!r}.")
  lazy_from = LAZY_FROM if lazy == "auto" else 0.0 if lazy else math.inf
  return RowSparseStep(
    loss_fn,
    optimizer=optimizer,
    tables=tables,
    lazy_from=lazy_from,
    clip=clip,
    seed=seed,
    with_key=with_key,
  )
