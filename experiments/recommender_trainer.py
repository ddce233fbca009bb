"""The compiled steps of matrix factorisation, and what is measured of it."""

import copy
import functools
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import optax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float

from anchor_codes import ops, steps
from experiments import (
  embeddings,
  knowledge,
  optimizers,
  recommender_options,
  row_trainer,
)
from experiments.models import recommender

COMPACT = ("users", "items")
"""The embeddings of the model that any kind may take the place of."""

_DROPOUTS = {"vectors": ops.drop_entries, "gradients": ops.drop_gradients}


class Phase(NamedTuple):
  """What differs between the phases of a run.

  Attributes:
    decay_from: The step from which the learning rate falls.
    decay_steps: Steps in which it falls to zero; 0 for a constant rate.
    keep_zeros: Whether weights of anchors that are zero stay zero.
    epoch_steps: Steps of an epoch, after which `epoch_decay` lowers the rate.
  """

  decay_from: int = 0
  decay_steps: int = 0
  keep_zeros: bool = False
  epoch_steps: int = 1


class Trainer(row_trainer.RowTrainer):
  """The compiled functions of one phase of a run.

  Args:
    config: Options of the run.
    sizes: Number of users and of items, by the name of their table.
    mean: The mean rating of the training data.
    phase: What differs between the phases of a run.
    known: What is known of the symbols of each table.
    graphs: Along which the symbols of each table are exchanged, if any.
  """

  def __init__(
    self,
    config: Any,
    sizes: dict[str, int],
    mean: float,
    phase: Phase,
    known: dict[str, knowledge.Knowledge] | None = None,
    graphs: dict[str, Any] | None = None,
  ):
    self.config = config
    self.sizes = sizes
    self.mean = mean
    self.options = recommender_options.table_options(config)
    self.phase = phase
    self.known = known or {}
    self.graphs = graphs or {}
    optimizer, row_optimizers = self._optimizers(phase)
    super().__init__(
      optimizer=optimizer,
      row_optimizers=row_optimizers,
      ids_per_step=self.ids_per_step_of(config.batch_size),
      lazy_from=config.lazy_from,
      penalties={name: k.penalty() for name, k in self.known.items()},
      seed=config.seed,
    )
    self._vectors = jax.jit(
      lambda rows, params, stats: self._merge(rows, params, stats).vectors()
    )

  def ids_per_step_of(self, batch_size: int) -> dict[str, int]:
    """Returns how many ids of each table a step looks up."""
    return dict.fromkeys(COMPACT, batch_size)

  def in_phase(self, phase: Phase) -> Self:
    """Returns a trainer that goes on with a state of this one."""
    trainer = copy.copy(self)
    trainer.phase = phase
    trainer.optimizer, trainer.row_optimizers = self._optimizers(phase)
    return trainer

  def _optimizers(self, phase: Phase) -> tuple[Any, dict[str, Any]]:
    rate = optimizers.linear_decay(
      self.config.learning_rate, phase.decay_from, phase.decay_steps
    )
    if self.config.epoch_decay != 1:
      rate = optimizers.staircase(
        rate, self.config.epoch_decay, phase.epoch_steps
      )
    factor = self.config.shared_learning_rate
    rows = {
      name: embeddings.row_optimizer(
        self.options[name], rate, keep_zeros=phase.keep_zeros
      )
      for name in COMPACT
    }
    if self.config.biases:
      biases = optax.chain(
        optax.scale_by_adam(), optax.scale_by_learning_rate(rate)
      )
      rows |= {"user_bias": biases, "item_bias": biases}
    shared = optimizers.model_optimizer(
      "adam", rate, factors={"users": factor, "items": factor}
    )
    return shared, rows

  def make_model(self) -> recommender.Factorization:
    """Returns the model at the start of training."""
    rngs = nnx.Rngs(self.config.seed)
    layers = {
      name: embeddings.make_embedding(
        self.sizes[name],
        self.options[name],
        scale=self.config.start_scale,
        rngs=rngs,
      )
      for name in COMPACT
    }
    for name, known in self.known.items():
      known.start(layers[name], jax.random.key(self.config.seed))
    if self.config.mean_start:
      for layer in layers.values():
        layer.embedding[...] += mean_entry(self.mean, self.config.features)
    return recommender.Factorization(
      layers["users"],
      layers["items"],
      mean=self.mean if self.config.biases else 0.0,
      biases=self.config.biases,
      rngs=rngs,
    )

  def prepare(self, state: steps.TrainState, batches: Any) -> Any:
    """Exchanges the users and items of a chunk at random, if asked to.

    For all steps at once: their operations are small beside the steps, but so
    many that in each step they would take a tenth of its time.
    """
    if self.config.sharing in ("none", "closed_form"):
      return batches

    def share(step: Array, users: Array, items: Array) -> tuple[Array, Array]:
      keys = jax.random.split(self.step_key(step), 3)
      users = self.share("users", users, keys[0])
      return users, self.share("items", items, keys[1])

    users, items, *others = batches
    steps = state.step + jnp.arange(len(users), dtype=state.step.dtype)
    return (*jax.vmap(share)(steps, users, items), *others)

  def select(
    self, model: Any, batch: Any, state: steps.TrainState, key: Array
  ) -> steps.Selection:
    """Leaves only the users and items of a batch."""
    users, items, ratings = batch
    if self.config.sharing == "closed_form":
      return self._select_expected(model, batch, state)
    ids, positions = self.take_all(model, users, items)
    change = self.dropout(dropout_key(key))

    def loss(model: Any) -> tuple[Array, Any]:
      value, mse = model.loss(
        positions, ratings, l2=self.config.l2, change=change
      )
      return value, ({"loss": mse}, state.carry)

    return steps.Selection(ids, model, loss)

  def _select_expected(
    self, model: Any, batch: Any, state: steps.TrainState
  ) -> steps.Selection:
    """Keeps all rows: any of them may take the place of another."""
    users, items, ratings = batch
    ids, positions = self.take_all(model, users, items, whole=True)
    rates = {
      name: recommender_options.sharing_rate(self.config, name)
      for name in COMPACT
    }

    def loss(model: Any) -> tuple[Array, Any]:
      value, mse = model.expected_loss(
        positions, ratings, l2=self.config.l2, rates=rates
      )
      return value, ({"loss": mse}, state.carry)

    return steps.Selection(ids, model, loss)

  def take_all(
    self, model: Any, users: Array, items: Array, *, whole: bool = False
  ) -> tuple[dict[str, Array], dict[str, Array]]:
    """Leaves only the rows of some users and items, biases too.

    Returns:
      The distinct ids, and the positions among them, by name of the table.
    """
    ids, positions = {}, {}
    for name in recommender.TABLES if self.config.biases else COMPACT:
      inputs = users if name.startswith("user") else items
      taken, positions[name] = self.take(model, name, inputs, whole=whole)
      ids |= taken
    return ids, positions

  def share(self, name: str, ids: Array, key: Array) -> Array:
    """Exchanges ids at random, where the run asks for it."""
    sharing = embeddings.make_sharing(
      self.sizes[name], self.options[name], graph=self.graphs.get(name)
    )
    if sharing is None:
      return ids
    # A coin for each id would take a good part of so small a step.
    return ops.replace_some(
      key,
      ids,
      lambda key, few: sharing(few, rate=1.0, rngs=nnx.Rngs(sse=key)),
      rate=sharing.rate,
    )

  def dropout(self, key: Array) -> recommender.Change:
    """Returns the dropout of the vectors of a batch, or the identity."""
    if not self.config.dropout:
      return dict
    drop = _DROPOUTS[self.config.dropout_of]

    def change(parts: dict[str, Array]) -> dict[str, Array]:
      rate, changed = self.config.dropout, dict(parts)
      for n, name in enumerate(sorted(parts)):
        if not name.endswith("bias"):
          drop_key = jax.random.fold_in(key, n)
          changed[name] = drop(drop_key, parts[name], rate)
      return changed

    return change

  def vectors(
    self,
    state: steps.TrainState,
    unseen: dict[str, np.ndarray] | None = None,
  ) -> recommender.Vectors:
    """Composes all vectors and biases.

    Args:
      state: The parameters.
      unseen: For users and items, which of them training has never seen; they
        get the mean of the others.
    """
    vectors = self._vectors(state.rows, state.params, state.stats)
    if unseen is None:
      return vectors
    fill = lambda rows, name: recommender.fill_unseen(
      rows, jnp.asarray(unseen[name])
    )
    return vectors._replace(
      users=fill(vectors.users, "users"),
      items=fill(vectors.items, "items"),
      user_bias=fill(vectors.user_bias, "users"),
      item_bias=fill(vectors.item_bias, "items"),
    )

  def importances(
    self,
    state: steps.TrainState,
    ratings: tuple[Array, ...],
    num_anchors: dict[str, int],
  ) -> dict[str, np.ndarray]:
    """Returns how much each anchor of each table lowers the squared error.

    Args:
      state: The parameters, with dense rows of anchors.
      ratings: Users, items and ratings to measure on.
      num_anchors: How many places of each table hold an anchor.
    """
    vectors, model = self.vectors(state), self.model_of(state)
    found = {}
    for name, number in num_anchors.items():
      layer = getattr(model, name)
      rises = _rises(
        vectors, layer.transform[...], layer.anchors[...], ratings, table=name
      )
      found[name] = np.asarray(rises)[:number]
    return found

  def saliencies(
    self, state: steps.TrainState, counts: dict[str, np.ndarray]
  ) -> dict[str, Array]:
    """Estimates the rise of the loss without each weight of dense rows.

    Args:
      state: The parameters, and the second moments of their gradients.
      counts: For each table how often each symbol occurs in training.
    """
    saliencies = {}
    for name, count in counts.items():
      batch_size, touched = self.config.batch_size, np.ones(len(count))
      if self.is_lazy(len(count), batch_size):
        # The moments of a row are those of the steps that hold it.
        share = np.asarray(count) / max(np.sum(count), 1)
        touched = 1 - (1 - share) ** batch_size
      (weights,) = jax.tree.leaves(nnx.State({name: state.rows[name]}))
      (nu,) = jax.tree.leaves(optax.tree.get(state.row_states[name], "nu"))
      curvature = jnp.asarray(touched, nu.dtype)[:, None] * nu
      saliencies[name] = ops.saliency(weights, curvature)
    return saliencies

  def _merge(self, rows: Any, params: Any, stats: Any) -> Any:
    model = nnx.merge(self.graphdef, rows, params, stats)
    model.eval()
    return model


