"""Trains a recommender with any embeddings, and measures what it costs."""

import functools
import math
import os
import pathlib
import time
from typing import Any, cast

import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh

from anchor_codes import steps
from experiments import (
  best_epoch,
  embeddings,
  knowledge,
  recommender_graphs,
  recommender_options,
  recommender_pruning,
  recommender_trainer,
  reporting,
  stored_tables,
  training_run,
)
from experiments.datasets import movies, relations
from experiments.datasets import ratings as datasets
from experiments.models import recommender
from experiments.recommender_options import RecommenderConfig, check_config


class Run(best_epoch.BestEpochRun):
  """One training run: the data, the compiled steps, and what they leave.

  Args:
    config: Options of the run.
    workdir: Folder for all that the run leaves; made if need be.
    data: The ratings, where they are loaded already.
    mesh: Devices to train on, all by default.
  """

  trainer: Any

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
    self.open_data(data)
    self.input_seconds = 0.0
    self.best_test: dict[str, float] = {}
    self.steps_per_epoch = max(self.num_examples() // config.batch_size, 1)
    trainer = self.make_trainer(
      config,
      self.table_sizes(),
      self.mean_rating(),
      self.phase(keep_zeros=False),
      self.load_knowledge(),
      self.load_graphs(),
    )
    super().__init__(
      config,
      pathlib.Path(workdir),
      trainer,
      steps_per_epoch=self.steps_per_epoch,
      mesh=mesh,
    )

  def open_data(self, data: datasets.Ratings | None) -> None:
    """Loads the ratings unless they are given, and splits them."""
    config = self.config
    data = self.prepare(
      data
      or datasets.load_ratings(
        config.dataset,
        data_dir=config.data_dir or None,
        test_file=config.test_file,
      )
    )
    self.splits = datasets.split_ratings(
      data,
      kind=cast(datasets.SplitKind, config.split),
      seed=config.split_seed,
      valid_share=config.valid_share,
    )
    self.data = self.arrange(data)
    self.learn_from(self.splits.train)

  def mean_rating(self) -> float:
    """Returns the mean of the training ratings."""
    return float(self.data.values[self.learned].mean())

  def embedding_options(self) -> dict[str, embeddings.EmbeddingOptions]:
    """Returns the options of users and items."""
    return dict(recommender_options.table_options(self.config))

  def load_knowledge(self) -> dict[str, knowledge.Knowledge]:
    """Returns what is known of users and items: counts, and shared genres."""
    options, graph = self.embedding_options(), None
    if self.config.relations:
      genres = movies.load_genres(
        self.config.dataset,
        item_names=self.data.item_names,
        data_dir=self.config.data_dir or None,
      )
      graph = relations.shared_attribute_graph(genres)
    return {
      name: knowledge.Knowledge(
        options[name], counts, graph if name == "items" else None
      )
      for name, counts in self.counts.items()
    }

  def load_graphs(self) -> dict[str, Any]:
    """Returns the graphs along which symbols are exchanged, by table."""
    data_dir = self.config.data_dir or None
    return {
      table: recommender_graphs.load_graph(name, self.data, data_dir=data_dir)
      for table, name in recommender_options.graph_names(self.config).items()
    }

  def prepare(self, data: datasets.Ratings) -> datasets.Ratings:
    """Returns the ratings that are split."""
    return data

  def num_examples(self) -> int:
    """Returns the number of examples of an epoch."""
    return len(self.learned)

  def arrange(self, data: datasets.Ratings) -> datasets.Ratings:
    """Returns the ratings with the ids that the tables are to have."""
    return data

  def learn_from(self, train: np.ndarray) -> None:
    """Takes these ratings, by their positions, as the training data."""
    data, self.learned = self.data, train
    self.counts = {
      "users": np.bincount(data.users[train], minlength=len(data.user_names)),
      "items": np.bincount(data.items[train], minlength=len(data.item_names)),
    }
    self.unseen = {name: n == 0 for name, n in self.counts.items()}

  def table_sizes(self) -> dict[str, int]:
    """Returns the number of rows of each table."""
    return {name: len(counts) for name, counts in self.counts.items()}

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
      epoch_steps=self.steps_per_epoch,
    )

  def batches(self, epoch: int, begin: int, end: int) -> Any:
    """Returns batches of ratings in an order that each epoch has for itself.

    What is left over after the last whole batch waits for another epoch.
    """
    start = time.perf_counter()
    order = self.draw_order(epoch, self.learned)
    chosen = order.reshape(-1, self.config.batch_size)[begin:end]
    batches = (
      self.data.users[chosen],
      self.data.items[chosen],
      self.data.values[chosen],
    )
    self.input_seconds += time.perf_counter() - start
    return batches

  def draw_order(self, epoch: int, examples: np.ndarray) -> np.ndarray:
    """Returns the examples of whole batches in the order of an epoch."""
    rng = np.random.default_rng([self.config.seed, epoch])
    length = self.steps_per_epoch * self.config.batch_size
    if self.config.sampling == "independent":
      return rng.choice(examples, length)
    return np.resize(rng.permutation(examples), length)

  def report(self, loss: float) -> dict[str, float]:
    """Returns the mean squared error of a chunk."""
    return {"train_mse": loss}

  def validate(self, state: steps.TrainState) -> tuple[float, dict[str, float]]:
    """Returns the mean squared error on the validation ratings, negative."""
    mse = self.evaluate(state, self.splits.valid)
    return -mse, {"valid_mse": mse}

  def better(self, first: float, second: float) -> float:
    """Returns the better one of two results."""
    return min(first, second)

  def measure_valid(self, state: steps.TrainState) -> dict[str, float]:
    """Measures a state on all validation ratings."""
    return {"valid_mse": self.evaluate(state, self.splits.valid)}

  def measure_test(self, state: steps.TrainState) -> dict[str, float]:
    """Measures a state on the test ratings."""
    mse = self.evaluate(state, self.splits.test)
    return {"test_mse": mse, "test_rmse": math.sqrt(mse)}

  def end_epoch(self, epoch: int, state: steps.TrainState) -> Any:
    """Validates; and prunes, in the epochs for that."""
    metrics = self._judge(epoch, state)
    done = epoch + 1 - self.config.prune_from
    if not self.config.max_nonzeros or not 0 <= done < self.config.prune_epochs:
      return None, metrics
    if not done:
      self.use_trainer(self.trainer.in_phase(self.phase(keep_zeros=True)))
    # A model with more weights than are allowed is no candidate.
    self.forget_best()
    rounds = self.config.prune_epochs - done
    pruned = recommender_pruning.prune_anchors(
      self.trainer, state, self.counts, rounds=rounds
    )
    return pruned, metrics

  def _judge(self, epoch: int, state: steps.TrainState) -> dict[str, float]:
    """Validates; without ratings for that, records how the test goes."""
    if (epoch + 1) % self.config.eval_epochs and epoch + 1 < self.max_epochs():
      return {}
    if len(self.splits.valid):
      return super().end_epoch(epoch, state)[1]
    metrics = self.measure_test(state)
    self.best_epoch = epoch  # The last one is stored, however good it is.
    for name, value in metrics.items():
      best = self.best_test.get(f"best_{name}", value)
      self.best_test[f"best_{name}"] = self.better(value, best)
    return metrics

  def is_over(self, epoch: int) -> bool:
    """Tells whether to stop early, which is not before pruning is over."""
    config = self.config
    # Nothing is known of a pruned model before it has been evaluated.
    judged_from = config.prune_from + config.prune_epochs
    judged_from += config.eval_epochs - 1
    if config.max_nonzeros and epoch < judged_from:
      return False
    return super().is_over(epoch)

  def example(self, metadata: dict[str, Any]) -> Any:
    """Enters the phase of a checkpoint before its shapes are asked for."""
    if metadata["keep_zeros"]:
      self.use_trainer(self.trainer.in_phase(self.phase(keep_zeros=True)))
    return super().example(metadata)

  def to_checkpoint(
    self, state: steps.TrainState
  ) -> tuple[Any, dict[str, Any]]:
    """Remembers the phase too."""
    arrays, metadata = super().to_checkpoint(state)
    return arrays, metadata | {
      "keep_zeros": self.trainer.phase.keep_zeros,
      "best_test": self.best_test,
    }

  def from_checkpoint(
    self, arrays: Any, metadata: dict[str, Any]
  ) -> steps.TrainState:
    """Takes the best results on the test back."""
    self.best_test = metadata["best_test"]
    return super().from_checkpoint(arrays, metadata)

  def evaluate(self, state: steps.TrainState, indices: np.ndarray) -> float:
    """Returns the mean squared error on some ratings."""
    vectors = self.vectors(state)
    ratings = map(jnp.asarray, self.ratings_of(indices))
    return float(recommender.mean_squared_error(vectors, *ratings))

  def vectors(self, state: steps.TrainState) -> recommender.Vectors:
    """Returns all vectors and biases as they are measured.

    A user or an item that training has never seen gets the mean vector and the
    mean bias of the others, unless the options ask for its own.
    """
    unseen = self.unseen if self.config.unseen == "mean" else None
    return self.trainer.vectors(state, unseen)

  def ratings_of(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns users, items and values of some ratings, to measure on."""
    data = self.data
    return data.users[indices], data.items[indices], data.values[indices]

  def finish(
    self, state: steps.TrainState, *, seconds: float
  ) -> reporting.RunResult:
    """Measures the best model, and writes the tables and the result."""
    state = self.final_state(state)
    model = self.trainer.model_of(state)
    options = recommender_options.table_options(self.config)
    names = self.symbols()
    artefacts = [
      stored_tables.store_embedding(
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

  def symbols(self) -> dict[str, tuple[str, ...]]:
    """Returns the names of the rows that are stored."""
    return {"users": self.data.user_names, "items": self.data.item_names}

  def count_unseen(self, indices: np.ndarray) -> dict[str, int]:
    """Counts ratings whose user, or item, training has never seen."""
    users, items, _ = self.ratings_of(indices)
    return {
      "users": int(self.unseen["users"][users].sum()),
      "items": int(self.unseen["items"][items].sum()),
    }

  def final_state(self, state: steps.TrainState) -> steps.TrainState:
    """Returns the state to measure and to store."""
    return self.best_of(state)

  def final_metrics(self, state: steps.TrainState) -> dict[str, float]:
    """Measures the state that is stored, by the name of the metric."""
    unseen = self.count_unseen(self.splits.test)
    valid = self.measure_valid(state) if len(self.splits.valid) else {}
    return {
      **self.measure_test(state),
      **valid,
      **self.best_test,
      "best_epoch": self.best_epoch + 1,
      "test_unseen_users": unseen["users"],
      "test_unseen_items": unseen["items"],
      "input_seconds": self.input_seconds,
      "step_seconds": float(sum(self.chunk_seconds)),
    }


train_and_evaluate = functools.partial(
  training_run.train_and_evaluate, run_type=Run
)
"""Trains a recommender and leaves its results in a folder."""
