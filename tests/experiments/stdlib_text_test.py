"""Tests of the text that comes with Python."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.datasets import stdlib, text

MODULE = '''\
# -*- coding: latin-1 -*-
"""First caf\xe9.

  >>> 1
"""

# A block
# of comments.
x = """
# Part of a string.
"""
y = [  # At the end of a line.
  1,
  # Inside a statement.
]


class Thing:
  """Second."""

  def method(self):
    \'\'\'Third.\'\'\'
    try:
      # Nested.
      return 1
    except ValueError:
      # Handled.
      "no docstring"


async def wait():
  r"""Fourth \\d."""
'''
PROSE = [
  "-*- coding: latin-1 -*-",
  "First caf\xe9.\n\n>>> 1",
  "A block\nof comments.",
  "Second.",
  "Third.",
  "Nested.",
  "Handled.",
  "Fourth \\d.",
]


@pytest.fixture(scope="module", name="data")
def fixture_data():
  return stdlib.load_stdlib()


def digest(data):
  words = "\n".join(data.vocabulary).encode()
  ids = [getattr(data, split).tobytes() for split in text.SPLITS]
  return hashlib.sha256(b"".join([words, *ids])).hexdigest()


def write(path, content, encoding="utf-8"):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(content, encoding=encoding)
  return path


def test_prose_is_docstrings_and_comments_in_order(tmp_path):
  path = write(tmp_path / "module.py", MODULE, "latin-1")
  assert stdlib.read_prose(path) == PROSE


@pytest.mark.parametrize(
  "content", [b"def f(:", b"\xff\xfe", b"x = '\x00'", b"# coding: nonsense\n"]
)
def test_files_that_do_not_parse_have_no_prose(tmp_path, content):
  path = tmp_path / "broken.py"
  path.write_bytes(content)
  assert stdlib.read_prose(path) == []


def test_old_escapes_are_no_warning(tmp_path):
  path = write(tmp_path / "old.py", '"""Matches \\d."""\n')
  assert stdlib.read_prose(path) == ["Matches \\d."]


def test_a_comment_may_end_a_file(tmp_path):
  path = write(tmp_path / "short.py", "x = 1\n## Last.")
  assert stdlib.read_prose(path) == ["Last."]


def test_modules_are_those_of_the_library(tmp_path):
  write(tmp_path / "abc.py", '"""Abc."""')
  write(tmp_path / "json" / "decoder.py", '"""Decoder."""')
  write(tmp_path / "json" / "__init__.py", '"""Json."""')
  write(tmp_path / "json" / "tests" / "speed.py", '"""Left out."""')
  write(tmp_path / "unittest" / "test" / "dummy.py", '"""Left out."""')
  write(tmp_path / "idlelib" / "help.py", '"""Left out."""')
  write(tmp_path / "test" / "support.py", '"""Left out."""')
  write(tmp_path / "site-packages" / "theirs.py", '"""Left out."""')
  write(tmp_path / "sitecustomize.py", '"""Left out."""')
  write(tmp_path / "bisect.py", "x = 1")
  assert stdlib.read_modules(tmp_path) == {
    "abc": ["Abc."],
    "json": ["Json.", "Decoder."],
  }


def test_paragraphs_are_unique_over_documents():
  documents = {
    "first": ["One two.\n\nThree.\n \t\nOne two.", "Four."],
    "second": ["Three.", "  One   two. "],
    "third": ["Five.\n====\nSix."],
  }
  assert stdlib.unique_paragraphs(documents) == {
    "first": [(("One", "two", "."),), (("Three", "."),), (("Four", "."),)],
    "third": [(("Five", "."), ("Six", "."))],
  }


@given(
  st.dictionaries(st.text(max_size=5), st.integers(0, 500), max_size=60),
  st.floats(0, 0.5),
)
def test_splits_keep_to_their_share(sizes, share):
  chosen = stdlib.split_documents(sizes, share=share)
  assert list(chosen) == list(sizes)
  assert set(chosen.values()) <= set(text.SPLITS)
  for split in ("valid", "test"):
    used = sum(sizes[name] for name in sizes if chosen[name] == split)
    assert used <= share * sum(sizes.values()) + 1e-6


@given(st.permutations(range(40)))
def test_splits_do_not_depend_on_the_order(order):
  sizes = {f"module{i}": 5 + i for i in range(40)}
  shuffled = {f"module{i}": 5 + i for i in order}
  chosen = stdlib.split_documents(sizes, share=0.3)
  assert stdlib.split_documents(shuffled, share=0.3) == chosen
  assert set(chosen.values()) == set(text.SPLITS)


def test_large_documents_are_for_training():
  sizes = {"large": 900} | {f"small{i}": 1 for i in range(100)}
  assert stdlib.split_documents(sizes)["large"] == "train"


def test_vocabulary_is_large(data):
  assert 10_000 <= len(data.vocabulary) <= 20_000
  assert len(set(data.vocabulary)) == len(data.vocabulary)
  assert data.vocabulary[0] == "<eos>"
  assert {"the", "<unk>", "os.path", "non-empty"} <= set(data.vocabulary)


def test_sizes_of_splits(data):
  sizes = {split: len(getattr(data, split)) for split in text.SPLITS}
  total = sum(sizes.values())
  assert 400_000 <= total <= 1_500_000
  for split in ("valid", "test"):
    assert 0.045 <= sizes[split] / total <= 0.05
  for split in text.SPLITS:
    ids = getattr(data, split)
    assert ids.min() >= 0
    assert ids.max() < len(data.vocabulary)


def test_rates_of_unknown_words(data):
  for split, bounds in {"train": (0, 0.03), "test": (0.01, 0.1)}.items():
    ids = getattr(data, split)
    unknown = data.vocabulary.index("<unk>")
    assert (ids == unknown).sum() == data.unknown_counts[split]
    assert bounds[0] < data.unknown_counts[split] / len(ids) < bounds[1]


def test_lines_are_not_blank(data):
  end = data.vocabulary.index("<eos>")
  for split in text.SPLITS:
    ends = getattr(data, split) == end
    assert not (ends[1:] & ends[:-1]).any()
    assert ends[-1]


def test_source_names_version_and_licence(data):
  version = ".".join(map(str, sys.version_info[:3]))
  assert version in data.source
  assert "PSF" in data.source


def test_text_does_not_depend_on_the_process(tmp_path):
  # A part of the library is enough, which takes less time to read.
  for path in sorted(pathlib.Path(os.__file__).parent.glob("[a-c]*.py")):
    shutil.copy(path, tmp_path)
  code = (
    "import pathlib, sys, stdlib_text_test as t; "
    "print(t.digest(t.stdlib.load_stdlib(pathlib.Path(sys.argv[1]))))"
  )
  folder = os.path.dirname(__file__)
  root = os.path.dirname(os.path.dirname(folder))
  environment = os.environ | {
    "PYTHONHASHSEED": "7",
    "PYTHONPATH": os.pathsep.join([root, folder]),
  }
  run = subprocess.run(
    [sys.executable, "-c", code, str(tmp_path)],
    env=environment,
    capture_output=True,
    text=True,
    check=True,
  )
  assert run.stdout.strip() == digest(stdlib.load_stdlib(tmp_path))


def test_topics_alone_are_enough(tmp_path):
  data = stdlib.load_stdlib(tmp_path)
  assert 10_000 < len(data.train) < 200_000


def test_modules_alone_are_enough(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "pydoc_data", None)
  write(tmp_path / "abc.py", '"""hello hello"""')
  data = stdlib.load_stdlib(tmp_path)
  assert data.vocabulary == ("hello", "<unk>")


def test_a_library_without_text_is_an_error(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "pydoc_data", None)
  with pytest.raises(FileNotFoundError, match="sources of Python's standard"):
    stdlib.load_stdlib(tmp_path)
