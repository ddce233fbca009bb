"""What pages read from the folders of training runs."""

import json
import pathlib

import numpy as np
import pytest
import report_tables

from anchor_codes import tables
from anchor_codes.report import runs, write_run_report


@pytest.fixture
def folder(tmp_path):
  result = {
    "experiment": "train_language_model",
    "dataset": "ptb",
    "embedding": "kd",
    "seed": 3,
    "metrics": {"test_perplexity": 123.456, "test_ndcg_at_10": None},
    "embedding_bytes": 1234567,
    "compression_ratio": 30.72,
    "num_anchors": 0,
  }
  (tmp_path / "result.json").write_text(json.dumps(result))
  (tmp_path / "metrics.csv").write_text(
    "step,train_loss,valid_loss,unique_codes,changed_codes,revived_codes\n"
    "10,4.0,,,,0\n20,2.0,3.0,0.5,,0\n30,1.5,,,,0\n40,1.0,nan,0.75,0.25,0\n"
  )
  report_tables.code_table().save(tmp_path / "embedding.safetensors")
  return tmp_path


def test_facts_are_those_of_the_result(folder):
  facts = dict(runs.read_run(folder).facts())
  assert facts == {
    "experiment": "train language model",
    "data": "ptb",
    "embedding": "kd",
    "seed": "3",
    "test perplexity": "123.5",
    "test NDCG at 10": "None",
    "embedding bytes": "1.2 MB",
    "times smaller": "30.7",
  }


def test_metrics_of_one_thing_share_a_panel(folder):
  panels = {panel.title: panel for panel in runs.read_run(folder).panels()}
  # What stays at zero is left out.
  assert list(panels) == ["loss", "codes by epoch"]
  loss = panels["loss"]
  assert loss.axis == "step"
  assert [row["x"] for row in loss.rows if row["line"] == "training"] == [
    10,
    20,
    30,
    40,
  ]
  # What is not finite is no point.
  assert {"x": 20.0, "y": 3.0, "line": "validation"} in loss.rows
  assert len(loss.rows) == 5


def test_codes_are_drawn_by_epoch(folder):
  panels = {panel.title: panel for panel in runs.read_run(folder).panels()}
  codes = panels["codes by epoch"]
  assert codes.axis == "epoch"
  assert codes.rows == [
    {"x": 1, "y": 0.5, "line": "unique codes"},
    {"x": 2, "y": 0.75, "line": "unique codes"},
    {"x": 2, "y": 0.25, "line": "changed codes"},
  ]


def test_other_data_break_steps_but_not_epochs(folder):
  (folder / "metrics.csv").write_text(
    "step,train_loss,unique_codes,time_batch\n"
    "10,4.0,0.5,0\n20,2.0,0.5,1\n30,1.5,0.25,1\n"
  )
  panels = {panel.title: panel for panel in runs.read_run(folder).panels()}
  assert panels["loss"].breaks == [10]
  assert panels["codes by epoch"].breaks == []


def test_how_the_number_of_anchors_went_comes_first(folder):
  (folder / "metrics.csv").write_text(
    "step,train_mse,num_anchors_users,num_anchors_items,num_nonzeros,"
    "objective,time_batch\n1,1,8,8,100,0.9,0\n2,1,6,7,80,0.8,0\n"
    "3,1,5,7,70,0.7,1\n"
  )
  panels = runs.read_run(folder).panels()
  assert [panel.title for panel in panels] == [
    "number of anchors",
    "weights that are not zero",
    "objective",
    "MSE",
  ]
  lines = {row["line"] for row in panels[0].rows}
  assert lines == {"users", "items"}
  assert all(panel.breaks == [2.0] for panel in panels)


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("test_perplexity", ("perplexity", "test")),
    (
      "embed_source_changed_digits",
      ("codes by epoch", "embed source changed digits"),
    ),
    ("num_anchors", ("number of anchors", "number of anchors")),
    ("learning_rate", ("learning rate", "learning rate")),
    ("valid_rmse", ("RMSE", "validation")),
  ],
)
def test_names_of_metrics(name, expected):
  assert runs._family(name) == expected


def test_the_page_has_a_part_for_each_table(folder):
  report_tables.anchor_table().save(folder / "another.safetensors")
  path = write_run_report(folder, max_symbols=6)
  assert path == folder / "report.html"
  page = path.read_text(encoding="utf-8")
  island = report_tables.island_of(page)
  # The symbols that are shown are shared between the tables.
  assert [len(found["words"]) for found in island["tables"]] == [3, 3]
  assert {"run0", "run1"} <= set(island["charts"])
  assert "A training run and its tables." in page
  assert "another.safetensors" in page


@pytest.mark.parametrize("number", [0, -6])
def test_the_page_of_a_run_shows_a_symbol(folder, number):
  with pytest.raises(
    ValueError, match=f"`max_symbols` must be at least 1, got {number}"
  ):
    write_run_report(folder, max_symbols=number)
  assert not (folder / "report.html").exists()


def test_a_run_needs_neither_metrics_nor_tables(folder):
  (folder / "metrics.csv").unlink()
  (folder / "embedding.safetensors").unlink()
  page = write_run_report(folder).read_text(encoding="utf-8")
  assert report_tables.island_of(page) == {"charts": {}, "tables": []}
  assert "Course of the run" not in page


def test_weights_of_other_programs_are_left_alone(folder):
  header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
  blob = len(header).to_bytes(8, "little") + header + bytes(4)
  (folder / "model.safetensors").write_bytes(blob)
  assert list(runs.read_run(folder).tables) == ["embedding.safetensors"]


def test_a_damaged_table_is_an_error_that_names_it(folder):
  path = folder / "embedding.safetensors"
  blob = bytearray(path.read_bytes())
  blob[-1] ^= 1
  path.write_bytes(blob)
  with pytest.raises(tables.ArtifactError, match=r"embedding\.safetensors"):
    runs.read_run(folder)


def test_a_folder_without_a_result_is_no_run(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"has no result\.json: name a"):
    write_run_report(tmp_path)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{", "is not valid JSON"),
    ("[]", "must hold an object"),
    ('{"metrics": 3}', "must hold an object"),
  ],
)
def test_a_result_of_another_form_is_refused(folder, text, message):
  (folder / "result.json").write_text(text)
  with pytest.raises(ValueError, match=message) as caught:
    runs.read_run(folder)
  assert "result.json" in str(caught.value)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("step,a\n1,x\n", "must hold numbers"),
    ("step,a\n1,2,3\n", "must hold numbers"),
    ("a\n1\n", "must have a column `step`"),
    ("step,a\n,1\n", "must have a column `step`"),
  ],
)
def test_metrics_of_another_form_are_refused(folder, text, message):
  (folder / "metrics.csv").write_text(text)
  with pytest.raises(ValueError, match=message) as caught:
    runs.read_run(folder)
  assert "metrics.csv" in str(caught.value)


def test_values_of_a_run_are_text(folder):
  result = {"dataset": "<script>alert(1)</script>", "metrics": {"<b>": "<i>"}}
  (folder / "result.json").write_text(json.dumps(result))
  page = write_run_report(folder).read_text(encoding="utf-8")
  assert "<script>alert" not in page
  assert "&lt;b&gt;" in page
  assert "<i>" not in page.split("<style>")[0] + page.split("</style>")[1]


def test_the_name_of_the_page_is_that_of_the_folder(folder, monkeypatch):
  monkeypatch.chdir(folder)
  assert runs.read_run(pathlib.Path(".")).name == folder.name
  assert np.isfinite(runs.read_run(".").metrics[0]["step"])
