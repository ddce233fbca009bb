"""Tests of the training of sequential recommenders, and of what it leaves."""

import csv
import dataclasses
import doctest
import importlib
import itertools
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from flax import nnx
from jax import numpy as jnp

from anchor_codes import ops, tables
from experiments import (
  embeddings,
  reporting,
  sequence_batches,
  sequential_graphs,
  sequential_options,
  sequential_recommending,
  sequential_trainer,
)
from experiments.benchmarks import sequential_recommenders as benchmark
from experiments.datasets import sequences
from experiments.sequential_evaluation import METRICS

DATA = sequences.synthetic_sequences(
  2, num_users=48, num_items=30, mean_length=12, num_groups=3
)
TRAINED_ROWS = [n for n in benchmark.ROWS if n != benchmark.COMPRESSED]
SETTINGS = {
  "features": 8,
  "user_features": 4,
  "max_length": 8,
  "num_blocks": 1,
  "batch_size": 16,
  "epochs": 4,
  "eval_epochs": 2,
  "eval_draws": 3,
  "num_candidates": 12,
  "learning_rate": 0.01,
  "chunk_steps": 3,
  "checkpoint_chunks": 1,
  "patience": 0,
}


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # The binaries run without the strict settings of the unit tests.
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    yield


def tiny(**options):
  config = sequential_options.SequentialConfig(dataset="synthetic")
  return dataclasses.replace(config, **{**SETTINGS, **options})


@pytest.fixture(scope="module")
def trained(_usual_promotion, tmp_path_factory):
  """What a run of the benchmark leaves: all other tests look at it."""
  workdir = tmp_path_factory.mktemp("benchmark")
  cells = benchmark.run_benchmark(
    {"synthetic": DATA},
    workdir,
    rows=["SSE-PT"],
    seeds=1,
    settings=SETTINGS,
    quick=True,
  )
  folders = list((workdir / "synthetic" / "SSE-PT").iterdir())
  assert len(folders) == 1
  return types.SimpleNamespace(
    cells=cells,
    workdir=workdir,
    folder=folders[0],
    result=reporting.read_result(folders[0]),
  )


def metrics_of(folder):
  with (folder / "metrics.csv").open(encoding="utf-8") as file:
    return list(csv.DictReader(file))


def test_a_run_leaves_its_results(trained):
  metrics = trained.result.metrics
  assert trained.result.experiment == "train_sequential_recommender"
  for split, name in itertools.product(("test", "valid"), METRICS):
    assert 0 <= metrics[f"{split}_{name}"] <= 1
  # A recall is a hit, a gain is at most one.
  assert metrics["test_ndcg_at_10"] <= metrics["test_recall_at_10"]
  assert metrics["best_epoch"] in (2, 4)
  rows = metrics_of(trained.folder)
  validated = [row for row in rows if row["valid_ndcg_at_10"]]
  assert len(rows) == 4
  assert len(validated) == 2
  best = max(float(row["valid_ndcg_at_10"]) for row in validated)
  np.testing.assert_allclose(metrics["valid_ndcg_at_10"], best, rtol=1e-6)
  losses = [float(row["train_loss"]) for row in rows]
  assert losses[-1] < losses[0]


def test_the_tables_are_stored_under_their_names(trained):
  items = tables.load(trained.folder / "items.safetensors")
  users = tables.load(trained.folder / "users.safetensors")
  assert items.num_embeddings == DATA.num_items + 1
  assert users.num_embeddings == DATA.num_users
  np.testing.assert_array_equal(
    items.ids_of(["<pad>", DATA.item_names[0]]), [0, 1]
  )
  assert users.ids_of([DATA.user_names[7]])[0] == 7
  assert trained.result.embedding_bytes == items.nbytes + users.nbytes
  assert trained.result.metrics["item_bytes"] == items.nbytes


