"""Trains a sequential recommender, and measures what it costs."""

import functools
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh

from anchor_codes import steps, tables
from experiments import (
  best_epoch,
  embeddings,
  given_vectors,
  knowledge,
  reporting,
  sequence_batches,
  sequential_evaluation,
  sequential_graphs,
  sequential_options,
  sequential_trainer,
  stored_tables,
  training_run,
)
from experiments.datasets import sequences as datasets
from experiments.sequential_options import SequentialConfig

HELD_OUT = {"valid": 2, "test": 1}
"""How far from its end a sequence is cut for a measurement."""

PADDING_NAME = "<pad>"


class Run(best_epoch.BestEpochRun):
  """One training run: the data, the compiled steps, and what they leave.

  Args:
    config: Options of the run.
    workdir: Folder for all that the run leaves; made if need be.
    data: The sequences, where they are loaded already.
    mesh: Devices to train on, all by default.
  """

  trainer: Any

  def __init__(
    self,
    config: SequentialConfig,
    workdir: str | os.PathLike[str],
    *,
    data: datasets.Sequences | None = None,
    mesh: Mesh | None = None,
  ):
    sequential_options.check_config(config)
    self.data = data or datasets.load_sequences(
      config.dataset, data_dir=config.data_dir or None
    )
    windows = config.window_rate if config.model == "sse_pt++" else 0.0
    self.sampler = sequence_batches.SequenceSampler(
      self.data, max_length=config.max_length, window_rate=windows
    )
    self.input_seconds = 0.0
    self.counts = count_events(self.data)
    trainer = sequential_trainer.Trainer(
      config,
      num_users=self.data.num_users,
      num_items=self.data.num_items,
      known=self._load_knowledge(config),
      graphs=sequential_graphs.load_graphs(config, self.data),
    )
    super().__init__(
      config,
      pathlib.Path(workdir),
      trainer,
      steps_per_epoch=max(self.data.num_users // config.batch_size, 1),
      mesh=mesh,
    )
    self._tasks: dict[str, sequential_evaluation.RankingTask] = {}

  def _load_knowledge(
    self, config: SequentialConfig
  ) -> dict[str, knowledge.Knowledge]:
    """Returns what is known of each table: counts, and vectors of the items."""
    found = {}
    for name, options in sequential_options.table_options(config).items():
      vectors = None
      if options.vectors:
        vectors = given_vectors.load_vectors(
          options.vectors, vocabulary=self.symbols()[name]
        )
      found[name] = knowledge.Knowledge(
        options, self.counts[name], vectors=vectors
      )
    return found

  def embedding_options(self) -> dict[str, embeddings.EmbeddingOptions]:
    """Returns the options of items and users."""
    return sequential_options.table_options(self.config)

  def batches(self, epoch: int, begin: int, end: int) -> sequence_batches.Batch:
    """Draws the batches of a chunk, the same whenever it is asked for."""
    start = time.perf_counter()
    rng = np.random.default_rng([self.config.seed, epoch, begin])
    batches = self.sampler.draw(rng, (end - begin, self.config.batch_size))
    self.input_seconds += time.perf_counter() - start
    return batches

  def report(self, loss: float) -> dict[str, float]:
    """Returns the mean loss of a chunk."""
    return {"train_loss": loss}

  def end_epoch(
    self, epoch: int, state: steps.TrainState
  ) -> tuple[None, dict[str, float]]:
    """Validates, in every so many epochs and in the last one."""
    done = epoch + 1
    if done % self.config.eval_epochs and done < self.config.epochs:
      return None, {}
    return super().end_epoch(epoch, state)

  def validate(self, state: steps.TrainState) -> tuple[float, dict[str, float]]:
    """Returns the NDCG on the validation items, and all other metrics."""
    metrics = self.measure(state, "valid")
    return metrics["valid_ndcg_at_10"], metrics

  def measure(self, state: steps.TrainState, split: str) -> dict[str, float]:
    """Measures a state on 'valid' or 'test'; names begin with the split."""
    if split not in self._tasks:
      task = self.make_task(split)
      self._tasks[split] = jax.tree.map(jnp.asarray, task)._replace(
        number=task.number
      )
    ranks = self.trainer.ranks(state, self._tasks[split])
    found = sequential_evaluation.metrics_of(ranks)
    return {f"{split}_{name}": value for name, value in found.items()}

  def make_task(self, split: str) -> sequential_evaluation.RankingTask:
    """Prepares the measurement of a split."""
    config = self.config
    return sequential_evaluation.make_task(
      self.data,
      held_out=HELD_OUT[split],
      max_length=config.max_length,
      num_users=config.eval_users,
      draws=config.eval_draws,
      num_candidates=config.num_candidates,
      loose=config.loose_candidates,
      seed=config.eval_seed,
    )

  def finish(
    self, state: steps.TrainState, *, seconds: float
  ) -> reporting.RunResult:
    """Measures the best model, and writes the tables and the result."""
    state = self.best_of(state)
    model = self.trainer.model_of(state)
    artefacts = {
      name: stored_tables.store_embedding(
        getattr(model, name),
        options,
        self.workdir / f"{name}.safetensors",
        vocabulary=self.symbols()[name],
      )
      for name, options in self.embedding_options().items()
    }
    state = self.trainer.replace_model(state, model)
    metrics = {
      **self.measure(state, "test"),
      **self.measure(state, "valid"),
      **self._costs(artefacts),
      "best_epoch": self.best_epoch + 1,
    }
    return self.write_result(
      "train_sequential_recommender",
      state,
      list(artefacts.values()),
      metrics,
      seconds=seconds,
    )

  def symbols(self) -> dict[str, tuple[str, ...]]:
    """Returns the names of the rows of each table."""
    return {
      "items": (PADDING_NAME, *self.data.item_names),
      "users": self.data.user_names,
    }

  def _costs(self, artefacts: Mapping[str, tables.Table]) -> dict[str, float]:
    items = artefacts["items"]
    return {
      "item_bytes": items.nbytes,
      "item_compression_ratio": items.dense_bytes / items.nbytes,
      "input_seconds": self.input_seconds,
      "step_seconds": float(sum(self.chunk_seconds)),
    }


def count_events(data: datasets.Sequences) -> dict[str, np.ndarray]:
  """Returns how often items, with the padding, and users occur in training.

  >>> data = datasets.make_sequences(
  ...   "toy", users=[0, 0, 0, 1], items=[0, 1, 1, 1], source="ours",
  ...   user_names=["ann", "bob"], item_names=["tea", "rum"])
  >>> [counts.tolist() for counts in count_events(data).values()]
  [[0, 1, 1], [1, 1]]
  """
  users, items = data.train_events
  return {
    "items": np.bincount(items, minlength=data.num_items + 1),
    "users": np.bincount(users, minlength=data.num_users),
  }


train_and_evaluate = functools.partial(
  training_run.train_and_evaluate, run_type=Run
)
"""Trains a sequential recommender and leaves its results in a folder."""
