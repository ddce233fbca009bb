"""English text that every Python has: what its own library says about itself.

The docstrings and the block comments of the standard library and the topics of
``help()`` are about 600,000 words of technical prose. They are read from the
interpreter's own folder, so that experiments run with no file and no network;
the text changes a little from one version of Python to the next.
"""

import ast
import hashlib
import pathlib
import platform
import re
import sys
import sysconfig
import tokenize as source_code
import warnings
from collections.abc import Iterable, Iterator, Mapping

from experiments.datasets import text

# The tests and their like are programs rather than prose; the pages of
# `pydoc_data` are read as topics.
_LEFT_OUT = frozenset({"idlelib", "lib2to3", "pydoc_data", "turtledemo"})
_TESTS = frozenset({"test", "tests", "idle_test"})
_DOCUMENTED = (
  ast.Module,
  ast.ClassDef,
  ast.FunctionDef,
  ast.AsyncFunctionDef,
)
_BLANK_LINES = re.compile(r"\n\s*\n")

Paragraph = tuple[tuple[str, ...], ...]
"""The words of each line of a paragraph."""


def load_stdlib(root: pathlib.Path | None = None) -> text.TextDataset:
  """Loads the text of the standard library as a data set of words.

  A module or package of the top level, or a topic, goes wholly to one split,
  about 90, 5 and 5 % of the tokens. A paragraph that occurs several times is
  kept once, so none is in two splits. A word is in the vocabulary if it occurs
  at least twice in training.

  Args:
    root: Folder of the library, that of the running interpreter by default.

  Returns:
    The data set. It is the same for the same sources: Linux distributions may
    package a part of them, such as `tkinter`, apart.

  Raises:
    FileNotFoundError: If this Python came without sources and topics.
  """
  root = root or pathlib.Path(sysconfig.get_paths()["stdlib"])
  documents = unique_paragraphs({**read_modules(root), **read_topics()})
  if not documents:
    raise FileNotFoundError(
      f"`stdlib` needs the sources of Python's standard library in {root} "
      "or the module `pydoc_data.topics`, and this installation has "
      "neither. Install the full package of Python, or pass another text."
    )
  streams = {name: list(_words(found)) for name, found in documents.items()}
  chosen = split_documents({name: len(ws) for name, ws in streams.items()})
  splits = {split: [] for split in text.SPLITS}
  for name, words in streams.items():
    splits[chosen[name]].extend(words)
  return text.make_text_dataset(
    "stdlib",
    splits,
    min_count=2,
    source=f"standard library of Python {platform.python_version()}, PSF-2.0",
  )


def read_modules(root: pathlib.Path) -> dict[str, list[str]]:
  """Reads docstrings and block comments of the library, by top-level module.

  Args:
    root: Folder that holds the sources of the standard library.

  Returns:
    The texts of each module or package in the order of the sources. Tests,
    other people's packages and files that do not parse are left out.
  """
  modules = {}
  for module in sorted(sys.stdlib_module_names - _LEFT_OUT):
    paths = [root / f"{module}.py", *sorted((root / module).rglob("*.py"))]
    texts = [
      prose
      for path in paths
      if path.is_file() and _TESTS.isdisjoint(path.relative_to(root).parts)
      for prose in read_prose(path)
    ]
    if texts:
      modules[module] = texts
  return modules


def read_topics() -> dict[str, list[str]]:
  """Returns the pages of ``help()`` by name, none where they are missing."""
  try:
    from pydoc_data import topics
  except ImportError:
    return {}
  return {
    f"help {name}": [page] for name, page in sorted(topics.topics.items())
  }


def read_prose(path: pathlib.Path) -> list[str]:
  """Returns the docstrings and block comments of a file in their order.

  Args:
    path: A Python file.

  Returns:
    The texts without indentation and comment signs; nothing if the file does
    not parse.
  """
  try:
    with source_code.open(path) as file, warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Of old code, such as "\d".
      code = file.read()
      tree = ast.parse(code)
  except (SyntaxError, ValueError):
    return []  # Somebody else's file, or one for another version of Python.
  statements = [tree, *_statements(tree)]
  found = [*_docstrings(statements), *_comments(code, statements)]
  return [prose for _, prose in sorted(found)]


def _statements(node: ast.AST) -> Iterator[ast.AST]:
  """Yields the statements in a node, without a look at their expressions."""
  for child in ast.iter_child_nodes(node):
    if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
      yield child
      yield from _statements(child)


def _docstrings(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
  for node in nodes:
    if isinstance(node, _DOCUMENTED) and (prose := ast.get_docstring(node)):
      yield node.body[0].lineno, prose


def _comments(code: str, nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
  """Yields the comments that have lines of their own between statements."""
  inside = set()
  for node in nodes:
    if isinstance(node, ast.stmt) and not hasattr(node, "body"):
      inside.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
  block = []
  for number, line in enumerate([*code.split("\n"), ""], start=1):
    line = line.strip()
    if line.startswith("#") and number not in inside:
      block.append(line.lstrip("#").strip())
    elif block:
      yield number - len(block), "\n".join(block)
      block = []


def unique_paragraphs(
  documents: Mapping[str, Iterable[str]],
) -> dict[str, list[Paragraph]]:
  r"""Cuts texts into paragraphs and keeps the first of equal ones.

  Args:
    documents: Texts by the name of their document.

  Returns:
    The paragraphs of each document that has any of its own. Lines without a
    word, such as rules and underlines, are left out.

  >>> unique_paragraphs({"a": ["One.\n---\n\nTwo."], "b": ["Two."]})
  {'a': [(('One', '.'),), (('Two', '.'),)]}
  """
  seen, result = set(), {}
  for name, texts in documents.items():
    for lines in _BLANK_LINES.split("\n\n".join(texts)):
      tokens = map(text.tokenize, lines.split("\n"))
      paragraph = tuple(tuple(line) for line in tokens if _has_word(line))
      if paragraph and paragraph not in seen:
        seen.add(paragraph)
        result.setdefault(name, []).append(paragraph)
  return result


def _has_word(tokens: Iterable[str]) -> bool:
  return any(token[0].isalnum() or token[0] == "_" for token in tokens)


def _words(paragraphs: Iterable[Paragraph]) -> Iterator[str]:
  for paragraph in paragraphs:
    for line in paragraph:
      yield from line
      yield text.END_OF_LINE


def split_documents(
  sizes: Mapping[str, int], *, share: float = 0.05
) -> dict[str, str]:
  """Chooses the documents of the validation and the test split.

  In the order of the SHA-256 of their names, documents go to test and then to
  valid as long as they fit into the share of those; all others go to train. So
  do the documents that would fill more than an eighth of a share alone.

  Args:
    sizes: Number of tokens of each document.
    share: Largest part of all tokens for valid, and for test, below 0.5.

  Returns:
    The split of each document.

  >>> pages = {f"page {i}": 10 for i in range(50)}
  >>> chosen = split_documents(pages, share=0.2)
  >>> [list(chosen.values()).count(split) for split in text.SPLITS]
  [30, 10, 10]
  """
  budget = share * sum(sizes.values())
  room = {"test": budget, "valid": budget}
  chosen = dict.fromkeys(sizes, "train")
  small = [name for name, size in sizes.items() if size <= budget / 8]
  for name in sorted(small, key=_digest):
    split = next((s for s in room if sizes[name] <= room[s]), None)
    if split:
      chosen[name] = split
      room[split] -= sizes[name]
  return chosen


def _digest(name: str) -> str:
  return hashlib.sha256(name.encode()).hexdigest()
