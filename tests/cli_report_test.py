"""`anchor-codes report`, and the page of `anchor-codes compress`."""

import json

import numpy as np
import pytest
import report_tables

from anchor_codes import cli, tables
from anchor_codes.commands import reporting


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "table.safetensors"
  report_tables.anchor_table().save(path)
  return path


def run(capsys, *argv):
  code = cli.main([str(arg) for arg in argv])
  output = capsys.readouterr()
  return code, output.out, output.err


def write_vec(path, words, vectors):
  lines = [
    " ".join([word.replace(" ", "_"), *map(str, row)])
    for word, row in zip(words, vectors.tolist(), strict=True)
  ]
  path.write_text("\n".join(lines) + "\n")


def test_the_page_stands_beside_the_table(path, capsys):
  code, out, err = run(capsys, "report", path)
  page = path.with_suffix(".html")
  assert (code, err) == (0, "")
  assert out.startswith(f"{page}: ")
  assert "<title>table.safetensors</title>" in page.read_text(encoding="utf-8")


def test_the_answer_in_json(path, capsys, tmp_path):
  out = tmp_path / "page.html"
  code, answer, _ = run(capsys, "report", path, "--out", out, "--json")
  assert code == 0
  assert json.loads(answer) == {
    "file": str(out),
    "file_bytes": out.stat().st_size,
  }


def test_neighbors_of_the_original_are_in_the_page(path, capsys, tmp_path):
  table = tables.load(path)
  np.save(tmp_path / "original.npy", table.to_dense())
  code, _, err = run(
    capsys, "report", path, "--original", tmp_path / "original.npy"
  )
  assert (code, err) == (0, "")
  page = path.with_suffix(".html").read_text(encoding="utf-8")
  (found,) = report_tables.island_of(page)["tables"]
  assert found["before"] == found["after"]


def test_the_number_of_symbols_is_an_option(path, capsys):
  assert run(capsys, "report", path, "--symbols", 2)[0] == 0
  page = path.with_suffix(".html").read_text(encoding="utf-8")
  assert report_tables.island_of(page)["tables"][0]["words"] == ["the", "cat"]
  code, _, err = run(capsys, "report", path, "--symbols", 0)
  assert code == 1
  assert "`max_symbols` must be at least 1, got 0" in err


def test_a_folder_is_a_run(path, capsys):
  folder = path.parent
  (folder / "result.json").write_text('{"metrics": {"test_mse": 0.5}}')
  code, out, err = run(capsys, "report", folder)
  assert (code, err) == (0, "")
  assert out.startswith(str(folder / "report.html"))
  code, _, err = run(capsys, "report", folder, "--original", path)
  assert code == 1
  assert "--original needs the file of a table" in err


def fails(capsys, *argv):
  code, out, err = run(capsys, "report", *argv)
  assert (code, out) == (1, "")
  assert err.count("\n") == 1
  return err


def test_files_that_are_no_tables_are_refused(tmp_path, capsys):
  assert "nothing.safetensors" in fails(
    capsys, tmp_path / "nothing.safetensors"
  )
  other = tmp_path / "words.txt"
  other.write_text("cat 1 2 3\n")
  assert "not one of ours" in fails(capsys, other)
  assert "has no result.json" in fails(capsys, tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ["words.txt"]


def test_places_that_cannot_be_written_are_refused_at_once(path, capsys):
  before = path.read_bytes()
  assert "must end in .html" in fails(capsys, path, "--out", path)
  assert "no folder" in fails(
    capsys, path, "--out", path.parent / "x" / "a.html"
  )
  assert path.read_bytes() == before


def test_originals_that_do_not_fit_are_refused(path, capsys, tmp_path):
  np.save(tmp_path / "wide.npy", np.ones((8, 5), np.float32))
  err = fails(capsys, path, "--original", tmp_path / "wide.npy")
  assert "shape (8, 3) of the table, got (8, 5)" in err
  words = [f"word{i}" for i in range(8)]
  write_vec(tmp_path / "other.txt", words, np.ones((8, 3)))
  err = fails(capsys, path, "--original", tmp_path / "other.txt")
  assert "row 0 is 'word0' there and 'the' in the table" in err
  assert "no.npy" in fails(capsys, path, "--original", tmp_path / "no.npy")
  assert not path.with_suffix(".html").exists()


def test_words_of_the_table_in_its_order_are_fine():
  reporting.check_words("a.txt", ["a", "b"], ["a", "b"])
  with pytest.raises(ValueError, match="row 1 is 'c' there and 'b'"):
    reporting.check_words("a.txt", ["a", "c"], ["a", "b"])


def test_compress_writes_a_page_on_what_was_tried(tmp_path, capsys):
  vectors = np.random.default_rng(0).standard_normal((60, 8))
  words = [f"word{i}" for i in range(60)]
  write_vec(tmp_path / "in.txt", words, vectors.astype(np.float32))
  page = tmp_path / "page.html"
  arguments = ["--ratio", 4, "--recipe", "scalars", "--report", page]
  code, _, err = run(
    capsys,
    "compress",
    tmp_path / "in.txt",
    tmp_path / "out.safetensors",
    *arguments,
  )
  assert (code, err) == (0, "")
  island = report_tables.island_of(page.read_text(encoding="utf-8"))
  assert island["tables"][0]["before"] is not None
  assert '"chosen"' in json.dumps(island["charts"])
  assert "Size against quality" in page.read_text(encoding="utf-8")


def test_compress_refuses_a_page_before_the_work(tmp_path, capsys):
  code, _, err = run(
    capsys,
    "compress",
    tmp_path / "missing.txt",
    tmp_path / "out.safetensors",
    *("--ratio", 4, "--report", tmp_path / "page.txt"),
  )
  assert code == 1
  assert "must end in .html" in err
