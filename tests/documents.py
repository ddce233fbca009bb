"""Runs the blocks of Markdown pages, as `docs_test` and `readme_test` want."""

import contextlib
import dataclasses
import doctest
import os
import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from anchor_codes import cli

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))

_FENCE = re.compile(
  r"^(?:<!-- not run: (?P<reason>.+?) -->\n+)?"
  r"^```(?P<language>[^\n`]*)\n(?P<text>.*?)^```$",
  re.MULTILINE | re.DOTALL,
)
_INLINE = re.compile(r"`(python -m experiments\.\w[^`…]*)`")
# What is not for a test to run: it installs, or is a stage of its own.
_OTHER_COMMANDS = (
  "pip install",
  "python -m pytest",
  "python -m venv",
  "source",
  "sphinx-build",
  ".ci/run",
)


@dataclasses.dataclass(frozen=True)
class Block:
  """A block of a page.

  Attributes:
    page: The file.
    line: The line of its first line of text, from 1.
    language: What stands behind the fence; '' for a plain one.
    text: The text.
    reason: Why it is not run, or ''.
  """

  page: pathlib.Path
  line: int
  language: str
  text: str
  reason: str

  @property
  def place(self) -> str:
    return f"{os.path.relpath(self.page, ROOT)}:{self.line}"

  @property
  def is_shell(self) -> bool:
    return self.language in ("", "sh", "bash")


def read_blocks(page: pathlib.Path) -> Iterator[Block]:
  """Yields the blocks of a page, from the first to the last."""
  content = page.read_text(encoding="utf-8")
  for match in _FENCE.finditer(content):
    line = content.count("\n", 0, match.start("text")) + 1
    reason = match["reason"] or ""
    yield Block(page, line, match["language"].strip(), match["text"], reason)


def commands(text: str) -> Iterator[list[str]]:
  """Yields the commands of a shell block, as lists of words."""
  for line in text.replace("\\\n", " ").splitlines():
    for command in line.split("&&"):
      if words := shlex.split(command, comments=True):
        yield words


def experiment_commands(page: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
  """Yields the place and the words of each command that trains or measures."""
  content = page.read_text(encoding="utf-8")
  for block in read_blocks(page):
    if block.is_shell and not block.reason:
      for words in commands(block.text):
        if " ".join(words).startswith("python -m experiments."):
          yield block.place, words[2:]
  for match in _INLINE.finditer(content):
    line = content.count("\n", 0, match.start()) + 1
    words = shlex.split(match[1])[2:]
    yield f"{page.relative_to(ROOT)}:{line} (inline)", words


def run_page(
  page: pathlib.Path, folder: pathlib.Path, preamble: str = ""
) -> None:
  """Runs what a page tells to run, in order, in one namespace.

  Args:
    page: The file.
    folder: An empty folder, the current one while the page runs.
    preamble: Python that runs first.
  """
  names: dict[str, Any] = {"__name__": "__main__"}
  make_files(folder)
  # As readers have it: promotion of types and ranks is not strict.
  with (
    contextlib.chdir(folder),
    jax.numpy_dtype_promotion("standard"),
    jax.numpy_rank_promotion("allow"),
  ):
    exec(preamble, names)
    for block in read_blocks(page):
      if not block.reason:
        _run_block(block, names)


def _run_block(block: Block, names: dict[str, Any]) -> None:
  if block.is_shell:
    for words in commands(block.text):
      _run_command(block, words)
  elif block.language == "python" and ">>>" in block.text:
    _run_doctest(block, names)
  elif block.language == "python":
    # Blank lines before it: tracebacks show the line of the page.
    source = "\n" * (block.line - 1) + block.text
    exec(compile(source, str(block.page), "exec"), names)


def _run_doctest(block: Block, names: dict[str, Any]) -> None:
  parser = doctest.DocTestParser()
  test = parser.get_doctest(
    block.text, names, block.place, str(block.page), block.line - 1
  )
  flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
  runner = doctest.DebugRunner(verbose=False, optionflags=flags)
  try:
    runner.run(test, clear_globs=False)
  except doctest.DocTestFailure as failure:
    raise AssertionError(
      f"{block.place}: {failure.example.source}expected "
      f"{failure.example.want}got {failure.got}"
    ) from None
  names.update(test.globs)


def _run_command(block: Block, words: list[str]) -> None:
  if words[0] == "anchor-codes":
    assert cli.main(words[1:]) == 0, f"{block.place}: {shlex.join(words)}"
    return
  command = " ".join(words)
  known = command.startswith((*_OTHER_COMMANDS, "python -m experiments."))
  assert known, f"{block.place}: no test knows the command {command!r}"


def make_files(folder: pathlib.Path) -> None:
  """Makes the files that pages speak of."""
  rng = np.random.default_rng(0)
  # Words of a few groups, so that there is something to compress.
  words = ["king", "queen", "music", "cat", "dog", "paris"]
  words += [f"word{i}" for i in range(600 - len(words))]
  centers = rng.standard_normal((12, 32))
  vectors = centers[np.arange(len(words)) % 12]
  vectors = vectors + 0.3 * rng.standard_normal(vectors.shape)
  vectors = vectors.astype(np.float32)
  lines = [
    f"{word} {' '.join(f'{x:.4f}' for x in row)}"
    for word, row in zip(words, vectors, strict=True)
  ]
  (folder / "glove.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
  np.save(folder / "items.npy", vectors)
  np.save(folder / "counts.npy", 1000.0 / np.arange(1, len(words) + 1))
  golden = ROOT / "tests" / "tables" / "golden"
  (folder / "golden").symlink_to(golden, target_is_directory=True)
