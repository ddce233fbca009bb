"""What all commands share: verified tables, words, and columns."""

import numpy as np
import pytest

from anchor_codes import cli, tables
from anchor_codes.commands import common

ROWS = np.float32([[1, 2], [3, 4], [5, 7.125]])


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "table.safetensors"
  tables.DenseTable(ROWS, vocabulary=["žluť", "cat", "dog"]).save(path)
  return path


def run(capsys, *argv):
  code = cli.main([str(arg) for arg in argv])
  output = capsys.readouterr()
  return code, output.out, output.err


@pytest.mark.parametrize(
  "argv",
  [
    ["inspect", "{}"],
    ["neighbors", "{}", "cat"],
    ["lookup", "{}", "cat"],
    ["convert", "{}", "{}.npy"],
    ["report", "{}", "--out", "{}.html"],
  ],
)
def test_every_command_verifies_its_table(argv, path, capsys):
  data = bytearray(path.read_bytes())
  # Of the last row, which is not that of the word.
  place = data.index(np.float32(7.125).tobytes())
  data[place] ^= 1
  path.write_bytes(data)
  code, out, err = run(capsys, *[word.format(path) for word in argv])
  assert (code, out) == (1, "")
  assert "'rows' does not match its checksum" in err
  assert list(path.parent.iterdir()) == [path]


def test_words_stay_as_they_are_in_json(path, capsys):
  for command in ("lookup", "neighbors"):
    out = run(capsys, command, path, "žluť", "--json")[1]
    assert '"symbol": "žluť"' in out


def test_columns_line_up_on_the_side_that_is_asked_for():
  rows = [("word", "dtype", "n"), ("a", "f4", "1.25")]
  assert list(common.columns(rows)) == [
    "word  dtype     n",
    "a        f4  1.25",
  ]
  assert list(common.columns(rows, left=2)) == [
    "word  dtype     n",
    "a     f4     1.25",
  ]
