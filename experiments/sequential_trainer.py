"""The compiled steps of a sequential recommender, and its measurement."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import optax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array

from anchor_codes import steps
from experiments import (
  embeddings,
  knowledge,
  row_trainer,
  sequential_evaluation,
  sequential_options,
)
from experiments.models import sequence_sharing, sequential
from experiments.sequential_options import SequentialConfig


class Trainer(row_trainer.RowTrainer):
  """The compiled functions of one run.

  Args:
    config: Options of the run.
    num_users: Number of users.
    num_items: Number of items, without padding.
    known: What is known of the symbols of each table.
    graphs: Neighbours of users and items by the name of the table, for
      `sharing` 'graph'.
  """

  def __init__(
    self,
    config: SequentialConfig,
    *,
    num_users: int,
    num_items: int,
    known: Mapping[str, knowledge.Knowledge] | None = None,
    graphs: Mapping[str, Any] | None = None,
  ):
    self.config = config
    self.known = known or {}
    self.sizes = {"items": num_items + 1, "users": num_users}
    self.options = sequential_options.table_options(config)
    self.graphs = graphs or {}
    positions = config.batch_size * config.max_length
    per_position = config.user_draws == "position"
    ids = {
      "items": 3 * positions,
      "users": 2 * positions if per_position else config.batch_size,
    }
    super().__init__(
      optimizer=self._optimizer(),
      row_optimizers={
        name: self._row_optimizer(options)
        for name, options in self.options.items()
      },
      ids_per_step={name: ids[name] for name in self.options},
      lazy_from=config.lazy_from,
      penalties={name: k.penalty() for name, k in self.known.items()},
      seed=config.seed,
    )
    self._ranks = jax.jit(self._rank)

  def make_model(self) -> sequential.SequentialRecommender:
    """Returns the model at the start of training."""
    config, rngs = self.config, nnx.Rngs(self.config.seed)
    layers = {}
    for name, options in self.options.items():
      size, known = self.sizes[name], self.known.get(name)
      layers[name] = embeddings.make_embedding(
        size,
        options,
        scale=sequential_options.start_scale(config, size, options.features),
        rngs=rngs,
        vectors=None if known is None else known.vectors,
      )
      if known is not None:
        known.start(layers[name], jax.random.key(config.seed))
    return sequential.SequentialRecommender(
      **layers,
      max_length=config.max_length,
      num_blocks=config.num_blocks,
      num_heads=config.num_heads,
      dropout=config.dropout,
      sharing=self._make_sharing(),
      rngs=rngs,
    )

  def select(
    self, model: Any, batch: Any, state: steps.TrainState, key: Array
  ) -> steps.Selection:
    """Leaves only the users and items of a batch."""
    share_key, drop_key = jax.random.split(key)
    shared = sequence_sharing.unshared(batch)
    if model.sharing is not None:
      shared = model.sharing(share_key, batch)
    items = jnp.stack([shared.inputs, shared.targets, batch.negatives])
    ids, items = self.take(model, "items", items)
    users = None
    if model.users is not None:
      users = jnp.stack([shared.users, shared.target_users])
      taken, users = self.take(model, "users", users)
      ids |= taken
    where = batch.targets >= sequence_sharing.FIRST_ITEM

    def loss(model: Any) -> tuple[Array, Any]:
      total, value = model.loss(
        items, users, where, l2=self.config.l2_emb, key=drop_key
      )
      return total, ({"loss": value}, state.carry)

    return steps.Selection(ids, model, loss)

  def ranks(
    self,
    state: steps.TrainState,
    task: sequential_evaluation.RankingTask,
  ) -> sequential_evaluation.Ranks:
    """Ranks the items that came next.

    Args:
      state: The parameters.
      task: The users.
    """
    sampled, full = self._ranks(state.rows, state.params, state.stats, task)
    return sequential_evaluation.unbatched(sampled, full, number=task.number)

  def _rank(
    self, rows: nnx.State, params: nnx.State, stats: nnx.State, task: Any
  ) -> tuple[Array, Array]:
    model = nnx.merge(self.graphdef, rows, params, stats, copy=True)
    model.eval()
    return sequential_evaluation.rank_targets(model, task)

  def _rate(self, step: Any) -> Array:
    del step
    return jnp.float32(self.config.learning_rate)

  def _optimizer(self) -> optax.GradientTransformation:
    """Returns the optimiser of all but the rows of the tables."""
    config = self.config

    def is_shared(params: nnx.State) -> nnx.State:
      return jax.tree_util.tree_map_with_path(
        lambda path, _: path[0].key in self.options, params
      )

    return optax.chain(
      optax.adamw(
        self._rate, b2=config.beta2, weight_decay=config.weight_decay
      ),
      optax.masked(optax.scale(config.shared_learning_rate), is_shared),
    )

  def _row_optimizer(
    self, options: embeddings.EmbeddingOptions
  ) -> optax.GradientTransformation:
    """Returns the optimiser of the rows; Adam gets the run's second decay."""
    decay, plain = self.config.weight_decay, embeddings.ROW_OPTIMIZERS
    if options.guidance == "online" or options.row_optimizer not in plain:
      if decay:
        raise ValueError(
          "`weight_decay` must be 0 with `guidance` 'online' and "
          f"`row_optimizer` 'yogi', got {decay}."
        )
      return embeddings.row_optimizer(options, self._rate)
    steps = [plain[options.row_optimizer]()]
    if options.row_optimizer == "adam":
      steps = [optax.scale_by_adam(b2=self.config.beta2)]
    if decay:
      # After the scaling, which would shrink it where gradients are large.
      steps.append(optax.add_decayed_weights(decay))
    options = dataclasses.replace(options, row_optimizer="sgd")
    steps.append(embeddings.row_optimizer(options, self._rate))
    return optax.chain(*steps)

  def _make_sharing(self) -> sequence_sharing.SequenceSharing | None:
    config = self.config
    if config.sharing_kind == "none":
      return None
    return sequence_sharing.SequenceSharing(
      self.sizes["users"],
      self.sizes["items"] - 1,
      user_rate=config.user_sharing_rate,
      item_rate=config.item_sharing_rate,
      target_rate=config.target_sharing_rate,
      per_position=config.user_draws == "position",
      graphs=self.graphs,
      neighbor_ratio=config.neighbor_ratio,
      official=config.official_sampler,
    )
