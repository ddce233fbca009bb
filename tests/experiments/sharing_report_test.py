"""Tests of the table of diagnostics of shared embeddings."""

import json

import numpy as np
import pytest
import reference

from anchor_codes.ops import graphs
from experiments.reporting import sharing

SIZE = 6
GRAPH = graphs.graph_from_edges([(0, 1), (2, 3)], num_nodes=SIZE)
SETTINGS = [
  sharing.Setting(name="off", rate=0.0, table=np.eye(SIZE), train=0.5),
  sharing.Setting(name="SE", rate=0.3, train=0.75, test=1.0),
  sharing.Setting(name="graph", rate=0.3, graph=GRAPH, neighbor_ratio=9.0),
]
LOSSES = np.abs(reference.normal(0, 3, SIZE))
IDS = np.array([0, 0, 2, 5])


@pytest.fixture(scope="module")
def rows():
  return sharing.sharing_report(
    SETTINGS, num_embeddings=SIZE, losses=LOSSES, ids=IDS, num_signs=50
  )


def test_each_setting_is_a_row(rows):
  assert [row["name"] for row in rows] == ["off", "SE", "graph"]
  np.testing.assert_allclose(
    [row["second_eigenvalue"] for row in rows[:2]], [1, 0.64], rtol=1e-4
  )
  assert rows[2]["neighbor_ratio"] == 9
  assert "neighbor_ratio" not in rows[1]


def test_replacement_trades_complexity_for_bias(rows):
  off, shared, _ = rows
  assert off["bias"] == 0 < shared["bias"]
  assert off["complexity"] > shared["complexity"]
  own = LOSSES[:, IDS].mean(axis=1)
  largest = np.abs(0.36 * (LOSSES.mean(axis=1) - own)).max()
  np.testing.assert_allclose(shared["bias"], largest, rtol=1e-4)


def test_trained_models_add_what_they_have(rows):
  off, shared, other = rows
  np.testing.assert_allclose(off["spread"], 2, rtol=1e-6)
  assert "gap" not in off
  assert shared["gap"] == 0.25
  assert other.keys().isdisjoint({"spread", "train", "test", "gap"})


def test_rows_are_plain(rows):
  assert json.loads(json.dumps(rows)) == rows


def test_the_table_has_the_columns_that_are_known(rows):
  lines = sharing.format_sharing(rows).splitlines()
  assert len(lines) == 2 + len(SETTINGS)
  assert "2nd eigenvalue" in lines[0]
  spare = [{"name": "SE", "rate": 0.1, "second_eigenvalue": 0.9}]
  assert sharing.format_sharing(spare, markdown=True).splitlines()[0] == (
    "| Setting |   Rate | 2nd eigenvalue |"
  )
  assert sharing.format_sharing([]).startswith("Setting")


def test_graphs_are_of_the_size_of_the_table():
  with pytest.raises(ValueError, match=r"`graph` must be of .* got 6 and 5"):
    sharing.sharing_report(SETTINGS[2:], num_embeddings=5)


def test_losses_are_of_the_size_of_the_table():
  with pytest.raises(ValueError, match="`losses` must have 6 columns, got 4"):
    sharing.sharing_report(
      SETTINGS[:1], num_embeddings=SIZE, losses=LOSSES[:, :4]
    )


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"rate": 1.5}, "`rate` must be between 0 and 1, got 1.5"),
    (
      {"neighbor_ratio": 0.5},
      "`neighbor_ratio` must be at least 1, .* got 0.5",
    ),
  ],
)
def test_settings_are_checked(options, message):
  with pytest.raises(ValueError, match=message):
    sharing.Setting(**({"name": "SE", "rate": 0.1} | options))
