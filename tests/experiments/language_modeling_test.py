import csv
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from anchor_codes import tables, training
from experiments import language_modeling
from experiments.datasets import language_model

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # The binaries run without the strict settings of the unit tests.
  with jax.numpy_rank_promotion("allow"):
    yield


def write_text(path: pathlib.Path, *, num_lines: int = 400) -> None:
  rng = np.random.default_rng(0)
  words = np.array([f"word{i}" for i in range(60)])
  lines = []
  for _ in range(num_lines):
    start = rng.integers(60)
    steps = rng.integers(1, 3, size=12).cumsum()
    lines.append(" ".join(words[(start + steps) % 60]))
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def tiny(
  path: pathlib.Path, **options
) -> language_modeling.LanguageModelConfig:
  config = language_modeling.LanguageModelConfig(
    dataset=f"text:{path}",
    # For 72 steps: chunks of one length are compiled once.
    max_tokens=8 * (72 * 8 + 1),
    features=16,
    hidden=16,
    num_layers=1,
    batch_size=8,
    num_steps=8,
    epochs=2,
    chunk_steps=20,
    num_anchors=12,
    num_nonzeros=3,
    code_length=4,
    codebook_size=8,
    rank=4,
    num_buckets=10,
    checkpoint_chunks=0,
  )
  return dataclasses.replace(config, **options)


def losses_of(workdir: pathlib.Path) -> np.ndarray:
  with (workdir / "metrics.csv").open(encoding="utf-8") as file:
    return np.array(
      [float(r["train_perplexity"]) for r in csv.DictReader(file)]
    )


class LanguageModelingTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.shared = pathlib.Path(folder)
    cls.text = cls.shared / "text.txt"
    write_text(cls.text)
    cls.results = {}

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def train_once(self, embedding, num_sampled=0):
    """Returns the folder and the result of a run that tests share."""
    workdir = self.shared / f"{embedding}-{num_sampled}"
    if workdir not in self.results:
      config = tiny(self.text, embedding=embedding, num_sampled=num_sampled)
      config.checkpoint_chunks = 1
      self.results[workdir] = language_modeling.train_and_evaluate(
        config, workdir
      )
    return workdir, self.results[workdir]

  # The recommender has them all.
  @parameterized.parameters(("full", 0), ("anchors", 16), ("kd", 16))
  def test_trains_and_leaves_its_results(self, embedding, num_sampled):
    workdir, result = self.train_once(embedding, num_sampled)
    record = json.loads((workdir / "result.json").read_text())
    self.assertEqual(record["metrics"], result.metrics)
    self.assertTrue(np.isfinite(list(result.metrics.values())).all())
    self.assertGreater(result.training_bytes, result.embedding_bytes)
    first, second = np.split(losses_of(workdir), 2)
    self.assertLess(second.mean(), first.mean())
    path = workdir / "embedding.safetensors"
    table = tables.load(path)
    self.assertEqual(table.nbytes, record["embedding_bytes"])
    self.assertEqual(table.ids_of(["<eos>"]).shape, (1,))

  def test_one_and_four_devices_train_alike(self):
    config = tiny(self.text, embedding="dpq", num_sampled=16, dropout=0.1)
    curves = []
    for number in (1, 4):
      workdir = self.folder / str(number)
      mesh = training.data_mesh(jax.devices()[:number])
      run = language_modeling.Run(config, workdir, mesh=mesh)
      run.train()
      curves.append(losses_of(workdir))
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)

  def test_sharing_at_rate_zero_changes_nothing(self):
    config = tiny(self.text, embedding="full", sharing="se", sharing_rate=0.0)
    result = language_modeling.train_and_evaluate(config, self.folder)
    self.assertEqual(result.metrics, self.train_once("full")[1].metrics)

  def test_anchors_train_with_fewer_bytes_than_the_full_table(self):
    _, anchors = self.train_once("anchors", 16)
    _, full = self.train_once("full")
    self.assertLess(anchors.training_bytes, full.training_bytes)

  @parameterized.parameters(
    ({"embedding": "sparse"}, "one of 'full', .* got 'sparse'"),
    ({"sharing": "graf"}, "`sharing` must be one of 'none', 'se'"),
    ({"row_optimizer": "sgdm"}, "`row_optimizer` must be one of"),
    ({"embedding": "anchors", "l1": -1.0}, "`?l1`? must be non-negative"),
    ({"embedding": "dpq", "code_length": 3}, "`features` must be divisible"),
    ({"embedding": "kd", "codebook_size": 1}, "at least 2, got 1"),
    ({"embedding": "anchors", "num_nonzeros": 13}, "`num_nonzeros` must be"),
    ({"num_steps": 0}, "`num_steps` must be at least 1"),
    ({"batch_size": 4000}, "must hold at least"),
  )
  def test_bad_options_are_named(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      language_modeling.train_and_evaluate(
        tiny(self.text, **options), self.folder / "bad"
      )

  def test_unknown_data_are_named(self):
    with self.assertRaisesRegex(ValueError, "'ptbb': .*'stdlib'.*'text:PATH'"):
      language_modeling.train_and_evaluate(
        tiny(self.text, dataset="ptbb"), self.folder / "bad"
      )

  def test_missing_data_name_the_path(self):
    config = tiny(self.text, dataset="ptb", data_dir=str(self.folder))
    expected = str(self.folder / "ptb" / "ptb.train.txt")
    with self.assertRaisesRegex(FileNotFoundError, expected):
      language_modeling.train_and_evaluate(config, self.folder / "bad")

  def test_a_batch_that_the_devices_cannot_split_is_refused(self):
    config = tiny(self.text, batch_size=6)
    mesh = training.data_mesh(jax.devices())
    with self.assertRaisesRegex(ValueError, "6 cannot be split evenly .* 4"):
      language_modeling.train_and_evaluate(config, self.folder, mesh=mesh)

  def test_old_checkpoints_are_not_overwritten(self):
    workdir, _ = self.train_once("full")
    config = tiny(self.text, embedding="full", checkpoint_chunks=1)
    with self.assertRaisesRegex(ValueError, "--resume"):
      language_modeling.train_and_evaluate(config, workdir)
    other = dataclasses.replace(config, epochs=3)
    with self.assertRaisesRegex(ValueError, "`epochs` must stay 2 .* got 3"):
      language_modeling.train_and_evaluate(other, workdir, resume=True)

  @parameterized.parameters(0, 16)
  def test_by_row_and_as_a_whole_train_alike(self, num_sampled):
    results = [
      language_modeling.train_and_evaluate(
        tiny(
          self.text,
          embedding="full",
          max_tokens=8 * (8 * 8 + 1),
          num_sampled=num_sampled,
          lazy_from=lazy_from,
        ),
        self.folder / f"{lazy_from}",
      )
      for lazy_from in (0.0, 1e9)
    ]
    by_row, whole = (result.metrics["test_perplexity"] for result in results)
    self.assertAlmostEqual(by_row, whole, delta=1e-4 * whole)

  def test_the_result_of_another_run_is_not_replaced(self):
    (self.folder / "result.json").write_text("{}")
    for resume in (False, True):
      with self.assertRaisesRegex(ValueError, "result of another run"):
        language_modeling.train_and_evaluate(
          tiny(self.text), self.folder, resume=resume
        )

  @parameterized.parameters({"epochs": 0}, {"seed": -1})
  def test_numbers_out_of_range_are_named(self, **options):
    with self.assertRaisesRegex(ValueError, f"`{next(iter(options))}` must be"):
      language_modeling.train_and_evaluate(
        tiny(self.text, **options), self.folder
      )

  def test_another_vocabulary_of_the_same_size_is_refused(self):
    workdir, _ = self.train_once("full")
    config = tiny(self.text, embedding="full", checkpoint_chunks=1)
    data = language_model.load_text(config.dataset)
    first, second, *others = data.vocabulary
    other = data._replace(vocabulary=(second, first, *others))
    with self.assertRaisesRegex(ValueError, "data of .* must stay the same"):
      language_modeling.train_and_evaluate(
        config, workdir, data=other, resume=True
      )


def test_settings_are_those_of_the_paper():
  config = language_modeling.LanguageModelConfig()
  assert language_modeling.apply_setting(config, "small") == config
  large = language_modeling.apply_setting(config, "large", given=("clip",))
  assert (large.hidden, large.features, large.num_steps) == (1500, 1500, 35)
  assert (large.epochs, large.constant_epochs, large.dropout) == (55, 14, 0.65)
  assert large.clip == config.clip
  with pytest.raises(ValueError, match="'small', 'medium', 'large', got 'xl'"):
    language_modeling.apply_setting(config, "xl")


def binary_config(text: pathlib.Path):
  config = tiny(text, embedding="anchors", num_sampled=16, dropout=0.1)
  return dataclasses.replace(config, checkpoint_chunks=1, chunk_steps=12)


def command(text: pathlib.Path, workdir: pathlib.Path, *more: str) -> list[str]:
  options = dataclasses.asdict(binary_config(text))
  flags = [f"--config.{name}={value}" for name, value in options.items()]
  binary = [sys.executable, "-m", "experiments.train_language_model"]
  # All that the setting changes is given, and wins.
  return [*binary, "--setting=large", f"--workdir={workdir}", *flags, *more]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_numbers(tmp_path):
  text = tmp_path / "text.txt"
  write_text(text)
  run = lambda *args: subprocess.run(
    command(text, *args), cwd=ROOT, check=True, capture_output=True
  )
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  run(whole)
  process = subprocess.Popen(
    command(text, killed),
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  deadline = time.monotonic() + 120
  while not list(killed.glob("checkpoints/[0-9]*")):
    assert process.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.01)
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  assert not (killed / "result.json").exists()
  run(killed, "--resume")
  metrics = [
    json.loads((folder / "result.json").read_text())["metrics"]
    for folder in (whole, killed)
  ]
  assert metrics[0] == metrics[1]
  np.testing.assert_array_equal(losses_of(whole), losses_of(killed))
  files = [
    (folder / "embedding.safetensors").read_bytes()
    for folder in (whole, killed)
  ]
  assert files[0] == files[1]


if __name__ == "__main__":
  absltest.main()
