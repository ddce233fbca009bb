"""The page as text: structure, escaping, and all kinds of tables."""

import base64
import hashlib
import html.parser
import json
import re

import numpy as np
import pytest
import report_tables
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes import tables
from anchor_codes.report import pages
from anchor_codes.report.sections import make_section

KINDS = sorted(path.stem for path in report_tables.GOLDEN.glob("*.safetensors"))


class Structure(html.parser.HTMLParser):
  """Collects what a browser would see in a page."""

  def __init__(self, page):
    super().__init__()
    self.tags, self.ids, self.scripts, self.headings = [], [], [], []
    self.links, self.labelled, self.inside = [], [], None
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.tags.append(tag)
    self.inside = tag
    self.links += [attrs[n] for n in ("src", "href") if n in attrs]
    self.ids += [attrs["id"]] if "id" in attrs else []
    if tag == "script":
      self.scripts.append([attrs.get("type"), ""])

  def handle_endtag(self, tag):
    self.inside = None

  def handle_data(self, data):
    if self.inside == "script":
      self.scripts[-1][1] += data


def render(table, **options):
  options = {"name": "table", "max_symbols": 100} | options
  return pages.render([make_section(table, **options)])


def test_there_are_all_kinds():
  assert len(KINDS) == 21


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_page(kind):
  table = tables.load(report_tables.GOLDEN / f"{kind}.safetensors")
  page = render(table, original=table.to_dense())
  island = report_tables.island_of(page)
  (found,) = island["tables"]
  words = table.vocabulary or map(str, range(table.num_embeddings))
  assert found["words"] == list(words)
  assert found["before"] == found["after"]
  charts = set(island["charts"])
  assert charts <= set(Structure(page).ids)
  # Bytes and lengths always; two more for each part with anchors or codes.
  assert len(charts) == 2 + 2 * len(found["components"])
  assert ">100%</bdi>" in page


@pytest.mark.parametrize(
  ("kind", "components"),
  [
    ("anchors_masked", ["anchors"]),
    ("codes_lstm", ["codes"]),
    ("nested", ["codes", "codes"]),
    ("dense_int2", []),
    ("hash", []),
  ],
)
def test_anchors_and_codes_are_found(kind, components):
  table = tables.load(report_tables.GOLDEN / f"{kind}.safetensors")
  (found,) = report_tables.island_of(render(table))["tables"]
  assert [part["kind"] for part in found["components"]] == components


def test_the_page_is_well_formed_and_loads_nothing():
  page = Structure(render(report_tables.code_table()))
  assert len(page.ids) == len(set(page.ids))
  assert page.links == ["data:,"]
  assert page.tags.count("h1") == page.tags.count("main") == 1
  assert page.tags.count("script") == 3
  assert {"iframe", "object", "img", "base"}.isdisjoint(page.tags)


def test_the_policy_allows_the_scripts_of_the_page_alone():
  page = render(report_tables.anchor_table())
  (policy,) = re.findall(r'Security-Policy" content="([^"]*)"', page)
  policy = policy.replace("&#39;", "'")
  scripts = [text for kind, text in Structure(page).scripts if kind is None]
  hashes = [hashlib.sha256(text.encode()).digest() for text in scripts]
  sources = [f"'sha256-{base64.b64encode(h).decode()}'" for h in hashes]
  assert f"script-src {' '.join(sources)};" in policy
  assert policy.startswith("default-src 'none';")
  assert "unsafe-eval" not in policy
  # No policy of the scripts, which a word might run under.
  assert "'unsafe-inline'" not in policy.split("style-src")[0]


def test_no_script_holds_what_would_end_it():
  for script in (pages._bundle(), pages._script()):
    assert "</script" not in script.lower()
    assert "<!--" not in script


@pytest.mark.parametrize("make", ["anchor_table", "code_table"])
def test_hostile_words_stay_data(make):
  words = report_tables.HOSTILE
  table = getattr(report_tables, make)(words)
  page = render(table, name="<script>alert(3)</script>")
  plain = Structure(render(getattr(report_tables, make)()))
  # Words and names bring no element into the page.
  assert Structure(page).tags == plain.tags
  (found,) = report_tables.island_of(page)["tables"]
  assert found["words"] == list(words)
  assert "alert(3)</script>" not in page
  assert "<title>&lt;script&gt;alert(3)&lt;/script&gt;</title>" in page


@given(st.text())
def test_the_island_gives_back_any_text(text):
  island = pages.to_island([text])
  assert json.loads(island) == [text]
  assert not set("<>&\u2028\u2029") & set(island)


def test_few_symbols_are_shown_and_the_page_says_so():
  vectors = np.eye(50, dtype=np.float32)
  page = render(tables.DenseTable(vectors), max_symbols=3)
  assert "The first 3 of 50 symbols are here" in page
  assert "among the first 30" in page
  (found,) = report_tables.island_of(page)["tables"]
  assert found["words"] == ["0", "1", "2"]
  # Neighbours of the symbols shown have names, too.
  assert set(found["others"]) <= {str(i) for i in range(3, 30)}
  assert "All 50 symbols are here" in render(tables.DenseTable(vectors))


def test_quality_is_shown_as_it_was_stored():
  vectors = np.eye(3, dtype=np.float32)
  for quality, shown in [
    ('{"cosine": 0.98765}', "cosine, as stored"),
    ("fine", "quality, as stored"),
    ("[1]", "quality, as stored"),
  ]:
    page = render(tables.DenseTable(vectors, quality=quality))
    assert shown in page
  assert "as stored" not in render(tables.DenseTable(vectors))


def test_the_curve_of_a_compression_is_drawn():
  trials = [
    {"recipe": "int8", "nbytes": 60, "quality": {"error": 0.5}, "chosen": True},
    {"recipe": "pq", "nbytes": 30, "quality": {"error": 0.7}, "chosen": False},
  ]
  curve = {"metric": "error", "budget": 70, "trials": trials}
  curve["quality"] = {"error": 0.4}
  island = report_tables.island_of(
    render(report_tables.anchor_table(), curve=curve)
  )
  drawn = json.dumps(island["charts"])
  assert '"recipe": "pq"' in drawn
  assert '"quality": 0.7' in drawn
  assert '"quality": 0.4' in drawn  # Of the table, not of its trial.
  assert '"quality": 0.5' not in drawn
  assert '"bytes": 70' in drawn


def test_one_row_of_zeros_has_a_page():
  page = render(tables.DenseTable(np.zeros((1, 2), np.float32)))
  assert report_tables.island_of(page)["tables"][0]["words"] == ["0"]
