"""Tests of what a sequential recommender may know of its items beforehand."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from anchor_codes import tables
from experiments import (
  reporting,
  sequential_compression,
  sequential_options,
  sequential_recommending,
)
from experiments.benchmarks import sequential_recommenders as benchmark
from experiments.datasets import sequences

DATA = sequences.synthetic_sequences(
  2, num_users=48, num_items=30, mean_length=12, num_groups=3
)
ROWS = DATA.num_items + 1
# Three groups of items, far from each other.
CENTERS = 3 * np.eye(4, dtype=np.float32)[np.arange(ROWS) % 3]
NOISE = np.random.default_rng(0).normal(0, 0.01, CENTERS.shape)
VECTORS = (CENTERS + NOISE).astype(np.float32)


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # The binaries run without the strict settings of the unit tests.
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture
def vectors(tmp_path):
  """A trained table of items, whose rows are in another order."""
  names = (sequential_recommending.PADDING_NAME, *DATA.item_names)
  path = tmp_path / "items.safetensors"
  table = tables.DenseTable(VECTORS[::-1].copy(), vocabulary=names[::-1])
  table.save(path)
  return str(path)


def make_run(tmp_path, **options):
  config = sequential_options.SequentialConfig(
    dataset="synthetic", features=4, user_features=4, max_length=8
  )
  config = dataclasses.replace(
    config, num_blocks=1, batch_size=16, epochs=1, eval_epochs=1, **options
  )
  return sequential_recommending.Run(config, tmp_path / "run", data=DATA)


def start(tmp_path, **options):
  return make_run(tmp_path, **options).trainer.make_model()


def same_group(rows):
  """Tells which pairs of rows are equal."""
  return (rows[:, None] == rows[None]).all(axis=-1)


SAME = np.arange(ROWS)[:, None] % 3 == np.arange(ROWS)[None] % 3


def test_fixed_codes_are_those_of_clusters_of_a_trained_table(
  tmp_path, vectors
):
  model = start(
    tmp_path,
    embedding="fixed",
    composition="concat",
    codes="vectors",
    vectors=vectors,
    code_length=1,
    codebook_size=3,
  )
  np.testing.assert_array_equal(same_group(model.items.to_table().codes), SAME)
  assert isinstance(model.users, nnx.Embed)


@pytest.mark.parametrize(
  "options",
  [
    {"embedding": "dpq", "code_length": 1, "codebook_size": 3},
    {"embedding": "anchors", "num_anchors": 3, "num_nonzeros": 1},
  ],
)
def test_codes_and_anchors_start_at_clusters(tmp_path, vectors, options):
  model = start(tmp_path, start="clusters", vectors=vectors, **options)
  found = model.items.to_table().lookup(np.arange(ROWS))
  np.testing.assert_allclose(found, CENTERS, atol=0.05)


def test_what_is_given_of_items_says_nothing_of_users(tmp_path, vectors):
  model = start(
    tmp_path,
    embedding="fixed",
    user_embedding="fixed",
    codes="vectors",
    vectors=vectors,
    code_length=2,
    codebook_size=3,
  )
  codes = model.users.to_table().codes
  assert len(codes) == DATA.num_users
  assert len(np.unique(codes, axis=0)) > 3


def test_a_run_trains_what_it_was_given(tmp_path, vectors):
  run = make_run(
    tmp_path,
    embedding="fixed",
    codes="vectors",
    vectors=vectors,
    code_length=2,
    codebook_size=3,
  )
  before = run.trainer.make_model().items.to_table()
  run.finish(run.train(), seconds=0.0)
  after: Any = tables.load(tmp_path / "run" / "items.safetensors")
  np.testing.assert_array_equal(after.codes, before.codes)
  assert not np.array_equal(after.codebooks, before.codebooks)


def test_the_penalty_of_anchors_counts_the_events_of_training(tmp_path):
  run = make_run(tmp_path, embedding="anchors", penalty="frequency")
  factors = np.asarray(run.trainer.penalties["items"].frequencies)[:, 0]
  counts = np.bincount(DATA.train_events[1], minlength=ROWS)
  assert len(factors) == ROWS
  order = np.argsort(counts, kind="stable")
  assert (np.diff(factors[order]) >= 0).all()
  assert factors[order[-1]] > factors[order[0]]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"embedding": "fixed", "codes": "vectors"}, "set `vectors`"),
    ({"embedding": "dpq", "start": "clusters"}, "`vectors` must have"),
    ({"relations": "wordnet"}, "`relations` are those of words"),
  ],
)
def test_what_is_missing_is_named(tmp_path, options, message):
  with pytest.raises(ValueError, match=message):
    start(tmp_path, **options)


def test_vectors_of_other_items_are_refused(tmp_path):
  np.save(tmp_path / "other.npy", VECTORS[:-1])
  with pytest.raises(ValueError, match=f"each of the {ROWS} symbols"):
    start(
      tmp_path,
      embedding="fixed",
      codes="vectors",
      vectors=str(tmp_path / "other.npy"),
    )


CODES = "SSE-PT with codes of its items"


def benchmark_runs(workdir, rows, *, features=4):
  settings = {"features": features, "user_features": 4, "max_length": 8}
  settings |= {"code_length": 2, "codebook_size": 3, "num_blocks": 1}
  settings |= {"batch_size": 16, "epochs": 1, "eval_epochs": 1, "patience": 0}
  settings |= {"checkpoint_chunks": 1}
  return benchmark.run_benchmark(
    {"synthetic": DATA}, workdir, rows=rows, quick=True, settings=settings
  )


def test_the_benchmark_makes_codes_of_what_the_full_table_has_learned(tmp_path):
  cells = benchmark_runs(tmp_path, ["SSE-PT", CODES])
  assert cells[1]["item_bytes"] < cells[0]["item_bytes"]
  (full,) = tmp_path.glob("synthetic/SSE-PT/*_seed_0")
  (codes,) = tmp_path.glob("synthetic/SSE-PT_with_codes_of_its_items/*_seed_0")
  given = reporting.read_result(codes).config["vectors"]
  assert given == str(full / "items.safetensors")


def test_the_benchmark_needs_a_full_table_first(tmp_path):
  with pytest.raises(FileNotFoundError, match="run the row 'SSE-PT' first"):
    benchmark_runs(tmp_path, [CODES])


def test_the_best_run_of_a_seed_gives_its_items(tmp_path):
  for name, score in (("a_seed_0", 0.1), ("b_seed_0", 0.3), ("c_seed_1", 0.9)):
    result = reporting.RunResult(
      experiment="train_sequential_recommender",
      dataset="synthetic",
      embedding="full",
      seed=0,
      metrics={"valid_ndcg_at_10": score},
      embedding_params=1,
      embedding_bytes=4,
      dense_bytes=4,
      training_bytes=4,
      seconds=1.0,
      seconds_per_epoch=1.0,
    )
    reporting.write_result(result, tmp_path / name)
  assert benchmark.find_run(tmp_path, 0).name == "b_seed_0"


@pytest.fixture(scope="module")
def compressed(_usual_promotion, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("compressed")
  # A tenth of fewer bytes would hold no table at all.
  rows = ["SSE-PT", benchmark.COMPRESSED]
  cells = benchmark_runs(workdir, rows, features=32)
  (full,) = workdir.glob("synthetic/SSE-PT/*_seed_0")
  (small,) = workdir.glob("synthetic/SSE-PT_with_compressed_items/*_seed_0")
  return cells, full, small


def test_items_are_compressed_after_the_training(compressed):
  cells, full, small = compressed
  assert cells[1]["chosen"] == "count_power 0.0"
  table = tables.load(small / "items.safetensors")
  before = tables.load(full / "items.safetensors")
  assert table.vocabulary == before.vocabulary
  assert cells[1]["item_bytes"] == table.nbytes <= before.nbytes / 10
  everything = np.arange(ROWS)
  error = table.lookup(everything) - before.lookup(everything)
  assert (
    0 < np.square(error).mean() < np.square(before.lookup(everything)).mean()
  )


def test_the_measured_model_has_the_compressed_items(compressed):
  _, full, small = compressed
  options = sequential_options.SequentialConfig(
    **reporting.read_result(full).config
  )
  run = sequential_recommending.Run(options, full, data=DATA)
  state = run.best_of(run.train(resume=True))
  recorded = reporting.read_result(full).metrics
  found = reporting.read_result(small).metrics
  assert run.measure(state, "test")["test_ndcg_at_10"] == pytest.approx(
    recorded["test_ndcg_at_10"], rel=1e-6
  )
  table = tables.load(small / "items.safetensors")
  model = run.trainer.model_of(state)
  model.items.embedding[...] = table.lookup(np.arange(ROWS))
  state = run.trainer.replace_model(state, model)
  for name, value in run.measure(state, "test").items():
    assert found[name] == pytest.approx(value, rel=1e-5)
  assert found["test_ndcg_at_10"] != recorded["test_ndcg_at_10"]


def test_only_full_items_are_compressed(tmp_path):
  run = make_run(tmp_path, embedding="anchors", checkpoint_chunks=0)
  run.finish(run.train(), seconds=0.0)
  options = sequential_compression.CompressionOptions(run=str(run.workdir))
  with pytest.raises(ValueError, match="'full' items to compress"):
    sequential_compression.compress_items(options, tmp_path / "x", data=DATA)


def test_what_left_no_checkpoints_cannot_be_compressed(tmp_path):
  run = make_run(tmp_path, checkpoint_chunks=0)
  run.finish(run.train(), seconds=0.0)
  options = sequential_compression.CompressionOptions(run=str(run.workdir))
  with pytest.raises(ValueError, match="must have the checkpoints"):
    sequential_compression.compress_items(options, tmp_path / "x", data=DATA)
