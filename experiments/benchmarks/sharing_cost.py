r"""Measures what sharing adds to the time of a training step.

  python -m experiments.benchmarks.sharing_cost

runs the same steps without sharing and with it in turns, so that both see the
same machine, and prints the median over the pairs of the ratio of their times.
On a machine that does other things, too, the fastest runs tell more. The data
are made up: a step takes as long for any.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags, logging

from anchor_codes import steps, training
from experiments import (
  knowledge,
  language_model_trainer,
  language_modeling,
  ranking,
  recommender_options,
  recommender_trainer,
  reporting,
  row_trainer,
  sequential_options,
  sequential_trainer,
  text_classification,
  translation_options,
  translator_trainer,
)
from experiments.benchmarks import made_up_batches, transformer_classifiers
from experiments.datasets import subwords, tokenizers

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
PICTURE = reporting.Picture(
  title="What sharing costs a training step",
  value="ratio",
  caption="Time with sharing over that without, and quartiles",
  label=("name",),
  spread=("low", "high"),
)

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""How time is taken: what other programs do counts in the first alone."""

Chunk = Callable[[], Any]
"""Runs some steps, and returns what tells when they are done."""

Task = tuple[row_trainer.RowTrainer, Any]
"""A trainer, and the batches of a chunk."""


_USERS, _ITEMS = 4_000, 3_500
_RECOMMENDER: dict[str, Any] = {
  "embedding": "full",
  "features": 100,
  "biases": False,
  "row_optimizer": "sgd",
  "learning_rate": 1e-3,
  "batch_size": 4096,
}


def make_factorization(config: Any, steps: int) -> Task:
  """Makes matrix factorisation."""
  trainer = recommender_trainer.Trainer(
    config,
    {"users": _USERS, "items": _ITEMS},
    3.0,
    recommender_trainer.Phase(),
  )
  return trainer, made_up_batches.ratings(
    steps, config.batch_size, num_users=_USERS, num_items=_ITEMS
  )


def make_ranking(config: Any, steps: int) -> Task:
  """Makes Bayesian personalised ranking."""
  trainer = ranking.RankingTrainer(
    config,
    {"users": _USERS, "items": _ITEMS},
    0.0,
    recommender_trainer.Phase(),
  )
  return trainer, made_up_batches.choices(
    steps, config.batch_size, num_users=_USERS, num_items=_ITEMS
  )


def make_sequences(config: Any, steps: int) -> Task:
  """Makes the transformer for sequences, for the sizes of MovieLens 1M."""
  sizes: dict[str, Any] = {"num_users": 6_040, "num_items": 3_416}
  return sequential_trainer.Trainer(config, **sizes), made_up_batches.sequences(
    steps, config.batch_size, max_length=config.max_length, **sizes
  )


def make_translation(config: Any, steps: int) -> Task:
  """Makes a translator, and sentences of the lengths of most."""
  known = _evenly_known(config, config.vocab_size, subwords.NUM_SPECIAL)
  trainer = translator_trainer.Trainer(config, {"source": known})
  return trainer, made_up_batches.translations(
    steps, config.batch_tokens, length=16, vocab_size=config.vocab_size
  )


def make_language_model(config: Any, steps: int) -> Task:
  """Makes an LSTM that predicts words, as many as of Penn Treebank."""
  vocab_size = 10_000
  known = _evenly_known(config, vocab_size, 2)
  trainer = language_model_trainer.Trainer(config, known.counts, 10**6, known)
  return trainer, made_up_batches.running_text(
    steps, config.batch_size, num_steps=config.num_steps, vocab_size=vocab_size
  )


def make_classifier(config: Any, steps: int) -> Task:
  """Makes a transformer for texts, as many words as of SST-2."""
  special = len(tokenizers.MARKS)
  known = _evenly_known(config, 14_000, special)
  trainer = text_classification.Trainer(
    config, known=known, num_classes=2, max_length=config.max_length
  )
  return trainer, made_up_batches.labelled_texts(
    steps,
    config.batch_size,
    max_length=config.max_length,
    vocab_size=len(known.counts),
    num_classes=trainer.num_classes,
    num_special=special,
  )


def _evenly_known(
  config: Any, vocab_size: int, num_special: int
) -> knowledge.Knowledge:
  """Returns what is known of words; all of them are as frequent."""
  return knowledge.Knowledge(
    config, np.ones(vocab_size, int), special_ids=tuple(range(num_special))
  )