def test_a_stopped_run_resumes_to_the_same_numbers(trained, tmp_path):
  config = benchmark.make_config(
    "synthetic", "SSE-PT", benchmark.ROWS["SSE-PT"].tries[0], settings=SETTINGS
  )
  run = sequential_recommending.Run(config, tmp_path, data=DATA)
  chunks = run._chunks
  run._chunks = lambda first: itertools.islice(chunks(first), 3)
  run.train()
  with pytest.raises(ValueError, match="--resume"):
    run.train()
  resumed = sequential_recommending.train_and_evaluate(
    config, tmp_path, data=DATA, resume=True
  )
  times = ("input_seconds", "step_seconds")
  found = [
    {k: v for k, v in result.metrics.items() if k not in times}
    for result in (trained.result, resumed)
  ]
  assert found[0] == found[1]
  assert metrics_of(tmp_path) == metrics_of(trained.folder)
  for name in ("items.safetensors", "users.safetensors"):
    both = (tmp_path / name, trained.folder / name)
    assert both[0].read_bytes() == both[1].read_bytes()
  # What is stored is what was measured: the best parameters.
  state = run.put_state(run.from_checkpoint(*newest_checkpoint(run)))
  state = run.best_of(state)
  found = run.measure(state, "test")
  np.testing.assert_allclose(
    found["test_ndcg_at_10"], resumed.metrics["test_ndcg_at_10"], rtol=1e-6
  )
  table = tables.load(tmp_path / "items.safetensors")
  (rows,) = jax.tree.leaves(state.rows["items"])
  np.testing.assert_array_equal(table.lookup(np.arange(len(rows))), rows)


def newest_checkpoint(run):
  _, arrays, metadata = run._checkpointer().restore(run._example)
  return arrays["run"], metadata


def test_a_record_is_not_made_twice(trained):
  again = benchmark.run_benchmark(
    {"synthetic": DATA},
    trained.workdir,
    rows=["SSE-PT"],
    seeds=1,
    settings=SETTINGS,
    quick=True,
  )
  assert again == trained.cells
  (cells,) = again
  assert cells["chosen"] == "dropout 0.2, item_sharing_rate 0.1"
  text = (trained.workdir / "sequential_recommenders.md").read_text()
  assert "SSE-PT" in text
  assert "NDCG@10" in text


def test_rows_have_as_many_tries():
  tries = {len(row.tries) for row in benchmark.ROWS.values()}
  assert len(tries) == 1
  for name in TRAINED_ROWS:
    for tried in benchmark.ROWS[name].tries:
      for dataset in benchmark.MODELS:
        sequential_options.check_config(
          benchmark.make_config(dataset, name, tried)
        )


@pytest.mark.parametrize(
  "name", [n for n in TRAINED_ROWS if n.startswith("SSE-PT with")]
)
def test_compact_items_take_a_tenth_of_the_bytes(name):
  config = benchmark.make_config("ml-1m", name, benchmark.ROWS[name].tries[0])
  vectors = np.random.default_rng(0).standard_normal((3417, 50), np.float32)
  layer = embeddings.make_embedding(
    3417, config, scale=0.1, rngs=nnx.Rngs(0), vectors=vectors
  )
  table = embeddings.stored_table(layer, config)
  assert table.dense_bytes >= 10 * table.nbytes


def make_trainer(**options):
  config = tiny(**options)
  return sequential_trainer.Trainer(
    config, num_users=DATA.num_users, num_items=DATA.num_items,
    graphs=sequential_graphs.load_graphs(config, DATA),
  )  # fmt: skip


def draw_batch():
  sampler = sequence_batches.SequenceSampler(DATA, max_length=8)
  return sampler.draw(np.random.default_rng(0), (16,))


@pytest.mark.parametrize(
  "options",
  [
    {"model": "sasrec", "sharing": "se", "official_sampler": True},
    {"model": "pt", "embedding": "dpq", "code_length": 4, "l2_emb": 0.1},
    {"user_embedding": "hash", "embedding": "kd", "code_length": 4},
    {"sharing": "graph", "guidance": "online", "embedding": "kd"},
    {
      "sharing": "graph",
      "lazy_from": 0.0,
      "user_draws": "position",
      "embedding": "anchors",
      "num_anchors": 6,
      "num_nonzeros": 3,
      "weight_decay": 0.01,
    },
  ],
)
def test_steps_of_all_kinds_keep_the_form_of_the_state(options):
  trainer = make_trainer(**options)
  state = jax.eval_shape(trainer.init)
  new_state, metrics = jax.eval_shape(trainer.step, state, draw_batch())
  form = lambda tree: [(a.shape, a.dtype) for a in jax.tree.leaves(tree)]
  assert form(new_state) == form(state)
  assert metrics["loss"].shape == ()


@pytest.mark.parametrize("row_optimizer", ["sgd", "row_adagrad", "adam"])
def test_decay_does_not_depend_on_the_optimiser_of_rows(row_optimizer):
  rows = {"embedding": jnp.linspace(1.0, 2.0, 12).reshape(4, 3)}
  gradients = jax.tree.map(lambda r: 30.0 * r, rows)
  updates = []
  for weight_decay in (0.0, 0.1):
    options = {"row_optimizer": row_optimizer, "learning_rate": 0.5}
    trainer = make_trainer(weight_decay=weight_decay, **options)
    optimizer = trainer.row_optimizers["items"]
    found, _ = optimizer.update(gradients, optimizer.init(rows), rows)
    updates.append(found["embedding"])
  np.testing.assert_allclose(
    updates[1] - updates[0], -0.5 * 0.1 * rows["embedding"], rtol=1e-4
  )


