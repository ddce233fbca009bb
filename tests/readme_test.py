"""The README is short, says what to type, and all of it runs."""

import re

import documents

README = documents.ROOT / "README.md"
CONTRIBUTING = documents.ROOT / "CONTRIBUTING.md"
TEXT = README.read_text(encoding="utf-8")
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#([\w-]+))?\)")

PREAMBLE = """
from flax import nnx

import anchor_codes

num_embeddings, features, rngs = 300, 8, nnx.Rngs(0)
"""


def slug(heading):
  """Returns the anchor of a heading, as GitHub and MyST make it."""
  return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_the_blocks_run(tmp_path):
  documents.run_page(README, tmp_path, PREAMBLE)
  assert (tmp_path / "report.html").stat().st_size > 10_000


def test_contributing_runs(tmp_path):
  documents.run_page(CONTRIBUTING, tmp_path)


def test_it_is_short_and_begins_with_the_picture():
  lines = TEXT.splitlines()
  assert len(lines) < 150
  assert lines[2].startswith("![")


def test_the_two_commands_are_there_as_they_are():
  for extra, run in (
    ("experiments", "python -m experiments.compare"),
    ("test", "python -m pytest"),
  ):
    assert f'\n```\npip install -e ".[{extra}]" && {run}\n```\n' in TEXT


def test_links_lead_somewhere():
  for page in (README, CONTRIBUTING, *documents.PAGES):
    for target, anchor in _LINK.findall(page.read_text(encoding="utf-8")):
      path = page.parent / target
      assert path.exists(), f"{page.name}: {target}"
      if anchor:
        headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.M)
        assert anchor in map(slug, headings), f"{page.name}: {target}#{anchor}"


def test_every_layer_is_in_the_table():
  import anchor_codes

  layers = [name for name in anchor_codes.__all__ if name[0].isupper()]
  assert [name for name in layers if f"`{name}`" not in TEXT] == []
