"""Tests of `result.json`."""

import json
import math
import pathlib
import resource
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import reporting
from experiments.reporting import files, results

FIELDS = [
  "experiment",
  "dataset",
  "embedding",
  "seed",
  "metrics",
  "embedding_params",
  "embedding_bytes",
  "dense_bytes",
  "compression_ratio",
  "training_bytes",
  "num_anchors",
  "seconds",
  "seconds_per_epoch",
  "peak_rss_bytes",
  "config",
  "versions",
]


def make_result(**changes):
  fields = {
    "experiment": "train_language_model",
    "dataset": "ptb",
    "embedding": "anchors",
    "seed": 3,
    "metrics": {"test_perplexity": 178.7, "valid_perplexity": 180.0},
    "embedding_params": 100_000,
    "embedding_bytes": 400_000,
    "dense_bytes": 8_000_000,
    "training_bytes": 1_600_000,
    "num_anchors": 100,
    "seconds": 12.5,
    "seconds_per_epoch": 2.5,
    "config": {"batch_size": 20, "embedding": {"num_nonzeros": 8}},
  }
  return reporting.RunResult(**(fields | changes))


def read_json(workdir):
  return json.loads((workdir / "result.json").read_text())


def test_result_is_read_back(tmp_path):
  result = make_result()
  path = reporting.write_result(result, tmp_path / "new" / "folder")
  assert path == tmp_path / "new" / "folder" / "result.json"
  assert reporting.read_result(path.parent) == result


def test_file_has_the_agreed_fields(tmp_path):
  reporting.write_result(make_result(), tmp_path)
  record = read_json(tmp_path)
  assert list(record) == FIELDS
  assert record["compression_ratio"] == 20
  assert record["metrics"]["test_perplexity"] == 178.7


def test_versions_and_memory_are_filled_in():
  result = make_result()
  assert {"anchor_codes", "python", "jax", "flax"} <= set(result.versions)
  assert result.versions["python"].startswith("3.")
  assert result.peak_rss_bytes > 2**20
  assert make_result(peak_rss_bytes=7).peak_rss_bytes == 7


def test_values_of_numpy_and_jax_are_plain_in_the_file(tmp_path):
  result = make_result(
    metrics={"test_mse": np.float32(0.5), "test_rmse": jnp.float32(0.25)},
    embedding_params=np.int64(7),
    config={"sizes": (np.int32(1), 2), "path": pathlib.Path("a"), "x": None},
  )
  reporting.write_result(result, tmp_path)
  record = read_json(tmp_path)
  assert record["metrics"] == {"test_mse": 0.5, "test_rmse": 0.25}
  assert record["embedding_params"] == 7
  assert record["config"] == {"sizes": [1, 2], "path": "a", "x": None}


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32(np.inf)])
def test_metrics_that_are_not_finite_become_null(tmp_path, value):
  result = make_result(metrics={"test_perplexity": value})
  reporting.write_result(result, tmp_path)
  assert read_json(tmp_path)["metrics"] == {"test_perplexity": None}
  found = reporting.read_result(tmp_path)
  assert math.isnan(found.metrics["test_perplexity"])


def test_size_must_be_positive():
  with pytest.raises(ValueError, match="`embedding_bytes` must be at least 1"):
    make_result(embedding_bytes=0)


def test_results_cannot_change():
  with pytest.raises(AttributeError):
    make_result().seed = 4


@pytest.mark.parametrize(
  ("change", "named"),
  [({"colour": "red"}, "colour"), ({"seed": None}, "seed")],
)
def test_wrong_fields_are_named(tmp_path, change, named):
  reporting.write_result(make_result(), tmp_path)
  record = read_json(tmp_path) | change
  record = {key: value for key, value in record.items() if value is not None}
  (tmp_path / "result.json").write_text(json.dumps(record))
  with pytest.raises(ValueError, match=rf"result\.json must .*: {named}\."):
    reporting.read_result(tmp_path)


def test_no_result_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError):
    reporting.read_result(tmp_path)


def test_memory_falls_back_on_getrusage(monkeypatch, tmp_path):
  monkeypatch.setattr(results.pathlib, "Path", lambda _: tmp_path / "none")
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert reporting.peak_rss_bytes() in (peak, 1024 * peak)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_parent_is_not_counted():
  child = (
    "from experiments.reporting import results; print(results.peak_rss_bytes())"
  )
  parent = (
    "import subprocess, sys; block = b'x' * 400_000_000;"
    f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
  )
  root = pathlib.Path(__file__).parents[2]
  run = subprocess.run(
    [sys.executable, "-c", parent],
    cwd=root,
    capture_output=True,
    text=True,
    check=True,
  )
  assert int(run.stdout) < 300_000_000


def test_files_are_replaced_whole(tmp_path):
  path = tmp_path / "file"
  files.write_atomically(path, "one\n")
  files.write_atomically(path, "caf\xe9\r\n")
  assert path.read_bytes() == "caf\xe9\r\n".encode()
  assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path):
  path = tmp_path / "file"
  files.write_atomically(path, "one")
  with pytest.raises(UnicodeEncodeError):
    files.write_atomically(path, "\ud800")
  assert path.read_text() == "one"
  assert list(tmp_path.iterdir()) == [path]
