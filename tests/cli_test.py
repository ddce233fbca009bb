"""The command line: usage, exit codes, `inspect` and `lookup`."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

from anchor_codes import cli, tables
from anchor_codes.commands import common

ROOT = pathlib.Path(tables.__file__).parents[2]
COMMANDS = (
  "compress",
  "inspect",
  "neighbors",
  "lookup",
  "convert",
  "report",
)


def make_table(**options):
  return tables.CodeTable.from_codes(
    np.arange(12).reshape(4, 3),
    np.arange(72, dtype=np.float32).reshape(3, 12, 2) / 10,
    composition="concat",
    vocabulary=["cat", "dog", "2", "-1"],
    **options,
  )


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "table.safetensors"
  make_table().save(path)
  return path


def run(capsys, *argv):
  code = cli.main([str(arg) for arg in argv])
  output = capsys.readouterr()
  return code, output.out, output.err


def fields_of(out, *, part=0):
  """Returns the rows of a name, two spaces or more, and a value."""
  lines = [line.split("  ", 1) for line in out.split("\n\n")[part].splitlines()]
  return {name: value.strip() for name, value in lines}


def test_inspect_tells_kind_sizes_and_parts(path, capsys):
  code, out, err = run(capsys, "inspect", path)
  assert (code, err) == (0, "")
  expected = {
    "kind": "codes",
    "file": str(path),
    "composition": "concat",
    "features": "6",
    "vocabulary": "4 words",
    "quality": "not measured",
    "checksums": "verified",
    "parameters": "72",
    "bytes": "296 B",
    "dense bytes": "96 B",
    "compression ratio": "0.32",
    "bits per row": "16",
  }
  assert expected.items() <= fields_of(out).items()
  parts = fields_of(out, part=1)
  assert set(parts) == {"part", "packed", "codebooks", "vocabulary", "header"}
  assert parts["packed"].split()[:6] == ["uint8", "4", "x", "2", "8", "B"]
  assert parts["codebooks"].split()[0] == "float32"
  assert parts["codebooks"].split()[-3:-1] == ["288", "B"]


def test_inspect_in_json_adds_up_to_the_file(path, capsys):
  code, out, err = run(capsys, "inspect", path, "--json")
  assert (code, err) == (0, "")
  found = json.loads(out)
  size = path.stat().st_size
  parts = {part["name"]: part for part in found["parts"]}
  total = sum(part["nbytes"] for part in parts.values())
  assert total + found["header_bytes"] == found["file_bytes"] == size
  assert parts["packed"] == {
    "name": "packed",
    "dtype": "uint8",
    "shape": [4, 2],
    "nbytes": 8,
  }
  assert set(parts) == {"packed", "codebooks", "vocabulary"}
  assert found["nbytes"] == 296
  assert found["vocabulary"] == 4
  assert found["quality"] is None
  assert found["options"] == {
    "code_length": "3",
    "codebook_size": "12",
    "composition": "concat",
  }


@pytest.mark.parametrize(
  ("quality", "value", "shown"),
  [
    ('{"error": 0.0871234, "k": 10}', {"error": 0.0871234, "k": 10}, "0.08712"),
    ("not JSON", "not JSON", "not JSON"),
  ],
)
def test_inspect_shows_the_quality(quality, value, shown, tmp_path, capsys):
  path = tmp_path / "table.safetensors"
  table = make_table()
  table._set(quality=quality)
  table.save(path)
  assert (
    json.loads(run(capsys, "inspect", path, "--json")[1])["quality"] == value
  )
  assert shown in fields_of(run(capsys, "inspect", path)[1])["quality"]


def test_inspect_shows_tables_inside_of_tables(tmp_path, capsys):
  path = tmp_path / "table.safetensors"
  first = tables.DenseTable(np.eye(3, dtype=np.float32))
  table = tables.SumTable(first, first, vocabulary=["a", "b", "c"])
  table.save(path)
  found = json.loads(run(capsys, "inspect", path, "--json")[1])
  assert found["kind"] == table.kind
  assert found["options"]["first.kind"] == "dense"
  assert {"first.rows", "second.rows"} <= {p["name"] for p in found["parts"]}


def test_inspect_verifies_the_checksums(path, capsys):
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  code, out, err = run(capsys, "inspect", path)
  assert (code, out) == (1, "")
  assert "does not match its checksum" in err


def test_lookup_prints_a_line_for_each(path, capsys):
  code, out, err = run(capsys, "lookup", path, "cat", "0")
  assert (code, err) == (0, "")
  assert out == "cat 0.0 0.1 2.6 2.7 5.2 5.3\n0 0.0 0.1 2.6 2.7 5.2 5.3\n"


def test_lookup_prints_a_json_object_a_line(path, capsys):
  code, out, err = run(capsys, "lookup", path, "dog", "0", "-1", "2", "--json")
  assert (code, err) == (0, "")
  lines = [json.loads(line) for line in out.splitlines()]
  assert [line["symbol"] for line in lines] == ["dog", "0", "-1", "2"]
  # The vocabulary comes first: "2" and "-1" are words here.
  assert [line["id"] for line in lines] == [1, 0, 3, 2]
  vectors = tables.load(path).lookup([1, 0, 3, 2])
  np.testing.assert_array_equal(
    np.float32([line["vector"] for line in lines]), vectors
  )


@pytest.mark.parametrize("command", ["lookup", "neighbors"])
@pytest.mark.parametrize(
  ("symbol", "text"),
  [
    ("eel", "'eel' is not in the vocabulary"),
    ("4", "id 4 is out of range for a table of 4 rows: ids must lie in [0, 4)"),
    ("-2", "id -2 is out of range for a table of 4 rows"),
    ("9" * 30, f"id {'9' * 30} is out of range for a table of 4 rows"),
    ("1.5", "'1.5' is not in the vocabulary"),
    ("", "'' is not in the vocabulary"),
  ],
)
def test_unknown_symbols_are_one_line_and_code_1(
  symbol, text, command, path, capsys
):
  code, out, err = run(capsys, command, path, symbol)
  assert (code, out) == (1, "")
  assert err.startswith(f"anchor-codes: {text}")
  assert err.count("\n") == 1


def test_words_without_a_vocabulary(tmp_path, capsys):
  path = tmp_path / "table.safetensors"
  tables.DenseTable(np.eye(2, dtype=np.float32)).save(path)
  code, out, _ = run(capsys, "lookup", path, "1", "--json")
  assert code == 0
  assert json.loads(out) == {"symbol": "1", "id": 1, "vector": [0, 1]}
  code, _, err = run(capsys, "lookup", path, "cat")
  assert code == 1
  assert "no vocabulary: look ids up instead" in err
  assert fields_of(run(capsys, "inspect", path)[1])["vocabulary"] == "no"


@pytest.mark.parametrize(
  "command",
  [["inspect"], ["lookup", "0"], ["neighbors", "0"], ["convert", "out.npy"]],
)
def test_bad_files_are_one_line_and_code_1(command, tmp_path, capsys):
  path = tmp_path / "table.safetensors"
  name, *symbols = command
  code, out, err = run(capsys, name, path, *symbols)
  assert (code, out) == (1, "")
  assert "No such file or directory" in err
  for content in (b"no table\nat all\n" * 9, b"", b"\x08" + bytes(7) + b"{}  "):
    path.write_bytes(content)
    code, out, err = run(capsys, name, path, *symbols)
    assert (code, out) == (1, "")
    assert err.startswith(f"anchor-codes: {path}: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
  "argv",
  [
    [],
    ["inspect"],
    ["lookup", "file"],
    ["neighbors", "file"],
    ["neighbors", "file", "cat", "--metric", "l2"],
    ["neighbors", "file", "cat", "--k", "many"],
    ["convert", "in"],
    ["convert", "in", "out", "--to", "pickle"],
    ["compress", "in", "out"],
    ["compress", "in", "out", "--ratio", "8", "--budget", "9"],
    ["compress", "in", "out", "--ratio", "0"],
    ["compress", "in", "out", "--ratio", "1e-310"],
    ["compress", "in", "out", "--ratio", "nan"],
    ["compress", "in", "out", "--budget", "-1"],
    ["compress", "in", "out", "--budget", "1.5"],
    ["compress", "in", "out", "--ratio", "8", "--metric", "best"],
    ["info", "file"],
    ["--frob"],
    ["--flagfile=no-such-file", "inspect", "file"],
  ],
)
def test_wrong_usage_exits_with_2(argv, capsys):
  with pytest.raises(SystemExit) as error:
    cli.main(argv)
  assert error.value.code == 2
  assert "usage: anchor-codes" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    (["--help"], [*COMMANDS, "examples:", "Exit codes: 0"]),
    (["compress", "--help"], ["IN OUT", "--ratio", "--weights", "examples:"]),
    (["inspect", "--help"], ["FILE", "checksums", "examples:"]),
    (["neighbors", "--help"], ["WORD_OR_ID", "--metric", "examples:"]),
    (["lookup", "--help"], ["FILE", "WORD_OR_ID", "--json", "examples:"]),
    (["convert", "--help"], ["IN OUT", "onnx", "examples:"]),
    (["--helpfull"], [*COMMANDS, "flagfile"]),
  ],
)
def test_help_tells_what_there_is(argv, words, capsys):
  with pytest.raises(SystemExit) as error:
    cli.main(argv)
  assert error.value.code == 0
  out = capsys.readouterr().out
  assert all(word in out for word in words)


def test_arguments_may_stand_in_a_file(path, tmp_path, capsys):
  """As with all programs of absl."""
  file = tmp_path / "flags"
  file.write_text("# a comment\n--json\n")
  code, out, _ = run(capsys, "lookup", f"--flagfile={file}", path, "cat")
  assert code == 0
  assert json.loads(out)["symbol"] == "cat"


def test_flags_of_the_program_around_stay_apart(path, capsys):
  """A binary of absl may define a flag of the same name, and call us."""
  values = flags.FLAGS
  if "json" not in values:
    flags.DEFINE_boolean("json", False, "Of the program around.", values)
  try:
    assert run(capsys, "inspect", path, "--json")[0] == 0
    assert values["json"].value is False
  finally:
    delattr(values, "json")


def run_module(*argv):
  command = [sys.executable, "-m", "anchor_codes.cli", *map(str, argv)]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_module_runs_as_a_command(path):
  result = run_module("lookup", path, "eel")
  assert result.returncode == 1
  assert result.stderr == "anchor-codes: 'eel' is not in the vocabulary\n"


def test_looking_into_tables_loads_no_jax(path, tmp_path):
  """Neither JAX, nor what other commands need: the start takes no time."""
  code = f"""