def dropout_key(key: Array) -> Array:
  """Returns the source of the dropout of a step; `prepare` has two others.

  >>> keys = jax.random.split(jax.random.key(0), 3)
  >>> bool(dropout_key(jax.random.key(0)) == keys[2])
  True
  """
  return jax.random.split(key, 3)[2]


def mean_entry(mean: float, features: int) -> float:
  """Returns the entry of vectors whose product is the mean rating.

  Raises:
    ValueError: If the mean is negative.

  >>> mean_entry(1.0, 100)
  0.1
  """
  if mean < 0:
    raise ValueError(
      f"`mean_start` needs ratings of a non-negative mean, got {mean}."
    )
  return (mean / features) ** 0.5


@functools.partial(jax.jit, static_argnames="table")
def _rises(
  vectors: recommender.Vectors,
  transform: Float[Array, "num_embeddings num_anchors"],
  anchors: Float[Array, "num_anchors features"],
  ratings: tuple[Array, ...],
  *,
  table: str,
) -> Float[Array, " num_anchors"]:
  """Returns the rise of the squared error without each anchor of a table."""
  base = recommender.mean_squared_error(vectors, *ratings)

  def rise(anchor: tuple[Array, Array]) -> Array:
    weights, direction = anchor
    rows = getattr(vectors, table) - weights[:, None] * direction[None]
    without = vectors._replace(**{table: rows})
    return recommender.mean_squared_error(without, *ratings) - base

  return jax.lax.map(rise, (transform.T, anchors))
