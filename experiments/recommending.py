"""Trains a recommender with any embeddings, and measures what it costs."""

import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh

from anchor_codes import ops, typing
from experiments import (
  best_epoch,
  embeddings,
  recommender_trainer,
  reporting,
  row_trainer,
  training_run,
)
from experiments.datasets import ratings as datasets
from experiments.models import recommender


@dataclasses.dataclass(kw_only=True)
class RecommenderConfig(embeddings.EmbeddingOptions):
  """Matrix factorisation with biases, and options of the run.

  The options of the embedding hold for users and items alike, but for those
  that begin with `item_`.

  Attributes:
    item_embedding: Kind of the items' embedding, if another one.
    item_anchors: Anchors of the items, if another number.
    dataset: 'ml-100k', 'ml-1m', 'ml-latest-small', 'ml-25m' or 'csv:PATH'.
    data_dir: Folder with one folder for each data set; the environment
      variable `ANCHOR_CODES_DATA` by default.
    split: 'random' (80/10/10), 'chronological', or 'published' (90/10, the last
      part for validation and test alike).
    split_seed: Seed of a split at random.
    l2: Weight of the squared norms of the vectors and biases of each rating.
    max_nonzeros: How many weights 'anchors' keep, users and items together;
      0 for all. The rest is pruned, those first that cost least.
    prune_from: The epoch before the first round of pruning.
    prune_epochs: Rounds of pruning, one after each epoch.
    batch_size: Ratings in a batch.
    lazy_from: A table with more rows than this, for each rating of a batch, is
      updated by row; a smaller one as a whole.
    epochs: Passes over the training ratings.
    decay_epochs: The last epochs, in which the learning rate falls to zero.
    patience: Epochs without a better validation error before the run ends, 0
      for any. The best epoch is kept and tested.
    learning_rate: Learning rate of Adam.
    chunk_steps: Steps in a compiled chunk, about.
    checkpoint_chunks: Chunks between two checkpoints; 0 for none.
    seed: Seed of all other randomness.
    rule: 'marginal' or 'trend' to learn the number of anchors of each table;
      none by default.
    anchor_penalty: Price of one more anchor, for a rule; that of a weight is
      `l1`.
    max_anchors: The most anchors that a table may have, for a rule.
    growth_rounds: Epochs of growth before pruning, for 'marginal'.
  """

  features: int = 16
  num_anchors: int = 16
  num_nonzeros: int = 0
  weight_scale: float = 0.1
  start: str = "antipodal"
  start_scale: float = 0.07
  rank: int = 4
  l1: float = 0.0
  row_optimizer: str = "adam"
  shared_learning_rate: float = 0.3
  item_embedding: str = ""
  item_anchors: int = 0
  dataset: str = "ml-latest-small"
  data_dir: str = ""
  split: str = "random"
  split_seed: int = 0
  l2: float = 0.04
  max_nonzeros: int = 0
  prune_from: int = 8
  prune_epochs: int = 8
  batch_size: int = 2048
  lazy_from: float = 8.0
  epochs: int = 28
  decay_epochs: int = 12
  patience: int = 0
  learning_rate: float = 0.005
  chunk_steps: int = 400
  checkpoint_chunks: int = 10
  seed: int = 0
  rule: str = ""
  anchor_penalty: float = 0.003
  max_anchors: int = 40
  growth_rounds: int = 8