import sys
from anchor_codes import cli
assert cli.main(["inspect", {str(path)!r}]) == 0
assert cli.main(["lookup", {str(path)!r}, "cat"]) == 0
assert cli.main(["neighbors", {str(path)!r}, "cat"]) == 0
assert cli.main(["convert", {str(path)!r}, {str(tmp_path / "v.npy")!r}]) == 0
names = "jax jaxlib flax optax chex onnx faiss pyarrow sklearn scipy tqdm"
print(*set(names.split()) & set(sys.modules), file=sys.stderr)
"""
  result = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
  )
  assert (result.returncode, result.stderr.strip()) == (0, "")


def test_who_reads_may_have_seen_enough(path):
  command = [sys.executable, "-m", "anchor_codes.cli", "lookup", str(path)]
  process = subprocess.Popen(
    [*command, *["cat"] * 5000],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline().startswith("cat 0.0")
  process.stdout.close()
  assert process.stderr.read() == ""
  assert process.wait() == 0
  process.stderr.close()


@pytest.mark.parametrize(
  ("error", "code", "text"),
  [
    (KeyboardInterrupt(), 130, "interrupted"),
    (MemoryError(), 1, "MemoryError"),
    (ImportError("pip install x"), 1, "pip install x"),
    (ValueError("two\nlines"), 1, "two lines"),
  ],
)
def test_what_users_can_cause(error, code, text, path, capsys, monkeypatch):
  def fail(*args, **options):
    raise error

  monkeypatch.setattr(tables, "load", fail)
  assert run(capsys, "inspect", path) == (code, "", f"anchor-codes: {text}\n")


def test_bugs_keep_their_traceback(path, monkeypatch):
  monkeypatch.setattr(tables, "load", None)
  with pytest.raises(TypeError):
    cli.main(["inspect", str(path)])


@pytest.mark.parametrize(
  ("size", "shown"),
  [
    (0, "0 B"),
    (999, "999 B"),
    (1000, "1.0 KB"),
    (999_949, "999.9 KB"),
    (999_950, "1.0 MB"),
    (2_500_000_000, "2.5 GB"),
    (5_000_000_000_000, "5,000.0 GB"),
  ],
)
def test_bytes_are_shown_in_decimal_units(size, shown):
  assert common.human_bytes(size) == shown
