"""Runs that learn from ratings as they come, with new users and new items."""

from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp

from anchor_codes import nn, steps, training, typing
from experiments import (
  nonparametric,
  recommender_options,
  recommending,
)
from experiments.datasets import rating_batches
from experiments.datasets import ratings as datasets

ROWS = {
  "users": ("users", "user_bias"),
  "items": ("items", "item_bias"),
}
"""The embeddings that get a row for each user, and for each item."""

UNSEEN = "<unseen>"
"""The name of the stored row that serves all whom training has not seen."""


class OnlineRun(nonparametric.NonparametricRun):
  """A run over batches of ratings in time order.

  Each batch is learned together with a sample of fixed size of the ratings
  before it, so that memory does not grow with their number. Symbols are
  numbered as they appear; tables double when they are full, and a new symbol
  starts as the mean of those before it. With each batch the number of anchors
  may grow again before it is pruned; the last batch ends with the second part
  of :class:`nonparametric.NonparametricRun`. The arguments are those of
  :class:`recommending.Run`.
  """

  def __init__(self, config: Any, *args: Any, **kw: Any):
    self.time = 0
    super().__init__(config, *args, **kw)

  def check(self, config: recommending.RecommenderConfig) -> None:
    """Raises `ValueError` if options are wrong, before data are loaded."""
    super().check(config)
    check_online(config)

  def arrange(self, data: datasets.Ratings) -> datasets.Ratings:
    """Numbers the symbols in the order in which training meets them."""
    self.batches_in_time = rating_batches.time_batches(
      data, self.splits.train, num_batches=self.config.online_batches
    )
    stream = np.concatenate(self.batches_in_time)
    users, user_names = renumber(
      data.users, data.users[stream], data.user_names
    )
    items, item_names = renumber(
      data.items, data.items[stream], data.item_names
    )
    return data._replace(
      users=users, items=items, user_names=user_names, item_names=item_names
    )

  def learn_from(self, train: np.ndarray) -> None:
    """Takes the ratings of the first batch instead."""
    del train
    rng = np.random.default_rng(self.config.seed)
    # The ratings with the smallest numbers so far are a uniform sample.
    self.priorities = rng.random(len(self.data.values))
    self.seen = dict.fromkeys(ROWS, 0)
    self._learn_batch(0)
    if not len(self.valid):
      raise ValueError(
        "the first of `online_batches` must have users and items in common "
        "with the validation ratings, got none: take fewer batches, or `split` "
        "'random'."
      )

  def _learn_batch(self, number: int) -> dict[str, int]:
    """Takes a batch and a sample of those before; returns who was there."""
    before, new = self.seen, self.batches_in_time[number]
    old = np.concatenate([new[:0], *self.batches_in_time[:number]])
    kept = old[np.argsort(self.priorities[old])[: self.config.replay]]
    super().learn_from(np.concatenate([new, kept]))
    known = np.concatenate([old, new])
    self.seen = {
      "users": int(self.data.users[known].max()) + 1,
      "items": int(self.data.items[known].max()) + 1,
    }
    self.unseen = {
      name: np.arange(size) >= self.seen[name]
      for name, size in self.table_sizes().items()
    }
    self.time = number
    self.valid = self._known(self.splits.valid)
    return before

  def _known(self, indices: np.ndarray) -> np.ndarray:
    """Returns the ratings of users and items that have been there."""
    data, seen = self.data, self.seen
    inside = (data.users[indices] < seen["users"]) & (
      data.items[indices] < seen["items"]
    )
    return indices[inside]

  def table_sizes(self) -> dict[str, int]:
    """Returns the rows that the tables have room for: powers of two.

    The last row is always free: it stands for symbols that nobody has seen.
    """
    return {n: training.anchor_capacity(k + 1) for n, k in self.seen.items()}

  def ratings_of(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns users, items and values, with symbols that have a row."""
    users, items, values = super().ratings_of(indices)
    # The row behind those in use serves all whom nobody has seen.
    users = np.minimum(users, self.seen["users"])
    return users, np.minimum(items, self.seen["items"]), values

  def validation_rows(self) -> np.ndarray:
    """Returns the validation ratings of those who have been there."""
    return self.valid

  def validate(self, state: steps.TrainState) -> tuple[float, dict[str, float]]:
    """Adds how far time has come."""
    mse = self.evaluate(state, self.valid)
    sizes = {f"num_{name}": float(n) for name, n in self.seen.items()}
    return -mse, {"valid_mse": mse, "time_batch": self.time, **sizes}

  def max_epochs(self) -> int:
    """Returns more epochs than any path has."""
    config = self.config
    growth_rounds = max(config.growth_rounds, config.regrowth_rounds)
    path = growth_rounds + config.max_anchors
    return config.online_batches * path + config.decay_epochs

  def control(
    self, epoch: int, state: steps.TrainState, loss: float
  ) -> steps.TrainState:
    """Takes a round; a path that is done is followed by the next batch.

    The path only says how many anchors the ratings so far ask for. The next
    batch goes on where the path began, with all anchors: those that were taken
    out could hardly come back later.
    """
    state = super().control(epoch, state, loss)
    if self.path_is_done and not self.may_finish():
      state = self.next_batch(state.step)
    return state

  def next_batch(self, step: Any) -> steps.TrainState:
    """Returns the state where the path began, with rows for new symbols."""
    trunk = self.controller.pruning_from
    self.num_anchors = dict(self.controller.rounds[trunk].num_anchors)
    state = self.snapshots.pop(trunk)._replace(step=step)
    before = self._learn_batch(self.time + 1)
    self.controller = self.controller.reopen(
      growth_rounds=self.config.regrowth_rounds
    )
    return self.admit(state, before)

  def forget_snapshots(self) -> None:
    """Keeps the state where the path began, too."""
    trunk = self.controller.pruning_from
    kept = {n: s for n, s in self.snapshots.items() if n == trunk}
    super().forget_snapshots()
    self.snapshots |= {} if self.may_finish() else kept

  def may_finish(self) -> bool:
    """Tells whether this is the last batch."""
    return self.time + 1 == self.config.online_batches

  def admit(
    self, state: steps.TrainState, before: dict[str, int]
  ) -> steps.TrainState:
    """Gives rows to the symbols that were not there before."""
    state = self.resize(state, self.table_sizes())
    model = self.trainer.model_of(state)
    for name in ROWS:
      for layer in layers_of(model, name):
        set_to_mean(layer, before[name], self.seen[name])
    return self.trainer.replace_model(state, model)

  def resize(
    self, state: steps.TrainState, sizes: dict[str, int]
  ) -> steps.TrainState:
    """Gives the tables other numbers of rows, new ones with zeros."""
    state = _with_rows(state, dict(self.trainer.sizes), sizes)
    if sizes != self.trainer.sizes:
      self.use_trainer(self._trainer_of(sizes))
    return jax.tree.map(jnp.asarray, state)

  def final_state(self, state: steps.TrainState) -> steps.TrainState:
    """Returns the best state, with one row for all who were never seen."""
    sizes = {name: count + 1 for name, count in self.seen.items()}
    state = self.resize(super().final_state(state), sizes)
    model = self.trainer.model_of(state)
    for name, count in self.seen.items():
      self.unseen[name] = np.zeros(count + 1, bool)
      for layer in layers_of(model, name):
        set_to_mean(layer, count, count + 1)
    return self.trainer.replace_model(state, model)

  def count_unseen(self, indices: np.ndarray) -> dict[str, int]:
    """Counts ratings whose user, or item, training has never seen."""
    users, items, _ = super().ratings_of(indices)
    return {
      "users": int((users >= self.seen["users"]).sum()),
      "items": int((items >= self.seen["items"]).sum()),
    }

  def symbols(self) -> dict[str, tuple[str, ...]]:
    """Returns the names of the rows that are stored."""
    names = super().symbols()
    return {n: (*names[n][:k], UNSEEN) for n, k in self.seen.items()}

  def _trainer_of(self, sizes: dict[str, int]) -> Any:
    """Returns a trainer of larger tables, ready for their state."""
    old = self.trainer
    options = old.config, sizes, old.mean, old.phase, old.known
    trainer = self.make_trainer(*options)
    trainer.init()
    return trainer

  def to_checkpoint(
    self, state: steps.TrainState
  ) -> tuple[Any, dict[str, Any]]:
    """Remembers the time."""
    arrays, metadata = super().to_checkpoint(state)
    return arrays, metadata | {"time": self.time}

  def example(self, metadata: dict[str, Any]) -> Any:
    """Goes to the time of a checkpoint before its shapes are asked for."""
    self._learn_batch(metadata["time"])
    self.use_trainer(self._trainer_of(self.table_sizes()))
    return super().example(metadata)


def check_online(config: recommending.RecommenderConfig) -> None:
  """Raises `ValueError` if other options do not go with online learning.

  >>> check_online(recommending.RecommenderConfig(online_batches=2, replay=-1))
  Traceback (most recent call last):
  ...
  ValueError: `replay` must be at least 0, got -1.
  """
  minima = {"online_batches": 1, "replay": 0, "regrowth_rounds": 1}
  for name, minimum in minima.items():
    typing.check_at_least(name, getattr(config, name), minimum)
  # The mean of their rows is the mean vector, and new rows are their own.
  kinds = ("anchors", "full", "low_rank")
  for options in recommender_options.table_options(config).values():
    typing.check_choice("embedding", options.embedding, kinds)
  # The counts of all symbols are not known in the beginning.
  typing.check_choice("penalty", config.penalty, ("plain", "keep_one"))


def renumber(
  ids: np.ndarray, stream: np.ndarray, names: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Numbers symbols in the order of a stream; those outside come last.

  Args:
    ids: Ids of any symbols.
    stream: Ids in the order of time.
    names: Name of each symbol.

  Returns:
    The new ids, and the names in the new order.

  >>> ids, stream = np.array([0, 1, 2]), np.array([2, 0, 2])
  >>> print(*renumber(ids, stream, ("a", "b", "c")))
  [1 2 0] ('c', 'a', 'b')
  """
  known, first = np.unique(stream, return_index=True)
  outside = np.setdiff1d(np.arange(len(names)), known)
  order = np.concatenate([known[np.argsort(first)], outside])
  position = np.empty(len(names), ids.dtype)
  position[order] = np.arange(len(names))
  return position[ids], tuple(names[i] for i in order)


def layers_of(model: Any, name: str) -> list[Any]:
  """Returns the layers with one row for each user, or for each item."""
  return [getattr(model, attribute) for attribute in ROWS[name]]


def set_to_mean(layer: Any, begin: int, end: int) -> None:
  """Sets some rows of a layer to the mean of the rows before them."""
  fill = lambda rows: rows.at[begin:end].set(jnp.mean(rows[:begin], axis=0))
  nnx.update(layer, jax.tree.map(fill, nnx.state(layer, nn.is_row)))


def _with_rows(
  state: steps.TrainState,
  old_sizes: dict[str, int],
  sizes: dict[str, int],
) -> steps.TrainState:
  """Adds rows of zeros to tables and their optimisers' state, or cuts rows."""

  def resize(name: str, tree: Any) -> Any:
    kind = next(k for k, attributes in ROWS.items() if name in attributes)
    old, new = old_sizes[kind], sizes[kind]

    def pad(leaf: Any) -> Any:
      if np.shape(leaf)[:1] != (old,):
        return leaf
      width = [(0, max(new - old, 0))] + [(0, 0)] * (np.ndim(leaf) - 1)
      return np.pad(np.asarray(leaf)[:new], width)

    return jax.tree.map(pad, tree)

  rows = type(state.rows)({n: resize(n, t) for n, t in state.rows.items()})
  row_states = {n: resize(n, t) for n, t in state.row_states.items()}
  return state._replace(rows=rows, row_states=row_states)
