"""The documentation runs as it is written, and lists every public name."""

import contextlib
import importlib
import inspect
import json
import re
import subprocess
import sys

import documents
import numpy as np
import pytest

import anchor_codes
from anchor_codes import tables

API = documents.ROOT / "docs" / "api"
PARTS = sorted(
  {n for n in anchor_codes.__all__ if n.islower() and n[0] != "_"} | {"report"}
)
_DIRECTIVE = re.compile(r"^\.\. (?:auto\w+|py:data):: (\w+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)")
_MOST_NOT_RUN = 3

PREAMBLES = {
  "scaling.md": """
import jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx
from anchor_codes import steps, training

class Model(nnx.Module):
  def __init__(self, rngs):
    self.items = nnx.Embed(10, 4, rngs=rngs)

step = steps.row_sparse_train_step(
  lambda model, batch: model.items(batch["item"]).sum(),
  optimizer=optax.sgd(0.1),
  tables={"items": steps.RowOptions(fields=["item"], optimizer=optax.sgd(0.1))},
)
model, num_devices = Model(nnx.Rngs(0)), jax.device_count()
"""
}


def page_id(page):
  return str(page.relative_to(documents.ROOT))


def names_on(page):
  """Returns the names that a page of the reference documents."""
  return _DIRECTIVE.findall(page.read_text(encoding="utf-8"))


def parse_flags(commands):
  """Returns what is wrong with commands: a place, a module, arguments."""
  run = subprocess.run(
    [sys.executable, "tests/parse_flags.py"],
    cwd=documents.ROOT,
    input=json.dumps(commands),
    capture_output=True,
    text=True,
    check=True,
  )
  return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("page", documents.PAGES, ids=page_id)
def test_the_blocks_run(page, tmp_path):
  documents.run_page(page, tmp_path, PREAMBLES.get(page.name, ""))


PAGE = """
```python
x = 1
```
```python
>>> x + 1
%s
```
<!-- not run: it would fail -->
```python
raise ValueError
```
```text
not a command
```
```sh
%s
```
"""


@pytest.mark.parametrize(
  ("value", "command", "error"),
  [
    ("2", "pip install x && anchor-codes lookup t.st 0  # Yes.", ""),
    ("3", "", r"page\.md:6: x \+ 1\nexpected 3\ngot 2"),
    ("2", "rm -r /", r"page\.md:17: no test knows the command 'rm -r /'"),
    ("2", "anchor-codes inspect nothing", r"page\.md:17: anchor-codes inspect"),
  ],
)
def test_what_is_wrong_on_a_page_is_found(value, command, error, tmp_path):
  page = tmp_path / "page.md"
  page.write_text(PAGE % (value, command), encoding="utf-8")
  folder = tmp_path / "run"
  folder.mkdir()
  tables.DenseTable(np.ones((1, 2), np.float32)).save(folder / "t.st")
  context = contextlib.nullcontext()
  if error:
    context = pytest.raises(AssertionError, match=error)
  with context:
    documents.run_page(page, folder)


def test_few_blocks_are_not_run():
  pages = [*documents.PAGES, documents.ROOT / "README.md"]
  blocks = [b for page in pages for b in documents.read_blocks(page)]
  places = [f"{b.place}: {b.reason}" for b in blocks if b.reason]
  assert len(places) <= _MOST_NOT_RUN, places


def test_commands_of_experiments_have_the_flags_they_are_given():
  pages = [*documents.PAGES]
  pages += [documents.ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
  commands = [
    [place, *words]
    for page in pages
    for place, words in documents.experiment_commands(page)
  ]
  assert len(commands) > 20
  assert parse_flags(commands) == []


def test_wrong_flags_are_found():
  found = parse_flags(
    [
      ["a", "experiments.compare", "--quik"],
      ["b", "experiments.compare", "--quick"],
      ["c", "experiments.train_recommender", "--config.embeding=full"],
      ["d", "experiments.train_recommender"],
      ["e (inline)", "experiments.train_recommender"],
    ]
  )
  assert [text[0] for text in found] == ["a", "c", "d"]
  assert "embeding" in found[1]
  assert "--workdir" in found[2]


def public_names(module):
  """Returns what a part offers: its list, else the functions it defines."""
  if hasattr(module, "__all__"):
    return module.__all__
  functions = inspect.getmembers(module, inspect.isfunction)
  own = (n for n, value in functions if value.__module__ == module.__name__)
  return [name for name in own if not name.startswith("_")]


@pytest.mark.parametrize("part", PARTS)
def test_the_reference_lists_every_public_name(part):
  pages = sorted(API.glob(f"{part}*.md"))
  names = [name for page in pages for name in names_on(page)]
  module = importlib.import_module(f"anchor_codes.{part}")
  assert len(names) == len(set(names))
  assert sorted(names) == sorted(public_names(module))


def test_the_first_page_of_the_reference_lists_the_short_names():
  text = (API / "index.md").read_text(encoding="utf-8")
  missing = [n for n in anchor_codes.__all__ if f"`{n}`" not in text]
  assert missing == []


@pytest.mark.parametrize("page", documents.PAGES, ids=page_id)
def test_links_lead_to_files(page):
  content = page.read_text(encoding="utf-8")
  targets = [page.parent / link for link in _LINK.findall(content)]
  assert [str(t) for t in targets if not t.exists()] == []


def test_every_page_is_in_the_contents():
  index = (documents.ROOT / "docs" / "index.md").read_text(encoding="utf-8")
  reference = (API / "index.md").read_text(encoding="utf-8")
  for page in documents.PAGES:
    if page.name != "index.md":
      text = reference if page.parent == API else index
      assert re.search(rf"^{page.stem}$", text, re.MULTILINE), page


def test_no_page_is_longer_than_a_reader_has_patience():
  for page in documents.PAGES:
    if page.name != "results.md":
      lines = page.read_text(encoding="utf-8").splitlines()
      assert len(lines) <= 300, page
