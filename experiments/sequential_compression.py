"""Compresses the items of a sequential recommender after its training."""

import dataclasses
import pathlib
import time
from typing import Any

import numpy as np
from jax import numpy as jnp

from anchor_codes import compression, steps
from experiments import (
  reporting,
  sequential_options,
  sequential_recommending,
)
from experiments.datasets import sequences

ITEMS_FILE = "items.safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompressionOptions:
  """What to compress, and how far.

  Attributes:
    run: Folder of a run with full items that has left checkpoints.
    ratio: How many times fewer bytes than the full items the compressed ones
      take at most, more than 1.
    count_power: Power of the number of events of an item, plus one, that its
      error is weighted by: 0 for all alike.
    seed: Seed of the compression.
  """

  run: str
  ratio: float = 10.0
  count_power: float = 1.0
  seed: int = 0


def compress_items(
  options: CompressionOptions,
  workdir: pathlib.Path,
  *,
  data: sequences.Sequences,
) -> reporting.RunResult:
  """Compresses the items of the best epoch of a run, and measures the model.

  Args:
    options: Which run, and how far.
    workdir: Folder for the compressed items and the record.
    data: What the run was trained on.

  Returns:
    The record: the metrics of the run, with the compressed items.

  Raises:
    ValueError: If the items of the run are not 'full', or it has left no
      checkpoints.
    FileNotFoundError: If there is no record of the run.
  """
  begin = time.perf_counter()
  trained = reporting.read_result(options.run)
  run = sequential_recommending.Run(
    sequential_options.SequentialConfig(**trained.config),
    options.run,
    data=data,
  )
  if run.config.embedding != "full":
    raise ValueError(
      f"{options.run} must have 'full' items to compress, got "
      f"{run.config.embedding!r}."
    )
  if not any(pathlib.Path(options.run).glob("checkpoints/*")):
    raise ValueError(
      f"{options.run} must have the checkpoints of the run, got none: train it "
      "with `checkpoint_chunks` 1."
    )
  # Nothing is left to train but what came after the last checkpoint.
  state = run.best_of(run.train(resume=True))
  found = _compress(run, state, options)
  workdir.mkdir(parents=True, exist_ok=True)
  found.table.save(workdir / ITEMS_FILE)
  state = with_items(run, state, found.table)
  result = dataclasses.replace(
    trained,
    experiment="compress_items",
    embedding=found.report.chosen.recipe,
    seed=options.seed,
    metrics={
      **run.measure(state, "test"),
      **run.measure(state, "valid"),
      "item_bytes": found.table.nbytes,
      "item_compression_ratio": found.table.dense_bytes / found.table.nbytes,
      "item_error": found.report.quality["error"],
    },
    embedding_params=found.table.num_params,
    embedding_bytes=found.table.nbytes,
    dense_bytes=found.table.dense_bytes,
    seconds=time.perf_counter() - begin,
    config=dataclasses.asdict(options),
  )
  reporting.write_result(result, workdir)
  return result


def _compress(
  run: sequential_recommending.Run,
  state: steps.TrainState,
  options: CompressionOptions,
) -> Any:
  items = run.trainer.model_of(state).items.embedding[...]
  matrix, counts = np.asarray(items, np.float32), run.counts["items"]
  return compression.compress(
    matrix,
    budget=int(matrix.nbytes / options.ratio),
    vocabulary=run.symbols()["items"],
    weights=(counts + 1.0) ** options.count_power,
    seed=options.seed,
  )


def with_items(
  run: sequential_recommending.Run, state: steps.TrainState, table: Any
) -> steps.TrainState:
  """Returns a state whose items are the rows of a table."""
  model = run.trainer.model_of(state)
  vectors = table.lookup(np.arange(table.num_embeddings))
  model.items.embedding[...] = jnp.asarray(vectors)
  return run.trainer.replace_model(state, model)
