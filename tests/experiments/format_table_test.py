"""Tests of the tables for terminals and Markdown."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.reporting import format_table

ROWS = [
  {"name": "full", "bytes": 8_000_000, "quality": 183.42},
  {"name": "a|b", "bytes": None, "quality": 0.12345},
]
CELLS = st.one_of(
  st.none(), st.integers(), st.floats(), st.text("ab |", max_size=9)
)


def test_plain_table():
  table = format_table(ROWS, {"name": "Embedding", "quality": "Perplexity"})
  assert table.split("\n") == [
    "Embedding  Perplexity",
    "---------  ----------",
    "full            183.4",
    "a|b            0.1235",
  ]


def test_markdown_table():
  table = format_table(ROWS, ["name", "bytes"], markdown=True)
  assert table.split("\n") == [
    "| name |     bytes |",
    "| ---- | --------: |",
    "| full | 8,000,000 |",
    "| a\\|b |         - |",
  ]


@pytest.mark.parametrize(
  ("value", "expected"),
  [
    (None, "-"),
    (1234567, "1,234,567"),
    (np.int64(-1234), "-1,234"),
    (1234.56, "1,234.6"),
    (np.float32(20.031), "20.03"),
    (-2.0, "-2.00"),
    (0.87314, "0.8731"),
    (0.0, "0.0000"),
    (math.nan, "nan"),
    (-math.inf, "-inf"),
    (True, "True"),
    ("text", "text"),
  ],
)
def test_cells(value, expected):
  assert format_table([{"x": value}], ["x"]).split("\n")[2].strip() == expected


@given(st.lists(st.fixed_dictionaries({"x": CELLS, "y": CELLS})), st.booleans())
def test_columns_are_aligned(rows, markdown):
  lines = format_table(rows, ["x", "y"], markdown=markdown).split("\n")
  assert len(lines) == len(rows) + 2
  if markdown:
    assert len({len(line) for line in lines}) == 1
  else:
    assert all(len(line) <= len(lines[1]) for line in lines)
    gap = lines[1].index(" ")
    assert all(line[gap : gap + 2].strip() == "" for line in lines)


def test_only_columns_of_numbers_go_to_the_right():
  rows = [{"x": 1, "y": 1}, {"x": "long text", "y": 100}]
  assert format_table(rows, ["x", "y"]).split("\n")[2] == "1            1"


def test_cells_may_be_missing():
  assert format_table([{}], ["x"]).endswith("\n-")


def test_no_rows_leave_the_headings():
  assert format_table([], ["one", "two"]) == "one  two\n---  ---"


@pytest.mark.parametrize("columns", [[], {}])
def test_columns_are_needed(columns):
  with pytest.raises(ValueError, match="`columns` must name at least one"):
    format_table(ROWS, columns)
