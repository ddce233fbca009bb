"""Runs that learn how many anchors they need, between their epochs."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax import numpy as jnp

from anchor_codes import ops, steps, training, typing
from experiments import (
  recommender_options,
  recommender_trainer,
  recommending,
)

RULES = {
  "marginal": training.MarginalController,
  "trend": training.TrendController,
}
"""How the number of anchors is chosen."""


class Trainer(recommender_trainer.Trainer):
  """A trainer whose tables have room for a power of two of anchors."""

  def init(self) -> steps.TrainState:
    """Returns the state at the start of training."""
    state = super().init()
    for name, number in self.num_anchors().items():
      state = training.resize_anchors(
        state,
        table=name,
        keep=range(number),
        capacity=training.anchor_capacity(number),
      )
    return state

  def num_anchors(self) -> dict[str, int]:
    """Returns the number of anchors that each table of anchors starts with."""
    return {
      name: options.num_anchors
      for name, options in self.options.items()
      if options.embedding == "anchors"
    }

  def apply_plan(
    self, state: steps.TrainState, plan: training.AnchorPlan
  ) -> steps.TrainState:
    """Takes out anchors, and adds fresh ones.

    Args:
      state: A state with the anchors that the plan is about.
      plan: Which of them stay, and how many come.
    """
    key = jax.random.fold_in(jax.random.key(self.seed), state.step)
    for name, keep in plan.keep.items():
      number = len(keep) + plan.num_new[name]
      state = training.resize_anchors(
        state,
        table=name,
        keep=keep,
        capacity=training.anchor_capacity(number),
      )
      if number > len(keep):
        key, fresh_key = jax.random.split(key)
        state = self._add(state, name, len(keep), number, fresh_key)
    return state

  def _add(
    self,
    state: steps.TrainState,
    name: str,
    begin: int,
    end: int,
    key: jax.Array,
  ) -> steps.TrainState:
    """Fills empty places with antipodal anchors, and gives rows shares."""
    model, config = self.model_of(state), self.config
    layer = getattr(model, name)
    key_rows, key_anchors = jax.random.split(key)
    rows = ops.antipodal_rows(
      key_rows,
      num_embeddings=layer.num_embeddings,
      num_anchors=end - begin,
      scale=config.weight_scale,
    )
    scale = ops.antipodal_scale(config.start_scale / config.weight_scale, end)
    anchors = ops.antipodal_anchors(
      key_anchors,
      num_anchors=end - begin,
      features=config.features,
      scale=scale,
    )
    transform = jnp.asarray(layer.transform[...])
    layer.transform[...] = transform.at[:, begin:end].set(rows)
    old = jnp.asarray(layer.anchors[...])
    layer.anchors[...] = old.at[begin:end].set(anchors)
    return self.replace_model(state, model)


class NonparametricRun(recommending.Run):
  """A run in two parts: it learns the numbers of anchors, then it finishes.

  In the first part each epoch is a round of the controller, at a constant
  learning rate. In the second part the numbers stay as they were learned, and
  the learning rate falls to zero. The arguments are those of
  :class:`recommending.Run`.
  """

  def __init__(
    self, config: recommending.RecommenderConfig, *args: Any, **kw: Any
  ):
    self.check(config)
    self.controller = make_controller(config)
    self.snapshots: dict[int, steps.TrainState] = {}
    self.finish_from: int | None = None
    self.path_is_done = False
    super().__init__(config, *args, **kw)
    self.num_anchors = self.trainer.num_anchors()

  def check(self, config: recommending.RecommenderConfig) -> None:
    """Raises `ValueError` if options are wrong, before data are loaded."""
    recommending.check_config(config)
    check_rule(config)

  def make_trainer(self, *args: Any) -> recommender_trainer.Trainer:
    """Returns a trainer that can change the number of anchors."""
    return Trainer(*args)

  def phase(self, *, keep_zeros: bool) -> recommender_trainer.Phase:
    """Returns the first phase: a constant learning rate."""
    return recommender_trainer.Phase(keep_zeros=keep_zeros)

  def max_epochs(self) -> int:
    """Returns more epochs than any path has."""
    config = self.config
    if config.rule == "trend":
      return config.epochs
    # A round of pruning takes at least one anchor.
    return config.growth_rounds + config.max_anchors + config.decay_epochs

  def is_over(self, epoch: int) -> bool:
    """Tells whether the second part has come to its end."""
    if self.finish_from is None:
      return False
    return epoch >= self.finish_from + self.config.decay_epochs

  def end_epoch(self, epoch: int, state: steps.TrainState) -> Any:
    """Lets the controller decide; in the second part, validates."""
    if self.finish_from is not None:
      new_state, metrics = super().end_epoch(epoch, state)
      return new_state, metrics | self.describe(state, metrics["valid_mse"])
    _, metrics = self.validate(state)
    metrics |= self.describe(state, metrics["valid_mse"])
    return self.control(epoch, state, metrics["valid_mse"]), metrics

  def control(
    self, epoch: int, state: steps.TrainState, loss: float
  ) -> steps.TrainState:
    """Takes one round of the controller, and carries out its plan."""
    self.controller, plan = self.controller.update(
      training.AnchorStatistics(
        loss, self.num_nonzeros(state), self.importances(state)
      )
    )
    last = len(self.controller.rounds) - 1
    # Copies: the buffers of the state are donated to the next chunk.
    self.snapshots[last] = jax.tree.map(np.array, state)
    is_last = epoch + 1 == self.max_epochs() - self.config.decay_epochs
    self.path_is_done = plan.done or is_last
    if self.path_is_done:
      begin = self.snapshots[last if plan.restore is None else plan.restore]
      if self.may_finish():
        self.start_finish(epoch + 1, begin)
      # Steps are numbered on, so that no two checkpoints have one number.
      state = begin._replace(step=state.step)
    self.forget_snapshots()
    self.num_anchors = {
      name: len(keep) + plan.num_new[name] for name, keep in plan.keep.items()
    }
    return self.trainer.apply_plan(state, plan)

  def may_finish(self) -> bool:
    """Tells whether the second part begins when the numbers are learned."""
    return True

  def start_finish(self, epoch: int, state: steps.TrainState) -> None:
    """Begins the second part with a state, from which the rate falls."""
    self.finish_from = epoch
    length = self.config.decay_epochs * self.steps_per_epoch
    self._enter(num_updates(state), length)
    self.forget_best()

  def importances(self, state: steps.TrainState) -> dict[str, np.ndarray]:
    """Returns how much each anchor lowers the validation error."""
    ratings = tuple(map(jnp.asarray, self.ratings_of(self.validation_rows())))
    return self.trainer.importances(state, ratings, self.num_anchors)

  def validation_rows(self) -> np.ndarray:
    """Returns the ratings that the controller measures on."""
    return self.splits.valid

  def num_nonzeros(self, state: steps.TrainState) -> int:
    """Returns the non-zero weights of all tables of anchors."""
    model = self.trainer.model_of(state)
    return sum(
      int(jnp.count_nonzero(jnp.asarray(getattr(model, name).transform[...])))
      for name in self.num_anchors
    )

  def describe(self, state: steps.TrainState, loss: float) -> dict[str, float]:
    """Returns the numbers of anchors, and the objective."""
    number = sum(self.num_anchors.values())
    nonzeros = self.num_nonzeros(state)
    objective = ops.small_variance_objective(
      loss,
      nonzeros,
      number,
      l1=self.config.l1,
      anchor_penalty=self.config.anchor_penalty,
    )
    sizes = {f"num_anchors_{n}": k for n, k in self.num_anchors.items()}
    return {**sizes, "num_nonzeros": nonzeros, "objective": float(objective)}

  def final_state(self, state: steps.TrainState) -> steps.TrainState:
    """Returns the best state, without empty places for anchors."""
    state = super().final_state(state)
    for name, number in self.num_anchors.items():
      state = training.resize_anchors(
        state, table=name, keep=range(number), capacity=number
      )
    return jax.tree.map(jnp.asarray, state)

  def final_metrics(self, state: steps.TrainState) -> dict[str, float]:
    """Adds the numbers of anchors, and the objective."""
    metrics = super().final_metrics(state)
    return metrics | self.describe(state, metrics["valid_mse"])

  def to_checkpoint(
    self, state: steps.TrainState
  ) -> tuple[Any, dict[str, Any]]:
    """Adds the record of the controller, and states it may go back to."""
    arrays, metadata = super().to_checkpoint(state)
    arrays["snapshots"] = {str(n): s for n, s in self.snapshots.items()}
    metadata |= {
      "controller": self.controller.to_metadata(),
      "num_anchors": self.num_anchors,
      "snapshots": {
        n: _capacities(s, self.num_anchors)
        for n, s in arrays["snapshots"].items()
      },
      "finish_from": self.finish_from,
      "decay_from": self.trainer.phase.decay_from,
      "decay_steps": self.trainer.phase.decay_steps,
    }
    return arrays, metadata

  def example(self, metadata: dict[str, Any]) -> Any:
    """Returns arrays in the shapes of a checkpoint."""
    start = self.trainer.init()
    sizes = {
      n: training.anchor_capacity(k) for n, k in metadata["num_anchors"].items()
    }
    state = self.put_state(_with_capacities(start, sizes))
    snapshots = {
      n: jax.tree.map(np.array, _with_capacities(start, capacities))
      for n, capacities in metadata["snapshots"].items()
    }
    arrays, _ = super().to_checkpoint(state)
    return {**arrays, "snapshots": snapshots}

  def from_checkpoint(
    self, arrays: Any, metadata: dict[str, Any]
  ) -> steps.TrainState:
    """Takes the record back."""
    state = super().from_checkpoint(arrays, metadata)
    self.controller = self.controller.from_metadata(metadata["controller"])
    self.num_anchors = metadata["num_anchors"]
    self.snapshots = {int(n): s for n, s in arrays["snapshots"].items()}
    self.finish_from = metadata["finish_from"]
    self._enter(metadata["decay_from"], metadata["decay_steps"])
    return state

  def _enter(self, decay_from: int, decay_steps: int) -> None:
    phase = recommender_trainer.Phase(decay_from, decay_steps)
    self.use_trainer(self.trainer.in_phase(phase))

  def forget_snapshots(self) -> None:
    """Keeps the states that a later plan may go back to, and no others."""
    oldest = len(self.controller.rounds)
    if not self.path_is_done and isinstance(
      self.controller, training.MarginalController
    ):
      oldest = self.controller.oldest_needed
    self.snapshots = {n: s for n, s in self.snapshots.items() if n >= oldest}


def check_rule(config: recommending.RecommenderConfig) -> None:
  """Raises `ValueError` if other options do not go with a rule.

  >>> check_rule(recommending.RecommenderConfig(num_nonzeros=8))
  Traceback (most recent call last):
  ...
  ValueError: `rule` needs dense rows that nothing else prunes: `num_nonzeros` 0
  and `max_nonzeros` 0, got 8 and 0.
  """
  if config.num_nonzeros or config.max_nonzeros:
    raise ValueError(
      "`rule` needs dense rows that nothing else prunes: `num_nonzeros` 0 and "
      f"`max_nonzeros` 0, got {config.num_nonzeros} and {config.max_nonzeros}."
    )
  if config.relations:
    raise ValueError(
      "`rule` needs anchors that may come and go, but those of `relations` "
      f"stand for symbols: it must be empty, got {config.relations!r}."
    )
  options = recommender_options.table_options(config).values()
  sizes = [o.num_anchors for o in options if o.embedding == "anchors"]
  if not sizes:
    raise ValueError("`rule` chooses the number of 'anchors', got none.")
  if max(sizes) > config.max_anchors:
    raise ValueError(
      "`max_anchors` must be at least the number of anchors at the start, got "
      f"{config.max_anchors} and {max(sizes)}."
    )
  if config.rule == "trend" and config.decay_epochs >= config.epochs:
    raise ValueError(
      "`decay_epochs` must be less than `epochs`, or 'trend' has no epoch to "
      f"learn in, got {config.decay_epochs} and {config.epochs}."
    )


def make_controller(
  config: recommending.RecommenderConfig,
) -> training.AnchorController:
  """Returns the controller that the options ask for.

  Raises:
    ValueError: If an option is unknown or outside its range.
  """
  typing.check_choice("rule", config.rule, RULES)
  options: dict[str, Any] = {}
  if config.rule == "marginal":
    options = {"growth_rounds": config.growth_rounds}
  return RULES[config.rule](
    anchor_penalty=config.anchor_penalty,
    l1=config.l1,
    max_anchors=config.max_anchors,
    **options,
  )


def num_updates(state: steps.TrainState) -> int:
  """Returns how many updates the optimisers of a state have made."""
  counts = optax.tree.get_all_with_path(state.row_states["user_bias"], "count")
  return int(counts[0][1])


def _capacities(state: Any, names: Mapping[str, Any]) -> dict[str, int]:
  """Returns how many places for anchors each table has."""
  return {name: state.params[name]["anchors"].shape[0] for name in names}


def _with_capacities(state: Any, capacities: Mapping[str, int]) -> Any:
  """Returns a state of the same form with other numbers of places."""
  for name, capacity in capacities.items():
    state = training.resize_anchors(
      state, table=name, keep=(), capacity=capacity
    )
  return state
