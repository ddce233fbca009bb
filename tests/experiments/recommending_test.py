"""Tests of the recommender from ratings to results, on made-up ratings."""

import csv
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from anchor_codes import tables, training
from experiments import embeddings, recommending
from experiments.datasets import ratings as datasets
from experiments.recommender_options import RecommenderConfig

ROOT = pathlib.Path(__file__).parents[2]
NUM_USERS, NUM_ITEMS = 24, 16
KINDS = tuple(embeddings.KINDS)


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # The binaries run without the strict settings of the unit tests.
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield


def make_data():
  """Ratings of rank one; the last user and the last item come last in time."""
  rng = np.random.default_rng(0)
  users, items = np.divmod(np.arange(NUM_USERS * NUM_ITEMS), NUM_ITEMS)
  taste, kind = rng.choice([-1, 1], NUM_USERS), rng.choice([-1, 1], NUM_ITEMS)
  values = 3 + taste[users] * kind[items] + rng.normal(0, 0.1, len(users))
  last = (users == NUM_USERS - 1) | (items == NUM_ITEMS - 1)
  return datasets.make_ratings(
    "toy",
    users=users,
    items=items,
    values=values,
    order=rng.permutation(len(users)) + 1000 * last,
    user_names=[f"user {i}" for i in range(NUM_USERS)],
    item_names=[f"item {i}" for i in range(NUM_ITEMS)],
    source="ours",
  )


DATA = make_data()


def tiny(**options):
  config = RecommenderConfig(
    dataset="toy",
    features=4,
    num_anchors=4,
    code_length=2,
    codebook_size=4,
    rank=2,
    num_buckets=6,
    batch_size=32,
    epochs=1,
    decay_epochs=1,
    learning_rate=0.05,
    start_scale=0.3,
    chunk_steps=5,
    checkpoint_chunks=0,
  )
  return dataclasses.replace(config, **options)


PRUNING = {
  "embedding": "anchors",
  "max_nonzeros": 40,
  "prune_from": 2,
  "prune_epochs": 2,
  "epochs": 6,
  "decay_epochs": 2,
}


class Recorder(recommending.Run):
  """A run that records where its weights are after each epoch."""

  def __init__(self, *args, **kwargs):
    self.kept = []
    super().__init__(*args, **kwargs)

  def end_epoch(self, epoch, state):
    before = self._masks(state)
    new_state, metrics = super().end_epoch(epoch, state)
    after = before if new_state is None else self._masks(new_state)
    self.kept.append((before, after))
    return new_state, metrics

  def _masks(self, state):
    model = self.trainer.model_of(state)
    layers = [layer for layer in (model.users, model.items) if is_mixed(layer)]
    weights = [np.asarray(layer.transform[...]).ravel() for layer in layers]
    return np.concatenate(weights) != 0


class Interrupted(Exception):
  """Stands for a machine that is taken away."""


def interrupt_at(epoch, begin=0):
  """Returns a kind of run that ends before some batches."""

  class InterruptedRun(recommending.Run):
    def batches(self, *position):
      if position[:2] == (epoch, begin):
        raise Interrupted
      return super().batches(*position)

  return InterruptedRun


def one_device():
  return training.data_mesh(jax.devices()[:1])


def train(
  folder, *, resume=False, run_type=recommending.Run, mesh=None, **options
):
  """Trains on one device, which compiles faster than on four."""
  return recommending.train_and_evaluate(
    tiny(**options),
    folder,
    resume=resume,
    data=DATA,
    mesh=mesh or one_device(),
    run_type=run_type,
  )


def is_mixed(layer):
  return hasattr(layer, "transform")


def column(workdir, name):
  with (workdir / "metrics.csv").open(encoding="utf-8") as file:
    return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def errors(result):
  names = ("test_mse", "test_rmse", "valid_mse", "best_epoch")
  return {name: result.metrics[name] for name in names}


class RecommendingTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def run_one(self, name="run", **options):
    return train(self.folder / name, **options)

  # Two kinds in a run: compiling takes longest.
  @parameterized.parameters(*zip(KINDS[::2], KINDS[1::2], strict=True))
  def test_all_kinds_train_and_leave_their_results(self, kind, other):
    result = self.run_one(
      embedding=kind, item_embedding=other, stored_dtype="float16"
    )
    record = json.loads((self.folder / "run" / "result.json").read_text())
    self.assertEqual(record["metrics"], result.metrics)
    self.assertTrue(np.isfinite(list(result.metrics.values())).all())
    self.assertEqual(result.metrics["best_epoch"], 1)
    self.assertGreater(result.training_bytes, result.embedding_bytes)
    self.assertEqual(result.dense_bytes, 4 * 4 * (NUM_USERS + NUM_ITEMS))
    paths = [
      self.folder / "run" / f"{n}.safetensors" for n in ("users", "items")
    ]
    stored = [tables.load(path) for path in paths]
    self.assertEqual(sum(t.nbytes for t in stored), result.embedding_bytes)
    names = [DATA.user_names, DATA.item_names]
    self.assertEqual([t.vocabulary for t in stored], names)

  def test_learns_what_is_to_be_learned(self):
    result = self.run_one(embedding="anchors", epochs=20, l2=0.001)
    self.assertLess(result.metrics["test_mse"], 0.1)
    valid = column(self.folder / "run", "valid_mse")
    self.assertLen(valid, 20)
    self.assertAlmostEqual(result.metrics["valid_mse"], min(valid), places=5)
    best = int(np.argmin(valid)) + 1
    self.assertEqual(result.metrics["best_epoch"], best)
    self.assertAlmostEqual(
      result.metrics["test_rmse"] ** 2, result.metrics["test_mse"], places=6
    )

  @parameterized.parameters("float32", "float16")
  def test_files_hold_what_was_tested(self, dtype):
    config = tiny(embedding="anchors", stored_dtype=dtype)
    run = recommending.Run(config, self.folder, data=DATA, mesh=one_device())
    state = run.train()
    result = run.finish(state, seconds=1.0)
    stored = {
      name: tables.load(self.folder / f"{name}.safetensors")
      for name in ("users", "items")
    }
    self.assertEqual(str(stored["users"].anchors.dtype), dtype)
    vectors = run.trainer.vectors(run.final_state(state))
    test = run.splits.test
    users, items, values = run.ratings_of(test)
    products = stored["users"].lookup(users) * stored["items"].lookup(items)
    biases = np.asarray(vectors.user_bias)[users]
    biases = biases + np.asarray(vectors.item_bias)[items]
    predicted = np.asarray(vectors.mean) + biases + products.sum(axis=1)
    expected = np.mean((predicted - values) ** 2)
    self.assertAlmostEqual(result.metrics["test_mse"], expected, places=5)
    for name, table in stored.items():
      rows = table.lookup(np.arange(table.num_embeddings))
      tolerance = 1e-6 if dtype == "float32" else 2e-3
      np.testing.assert_allclose(rows, getattr(vectors, name), atol=tolerance)

  def test_seeds_differ(self):
    runs = [errors(self.run_one(str(seed), seed=seed)) for seed in (0, 1)]
    self.assertNotEqual(*runs)

  def test_one_and_four_devices_train_alike(self):
    results = []
    for number in (1, 4):
      mesh = training.data_mesh(jax.devices()[:number])
      result = self.run_one(str(number), mesh=mesh, **PRUNING)
      results.append(list(errors(result).values()))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4)

  def test_items_may_have_another_embedding(self):
    result = self.run_one(
      embedding="anchors", item_embedding="hash", item_anchors=2
    )
    users, items = (
      tables.load(self.folder / "run" / f"{name}.safetensors")
      for name in ("users", "items")
    )
    self.assertIsInstance(users, tables.AnchorTable)
    self.assertIsInstance(items, tables.HashTable)
    self.assertEqual(result.num_anchors, 4)

  def test_items_may_have_another_number_of_anchors(self):
    result = self.run_one(embedding="anchors", item_anchors=2)
    self.assertEqual(result.num_anchors, 6)

  def test_batches_hold_each_rating_at_most_once(self):
    run = recommending.Run(tiny(), self.folder, data=DATA)
    pairs = []
    for epoch in (0, 1, 0):
      parts = [run.batches(epoch, *bounds) for bounds in run.bounds]
      users, items, values = (
        np.concatenate(p) for p in zip(*parts, strict=True)
      )
      self.assertEqual(users.shape, (run.steps_per_epoch, 32))
      pairs.append((users * NUM_ITEMS + items).ravel())
      np.testing.assert_array_equal(values.ravel(), DATA.values[pairs[-1]])
      self.assertLen(set(pairs[-1]), pairs[-1].size)
      self.assertLessEqual(set(pairs[-1]), set(run.splits.train))
    np.testing.assert_array_equal(pairs[0], pairs[2])
    self.assertFalse(np.array_equal(pairs[0], pairs[1]))

  def test_a_batch_may_be_larger_than_the_data(self):
    run = recommending.Run(tiny(batch_size=400), self.folder, data=DATA)
    users, _, _ = run.batches(0, 0, 1)
    self.assertEqual(users.shape, (1, 400))

  def test_the_published_split_tests_on_what_it_selects_by(self):
    metrics = self.run_one(split="published").metrics
    self.assertEqual(metrics["test_mse"], metrics["valid_mse"])


class UnseenTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    config = tiny(split="chronological", embedding="anchors")
    self.run = recommending.Run(config, folder, data=DATA, mesh=one_device())

  def test_are_counted(self):
    metrics = self.run.final_metrics(self.run.trainer.init())
    test = self.run.splits.test
    users = DATA.users[test] == NUM_USERS - 1
    items = DATA.items[test] == NUM_ITEMS - 1
    self.assertGreater(users.sum(), 0)
    self.assertEqual(metrics["test_unseen_users"], users.sum())
    self.assertEqual(metrics["test_unseen_items"], items.sum())

  def test_are_served_by_the_mean(self):
    state = self.run.train()
    vectors = self.run.trainer.vectors(state)._asdict()
    vectors = {name: np.array(value) for name, value in vectors.items()}
    for name in ("users", "items", "user_bias", "item_bias"):
      vectors[name][-1] = vectors[name][:-1].mean(axis=0)
    test = self.run.splits.test
    users, items, values = self.run.ratings_of(test)
    products = vectors["users"][users] * vectors["items"][items]
    biases = vectors["user_bias"][users] + vectors["item_bias"][items]
    predicted = vectors["mean"] + biases + products.sum(axis=1)
    expected = np.mean((predicted - values) ** 2)
    found = self.run.evaluate(state, test)
    self.assertAlmostEqual(found, expected, places=4)


class PruningTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def record(self, **options):
    run = Recorder(
      tiny(**{**PRUNING, **options}),
      self.folder / "run",
      data=DATA,
      mesh=one_device(),
    )
    return run, run.finish(run.train(), seconds=1.0)

  def test_meets_the_budget_and_nothing_grows_again(self):
    run, result = self.record(row_optimizer="yogi")
    before, after = zip(*run.kept, strict=True)
    counts = [int(mask.sum()) for mask in after]
    # Two rounds, after the second epoch and the third.
    start = int(before[1].sum())
    self.assertEqual(counts[1], round(np.sqrt(start * 40)))
    self.assertEqual(counts[2], 40)
    for earlier, later in zip(after[1:], before[2:], strict=False):
      self.assertFalse((later & ~earlier).any())
    for epoch in (0, 3, 4, 5):
      np.testing.assert_array_equal(before[epoch], after[epoch])
    self.assertLessEqual(result.embedding_params, 40 + 2 * 4 * 4)
    self.assertGreater(result.embedding_params, 30 + 2 * 4 * 4)
    valid = column(self.folder / "run", "valid_mse")
    best = int(np.argmin(valid[3:])) + 4
    self.assertEqual(result.metrics["best_epoch"], best)
    self.assertAlmostEqual(result.metrics["valid_mse"], valid[best - 1], 5)

  def test_a_full_table_is_not_pruned(self):
    run, result = self.record(item_embedding="full", epochs=5)
    self.assertEqual(run.kept[2][1].shape, (NUM_USERS * 4,))
    self.assertEqual(run.kept[2][1].sum(), 40)
    self.assertLessEqual(result.embedding_params, 40 + 4 * 4 + NUM_ITEMS * 4)

  def test_a_budget_that_is_met_already_prunes_nothing(self):
    run, _ = self.record(max_nonzeros=10_000, epochs=5)
    for before, after in run.kept:
      np.testing.assert_array_equal(before, after)

  def test_patience_waits_until_pruning_is_over(self):
    # At this rate no epoch is better than the one before.
    run, result = self.record(
      patience=1, learning_rate=0.5, epochs=9, decay_epochs=0
    )
    self.assertGreaterEqual(len(run.kept), 4)
    self.assertLess(len(run.kept), 9)
    self.assertGreaterEqual(result.metrics["best_epoch"], 4)

  def test_patience_waits_for_an_evaluation_after_pruning(self):
    run, result = self.record(patience=3, eval_epochs=3, epochs=9)
    self.assertGreaterEqual(len(run.kept), 6)
    self.assertGreaterEqual(result.metrics["best_epoch"], 6)


class ResumeTest(parameterized.TestCase):
  OPTIONS = PRUNING | {"checkpoint_chunks": 2}

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.whole = train(cls.folder / "whole", **cls.OPTIONS)

  @parameterized.named_parameters(
    # An epoch has three chunks; each second one leaves a checkpoint.
    ("right_after_the_first_round", 2, 0),
    ("after_pruning", 5, 3),
  )
  def test_resumes_bit_for_bit(self, epoch, begin):
    folder = self.folder / f"cut_{epoch}"
    with self.assertRaises(Interrupted):
      train(folder, run_type=interrupt_at(epoch, begin), **self.OPTIONS)
    self.assertFalse((folder / "result.json").exists())
    resumed = train(folder, resume=True, **self.OPTIONS)
    self.assertEqual(errors(resumed), errors(self.whole))
    for name in ("train_mse", "valid_mse"):
      curves = [column(self.folder / n, name) for n in ("whole", folder)]
      self.assertEqual(*curves)
    for name in ("users", "items"):
      contents = [
        (self.folder / n / f"{name}.safetensors").read_bytes()
        for n in ("whole", folder)
      ]
      self.assertEqual(*contents)

  def test_other_options_are_refused(self):
    options = self.OPTIONS | {"max_nonzeros": 50}
    with self.assertRaisesRegex(ValueError, "`max_nonzeros` must stay 40"):
      train(self.folder / "whole", resume=True, **options)
    with self.assertRaisesRegex(ValueError, "--resume"):
      train(self.folder / "whole", **self.OPTIONS)


class ConfigTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
    ({"l1": -1.0}, "`l1` must be non-negative, got -1.0"),
    ({"l2": -0.5}, "`l2` must be non-negative, got -0.5"),
    ({"l2": float("nan")}, "`l2` must be non-negative, got nan"),
    ({"max_nonzeros": -1}, "`max_nonzeros` must be non-negative"),
    ({"max_nonzeros": 9}, "`max_nonzeros` prunes 'anchors', got none"),
    ({"embedding": "sparse"}, "one of 'full', .* got 'sparse'"),
    ({"item_embedding": "sparse"}, "one of 'full', .* got 'sparse'"),
    ({"patience": -1}, "`patience` must be non-negative, got -1"),
    ({"patience": 2, "eval_epochs": 3}, "or 0, got 2 and 3"),
    ({"sharing": "graf"}, "`sharing` must be one of 'none', 'se'"),
    ({"row_optimizer": "yogi"}, "'yogi' is for 'anchors' only"),
    ({"split": "halves"}, "`kind` must be one of .* got 'halves'"),
  )
  def test_bad_options_are_named(self, options, message):
    with (
      tempfile.TemporaryDirectory() as folder,
      self.assertRaisesRegex(ValueError, message),
    ):
      recommending.train_and_evaluate(tiny(**options), folder, data=DATA)

  @parameterized.parameters(
    ({"num_nonzeros": 2}, "`num_nonzeros` 0 and .* got 2 and 'adam'"),
    ({"row_optimizer": "sgd"}, "'adam' or 'yogi', got 0 and 'sgd'"),
    ({"epochs": 4}, "less than `epochs`, got 2 [+] 2 and 4"),
    ({"prune_from": 0}, "`prune_from` must be at least 1, got 0"),
    ({"prune_epochs": 0}, "`prune_epochs` must be at least 1, got 0"),
  )
  def test_bad_schedules_are_named(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      recommending.check_config(tiny(**{**PRUNING, **options}))

  def test_the_shortest_schedule_is_allowed(self):
    recommending.check_config(tiny(**{**PRUNING, "epochs": 5}))

  def test_a_batch_that_the_devices_cannot_split_is_refused(self):
    with (
      tempfile.TemporaryDirectory() as folder,
      self.assertRaisesRegex(ValueError, "30 cannot be split evenly .* 4"),
    ):
      mesh = training.data_mesh(jax.devices())
      recommending.train_and_evaluate(
        tiny(batch_size=30), folder, data=DATA, mesh=mesh
      )

  def test_missing_data_name_the_path(self):
    with (
      tempfile.TemporaryDirectory() as folder,
      self.assertRaisesRegex(FileNotFoundError, "ratings_order.csv"),
    ):
      recommending.train_and_evaluate(
        tiny(dataset="ml-1m", data_dir=folder), folder
      )


class BinaryTest(absltest.TestCase):
  def run_binary(self, content):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    path = folder / "mine.csv"
    path.write_text(content, encoding="utf-8")
    options = dataclasses.asdict(tiny(embedding="anchors"))
    options |= {"dataset": f"csv:{path}", "batch_size": 4}
    flags = [
      f"--config.{name}={value}" for name, value in options.items() if value
    ]
    binary = [sys.executable, "-m", "experiments.train_recommender"]
    return subprocess.run(
      [*binary, f"--workdir={folder / 'run'}", *flags],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
    )

  @pytest.mark.slow
  def test_trains_on_a_file_of_the_user(self):
    lines = [f"u{i % 5},i{i % 7},{1 + i % 4}" for i in range(40)]
    done = self.run_binary("\n".join(["user,item,rating", *lines]))
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertIn("Test mse", done.stdout)

  def test_a_bad_file_is_explained(self):
    done = self.run_binary("user,item,rating\nann,tea,good\n")
    self.assertEqual(done.returncode, 1)
    self.assertIn("mine.csv", done.stdout + done.stderr)
    self.assertIn("good", done.stdout + done.stderr)
    self.assertNotIn("Traceback", done.stderr)


if __name__ == "__main__":
  absltest.main()
