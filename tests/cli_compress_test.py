"""`anchor-codes compress`: what it asks for, answers and writes."""

import dataclasses
import json
import sys
import types

import numpy as np
import pytest

import anchor_codes
from anchor_codes import cli, formats, tables
from anchor_codes.commands import progress
from anchor_codes.tables import storage

VECTORS = np.float32([[1, 0, 2, 3], [4, 3, 0, 1], [0, 1, 1, 1]])
WORDS = ["cat", "dog", "eel"]


@dataclasses.dataclass(frozen=True)
class Report:
  trials: tuple = ()

  def to_json(self):
    return json.dumps({"trials": [{"recipe": "int8", "chosen": True}]})

  def __str__(self):
    return "recipe  bytes\nint8 *     24\n"


@pytest.fixture
def calls(monkeypatch):
  """Puts a stand-in in the place of the search, and collects its calls."""
  calls = []

  def compress(matrix, *, vocabulary, **options):
    calls.append({"matrix": np.array(matrix), **options})
    table = tables.DenseTable.from_dense(
      matrix, dtype="int8", vocabulary=vocabulary
    )
    return types.SimpleNamespace(table=table, report=Report())

  module = types.SimpleNamespace(compress=compress)
  monkeypatch.setitem(sys.modules, "anchor_codes.compression", module)
  monkeypatch.setattr(anchor_codes, "compression", module, raising=False)
  return calls


@pytest.fixture
def source(tmp_path):
  path = tmp_path / "glove.txt"
  formats.write(path, VECTORS, WORDS)
  return path


def run(capsys, *argv):
  code = cli.main(["compress", *[str(arg) for arg in argv]])
  output = capsys.readouterr()
  return code, output.out, output.err


def test_writes_the_table_and_says_what_was_tried(
  source, tmp_path, calls, capsys
):
  out = tmp_path / "small.safetensors"
  code, text, err = run(capsys, source, out, "--ratio", "2")
  assert (code, err) == (0, "")
  table = tables.load(out)
  assert table.vocabulary == tuple(WORDS)
  assert text.startswith("recipe  bytes\nint8 *     24\n\n")
  assert f"{out}: 24 B for 48 B, 2.0 times smaller; " in text
  (call,) = calls
  np.testing.assert_array_equal(call.pop("matrix"), VECTORS)
  assert call == {
    "budget": 24,
    "metric": "error",
    "recipe": "auto",
    "weights": None,
    "num_hot": 0,
    "seed": 0,
    "progress": None,
  }


def test_options_are_passed_on(source, tmp_path, calls, capsys):
  weights = tmp_path / "weights.npy"
  np.save(weights, np.array([3, 2, 1]))
  out = tmp_path / "small.safetensors"
  options = ["--budget=30", "--metric=neighbors", "--recipe=int8", "--seed=7"]
  options.append("--hot=1")
  code, _, err = run(capsys, source, out, *options, "--weights", weights)
  assert (code, err) == (0, "")
  (call,) = calls
  assert (call["budget"], call["metric"]) == (30, "neighbors")
  assert (call["recipe"], call["seed"], call["num_hot"]) == ("int8", 7, 1)
  np.testing.assert_array_equal(call["weights"], [3, 2, 1])


def test_json_has_exact_bytes(source, tmp_path, calls, capsys):
  out = tmp_path / "small.safetensors"
  code, text, _ = run(capsys, source, out, "--ratio", "1.7", "--json")
  assert code == 0
  answer = json.loads(text)
  assert answer.pop("file_bytes") == out.stat().st_size
  assert answer == {
    "file": str(out),
    "num_embeddings": 3,
    "features": 4,
    "budget": 28,
    "nbytes": 24,
    "dense_bytes": 48,
    "compression_ratio": 2.0,
    "report": {"trials": [{"recipe": "int8", "chosen": True}]},
  }


def test_a_tensor_by_name(tmp_path, calls, capsys):
  source = tmp_path / "model.npz"
  np.savez(source, a=VECTORS, b=2 * VECTORS)
  out = tmp_path / "small.safetensors"
  code, _, err = run(capsys, source, out, "--ratio", "2")
  assert code == 1
  assert "Name the tensor, one of 'a'" in err
  code, _, _ = run(capsys, source, out, "--ratio", "2", "--tensor", "b")
  assert code == 0
  np.testing.assert_array_equal(calls[0]["matrix"], 2 * VECTORS)


def test_the_target_is_checked_first(tmp_path, calls, capsys):
  """Before the source is read: it may take hours to get to the end."""
  code, _, err = run(capsys, "none.txt", "small.npy", "--ratio", "2")
  assert code == 1
  assert "OUT must end in .safetensors, got 'small.npy'" in err
  out = tmp_path / "none" / "small.safetensors"
  code, _, err = run(capsys, "none.txt", out, "--ratio", "2")
  assert code == 1
  assert f"There is no folder '{out.parent}'" in err
  assert calls == []


