r"""Measures what sharing adds to the time of a training step.

  python -m experiments.benchmarks.sharing_cost

runs the same step without sharing and with it in turns, so that both see the
same machine, and prints the median over the pairs of the ratio of their times.
On a machine that does other things, too, the fastest runs tell more. The data
are made up: a step takes as long for any.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from anchor_codes import training
from experiments import (
  ranking,
  recommender_options,
  recommender_trainer,
  reporting,
  row_trainer,
)
from experiments.reporting import files

NAME = "sharing_cost"
COLUMNS = {
  "name": "Step",
  "without": "ms without",
  "with": "ms with",
  "ratio": "Ratio",
  "spread": "Quartiles",
  "fastest": "Ratio of the fastest",
}
"""Headings of the columns of the table by their names."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""How time is taken: what other programs do counts in the first alone."""

Chunk = Callable[[], Any]
"""Runs some steps, and returns what tells when they are done."""

_CHUNK_STEPS = 40
_SIZES = {"users": 4_000, "items": 3_500}
_RECOMMENDER: dict[str, Any] = {
  "embedding": "full",
  "features": 100,
  "biases": False,
  "row_optimizer": "sgd",
  "learning_rate": 1e-3,
  "batch_size": 4096,
}


def factorization_chunk(*, sharing: str) -> Chunk:
  """Makes steps of matrix factorisation."""
  config = recommender_options.RecommenderConfig(
    **_RECOMMENDER, sharing=sharing
  )
  users, items, rng = _made_up_pairs(config.batch_size)
  ratings = rng.uniform(1, 5, users.shape).astype(np.float32)
  trainer = recommender_trainer.Trainer(
    config, _SIZES, 3.0, recommender_trainer.Phase()
  )
  return run_steps(trainer, (users, items, ratings))


def ranking_chunk(*, sharing: str) -> Chunk:
  """Makes steps of Bayesian personalised ranking."""
  config = recommender_options.RecommenderConfig(
    **_RECOMMENDER, sharing=sharing, loss="bpr"
  )
  users, items, rng = _made_up_pairs(config.batch_size)
  others = rng.integers(_SIZES["items"], size=users.shape, dtype=np.int32)
  trainer = ranking.RankingTrainer(
    config, _SIZES, 0.0, recommender_trainer.Phase()
  )
  return run_steps(trainer, (users, items, others))


def _made_up_pairs(
  batch_size: int,
) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
  rng = np.random.default_rng(0)
  shape = _CHUNK_STEPS, batch_size
  users = rng.integers(_SIZES["users"], size=shape, dtype=np.int32)
  # Some items are rated much more often than others.
  items = (_SIZES["items"] * rng.power(0.4, shape)).astype(np.int32)
  return users, items, rng


def run_steps(trainer: row_trainer.RowTrainer, batches: Any) -> Chunk:
  """Compiles the steps of a trainer on one device, over the same batches."""
  state = trainer.init()
  program = training.compile_chunk(
    trainer.step,
    training.data_mesh(jax.devices()[:1]),
    prepare=trainer.prepare,
    state_specs=row_trainer.STATE_SPECS,
  )
  kept = [program.put_state(state)]
  batches = jax.device_put(batches)

  def run() -> Any:
    # The state is donated: the next chunk goes on with what this one leaves.
    kept[0], metrics = program(kept[0], batches)
    return metrics

  return run


STEPS: dict[str, tuple[Callable[[], Chunk], Callable[[], Chunk]]] = {
  name: (
    functools.partial(make, sharing="none"),
    functools.partial(make, sharing="se"),
  )
  for name, make in {
    "factorization": factorization_chunk,
    "ranking": ranking_chunk,
  }.items()
}
"""What makes the steps without sharing, and with it, by name."""


def measure(
  without: Chunk,
  with_sharing: Chunk,
  *,
  pairs: int,
  clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
  """Runs two chunks in turns.

  Args:
    without: Steps without sharing.
    with_sharing: The same steps with it.
    pairs: How often both run.
    clock: What tells the time, in seconds.

  Returns:
    The cells of a row: times of a step, and the median of the ratios.
  """
  for run in (without, with_sharing):  # To compile.
    jax.block_until_ready(run())
  times = []
  for number in range(pairs):
    # Each is the first of every second pair: what comes first may be slower.
    runs = [without, with_sharing][:: 1 if number % 2 else -1]
    found = {run: _time(run, clock) for run in runs}
    times.append((found[without], found[with_sharing]))
  before, after = map(np.array, zip(*times, strict=True))
  ratios = after / before
  low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
  return {
    "without": 1e3 * float(np.median(before)) / _CHUNK_STEPS,
    "with": 1e3 * float(np.median(after)) / _CHUNK_STEPS,
    "ratio": float(middle),
    "spread": f"{low:.3f}-{high:.3f}",
    "fastest": float(after.min() / before.min()),
  }


def _time(run: Chunk, clock: Callable[[], float]) -> float:
  start = clock()
  jax.block_until_ready(run())
  return clock() - start


def run_benchmark(
  steps: Mapping[str, tuple[Callable[[], Chunk], Callable[[], Chunk]]],
  *,
  pairs: int,
  clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
  """Returns the cells of the table, a row for each kind of step."""
  rows = []
  for name, (make_without, make_with) in steps.items():
    found = measure(make_without(), make_with(), pairs=pairs, clock=clock)
    rows.append({"name": name, **found})
  return rows


def main(argv: Sequence[str]) -> None:
  """Runs the benchmark that the flags describe."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
  logging.set_verbosity(logging.WARNING)
  options = flags.FLAGS
  steps = {name: STEPS[name] for name in options.steps or STEPS}
  rows = run_benchmark(steps, pairs=options.pairs, clock=CLOCKS[options.clock])
  table = reporting.format_table(rows, COLUMNS, markdown=True)
  files.write_atomically(
    pathlib.Path(options.workdir) / f"{NAME}.md", f"{table}\n"
  )
  print(reporting.format_table(rows, COLUMNS))


if __name__ == "__main__":
  flags.DEFINE_multi_enum("steps", [], list(STEPS), "Steps, all by default.")
  flags.DEFINE_integer("pairs", 40, "How often each step runs.", lower_bound=1)
  flags.DEFINE_enum("clock", "wall", list(CLOCKS), "What tells the time.")
  flags.DEFINE_string("workdir", f"workdir/{NAME}", "Folder for the table.")
  app.run(main)