class Step(NamedTuple):
  """A kind of step to measure.

  Attributes:
    make: From the options and the number of steps of a chunk to the trainer
      and its batches.
    config: The options without sharing.
    chunk_steps: Steps of a chunk, which is timed as one: few if they are slow,
      so that the two sides of a pair see the same machine.
  """

  make: Callable[[Any, int], Task]
  config: Any
  chunk_steps: int

  def task(self, *, sharing: str) -> Task:
    """Makes the trainer and its batches, with the sharing of the options."""
    config = dataclasses.replace(self.config, sharing=sharing)
    return self.make(config, self.chunk_steps)


STEPS = {
  "factorization": Step(
    make_factorization,
    recommender_options.RecommenderConfig(**_RECOMMENDER),
    chunk_steps=40,
  ),
  "ranking": Step(
    make_ranking,
    recommender_options.RecommenderConfig(**_RECOMMENDER, loss="bpr"),
    chunk_steps=40,
  ),
  # SSE-PT without sharing is PT; 'sse_pt' would always share.
  "sequences": Step(
    make_sequences,
    sequential_options.SequentialConfig(model="pt"),
    chunk_steps=2,
  ),
  "translation": Step(
    make_translation, translation_options.TranslationConfig(), chunk_steps=2
  ),
  "language model": Step(
    make_language_model, language_modeling.LanguageModelConfig(), chunk_steps=5
  ),
  "transformer classifier": Step(
    make_classifier,
    transformer_classifiers.make_config("sst2", "from scratch", {}, seed=0),
    chunk_steps=5,
  ),
}
"""The rows of the table by name."""


def run_steps(trainer: row_trainer.RowTrainer, batches: Any) -> Chunk:
  """Compiles the steps of a trainer on one device, over the same batches."""
  state = trainer.init()
  program = training.compile_chunk(
    trainer.step,
    training.data_mesh(jax.devices()[:1]),
    prepare=trainer.prepare,
    state_specs=steps.STATE_SPECS,
  )
  kept = [program.put_state(state)]
  batches = jax.device_put(batches)

  def run() -> Any:
    # The state is donated: the next chunk goes on with what this one leaves.
    kept[0], metrics = program(kept[0], batches)
    return metrics

  return run


def measure(
  without: Chunk,
  with_sharing: Chunk,
  *,
  pairs: int,
  steps: int = 1,
  clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
  """Runs two chunks in turns.

  Args:
    without: Steps without sharing.
    with_sharing: The same steps with it.
    pairs: How often both run.
    steps: Number of steps of a chunk.
    clock: What tells the time, in seconds.

  Returns:
    The cells of a row: times of a step, and the median of the ratios.
  """
  for run in (without, with_sharing):  # To compile.
    jax.block_until_ready(run())
  times = []
  for number in reporting.progress(range(pairs), description=NAME, unit="pair"):
    # Each is the first of every second pair: what comes first may be slower.
    runs = [without, with_sharing][:: 1 if number % 2 else -1]
    found = {run: _time(run, clock) for run in runs}
    times.append((found[without], found[with_sharing]))
  before, after = map(np.array, zip(*times, strict=True))
  ratios = after / before
  low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
  return {
    "without": 1e3 * float(np.median(before)) / steps,
    "with": 1e3 * float(np.median(after)) / steps,
    "ratio": float(middle),
    "low": float(low),
    "high": float(high),
    "spread": f"{low:.3f}-{high:.3f}",
    "fastest": float(after.min() / before.min()),
  }


def _time(run: Chunk, clock: Callable[[], float]) -> float:
  start = clock()
  jax.block_until_ready(run())
  return clock() - start


def run_benchmark(
  steps: Mapping[str, Step],
  *,
  pairs: int,
  clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
  """Returns the cells of the table, a row for each kind of step."""
  rows = []
  for name, step in steps.items():
    without, with_sharing = (
      run_steps(*step.task(sharing=sharing)) for sharing in ("none", "se")
    )
    found = measure(
      without, with_sharing, pairs=pairs, steps=step.chunk_steps, clock=clock
    )
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
  path = pathlib.Path(options.workdir) / NAME
  reporting.write_table(path, rows, COLUMNS, PICTURE)
  print(reporting.format_table(rows, COLUMNS))


if __name__ == "__main__":
  flags.DEFINE_multi_enum("steps", [], list(STEPS), "Steps, all by default.")
  flags.DEFINE_integer("pairs", 40, "How often each step runs.", lower_bound=1)
  flags.DEFINE_enum("clock", "wall", list(CLOCKS), "What tells the time.")
  flags.DEFINE_string("workdir", f"workdir/{NAME}", "Folder for the table.")
  app.run(main)