@pytest.mark.parametrize(
  "options",
  [
    {"row_optimizer": "yogi", "embedding": "anchors", "model": "sasrec"},
    {"guidance": "online", "embedding": "kd", "code_length": 4},
  ],
)
def test_decay_of_rows_that_have_none_is_refused(options):
  with pytest.raises(ValueError, match="`weight_decay` must be 0 with"):
    make_trainer(weight_decay=0.1, **options)


def test_batches_are_drawn_anew_in_each_chunk_and_repeatable(tmp_path):
  run = sequential_recommending.Run(tiny(), tmp_path, data=DATA)
  first, again, second = (run.batches(e, 0, 3) for e in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert (first.users != second.users).any()
  assert first.inputs.shape == (3, 16, 8)
  windows = tiny(model="sse_pt++", window_rate=1.0)
  other = sequential_recommending.Run(windows, tmp_path, data=DATA)
  assert other.sampler.window_rate == 1
  assert run.sampler.window_rate == 0


def test_bigrams_are_those_of_training():
  graph = sequential_graphs.bigram_graph(DATA)
  assert graph.num_nodes == DATA.num_items
  users, items = DATA.train_events
  pairs = np.stack([items[:-1], items[1:]], 1)[users[1:] == users[:-1]] - 1
  expected = ops.graph_from_edges(pairs, num_nodes=DATA.num_items)
  np.testing.assert_array_equal(graph.offsets, expected.offsets)
  np.testing.assert_array_equal(graph.neighbors, expected.neighbors)


def test_models_share_as_their_names_say():
  kinds = [
    tiny(model=model).sharing_kind for model in sequential_options.MODELS
  ]
  assert kinds == ["none", "none", "se", "se"]
  assert tiny(model="sasrec", sharing="graph").sharing_kind == "graph"
  assert make_trainer(model="pt").make_model().sharing is None
  assert make_trainer(model="sasrec").make_model().users is None


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"model": "bert4rec"}, "`model` must be one of 'sasrec', .* 'bert4rec'"),
    ({"sharing": "closed_form"}, "`sharing` must be one of"),
    (
      {"sharing": "graph", "sharing_graph": "actors"},
      "`sharing_graph` must be one of 'bigrams'",
    ),
    (
      {"sharing": "graph", "sharing_graph": "bigrams,genres"},
      "one graph of the items at most",
    ),
    ({"sharing": "graph", "sharing_graph": "genres"}, "'synthetic'"),
    ({"user_draws": "both"}, "`user_draws` must be one of"),
    ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1"),
    ({"item_sharing_rate": -0.1}, "`item_sharing_rate`"),
    ({"window_rate": 2.0}, "`window_rate`"),
    ({"max_length": 0}, "`max_length` must be at least 1"),
    ({"user_features": 0}, "`user_features` must be at least 1"),
    ({"l2_emb": -1.0}, "`l2_emb` must be non-negative"),
    ({"patience": 1}, "`patience` must be at least `eval_epochs`"),
    ({"embedding": "sparse"}, "`embedding` must be one of"),
    ({"row_optimizer": "lion"}, "`row_optimizer` must be one of"),
  ],
)
def test_bad_options_are_named(options, message, tmp_path):
  config = tiny(**options)
  with pytest.raises(ValueError, match=message):
    sequential_recommending.Run(config, tmp_path, data=DATA).trainer.init()


def test_the_binary_explains_what_is_wrong(tmp_path):
  path = tmp_path / "own.csv"
  path.write_text("user,thing\na,b\n")
  process = subprocess.run(
    [
      sys.executable,
      "-m",
      "experiments.train_sequential_recommender",
      f"--workdir={tmp_path / 'run'}",
      f"--config.dataset=csv:{path}",
    ],
    capture_output=True,
    text=True,
  )
  assert process.returncode
  assert "must name the columns user,item" in process.stderr + process.stdout
  assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
  "name",
  [
    "sequential_graphs",
    "sequential_options",
    "sequential_recommending",
    "benchmarks.sequential_recommenders",
  ],
)
def test_examples_of_the_docstrings(name):
  module = importlib.import_module(f"experiments.{name}")
  flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
  result = doctest.testmod(module, optionflags=flags)
  assert result.attempted
  assert not result.failed
