"""Trains a recommender on ratings that do not fit in memory."""

import functools
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh

from anchor_codes import steps
from experiments import interaction_options, recommending
from experiments.datasets import (
  fingerprints,
  interactions,
  interactions_ids,
  interactions_sources,
  interactions_splits,
  interactions_stream,
)
from experiments.datasets import ratings as datasets
from experiments.models import recommender
from experiments.recommender_options import RecommenderConfig

_TABLES = {"users": "user", "items": "item"}
_MEASURED_ROWS = 1 << 16


class Rows(NamedTuple):
  """The rows of one part, which are in files.

  Attributes:
    part: Where they are; None for none at all.
    size: Their number.
  """

  part: interactions.Part | None
  size: int

  def __len__(self) -> int:
    return self.size


class StreamedRun(recommending.Run):
  """A run that reads its ratings from files, batch by batch, in each epoch.

  In memory are, besides the model: one block of a file, the buffer in which
  rows are shuffled, and for ids by vocabulary the symbols. Two passes over the
  files come first, one to find the vocabulary unless it is given, one to count.
  The place in the stream is part of every checkpoint, so that a resumed run
  goes on with the very rows that come next.

  Args:
    config: Options of the run, with the `dataset` 'interactions:PATH': a file
      or a folder for :func:`interactions_sources.open_source`. For the split
      'given', files or folders in it whose names begin with 'train', 'valid'
      and 'test', of which the second may be missing; or else a column tells.
      'random' is by a hash of user and item.
    workdir: Folder for all that the run leaves; made if need be.
    mesh: Devices to train on, all by default.
  """

  def __init__(
    self,
    config: RecommenderConfig,
    workdir: str | os.PathLike[str],
    *,
    mesh: Mesh | None = None,
  ):
    self.workdir = pathlib.Path(workdir)
    super().__init__(config, workdir, mesh=mesh)

  @functools.cached_property
  def fingerprint(self) -> str:
    """A digest of the vocabularies; of the rows the stream has its own."""
    symbols = {r: getattr(e, "symbols", ()) for r, e in self.encoders.items()}
    return fingerprints.fingerprint(symbols)

  def open_data(self, data: datasets.Ratings | None) -> None:
    """Finds the files, the vocabulary, and how much there is of all."""
    del data
    parts = open_parts(self.config)
    self.encoders = self._make_encoders(parts[0])
    survey, sizes = _survey(parts, self.encoders)
    if sizes[0] < self.config.batch_size:
      raise ValueError(
        "`batch_size` must be at most the number of training rows, got "
        f"{self.config.batch_size} and {sizes[0]} rows."
      )
    if not sizes[2]:
      raise ValueError(f"{self.config.dataset} must have test rows, got none.")
    # In the place of row numbers, which would be as many as the rows.
    rows: list[Any] = [Rows(*p) for p in zip(parts, sizes, strict=True)]
    self.splits = datasets.RatingSplits(*rows)
    self.survey = survey
    self.counts = {name: survey.counts[r] for name, r in _TABLES.items()}
    self.unseen = {name: n == 0 for name, n in self.counts.items()}
    self.stream = interactions_stream.Stream(
      parts[0],
      encoders=self.encoders,
      shuffle_rows=self.config.shuffle_rows,
      seed=self.config.seed,
    )

  def _make_encoders(
    self, train: interactions.Part
  ) -> dict[str, interactions_ids.Encoder]:
    config = self.config
    if config.ids == "hash":
      buckets = interactions_ids.Buckets(config.id_buckets)
      return dict.fromkeys(_TABLES.values(), buckets)
    paths = {"user": config.user_vocabulary, "item": config.item_vocabulary}
    symbols = {
      role: interactions_ids.load_vocabulary(path)
      for role, path in paths.items()
      if path
    }
    missing = [role for role in paths if role not in symbols]
    if missing:
      found = interactions.build_vocabularies(
        train,
        *missing,
        min_count=config.min_count,
        max_size=config.max_symbols,
      )
      for role, names in found.items():
        path = self.workdir / f"{role}s.txt"
        interactions_ids.save_vocabulary(names, path)
      symbols |= found
    refuse = config.unknown == "error"
    return {
      role: interactions_ids.Vocabulary(symbols[role], refuse_unknown=refuse)
      for role in paths
    }

  def num_examples(self) -> int:
    """Returns the number of training rows."""
    return len(self.splits.train)

  def mean_rating(self) -> float:
    """Returns the mean of the training ratings."""
    return self.survey.means["rating"]

  def batches(self, epoch: int, begin: int, end: int) -> Any:
    """Returns the next batches of the stream.

    What is left over after the last whole batch waits for another epoch.
    """
    start = time.perf_counter()
    if begin == 0:
      self.stream.begin(epoch)
    batch_size = self.config.batch_size
    rows = self.stream.take((end - begin) * batch_size)
    batches = tuple(c.reshape(end - begin, batch_size) for c in _columns(rows))
    self.input_seconds += time.perf_counter() - start
    return batches

  def evaluate(self, state: steps.TrainState, indices: Any) -> float:
    """Returns the mean squared error on the rows of a part."""
    vectors, total = self.vectors(state), 0.0
    for batch in self._read(indices):
      columns = map(jnp.asarray, _columns(batch))
      error = recommender.mean_squared_error(vectors, *columns)
      total += float(error) * len(batch["rating"])
    return total / len(indices)

  def count_unseen(self, indices: Any) -> dict[str, int]:
    """Counts rows whose user, or item, training has never seen."""
    found = dict.fromkeys(_TABLES, 0)
    for batch in self._read(indices):
      for name, role in _TABLES.items():
        found[name] += int(self.unseen[name][batch[role]].sum())
    return found

  def _read(self, rows: Rows) -> Iterator[interactions.Batch]:
    if rows.part is None:
      return iter(())
    stream = interactions_stream.Stream(rows.part, encoders=self.encoders)
    return stream.batches(_MEASURED_ROWS)

  def symbols(self) -> Any:
    """Returns the names of the rows that are stored; a hash has none."""
    return {
      name: getattr(self.encoders[role], "names", None)
      for name, role in _TABLES.items()
    }

  def final_metrics(self, state: steps.TrainState) -> dict[str, float]:
    """Adds how many rows share an id with others."""
    metrics = super().final_metrics(state)
    for name, role in _TABLES.items():
      encoder, counts = self.encoders[role], self.counts[name]
      if encoder.unknown is not None:
        metrics[f"train_unknown_{name}"] = int(counts[encoder.unknown])
      elif self.config.ids == "hash":
        metrics[f"colliding_{name}"] = interactions_ids.estimate_collisions(
          int(np.count_nonzero(counts)), encoder.num_embeddings
        )
    return metrics

  def to_checkpoint(
    self, state: steps.TrainState
  ) -> tuple[Any, dict[str, Any]]:
    """Remembers the place in the stream."""
    arrays, metadata = super().to_checkpoint(state)
    return arrays, metadata | {"stream": self.stream.state()}

  def from_checkpoint(
    self, arrays: Any, metadata: dict[str, Any]
  ) -> steps.TrainState:
    """Goes to the place in the stream."""
    self.stream.restore(metadata["stream"])
    return super().from_checkpoint(arrays, metadata)