class Run(best_epoch.BestEpochRun):
  """One training run: the data, the compiled steps, and what they leave.

  Args:
    config: Options of the run.
    workdir: Folder for all that the run leaves; made if need be.
    data: The ratings, where they are loaded already.
    mesh: Devices to train on, all by default.
  """

  trainer: recommender_trainer.Trainer

  def __init__(
    self,
    config: RecommenderConfig,
    workdir: str | os.PathLike[str],
    *,
    data: datasets.Ratings | None = None,
    mesh: Mesh | None = None,
  ):
    check_config(config)
    self.config = config
    self.data = data or datasets.load_ratings(
      config.dataset, data_dir=config.data_dir or None
    )
    self.splits = datasets.split_ratings(
      self.data, kind=config.split, seed=config.split_seed
    )
    self.sizes = {
      "users": len(self.data.user_names),
      "items": len(self.data.item_names),
    }
    train = self.splits.train
    self.counts = {
      "users": np.bincount(
        self.data.users[train], minlength=self.sizes["users"]
      ),
      "items": np.bincount(
        self.data.items[train], minlength=self.sizes["items"]
      ),
    }
    self.unseen = {name: n == 0 for name, n in self.counts.items()}
    self.input_seconds = 0.0
    self.steps_per_epoch = max(len(train) // config.batch_size, 1)
    trainer = self.make_trainer(
      config,
      self.sizes,
      float(self.data.values[train].mean()),
      self.phase(keep_zeros=False),
    )
    super().__init__(
      config,
      pathlib.Path(workdir),
      trainer,
      steps_per_epoch=self.steps_per_epoch,
      mesh=mesh,
    )

  def make_trainer(self, *args: Any) -> recommender_trainer.Trainer:
    """Returns the trainer of the first phase."""
    return recommender_trainer.Trainer(*args)

  def phase(self, *, keep_zeros: bool) -> recommender_trainer.Phase:
    """Returns a phase of a run whose number of epochs is known."""
    decay = min(self.config.decay_epochs, self.config.epochs)
    return recommender_trainer.Phase(
      decay_from=(self.config.epochs - decay) * self.steps_per_epoch,
      decay_steps=decay * self.steps_per_epoch,
      keep_zeros=keep_zeros,
    )

  def batches(self, epoch: int, begin: int, end: int) -> Any:
    """Returns batches of ratings in an order that each epoch has for itself.

    What is left over after the last whole batch waits for another epoch.
    """
    start = time.perf_counter()
    size, train = self.config.batch_size, self.splits.train
    rng = np.random.default_rng([self.config.seed, epoch])
    order = np.resize(rng.permutation(train), self.steps_per_epoch * size)
    chosen = order.reshape(-1, size)[begin:end]
    batches = (
      self.data.users[chosen],
      self.data.items[chosen],
      self.data.values[chosen],
    )
    self.input_seconds += time.perf_counter() - start
    return batches

  def report(self, loss: float) -> dict[str, float]:
    """Returns the mean squared error of a chunk."""
    return {"train_mse": loss}

  def validate(
    self, state: row_trainer.TrainState
  ) -> tuple[float, dict[str, float]]:
    """Returns the mean squared error on the validation ratings, negative."""
    mse = self.evaluate(state, self.splits.valid)
    return -mse, {"valid_mse": mse}

  def end_epoch(self, epoch: int, state: row_trainer.TrainState) -> Any:
    """Validates; and prunes, in the epochs for that."""
    _, metrics = super().end_epoch(epoch, state)
    done = epoch + 1 - self.config.prune_from
    if not self.config.max_nonzeros or not 0 <= done < self.config.prune_epochs:
      return None, metrics
    if not done:
      self.use_trainer(self.trainer.in_phase(self.phase(keep_zeros=True)))
    # A model with more weights than are allowed is no candidate.
    self.forget_best()
    return self._prune(state, done + 1), metrics

  def _prune(
    self, state: row_trainer.TrainState, number: int
  ) -> row_trainer.TrainState:
    """Takes out the weights that matter least, in one of several rounds."""
    saliencies = self.trainer.saliencies(state, self._pruned_counts())
    model = self.trainer.model_of(state)
    weights = {n: getattr(model, n).transform for n in saliencies}
    left = sum(int(jnp.count_nonzero(w[...])) for w in weights.values())
    rounds = self.config.prune_epochs
    # The rounds behind and ahead of this one share out the same factor.
    budget = ops.pruning_budget(
      1,
      num_steps=rounds - number + 1,
      start=left,
      end=self.config.max_nonzeros,
    )
    kept = ops.most_salient(list(saliencies.values()), num_nonzeros=budget)
    for name, keep in zip(saliencies, kept, strict=True):
      weights[name][...] = jnp.where(keep, weights[name][...], 0)
    return self.trainer.replace_model(state, model)

  def _pruned_counts(self) -> dict[str, np.ndarray]:
    """Returns the counts of the tables that have weights to prune."""
    options = recommender_trainer.table_options(self.config)
    return {
      name: count
      for name, count in self.counts.items()
      if options[name].embedding == "anchors"
    }

  def example(self, metadata: dict[str, Any]) -> Any:
    """Enters the phase of a checkpoint before its shapes are asked for."""
    if metadata["keep_zeros"]:
      self.use_trainer(self.trainer.in_phase(self.phase(keep_zeros=True)))
    return super().example(metadata)

  def to_checkpoint(
    self, state: row_trainer.TrainState
  ) -> tuple[Any, dict[str, Any]]:
    """Remembers the phase too."""
    arrays, metadata = super().to_checkpoint(state)
    return arrays, metadata | {"keep_zeros": self.trainer.phase.keep_zeros}

  def evaluate(
    self, state: row_trainer.TrainState, indices: np.ndarray
  ) -> float:
    """Returns the mean squared error on some ratings.

    A user or an item that training has never seen gets the mean vector and the
    mean bias of the others.
    """
    vectors = self.trainer.vectors(state, self.unseen)
    data = self.data
    return float(
      recommender.mean_squared_error(
        vectors,
        *(
          jnp.asarray(a[indices]) for a in (data.users, data.items, data.values)
        ),
      )
    )

  def finish(
    self, state: row_trainer.TrainState, *, seconds: float
  ) -> reporting.RunResult:
    """Measures the best model, and writes the tables and the result.

    Args:
      state: The state in the end.
      seconds: Duration of the training.

    Returns:
      The result, which is in `result.json` too.

    Raises:
      RuntimeError: If a file does not give back what was trained.
    """
    state = self.final_state(state)
    model = self.trainer.model_of(state)
    options = recommender_trainer.table_options(self.config)
    names = {"users": self.data.user_names, "items": self.data.item_names}
    artefacts = [
      training_run.store_embedding(
        getattr(model, name),
        options[name],
        self.workdir / f"{name}.safetensors",
        vocabulary=names[name],
      )
      for name in recommender_trainer.COMPACT
    ]
    state = self.trainer.replace_model(state, model)
    return self.write_result(
      "train_recommender",
      state,
      artefacts,
      self.final_metrics(state),
      seconds=seconds,
    )

  def final_state(
    self, state: row_trainer.TrainState
  ) -> row_trainer.TrainState:
    """Returns the state to measure and to store."""
    return self.best_of(state)

  def final_metrics(self, state: row_trainer.TrainState) -> dict[str, float]:
    """Measures the state that is stored, by the name of the metric."""
    test = self.splits.test
    mse = self.evaluate(state, test)
    unseen = {
      "users": self.unseen["users"][self.data.users[test]],
      "items": self.unseen["items"][self.data.items[test]],
    }
    return {
      "test_mse": mse,
      "test_rmse": math.sqrt(mse),
      "valid_mse": self.evaluate(state, self.splits.valid),
      "best_epoch": self.best_epoch + 1,
      "test_unseen_users": int(unseen["users"].sum()),
      "test_unseen_items": int(unseen["items"].sum()),
      "input_seconds": self.input_seconds,
      "step_seconds": float(sum(self.chunk_seconds)),
    }


def check_config(config: RecommenderConfig) -> None:
  """Raises `ValueError` if an option is outside its range."""
  typing.check_at_least("batch_size", config.batch_size, 1)
  for name in ("l1", "l2", "max_nonzeros", "prune_from", "decay_epochs"):
    if not getattr(config, name) >= 0:
      raise ValueError(
        f"`{name}` must be non-negative, got {getattr(config, name)}."
      )
  if not config.max_nonzeros:
    return
  options = recommender_trainer.table_options(config)
  if not any(o.embedding == "anchors" for o in options.values()):
    raise ValueError("`max_nonzeros` prunes 'anchors', got none of them.")
  if config.num_nonzeros or config.row_optimizer not in ("adam", "yogi"):
    raise ValueError(
      "`max_nonzeros` needs dense rows and second moments: `num_nonzeros` 0 "
      f"and `row_optimizer` 'adam' or 'yogi', got {config.num_nonzeros} and "
      f"{config.row_optimizer!r}."
    )
  if config.prune_from + config.prune_epochs >= config.epochs:
    raise ValueError(
      "`prune_from` + `prune_epochs` must be less than `epochs`, got "
      f"{config.prune_from} + {config.prune_epochs} and {config.epochs}."
    )


def train_and_evaluate(
  config: RecommenderConfig,
  workdir: str | os.PathLike[str],
  *,
  resume: bool = False,
  data: datasets.Ratings | None = None,
  mesh: Mesh | None = None,
  run_type: Callable[..., Run] = Run,
) -> reporting.RunResult:
  """Trains a recommender and leaves its results in a folder.

  Args:
    config: Options of the run.
    workdir: Folder for the results, checkpoints and the tables.
    resume: Whether to go on from the newest checkpoint in the folder.
    data: The ratings, where they are loaded already.
    mesh: Devices to train on, all by default.
    run_type: What makes the run; `nonparametric.NonparametricRun` for a rule.

  Returns:
    The result.

  Raises:
    ValueError: If an option is outside its range, or the ratings are not as
      they must be.
    FileNotFoundError: If the data are not there.
  """
  begin = time.perf_counter()
  run = run_type(config, workdir, data=data, mesh=mesh)
  state = run.train(resume=resume)
  return run.finish(state, seconds=time.perf_counter() - begin)
