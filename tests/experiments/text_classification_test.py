"""Tests of the training of text classifiers, from data to what it leaves."""

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

from anchor_codes import steps, tables, training
from experiments import (
  chunking,
  embeddings,
  knowledge,
  language_model_trainer,
  reporting,
  stored_tables,
  text_classification,
)
from experiments.datasets import classification
from experiments.datasets import classification_words as words

ROOT = pathlib.Path(__file__).parents[2]
NUM_TEXTS = 200


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # The binaries run without the strict settings of the unit tests.
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    yield


def make_rows(number=NUM_TEXTS):
  """Texts of which two words of many tell the class."""
  rng = np.random.default_rng(0)
  rows = []
  for i in range(number):
    label = i % 2
    filler = [f"w{j}" for j in rng.integers(40, size=rng.integers(1, 8))]
    sign = f"{('bad', 'good')[label]}{rng.integers(3)}"
    rows.append((" ".join([*filler, sign]), label))
  return rows


def make_data(number=NUM_TEXTS):
  return classification.make_dataset(
    "toy", {"train": make_rows(number)}, ("no", "yes"), source="ours"
  )


def tiny(**options):
  config = text_classification.TextClassificationConfig(
    encoder="mean",
    features=8,
    num_filters=4,
    dropout=0.1,
    batch_size=16,
    epochs=2,
    chunk_steps=5,
    learning_rate=0.01,
    min_count=1,
    num_anchors=6,
    num_nonzeros=3,
    code_length=4,
    codebook_size=4,
    rank=4,
    num_buckets=10,
    checkpoint_chunks=0,
  )
  return dataclasses.replace(config, **options)


def make_trainer(config, data):
  return text_classification.Trainer(
    config,
    known=knowledge.Knowledge(config, words.count_words(data)),
    num_classes=2,
    max_length=data.train.tokens.shape[1],
  )


def metrics_of(workdir):
  with (workdir / "metrics.csv").open(encoding="utf-8") as file:
    return list(csv.DictReader(file))


def accuracies_of(workdir):
  cells = [row["valid_accuracy"] for row in metrics_of(workdir)]
  return [float(cell) for cell in cells if cell]


class TrainingTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder)
    self.data = make_data()

  def train(self, name="run", *, mesh=None, **options):
    return text_classification.train_and_evaluate(
      tiny(**options), self.folder / name, data=self.data, mesh=mesh
    )

  def test_learns_and_leaves_its_results(self):
    result = self.train(
      embedding="anchors",
      encoder="cnn",
      epochs=9,
      row_learning_rate=3.0,
      stored_dtype="float16",
    )
    workdir = self.folder / "run"
    record = json.loads((workdir / "result.json").read_text())
    self.assertEqual(record["metrics"], result.metrics)
    self.assertEqual(record["experiment"], "train_text_classifier")
    self.assertGreater(result.metrics["test_accuracy"], 0.9)
    self.assertGreater(result.training_bytes, result.embedding_bytes)
    self.assertGreater(result.seconds_per_epoch, 0)
    table = tables.load(workdir / "embedding.safetensors")
    self.assertEqual(table.nbytes, record["embedding_bytes"])
    self.assertEqual(table.anchors.dtype, np.float16)
    np.testing.assert_array_equal(table.ids_of(["<pad>", "<unk>"]), [0, 1])
    self.assertEqual(reporting.read_result(workdir), result)

  @parameterized.parameters("kd", "low_rank")
  def test_embeddings_learn(self, embedding):
    data = words.encode_dataset(self.data, max_length=9)
    trainer = make_trainer(tiny(embedding=embedding), data)
    chunk = training.compile_chunk(
      trainer.step, training.data_mesh(), state_specs=steps.STATE_SPECS
    )
    batch = words.Batch(data.train.tokens[:8], data.train.labels[:8])
    batches = jax.tree.map(lambda part: part[None].repeat(20, 0), batch)
    _, metrics = chunk(trainer.init(), batches)
    self.assertLess(metrics["loss"][-1], metrics["loss"][0])

  @parameterized.parameters(*embeddings.KINDS)
  def test_any_embedding_takes_a_step(self, embedding):
    # Traced alone: compiling all of them takes long.
    data = words.encode_dataset(self.data, max_length=9)
    trainer = make_trainer(tiny(embedding=embedding), data)
    batch = words.Batch(data.train.tokens[:8], data.train.labels[:8])
    state = jax.eval_shape(trainer.init)
    moved, metrics = jax.eval_shape(trainer.step, state, batch)
    self.assertEqual(metrics["loss"].shape, ())
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, state)

  def test_the_best_epoch_is_kept(self):
    # So large a rate that the accuracy jumps up and down.
    result = self.train(learning_rate=1.0, epochs=6, patience=0)
    accuracies = accuracies_of(self.folder / "run")
    self.assertLen(accuracies, 6)
    self.assertEqual(result.metrics["valid_accuracy"], max(accuracies))
    best = accuracies.index(max(accuracies)) + 1
    self.assertEqual(result.metrics["best_epoch"], best)
    # A full table may guide codes, or be compressed.
    table = tables.load(self.folder / "run" / "embedding.safetensors")
    self.assertEqual(table.nbytes, result.embedding_bytes)

  def test_patience_ends_the_training(self):
    result = self.train(learning_rate=0.0, epochs=9, patience=2)
    self.assertLen(accuracies_of(self.folder / "run"), 3)
    self.assertEqual(result.metrics["best_epoch"], 1)

  def test_a_stopped_run_resumes_to_the_same_numbers(self):
    options = {"embedding": "anchors", "checkpoint_chunks": 1, "epochs": 4}
    whole = self.train("whole", **options)
    config = tiny(**options)
    run = text_classification.Run(
      config, self.folder / "stopped", data=self.data
    )
    chunks = run._chunks
    run._chunks = lambda first: itertools.islice(chunks(first), 5)
    run.train()
    self.assertLess(len(accuracies_of(self.folder / "stopped")), 4)
    resumed = text_classification.train_and_evaluate(
      config, self.folder / "stopped", data=self.data, resume=True
    )
    self.assertEqual(whole.metrics, resumed.metrics)
    names = ("whole", "stopped")
    self.assertEqual(*(metrics_of(self.folder / name) for name in names))
    files = [self.folder / name / "embedding.safetensors" for name in names]
    self.assertEqual(*(path.read_bytes() for path in files))
    # What is over already has nothing left to do but to measure.
    again = text_classification.train_and_evaluate(
      config, self.folder / "stopped", data=self.data, resume=True
    )
    self.assertEqual(whole.metrics, again.metrics)

  def test_old_checkpoints_are_not_overwritten(self):
    self.train(checkpoint_chunks=1, epochs=1)
    with self.assertRaisesRegex(ValueError, "--resume"):
      self.train(checkpoint_chunks=1, epochs=1)
    config = tiny(checkpoint_chunks=1, epochs=1, max_words=20)
    # Which has another form of the model; the arrays tell first.
    with self.assertRaisesRegex(ValueError, "does not fit|`max_words`"):
      text_classification.train_and_evaluate(
        config, self.folder / "run", data=self.data, resume=True
      )

  @parameterized.parameters(
    ({"encoder": "lstm"}, "'cnn', 'mean', 'transformer', got 'lstm'"),
    ({"embedding": "sparse"}, "one of 'full', .* got 'sparse'"),
    ({"optimizer": "yogi"}, "`optimizer` must be one of 'sgd', 'adam'"),
    ({"row_optimizer": "sgdm"}, "`row_optimizer` must be one of"),
    ({"stored_dtype": "int8"}, "`stored_dtype` must be one of 'float32'"),
    ({"batch_size": 0}, "`batch_size` must be at least 1"),
    ({"patience": -1}, "`patience` must be non-negative, got -1"),
    ({"batch_size": 6}, "6 cannot be split evenly over the 4"),
    ({"max_length": 0}, "`max_length` must be at least 1"),
    ({"max_words": 2}, "must leave a word in the vocabulary"),
  )
  def test_bad_options_are_named(self, options, message):
    mesh = training.data_mesh(jax.devices())
    with self.assertRaisesRegex(ValueError, message):
      self.train("bad", epochs=1, mesh=mesh, **options)

  def test_missing_data_name_the_path(self):
    config = tiny(dataset="sst2", data_dir=str(self.folder))
    expected = str(self.folder / "sst2" / "train.tsv")
    with self.assertRaisesRegex(FileNotFoundError, expected):
      text_classification.train_and_evaluate(config, self.folder / "bad")


