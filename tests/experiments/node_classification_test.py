"""Tests of the training of node classifiers, from the graph to the results."""

import csv
import dataclasses
import doctest
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

import chex
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from compilations import count_compilations

from anchor_codes import tables
from experiments import (
  embeddings,
  knowledge,
  node_classification,
  reporting,
)
from experiments.benchmarks import node_classifiers
from experiments.datasets import node_features, node_graphs
from experiments.models import graph_network

ROOT = pathlib.Path(__file__).parents[2]
NODES, WORDS = 60, 20


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # The binaries run without the strict settings of the unit tests.
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    yield


def make_arrays():
  """Nodes of two classes, with words and neighbours mostly of their own."""
  rng = np.random.default_rng(0)
  labels = np.arange(NODES) % 2
  own = 2 * rng.integers(WORDS // 2, size=(NODES, 6)) + labels[:, None]
  dense = np.zeros((NODES, WORDS))
  np.put_along_axis(dense, own, 1.0, axis=1)
  dense[np.arange(NODES), rng.integers(WORDS, size=NODES)] = 1
  pairs = rng.integers(NODES // 2, size=(2 * NODES, 2))
  edges = 2 * pairs + rng.integers(2, size=(2 * NODES, 1))
  return dense, edges, labels


def make_data():
  dense, edges, labels = make_arrays()
  nodes = np.arange(NODES)
  return node_graphs.make_graph(
    "toy",
    node_features.from_dense(dense),
    edges,
    labels,
    splits={"train": nodes[:10], "valid": nodes[10:30], "test": nodes[30:]},
    classes=("no", "yes"),
    source="ours",
  )


def tiny(**options):
  config = node_classification.NodeClassificationConfig(
    features=8,
    num_anchors=6,
    num_nonzeros=3,
    code_length=4,
    codebook_size=4,
    rank=4,
    num_buckets=10,
    epochs=20,
    learning_rate=0.05,
    checkpoint_chunks=0,
  )
  return dataclasses.replace(config, **options)


def make_trainer(config, data):
  counts = np.bincount(data.features.indices, minlength=WORDS)
  return node_classification.Trainer(
    config, known=knowledge.Knowledge(config, counts), num_classes=2
  )


def metrics_of(workdir):
  with (workdir / "metrics.csv").open(encoding="utf-8") as file:
    return list(csv.DictReader(file))


class TrainingTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder)
    self.data = make_data()

  def train(self, name="run", **options):
    return node_classification.train_and_evaluate(
      tiny(**options), self.folder / name, data=self.data
    )

  def test_learns_and_leaves_its_results(self):
    result = self.train(embedding="kd", epochs=60)
    workdir = self.folder / "run"
    record = json.loads((workdir / "result.json").read_text())
    self.assertEqual(record["metrics"], result.metrics)
    self.assertEqual(record["experiment"], "train_node_classifier")
    self.assertGreater(result.metrics["test_accuracy"], 0.8)
    self.assertGreater(result.training_bytes, result.embedding_bytes)
    self.assertGreater(result.seconds_per_epoch, 0)
    self.assertEqual(result.dense_bytes, WORDS * 8 * 4)
    table = tables.load(workdir / "embedding.safetensors")
    self.assertEqual(table.nbytes, record["embedding_bytes"])
    self.assertEqual(table.num_embeddings, WORDS)
    self.assertEqual(reporting.read_result(workdir), result)
    # What was done to the graph is part of the result.
    for name, count in self.data.counts.items():
      self.assertEqual(record["metrics"][f"graph_{name}"], count)
    # One line for each chunk, by the number of its last step.
    rows = metrics_of(workdir)
    self.assertEqual([int(row["step"]) for row in rows], [*range(5, 61, 5)])
    # The best of them is what was measured.
    found = [float(row["valid_accuracy"]) for row in rows]
    self.assertEqual(result.metrics["valid_accuracy"], max(found))
    best = 5 * (found.index(max(found)) + 1)
    self.assertEqual(result.metrics["best_epoch"], best)

  def test_patience_counts_steps(self):
    config = tiny(patience=10)
    run = node_classification.Run(config, self.folder, data=self.data)
    self.assertEqual(run.max_epochs(), 4)
    run.best_epoch = 0
    self.assertEqual([run.is_over(e) for e in (1, 2, 3)], [False, False, True])
    config.patience = 0
    self.assertFalse(run.is_over(3))

  def test_accuracy_or_loss_choose(self):
    run = node_classification.Run(tiny(), self.folder, data=self.data)
    state = run.trainer.init()
    score, metrics = run.validate(state)
    self.assertEqual(score, metrics["valid_accuracy"])
    run.config.criterion = "loss"
    score, again = run.validate(state)
    self.assertEqual(score, -metrics["valid_loss"])
    self.assertEqual(metrics, again)

  def test_a_stopped_run_resumes_to_the_same_numbers(self):
    options = {"embedding": "dpq", "checkpoint_chunks": 1}
    whole = self.train("whole", **options)
    config = tiny(**options)
    stopped = self.folder / "stopped"
    run = node_classification.Run(config, stopped, data=self.data)
    chunks = run._chunks
    run._chunks = lambda first: itertools.islice(chunks(first), 2)
    run.train()
    resumed = node_classification.train_and_evaluate(
      config, stopped, data=self.data, resume=True
    )
    self.assertEqual(whole.metrics, resumed.metrics)
    names = ("whole", "stopped")
    self.assertEqual(*(metrics_of(self.folder / name) for name in names))
    files = [self.folder / name / "embedding.safetensors" for name in names]
    self.assertEqual(*(path.read_bytes() for path in files))

  @parameterized.parameters(
    ({"embedding": "sparse"}, "one of 'full', .* got 'sparse'"),
    ({"criterion": "error"}, "one of 'accuracy', 'loss', got 'error'"),
    ({"epochs": 7}, "`epochs` must be divisible by `chunk_steps`"),
    ({"epochs": 0}, "`epochs` must be at least 1"),
    ({"chunk_steps": 0}, "`chunk_steps` must be at least 1"),
    ({"l2": -1.0}, "`l2` must be finite and not negative, got -1"),
    ({"l2": float("nan")}, "`l2` must be finite"),
    ({"dropout": 1.0}, "`dropout` must be less than 1"),
    ({"embedding": "dpq", "code_length": 3}, "`features` must be divisible"),
    ({"stored_dtype": "int8"}, "`stored_dtype` must be one of 'float32'"),
  )
  def test_bad_options_are_named(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      self.train("bad", **options)

  def test_missing_data_name_the_path(self):
    config = tiny(data_dir=str(self.folder))
    expected = str(self.folder / "planetoid" / "cora.npz")
    with self.assertRaisesRegex(FileNotFoundError, expected):
      node_classification.train_and_evaluate(config, self.folder / "bad")


class StepTest(parameterized.TestCase):
  @parameterized.parameters("full", "anchors")
  def test_embeddings_learn(self, embedding):
    config, data = tiny(embedding=embedding, dropout=0.1), make_data()
    config.chunk_steps = 20
    trainer = make_trainer(config, data)
    batch = node_classification.make_batches(data)["train"]
    state, metrics = jax.jit(trainer.step)(trainer.init(), batch)
    losses = metrics["loss"]
    self.assertEqual((losses.shape, int(state.step)), ((20,), 20))
    self.assertLess(losses[-5:].mean(), losses[:5].mean())

  @parameterized.parameters(*embeddings.KINDS)
  def test_any_embedding_keeps_its_form(self, embedding):
    # Traced alone: compiling all of them takes long.
    data = make_data()
    trainer = make_trainer(tiny(embedding=embedding), data)
    batch = node_classification.make_batches(data)["train"]
    state = trainer.init()
    moved, metrics = jax.eval_shape(trainer.step, state, batch)
    self.assertEqual(metrics["loss"].shape, (5,))
    chex.assert_trees_all_equal_shapes_and_dtypes(
      moved, jax.eval_shape(lambda state: state, state)
    )

  def test_the_seed_is_data(self):
    config = tiny(chunk_steps=2)
    trainer = make_trainer(config, make_data())
    step = jax.jit(trainer.step)
    losses = []
    with count_compilations() as counts:
      for seed in (0, 0, 1):
        batch = node_classification.make_batches(make_data(), seed=seed)
        _, metrics = step(trainer.init(), batch["train"])
        losses.append(np.asarray(metrics["loss"]))
    np.testing.assert_array_equal(losses[0], losses[1])
    self.assertGreater(np.abs(losses[0] - losses[2]).min(), 0)
    self.assertEqual(counts["jit(step)"], 1)

  def test_penalty_is_that_of_the_first_layer(self):
    # Without nodes that pull, plain descent only shrinks the vectors.
    options = {"optimizer": "sgd", "row_optimizer": "sgd", "dropout": 0.0}
    config = tiny(l2=0.5, learning_rate=0.1, chunk_steps=1, **options)
    data = make_data()
    trainer = make_trainer(config, data)
    batch = node_classification.make_batches(data)["train"]
    quiet = dataclasses.replace(
      batch.graph.features, values=0 * batch.graph.features.values
    )
    batch = batch._replace(
      graph=dataclasses.replace(batch.graph, features=quiet)
    )
    start = trainer.init()
    before = trainer.model_of(start).word_vectors()
    state, _ = jax.jit(trainer.step)(start, batch)
    after = trainer.model_of(state)
    np.testing.assert_allclose(after.word_vectors(), 0.95 * before, rtol=1e-5)
    np.testing.assert_array_equal(
      after.kernel[...], trainer.model_of(start).kernel[...]
    )

  def test_accuracy_counts_the_nodes_of_a_split(self):
    data, config = make_data(), tiny()
    trainer = make_trainer(config, data)
    batches = node_classification.make_batches(data)
    state = trainer.init()
    model = trainer.model_of(state)
    logits = np.asarray(model(model.word_vectors(), batches["test"].graph))
    for split, nodes in (("valid", data.valid), ("test", data.test)):
      loss, accuracy = trainer.evaluate(state, batches[split])
      hits = logits[nodes].argmax(axis=1) == data.labels[nodes]
      self.assertEqual(accuracy, hits.mean())
      log_sum = np.log(np.exp(logits[nodes]).sum(axis=1))
      chosen = logits[nodes, data.labels[nodes]]
      self.assertAlmostEqual(loss, np.mean(log_sum - chosen), places=5)

  def test_batches_hold_normalised_words_and_the_nodes(self):
    data = make_data()
    batches = node_classification.make_batches(data)
    features = batches["train"].graph.features
    sums = np.bincount(features.rows, features.values, NODES)
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
    masks = [np.flatnonzero(batches[s].where) for s in node_graphs.SPLITS]
    for found, split in zip(masks, node_graphs.SPLITS, strict=True):
      np.testing.assert_array_equal(found, getattr(data, split))

  def test_examples_of_the_docstrings(self):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(graph_network, optionflags=flags)
    self.assertGreater(result.attempted, 0)
    self.assertEqual(result.failed, 0)


# The benchmark.


@pytest.fixture(name="made_up")
def fixture_made_up(monkeypatch):
  """Takes the place of training; returns the options of all runs."""
  configs = []

  def train(config, path, *, data):
    del data
    configs.append(config)
    result = reporting.RunResult(
      experiment="train_node_classifier",
      dataset=config.dataset,
      embedding=config.embedding,
      seed=config.seed,
      metrics={
        "test_accuracy": 0.5,
        # The second setting of each row is the best one.
        "valid_accuracy": 0.7 + 0.01 * (config.learning_rate == 0.05),
      },
      embedding_params=10,
      embedding_bytes=64,
      dense_bytes=WORDS * config.features * 4,
      training_bytes=100,
      seconds=1.0,
      seconds_per_epoch=0.1,
      config=dataclasses.asdict(config),
    )
    reporting.write_result(result, path)
    return result

  monkeypatch.setattr(node_classification, "train_and_evaluate", train)
  return configs


def test_benchmark_chooses_by_validation_and_goes_on(made_up, tmp_path):
  run = lambda: node_classifiers.run_benchmark(
    {"cora": make_data()}, tmp_path, rows=["low rank"], num_seeds=5
  )
  cells = run()
  tries = node_classifiers.ROWS["low rank"].tries
  assert len(made_up) == 2 * len(tries) + 3  # The chosen one has two already.
  assert {config.learning_rate for config in made_up[-3:]} == {0.05}
  assert [config.seed for config in made_up[-3:]] == [2, 3, 4]
  assert cells[0]["test"] == "50.00 ± 0.00"
  assert cells[0]["chosen"] == "learning_rate 0.05"
  # Of the full layer of 16, however wide that of the row is.
  assert cells[0]["ratio"] == WORDS * 16 * 4 / 64
  table = (tmp_path / "node_classifiers.md").read_text()
  assert table.startswith("| Graph")
  assert json.loads((tmp_path / "node_classifiers.json").read_text()) == cells
  number = len(made_up)
  assert run() == cells
  assert len(made_up) == number


def test_benchmark_leaves_out_kinds_that_are_not_there(made_up, monkeypatch):
  kinds = {"full": None, "kd": None}
  monkeypatch.setattr(embeddings, "KINDS", kinds)
  assert node_classifiers.available_rows() == ["full", "KD codes"]
  del made_up


@pytest.mark.parametrize("name", node_classifiers.ROWS)
def test_tries_of_a_row_are_different_settings(name):
  row = node_classifiers.ROWS[name]
  configs = [
    node_classifiers.make_config("cora", name, tried, seed=1)
    for tried in row.tries
  ]
  assert len({str(config) for config in configs}) == len(configs) == 3
  for config in configs:
    node_classification.check_config(config)
    assert config.seed == 1
  quick = node_classifiers.make_config(
    "cora", name, row.tries[0], seed=0, quick=True
  )
  assert quick.epochs == quick.chunk_steps


# The binary.


def command(folder, workdir, *more):
  options = dataclasses.asdict(tiny(embedding="kd", epochs=10))
  options["dataset"] = f"own:{folder}"
  flags = [f"--config.{name}={value}" for name, value in options.items()]
  binary = [sys.executable, "-m", "experiments.train_node_classifier"]
  return [*binary, f"--workdir={workdir}", *flags, *more]


def write_folder(folder):
  folder.mkdir()
  dense, edges, labels = make_arrays()
  np.savez(folder / "features.npz", features=dense)
  lines = ["source,target", *(f"{a},{b}" for a, b in edges), "3,3"]
  (folder / "edges.csv").write_text("\n".join(lines) + "\n")
  splits = ["train"] * 10 + ["valid"] * 20 + ["test"] * 30
  lines = ["node,label,split"]
  lines += [f"{i},{labels[i]},{split}" for i, split in enumerate(splits)]
  (folder / "labels.csv").write_text("\n".join(lines) + "\n")
  return folder


@pytest.mark.slow
def test_the_binary_reports_the_graph(tmp_path):
  folder = write_folder(tmp_path / "graph")
  process = subprocess.run(
    command(folder, tmp_path / "run"),
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
  )
  assert "The graph has 60 nodes, " in process.stdout
  loops = make_data().counts["self_loops"] + 1
  assert f" {loops} self loops, " in process.stdout
  assert "Test acc." in process.stdout
  assert (tmp_path / "run" / "embedding.safetensors").exists()


def test_the_binary_explains_what_is_wrong(tmp_path):
  folder = write_folder(tmp_path / "graph")
  with (folder / "edges.csv").open("a") as file:
    file.write("1,60\n")
  process = subprocess.run(
    command(folder, tmp_path / "run"), cwd=ROOT, capture_output=True, text=True
  )
  assert process.returncode
  assert (
    "'target' is node 60, which does not" in process.stderr + process.stdout
  )
  assert "Traceback" not in process.stderr


if __name__ == "__main__":
  absltest.main()