def open_parts(config: RecommenderConfig) -> list[interactions.Part | Any]:
  """Opens the files of a run.

  Args:
    config: Options of the run.

  Returns:
    The parts for training, validation and test; None for a part without files.

  Raises:
    FileNotFoundError: If there are no files.
    ValueError: If an option or a file is not as it must be.
  """
  path = config.dataset.removeprefix(interaction_options.PREFIX)
  folder = pathlib.Path(path).expanduser()
  names = interactions_splits.PARTS
  if config.split == "given" and folder.is_dir() and any(folder.glob("train*")):
    columns = interaction_options.columns_of(config)
    return [_open_files(folder, name, columns) for name in names]
  more, split = (), None
  if config.split == "given":
    more, split = ("split",), interactions_splits.column_split
  elif config.split == "chronological":
    times = interaction_options.times_of(config)
    more, split = ("timestamp",), interactions_splits.time_split(*times)
  else:
    split = interactions_splits.hash_split(seed=config.split_seed)
  source = interactions_sources.open_source(
    folder, columns=interaction_options.columns_of(config, *more)
  )
  return [
    interactions.Part(source, split, number) for number in range(len(names))
  ]


def _open_files(
  folder: pathlib.Path, name: str, columns: Any
) -> interactions.Part | None:
  found = sorted(folder.glob(f"{name}*"))
  paths = [p for f in found for p in interactions_sources.list_files(f)]
  if not paths and name == "valid":
    return None
  if not paths:
    raise FileNotFoundError(f"{folder} holds no files of the part {name!r}.")
  return interactions.Part(
    interactions_sources.open_files(tuple(paths), columns=columns)
  )


def _survey(
  parts: list[interactions.Part | Any],
  encoders: dict[str, interactions_ids.Encoder],
) -> tuple[interactions.Survey, list[int]]:
  """Returns what is in the training rows, and the size of each part."""
  train = parts[0]
  if train.split is not None:  # All parts are in the same files.
    survey = interactions.survey(
      train.source, encoders=encoders, split=train.split, num_parts=len(parts)
    )
    return survey, list(survey.num_rows)
  found = [
    part and interactions.survey(part.source, encoders=encoders)
    for part in parts
  ]
  return found[0], [one.num_rows[0] if one else 0 for one in found]


def _columns(rows: interactions.Batch) -> tuple[np.ndarray, ...]:
  return rows["user"], rows["item"], rows["rating"].astype(np.float32)