class BatchesTest(parameterized.TestCase):
  def make_run(self, **options):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    return text_classification.Run(tiny(**options), folder, data=make_data())

  def test_an_epoch_has_all_texts(self):
    run = self.make_run()
    steps = run.bounds[-1][1]
    batches = run.batches(0, 0, steps)
    size = len(run.data.train.labels)
    self.assertEqual(steps, -(-size // 16))
    self.assertEqual(batches.tokens.shape[:2], (steps, 16))
    rows = lambda tokens: {row.tobytes() for row in tokens}
    flat = batches.tokens.reshape(steps * 16, -1)
    self.assertEqual(rows(flat[:size]), rows(run.data.train.tokens))
    np.testing.assert_array_equal(flat[size:], flat[: steps * 16 - size])

  def test_each_epoch_has_an_order_of_its_own(self):
    run = self.make_run()
    first, again, second = (run.batches(e, 0, 4).tokens for e in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    self.assertFalse(np.array_equal(first, second))
    other = self.make_run(seed=1).batches(0, 0, 4).tokens
    self.assertFalse(np.array_equal(first, other))

  def test_chunks_are_parts_of_the_epoch(self):
    run = self.make_run()
    whole, part = run.batches(3, 0, 6), run.batches(3, 2, 5)
    np.testing.assert_array_equal(whole.tokens[2:5], part.tokens)
    np.testing.assert_array_equal(whole.labels[2:5], part.labels)

  def test_few_texts_fill_a_batch(self):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    run = text_classification.Run(
      tiny(batch_size=64), folder, data=make_data(20)
    )
    self.assertEqual(run.batches(0, 0, 1).tokens.shape[:2], (1, 64))

  @parameterized.parameters(1, 5, 8, 17)
  def test_accuracy_counts_every_text_once(self, number):
    run = self.make_run()
    state = run.trainer.init()
    texts = jax.tree.map(lambda part: part[:number], run.data.train)
    logits = run.trainer.model_of(state)(texts.tokens, texts.tokens != 0)
    expected = np.mean(np.argmax(logits, -1) == texts.labels)
    self.assertAlmostEqual(run.evaluate(state, texts), expected)
    # As much as any batches of the same texts find.
    wide = np.pad(texts.tokens, ((0, 0), (0, 5)))
    padded = words.Batch(wide, texts.labels)
    self.assertAlmostEqual(run.evaluate(state, padded), expected)

  @parameterized.parameters(
    (language_model_trainer,), (text_classification,), (chunking,)
  )
  def test_examples_of_the_docstrings(self, module):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(module, optionflags=flags)
    self.assertGreater(result.attempted, 0)
    self.assertEqual(result.failed, 0)


class CheckFileTest(absltest.TestCase):
  def test_another_layer_is_noticed(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    data = words.encode_dataset(make_data(), max_length=9)
    model, other = (
      make_trainer(tiny(embedding="anchors", seed=seed), data).make_model()
      for seed in (0, 1)
    )
    path = folder / "embedding.safetensors"
    options = tiny(embedding="anchors")
    table = stored_tables.store_embedding(
      model.embed, options, path, vocabulary=data.vocabulary
    )
    self.assertEqual(table.num_embeddings, len(data.vocabulary))
    stored_tables.check_file(path, model.embed, options)
    with self.assertRaisesRegex(RuntimeError, "differs from what was stored"):
      stored_tables.check_file(path, other.embed, options)


def command(text, workdir, *more):
  options = dataclasses.asdict(tiny(embedding="anchors", epochs=60))
  options |= {"checkpoint_chunks": 1, "dataset": f"csv:{text}", "patience": 0}
  flags = [f"--config.{name}={value}" for name, value in options.items()]
  binary = [sys.executable, "-m", "experiments.train_text_classifier"]
  return [*binary, f"--workdir={workdir}", *flags, *more]


def write_csv(path):
  lines = ["text,label", *(f"{text},{label}" for text, label in make_rows())]
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_the_binary_explains_what_is_wrong(tmp_path):
  path = tmp_path / "own.csv"
  path.write_text("text\na\n")
  process = subprocess.run(
    command(path, tmp_path / "run"), cwd=ROOT, capture_output=True, text=True
  )
  assert process.returncode
  assert "must have the column 'label' once" in process.stderr + process.stdout
  assert "Traceback" not in process.stderr


if __name__ == "__main__":
  absltest.main()
