"""Pages as files: written whole, and errors that say what to do."""

import importlib.util
import os

import numpy as np
import pytest
import report_tables

import anchor_codes
from anchor_codes import report, tables
from anchor_codes.report import pages


def test_an_old_page_is_replaced_and_nothing_else_is_left(tmp_path):
  path = tmp_path / "table.html"
  path.write_text("old")
  report.write_report(report_tables.anchor_table(), path)
  assert os.listdir(tmp_path) == ["table.html"]
  page = path.read_text(encoding="utf-8")
  assert page.startswith("<!doctype html>\n")
  assert "<title>table</title>" in page
  assert anchor_codes.__version__ in page


def test_an_old_page_stays_if_the_new_one_cannot_be_made(tmp_path, monkeypatch):
  path = tmp_path / "table.html"
  path.write_text("old")

  def fail(*args, **options):
    raise OSError("disk full")

  monkeypatch.setattr(os, "replace", fail)
  with pytest.raises(OSError, match="disk full"):
    report.write_report(report_tables.anchor_table(), path)
  assert path.read_text() == "old"
  assert os.listdir(tmp_path) == ["table.html"]


def test_there_must_be_a_folder(tmp_path):
  with pytest.raises(FileNotFoundError):
    report.write_report(
      report_tables.anchor_table(), tmp_path / "no" / "a.html"
    )


@pytest.mark.parametrize("missing", ["altair", "jinja2", "vl_convert"])
def test_a_missing_library_names_the_extra(tmp_path, monkeypatch, missing):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name, *rest: None if name == missing else find_spec(name, *rest),
  )
  text = rf"A report needs {missing}: pip install 'anchor-codes\[report\]'"
  with pytest.raises(ImportError, match=text):
    report.write_report(report_tables.anchor_table(), tmp_path / "a.html")
  with pytest.raises(ImportError, match=text):
    report.write_run_report(tmp_path)
  assert os.listdir(tmp_path) == []


def test_an_original_that_does_not_fit_writes_nothing(tmp_path):
  with pytest.raises(ValueError, match="`original` must have the shape"):
    report.write_report(
      report_tables.anchor_table(),
      tmp_path / "a.html",
      original=np.ones((3, 3), np.float32),
    )
  assert os.listdir(tmp_path) == []


def test_the_same_table_gives_the_same_page(tmp_path):
  for name in ("a", "b"):
    report.write_report(
      report_tables.code_table(), tmp_path / f"{name}.html", name="table"
    )
  assert (tmp_path / "a.html").read_bytes() == (
    tmp_path / "b.html"
  ).read_bytes()


def test_a_page_of_many_symbols_stays_small(tmp_path):
  rng = np.random.default_rng(0)
  size = 60_000
  table = tables.AnchorTable(
    rng.standard_normal((300, 4)).astype(np.float32),
    weights=rng.random((size, 4), dtype=np.float32),
    indices=rng.integers(0, 300, (size, 4)),
    vocabulary=[f"symbol {i}" for i in range(size)],
  )
  path = tmp_path / "table.html"
  report.write_report(table, path, max_symbols=500)
  # Of the script of the charts and few symbols.
  assert path.stat().st_size < len(pages._bundle()) + 400_000
