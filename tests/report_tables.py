"""Tables for the tests of pages, and what stands in a page."""

import json
import pathlib
import re
from typing import Any

import numpy as np

from anchor_codes import tables

GOLDEN = pathlib.Path(__file__).parent / "tables" / "golden"

# What would be markup, script or a template, if it did not stay text.
HOSTILE = (
  "<script>alert(1)</script>",
  "</script>",
  "{{7*7}}",
  "\"'&quot;<b>bold</b>",
  "a\u2028b",
  "שלום‮",
  "\x01control\x7f",
  "<img src=x onerror=alert(2)>",
  "",
  "__proto__",
)
WORDS = ("the", "cat", "dog", "Dog", "hot dog", "eel", "fox", "gnu")


def anchor_table(words: tuple[str, ...] = WORDS) -> tables.AnchorTable:
  """Returns a table of four anchors, of which each row uses two."""
  size = len(words)
  rows = np.arange(size)
  return tables.AnchorTable(
    np.float32([[4, 0, 1], [0, 3, 1], [1, 1, 2], [0, 2, 5]]),
    weights=np.stack([1 + rows / 8, 2 - rows / 8], axis=1).astype(np.float32),
    indices=np.stack([rows % 3, np.full(size, 3)], axis=1),
    vocabulary=words,
  )


def code_table(words: tuple[str, ...] = WORDS) -> tables.CodeTable:
  """Returns a table of codes of three digits."""
  rows = np.arange(len(words))
  codes = np.stack([rows % 4, rows // 4, rows % 2], axis=1)
  books = np.random.default_rng(0).standard_normal((3, 4, 2))
  return tables.CodeTable.from_codes(
    codes, books.astype(np.float32), composition="concat", vocabulary=words
  )


def island_of(page: str) -> dict[str, Any]:
  """Returns the data of a page, as a browser would find them."""
  pattern = r'<script type="application/json" id="data">(.*?)</script>'
  (found,) = re.findall(pattern, page, re.DOTALL)
  return json.loads(found)
