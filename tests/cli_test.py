import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from anchor_codes import cli, tables


@pytest.fixture
def path(tmp_path):
  table = tables.CodeTable.from_codes(
    np.arange(12).reshape(4, 3),
    np.arange(72, dtype=np.float32).reshape(3, 12, 2) / 10,
    composition="concat",
    vocabulary=["cat", "dog", "2", "-1"],
  )
  path = tmp_path / "table.safetensors"
  table.save(path)
  return path


def run(capsys, *argv):
  code = cli.main([str(arg) for arg in argv])
  output = capsys.readouterr()
  return code, output.out, output.err


def test_info_tells_kind_sizes_and_tensors(path, capsys):
  code, out, err = run(capsys, "info", path)
  assert (code, err) == (0, "")
  fields = dict(line.split(maxsplit=1) for line in out.splitlines() if line)
  expected = {
    "kind": "codes",
    "file": str(path),
    "composition": "concat",
    "features": "6",
    "vocabulary": "yes",
    "checksums": "verified",
    "parameters": "72",
  }
  assert expected.items() <= fields.items()
  assert fields["packed"].split() == ["uint8", "4", "x", "2", "8"]
  assert fields["codebooks"].split() == [
    "float32",
    "3",
    "x",
    "12",
    "x",
    "2",
    "288",
  ]
  assert "bytes              296\n" in out
  assert "compression ratio  0.32\n" in out
  assert "bits per row       16\n" in out


def test_lookup_prints_a_json_object_a_line(path, capsys):
  code, out, err = run(capsys, "lookup", path, "dog", "0", "-1", "2")
  assert (code, err) == (0, "")
  lines = [json.loads(line) for line in out.splitlines()]
  assert [line["symbol"] for line in lines] == ["dog", "0", "-1", "2"]
  # The vocabulary comes first: "2" and "-1" are words here.
  assert [line["id"] for line in lines] == [1, 0, 3, 2]
  vectors = tables.load(path).lookup([1, 0, 3, 2])
  np.testing.assert_array_equal(
    np.float32([line["vector"] for line in lines]), vectors
  )


def test_lookup_prints_the_shortest_digits(path, capsys):
  _, out, _ = run(capsys, "lookup", path, "cat")
  assert out == (
    '{"symbol": "cat", "id": 0, "vector": [0.0, 0.1, 2.6, 2.7, 5.2, 5.3]}\n'
  )


@pytest.mark.parametrize(
  ("symbol", "text"),
  [
    ("eel", "'eel' is not in the vocabulary"),
    ("4", "id 4 at position (0,) is out of range for a table of 4 rows"),
    ("-2", "id -2 at position (0,) is out of range for a table of 4 rows"),
    ("1.5", "'1.5' is not in the vocabulary"),
    ("", "'' is not in the vocabulary"),
  ],
)
def test_unknown_symbols_are_one_line_and_code_2(symbol, text, path, capsys):
  code, out, err = run(capsys, "lookup", path, symbol)
  assert (code, out) == (2, "")
  assert err.startswith(f"anchor-codes: {text}")
  assert err.count("\n") == 1


def test_words_without_a_vocabulary(tmp_path, capsys):
  path = tmp_path / "table.safetensors"
  tables.DenseTable(np.eye(2, dtype=np.float32)).save(path)
  code, out, _ = run(capsys, "lookup", path, "1")
  assert code == 0
  assert json.loads(out) == {"symbol": "1", "id": 1, "vector": [0, 1]}
  code, _, err = run(capsys, "lookup", path, "cat")
  assert code == 2
  assert "no vocabulary: look ids up instead" in err
  assert "vocabulary         no\n" in run(capsys, "info", path)[1]


@pytest.mark.parametrize("command", [["info"], ["lookup"]])
def test_bad_files_are_one_line_and_code_2(command, tmp_path, capsys):
  path = tmp_path / "table.safetensors"
  symbols = ["0"] if command == ["lookup"] else []
  code, out, err = run(capsys, *command, path, *symbols)
  assert (code, out) == (2, "")
  assert "No such file or directory" in err
  path.write_text("no table\nat all\n" * 9)
  code, out, err = run(capsys, *command, path, *symbols)
  assert (code, out) == (2, "")
  assert err.startswith(f"anchor-codes: {path}: ")
  assert err.count("\n") == 1


def test_info_verifies_the_checksums(path, capsys):
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  code, _, err = run(capsys, "info", path)
  assert code == 2
  assert "does not match its checksum" in err


@pytest.mark.parametrize(
  "argv", [[], ["info"], ["lookup", "file"], ["show", "file"], ["--frob"]]
)
def test_wrong_usage_exits_with_2(argv, capsys):
  with pytest.raises(SystemExit) as error:
    cli.main(argv)
  assert error.value.code == 2
  assert "usage: anchor-codes" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    (["--help"], ["info", "lookup", "examples:"]),
    (["info", "--help"], ["FILE", "checksums"]),
    (["lookup", "--help"], ["FILE", "SYMBOL_OR_ID", "JSON"]),
  ],
)
def test_help_tells_what_there_is(argv, words, capsys):
  with pytest.raises(SystemExit) as error:
    cli.main(argv)
  assert error.value.code == 0
  out = capsys.readouterr().out
  assert all(word in out for word in words)


def test_the_module_runs_as_a_command(path):
  root = pathlib.Path(tables.__file__).parents[2]
  command = [sys.executable, "-m", "anchor_codes.cli", "lookup", path, "eel"]
  result = subprocess.run(command, cwd=root, capture_output=True, text=True)
  assert result.returncode == 2
  assert result.stderr == "anchor-codes: 'eel' is not in the vocabulary\n"
