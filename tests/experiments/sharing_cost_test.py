"""Tests of the benchmark of what sharing costs; the smallest step runs."""

import dataclasses
import doctest
import re

import jax
import numpy as np
import pytest

from experiments.benchmarks import made_up_batches, sharing_cost
from experiments.datasets import buckets, subwords

TRANSFORMER = {"num_layers": 1, "num_heads": 1, "features": 8}
TINY = {
  "factorization": {"features": 4, "batch_size": 8},
  "ranking": {"features": 4, "batch_size": 8},
  "sequences": {"features": 4, "max_length": 5, "batch_size": 4},
  "translation": {**TRANSFORMER, "vocab_size": 20, "batch_tokens": 64},
  "language model": {"features": 4, "hidden": 4, "batch_size": 2},
  "transformer classifier": {**TRANSFORMER, "max_length": 6, "batch_size": 4},
}
"""What the sizes of each row are in these tests."""


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # The binaries run without the strict settings of the unit tests.
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    yield


def tiny(name, **options):
  """Returns a row of the benchmark in a size that takes no time."""
  step = sharing_cost.STEPS[name]
  config = dataclasses.replace(step.config, **TINY[name], **options)
  return step._replace(config=config, chunk_steps=2)


def trace(trainer, batches):
  """Returns the program of a chunk, which is not compiled."""

  def run(batches):
    state = trainer.init()
    batches = trainer.prepare(state, batches)
    return jax.lax.scan(trainer.step, state, batches)[1]["loss"]

  return jax.make_jaxpr(run)(batches)


def test_all_rows_have_a_size_here():
  assert list(TINY) == list(sharing_cost.STEPS)


@pytest.mark.parametrize("name", TINY)
def test_sides_differ_in_what_is_drawn_alone(name):
  step = tiny(name)
  tasks = {kind: step.task(sharing=kind) for kind in ("none", "se")}
  draws = {}
  for kind, (trainer, batches) in tasks.items():
    program = trace(trainer, batches)
    assert [found.shape for found in program.out_avals] == [(2,)]
    draws[kind] = len(re.findall(r"\brandom_bits\b", str(program)))
  # Else nothing would be shared, or on both sides.
  assert draws["se"] > draws["none"]
  jax.tree.map(
    np.testing.assert_array_equal, *(batches for _, batches in tasks.values())
  )


def test_table_has_the_time_of_a_step():
  # Of two chunks to compile no time is taken; then both are timed twice.
  times = iter(np.cumsum([0, 1, 0, 2, 0, 4, 0, 2]).tolist())
  (row,) = sharing_cost.run_benchmark(
    {"mine": tiny("factorization")}, pairs=2, clock=lambda: next(times)
  )
  needed = {*sharing_cost.COLUMNS, *sharing_cost.PICTURE.columns}
  assert set(row) == needed
  assert row["name"] == "mine"
  # Chunks of two steps: 1 with and 2 without, then 4 without and 2 with.
  assert row["with"] == pytest.approx(1e3 * 1.5 / 2)
  assert row["without"] == pytest.approx(1e3 * 3 / 2)
  assert row["ratio"] == pytest.approx(0.5)
  assert row["fastest"] == pytest.approx(0.5)


def test_costs_are_paired():
  calls = []
  sharing_cost.measure(
    lambda: calls.append("without"), lambda: calls.append("with"), pairs=2
  )
  assert calls == ["without", "with", "with", "without", "without", "with"]


def test_chunks_go_on_with_the_state():
  step = tiny("factorization", learning_rate=1.0)
  run = sharing_cost.run_steps(*step.task(sharing="se"))
  first, second = (np.asarray(run()["loss"]) for _ in range(2))
  assert first.shape == (2,)
  assert second.mean() < first.mean()


@pytest.mark.parametrize(("length", "batch_size"), [(4, 16), (100, 8)])
def test_translations_are_as_those_of_a_run(length, batch_size):
  made = made_up_batches.translations(3, 64, length=length, vocab_size=30)
  assert made.sources.shape == (3, batch_size, length)
  assert made.targets.shape == (3, batch_size, length + 1)
  # Batches of a run have as many pairs.
  pairs = buckets.Bucket(made.sources[0], made.targets[0])
  plan = buckets.EpochPlan([pairs], batch_tokens=64, chunk_steps=1, seed=0)
  assert plan.batch_sizes == [batch_size]
  assert set(np.unique(made.targets[..., 0])) == {subwords.BEGIN_ID}
  for side in made:
    assert set(np.unique(side[..., -1])) == {subwords.END_ID}
    assert np.min(side[..., 1:-1]) >= subwords.NUM_SPECIAL
    assert np.max(side) < 30
    assert side.dtype == np.int32


def test_sequences_and_texts_have_no_padding():
  made = made_up_batches.sequences(2, 3, max_length=7, num_users=4, num_items=5)
  for items in (made.inputs, made.targets, made.negatives):
    assert items.shape == (2, 3, 7)
    assert items.dtype == np.int32
    assert set(np.unique(items)) <= {1, 2, 3, 4, 5}
  # Each item is followed by its target.
  np.testing.assert_array_equal(made.inputs[..., 1:], made.targets[..., :-1])
  texts = made_up_batches.labelled_texts(
    2, 3, max_length=7, vocab_size=6, num_classes=2, num_special=4
  )
  assert set(np.unique(texts.tokens)) == {4, 5}
  assert set(np.unique(texts.labels)) <= {0, 1}


def test_text_runs_on_from_batch_to_batch():
  inputs, targets = made_up_batches.running_text(
    3, 2, num_steps=4, vocab_size=9
  )
  assert inputs.shape == targets.shape == (3, 2, 4)
  np.testing.assert_array_equal(inputs[1:, :, 0], targets[:-1, :, -1])


@pytest.mark.parametrize("module", [made_up_batches, sharing_cost])
def test_examples(module):
  assert doctest.testmod(module).failed == 0
