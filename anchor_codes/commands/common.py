"""What the commands share: how they are added, and how values are shown."""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from anchor_codes import accounting, tables

human_bytes = accounting.human_bytes

if TYPE_CHECKING:
  Commands = argparse._SubParsersAction
  Run = Callable[[argparse.Namespace], Iterator[str]]


def add_command(
  commands: "Commands", name: str, run: "Run", *, about: str, examples: str
) -> argparse.ArgumentParser:
  """Adds a command that can answer in JSON.

  Args:
    commands: What `add_subparsers` returned.
    name: The word on the command line.
    run: Yields the lines of the answer.
    about: A sentence on what it does.
    examples: The arguments of a few uses, one use on each line.
  """
  lines = [f"  anchor-codes {name} {line}" for line in examples.splitlines()]
  command = commands.add_parser(
    name,
    help=about,
    description=about,
    epilog="\n".join(["examples:", *lines]),
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  command.add_argument("--json", action="store_true", help="answer in JSON")
  command.set_defaults(run=run)
  return command


def add_table(command: argparse.ArgumentParser) -> None:
  """Adds the file of a table as the first argument."""
  command.add_argument("file", metavar="FILE", help="a table of ours")


def add_symbols(command: argparse.ArgumentParser) -> None:
  """Adds one or more words or ids as the last arguments."""
  command.add_argument(
    "symbols",
    metavar="WORD_OR_ID",
    nargs="+",
    help="a word of the vocabulary, else the number of a row; behind -- words "
    "may begin with a dash",
  )


def find_id(table: tables.Table, symbol: str) -> int:
  """Finds a word of the vocabulary; a number that is no word is an id.

  Raises:
    KeyError: If the vocabulary does not have the word.
    ValueError: If there is no vocabulary.
    IndexError: If the id is out of range.
  """
  try:
    return int(table.ids_of([symbol])[0])
  except (KeyError, ValueError):
    # A negative number is let through, to be refused as an id: "no such word"
    # would mislead.
    if not symbol.removeprefix("-").isdecimal():
      raise
  number = int(symbol)
  if not 0 <= number < table.num_embeddings:
    raise IndexError(
      f"id {symbol} is out of range for a table of {table.num_embeddings} "
      f"rows: ids must lie in [0, {table.num_embeddings})."
    )
  return number


def dump(value: Any) -> str:
  """Writes JSON on one line; words stay as they are."""
  return json.dumps(value, ensure_ascii=False)


def columns(rows: Iterable[Sequence[str]], *, left: int = 1) -> Iterator[str]:
  r"""Lines up the cells of some rows.

  Args:
    rows: Cells; as many in each row.
    left: How many columns start at the left; the others end at the right.

  >>> print(*columns([("word", "score"), ("cat", "1.5")]), sep="\n")
  word  score
  cat     1.5
  """
  rows = [tuple(row) for row in rows]
  widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
  for row in rows:
    cells = [
      cell.ljust(width) if i < left else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    yield "  ".join(cells).rstrip()