@pytest.mark.parametrize("weights", [np.ones(2), np.ones((3, 1)), WORDS])
def test_weights_are_one_number_a_row(weights, source, tmp_path, calls, capsys):
  path = tmp_path / "weights.npy"
  np.save(path, weights)
  out = tmp_path / "small.safetensors"
  code, _, err = run(capsys, source, out, "--ratio", "2", "--weights", path)
  assert code == 1
  assert f"{path}: It must hold 3 numbers, one for each row" in err
  path.write_bytes(b"")
  code, _, err = run(capsys, source, out, "--ratio", "2", "--weights", path)
  assert code == 1
  assert err.startswith(f"anchor-codes: {path}: ")
  assert calls == []
  assert not out.exists()


def test_bfloat16_is_not_copied(tmp_path, calls, capsys):
  import ml_dtypes
  import safetensors.numpy as saved

  source, out = tmp_path / "model.safetensors", tmp_path / "small.safetensors"
  saved.save_file({"embed": VECTORS.astype(ml_dtypes.bfloat16)}, source)
  assert run(capsys, source, out, "--ratio", "2")[0] == 0
  assert calls[0]["matrix"].dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(calls[0]["matrix"], VECTORS)


def test_progress_is_for_terminals_only(capsys, monkeypatch):
  with progress.showing("reading") as report:
    assert report is None
  monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
  monkeypatch.setenv("COLUMNS", "20")
  with progress.showing("trying") as report:
    report(1, 3)
    report(0, 0, "opq")
    report(1, 2, "a name that is too long")
  lines = capsys.readouterr().err.split("\r\033[K")
  expected = ["", "trying  33%", "trying 100% opq", "trying  50% a name ", ""]
  assert lines == expected


def test_a_small_matrix_in_earnest(tmp_path, capsys):
  """The real search, of one family: vectors of a file to those of a table."""
  vectors = np.random.default_rng(0).standard_normal((60, 8))
  source, out = tmp_path / "items.npy", tmp_path / "items.safetensors"
  np.save(source, vectors)
  options = ["--ratio", "3", "--recipe", "scalars", "--json"]
  code, text, err = run(capsys, source, out, *options)
  assert (code, err) == (0, "")
  answer, table = json.loads(text), tables.load(out)
  assert answer["nbytes"] == table.nbytes <= answer["budget"] == 640
  (chosen,) = [t for t in answer["report"]["trials"] if t["chosen"]]
  assert chosen["nbytes"] == table.nbytes
  assert json.loads(table.quality) == answer["report"]["quality"]
  error = np.square(table.to_dense() - vectors).sum() / np.square(vectors).sum()
  assert error < 0.1
  code, text, _ = run(
    capsys, source, out, "--budget", "640", "--recipe=scalars"
  )
  assert code == 0
  assert sum("chosen" in line for line in text.splitlines()) == 1


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--ratio", "3", "--recipe", "zip"], "zip"),
    (["--budget", "1"], "`budget` must be larger"),
    (["--ratio", "1e9"], "`budget` must be larger"),
  ],
)
def test_impossible_requests_are_one_line(
  options, message, source, tmp_path, capsys
):
  out = tmp_path / "small.safetensors"
  code, text, err = run(capsys, source, out, *options)
  assert (code, text) == (1, "")
  assert message in err
  assert err.count("\n") == 1
  assert not out.exists()


def test_weights_are_no_archive(source, tmp_path, calls, capsys):
  path = tmp_path / "weights.npz"
  np.savez(path, w=np.ones(3))
  out = tmp_path / "small.safetensors"
  code, _, err = run(capsys, source, out, "--ratio", "2", "--weights", path)
  assert code == 1
  assert "got an archive" in err


def test_a_place_that_cannot_be_written_to_is_told_first(
  source, calls, capsys, tmp_path, monkeypatch
):
  folder = tmp_path / "folder.safetensors"
  folder.mkdir()
  code, _, err = run(capsys, source, folder, "--ratio", "2")
  assert (code, calls) == (1, [])
  assert "It is a folder" in err

  def refuse(**options):
    raise PermissionError(13, "Permission denied", "/some/temporary/name")

  tempfile = types.SimpleNamespace(TemporaryFile=refuse)
  monkeypatch.setattr(storage, "tempfile", tempfile)
  out = tmp_path / "small.safetensors"
  code, _, err = run(capsys, source, out, "--ratio", "2")
  assert (code, calls) == (1, [])
  assert f"Permission denied: '{out}'" in err
