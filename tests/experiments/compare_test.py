"""Tests for `experiments.compare`."""

import dataclasses
import functools

from experiments import compare


def test_a_second_run_reads_what_the_first_has_left(tmp_path, monkeypatch):
  base_config = compare.base_config
  small = lambda **options: dataclasses.replace(
    base_config(**options), max_tokens=6_000, features=32, hidden=32
  )
  monkeypatch.setattr(compare, "base_config", small)
  load_text = functools.cache(compare.datasets.load_text)
  monkeypatch.setattr(compare.datasets, "load_text", load_text)
  monkeypatch.setattr(compare, "ROWS", {"low rank": compare.ROWS["low rank"]})
  first = compare.compare(tmp_path, quick=True)
  path = tmp_path / "low_rank" / "result.json"
  written = path.stat().st_mtime_ns
  assert compare.compare(tmp_path, quick=True) == first
  assert path.stat().st_mtime_ns == written
  other = {"low rank": {**compare.ROWS["low rank"], "rank": 2}}
  monkeypatch.setattr(compare, "ROWS", other)
  (third,) = compare.compare(tmp_path, quick=True)
  assert third["embedding_bytes"] < first[0]["embedding_bytes"]
