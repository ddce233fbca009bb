"""Ratings that are made up, and runs on them that share what they compile."""

import contextlib
import csv
import dataclasses
import itertools
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from anchor_codes import training
from experiments import nonparametric, online, recommending
from experiments.datasets import ratings as datasets

NUM_USERS, NUM_ITEMS, NUM_RATINGS = 60, 50, 640
# As many rows as online learning comes to: its steps are the same then.
NUM_NAMES = 64
ONCE = 8  # Users with a single rating.


def make_data(seed=0):
  """Ratings of rank 2; users and items come one after the other in time."""
  rng = np.random.default_rng(seed)
  rating = np.arange(NUM_RATINGS)
  often = NUM_USERS - ONCE
  users = rng.integers(1 + rating * often // NUM_RATINGS)
  users[rng.choice(NUM_RATINGS, ONCE, replace=False)] = often + np.arange(ONCE)
  items = rng.integers(20 + rating * (NUM_ITEMS - 20) // NUM_RATINGS)
  tastes = rng.normal(size=(NUM_USERS + NUM_ITEMS, 2))
  values = 3 + np.sum(tastes[users] * tastes[NUM_USERS + items], axis=1)
  # Ids say nothing about the time, nor does the order of the file.
  shuffle = rng.permutation(NUM_RATINGS)
  return datasets.make_ratings(
    "toy",
    users=rng.permutation(NUM_NAMES)[users][shuffle],
    items=rng.permutation(NUM_NAMES)[items][shuffle],
    values=values[shuffle],
    order=rating[shuffle],
    user_names=[f"user{i}" for i in range(NUM_NAMES)],
    item_names=[f"item{i}" for i in range(NUM_NAMES)],
    source="ours",
  )


def tiny(**options):
  config = recommending.RecommenderConfig(
    embedding="anchors",
    features=8,
    num_anchors=4,
    max_anchors=8,
    growth_rounds=2,
    regrowth_rounds=1,
    batch_size=64,
    chunk_steps=1,
    epochs=6,
    decay_epochs=3,
    checkpoint_chunks=0,
    learning_rate=0.05,
    rule="marginal",
    anchor_penalty=0.05,
    l1=1e-5,
  )
  return dataclasses.replace(config, **options)


@contextlib.contextmanager
def usual_settings():
  """Settings of the binaries, which are not the strict ones of unit tests."""
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    yield


class Programs(dict):
  """Compiled chunks and lookups, shared by runs with the same steps."""

  traces = 0
  # What the steps do not depend on.
  CONTROL = (
    "rule",
    "num_anchors",
    "anchor_penalty",
    "max_anchors",
    "growth_rounds",
    "regrowth_rounds",
    "online_batches",
    "replay",
    "epochs",
    "decay_epochs",
    "checkpoint_chunks",
  )

  def key_of(self, trainer):
    options = dataclasses.asdict(trainer.config)
    for name in self.CONTROL:
      del options[name]
    return repr((options, trainer.sizes, trainer.phase))


class Trainer(nonparametric.Trainer):
  """A trainer that counts how often its steps are traced."""

  programs: Programs

  def step(self, state, batch):
    self.programs.traces += 1
    return super().step(state, batch)


class Watched:
  """Shares compiled programs, and keeps a record of the epochs."""

  programs = Programs()

  def make_trainer(self, *args):
    trainer = Trainer(*args)
    trainer.programs = self.programs
    return trainer

  def use_trainer(self, trainer):
    super().use_trainer(trainer)
    key = self.programs.key_of(trainer)
    if key not in self.programs or not is_ready(self.programs[key][0]):
      self.programs[key] = trainer, self.chunk, trainer._vectors
    _, self.chunk, trainer._vectors = self.programs[key]

  def end_epoch(self, epoch, state):
    record = vars(self).setdefault("record", [])
    dead = largest_dead_weight(self, state)
    new_state, metrics = super().end_epoch(epoch, state)
    record.append({"dead": dead, "snapshots": len(self.snapshots), **metrics})
    return new_state, metrics

  def final_metrics(self, state):
    self.final = state
    return super().final_metrics(state)


def is_ready(trainer):
  """Tells whether a trainer knows the form of its model."""
  return trainer.graphdef is not None


class NonparametricRun(Watched, nonparametric.NonparametricRun):
  pass


class OnlineRun(Watched, online.OnlineRun):
  pass


ONLINE: dict[str, Any] = {
  "run_type": OnlineRun,
  "online_batches": 3,
  "replay": 100,
  "num_anchors": 1,
  "growth_rounds": 1,
  "regrowth_rounds": 3,
  "max_anchors": 4,
  "anchor_penalty": 0.01,
}
"""Options of a run over time."""


def largest_dead_weight(run, state):
  """Returns the largest entry of all places without an anchor."""
  model, largest = run.trainer.model_of(state), 0.0
  for name, number in run.num_anchors.items():
    layer = getattr(model, name)
    anchors, transform = layer.anchors[...], layer.transform[...]
    assert len(anchors) == training.anchor_capacity(number)
    places = np.concatenate([anchors[number:].T, transform[:, number:]])
    largest = max(largest, np.abs(places).max(initial=0))
  return largest


def make_run(folder, *, run_type: Any = NonparametricRun, **options) -> Any:
  mesh = training.data_mesh(jax.devices()[:1])
  data = make_data()
  return run_type(tiny(**options), folder, data=data, mesh=mesh)


class Trained(NamedTuple):
  """A run, its result, and its folder."""

  run: Any
  result: Any
  folder: pathlib.Path


def train(folder, *, resume=False, **options):
  run = make_run(folder, **options)
  state = run.train(resume=resume)
  return Trained(run, run.finish(state, seconds=1.0), folder)


def train_in_part(folder, num_chunks, **options):
  """Trains as far as if it were killed."""
  run = make_run(folder, **options)
  chunks = run._chunks
  run._chunks = lambda first: itertools.islice(chunks(first), num_chunks)
  run.train()
  return run


def metrics_of(folder):
  with (folder / "metrics.csv").open(encoding="utf-8") as file:
    return list(csv.DictReader(file))


def outcome(trained):
  """All that two runs must have in common to be the same to the bit."""
  metrics = dict(trained.result.metrics)
  del metrics["input_seconds"], metrics["step_seconds"]
  files = {
    path.name: path.read_bytes()
    for path in sorted(trained.folder.glob("*.safetensors"))
  }
  parameters = jax.tree.map(
    lambda leaf: np.asarray(leaf).tobytes(), trained.run.final
  )
  return metrics, files, metrics_of(trained.folder), jax.tree.leaves(parameters)
