"""Training runs leave a page beside their result, where that can be written."""

import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

from anchor_codes import tables
from experiments import language_modeling, stored_tables

# As it is: for the other tests, runs leave no pages.
WRITE_PAGE = stored_tables.write_page


@pytest.fixture(autouse=True)
def _pages(monkeypatch):
  monkeypatch.setattr(stored_tables, "write_page", WRITE_PAGE)


@jax.numpy_rank_promotion("allow")
def test_a_training_run_leaves_a_page(tmp_path):
  line = " ".join(f"word{i % 7}" for i in range(30)) + "\n"
  (tmp_path / "text.txt").write_text(40 * line, encoding="utf-8")
  config = language_modeling.LanguageModelConfig(
    dataset=f"text:{tmp_path / 'text.txt'}",
    embedding="anchors",
    features=4,
    hidden=4,
    num_layers=1,
    num_anchors=3,
    num_nonzeros=2,
    batch_size=4,
    num_steps=8,
    max_tokens=4 * (8 * 6 + 1),
    epochs=1,
    num_sampled=4,
    checkpoint_chunks=0,
  )
  folder = tmp_path / "run"
  result = language_modeling.train_and_evaluate(config, folder)
  page = (folder / "report.html").read_text(encoding="utf-8")
  assert (folder / "result.json").exists()
  assert "train language model" in page
  assert f"{result.metrics['test_perplexity']:.4g}" in page
  for word in ("word0", "embedding.safetensors", ">Perplexity<"):
    assert word in page


def make_run(folder: pathlib.Path) -> None:
  (folder / "result.json").write_text(json.dumps({"metrics": {}}))
  table = tables.DenseTable(np.eye(3, dtype=np.float32))
  table.save(folder / "embedding.safetensors")


def test_a_run_can_do_without_the_libraries_of_a_page(tmp_path, monkeypatch):
  make_run(tmp_path)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  stored_tables.write_page(tmp_path)
  assert not (tmp_path / "report.html").exists()


def test_a_page_is_written_again(tmp_path):
  make_run(tmp_path)
  for _ in range(2):
    stored_tables.write_page(str(tmp_path))
  assert (tmp_path / "report.html").stat().st_size > 100_000
