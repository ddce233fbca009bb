"""``anchor-codes report``: one HTML page to explore a table or a run."""

import argparse
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from anchor_codes import formats, tables
from anchor_codes.commands import common, progress
from anchor_codes.report.scope import MAX_SYMBOLS
from anchor_codes.tables import storage


def add(commands: "common.Commands") -> None:
  """Adds the command."""
  command = common.add_command(
    commands,
    "report",
    run,
    about="Writes one HTML page on which to explore a table or a run.",
    examples="embedding.safetensors\n"
    "glove.safetensors --original glove.txt --out glove.html\n"
    "workdir/my_run",
  )
  command.add_argument(
    "file", metavar="FILE", help="a table of ours, or the folder of a run"
  )
  command.add_argument(
    "--out",
    metavar="OUT.html",
    help="the page (default: FILE with the suffix .html, or report.html in the "
    "folder)",
  )
  command.add_argument(
    "--original",
    metavar="VECTORS",
    help="what the table was made of: shows neighbours before and after",
  )
  command.add_argument("--tensor", help="which array of VECTORS to take")
  command.add_argument(
    "--symbols",
    type=int,
    default=MAX_SYMBOLS,
    metavar="N",
    help=f"how many can be looked up, the first ones (default: {MAX_SYMBOLS})",
  )


def run(args: argparse.Namespace) -> Iterator[str]:
  """Writes the page, and yields where it is."""
  # Here, and not above: most commands do without it.
  from anchor_codes import report

  out = args.out or default_out(args.file)
  check_target(out)
  if pathlib.Path(args.file).is_dir():
    if args.original is not None:
      raise ValueError(
        "--original needs the file of a table, got the folder of a run."
      )
    report.write_run_report(args.file, out, max_symbols=args.symbols)
  else:
    table = tables.load(args.file, verify=True)
    report.write_report(
      table,
      out,
      name=pathlib.Path(args.file).name,
      original=_read_original(args, table.vocabulary),
      max_symbols=args.symbols,
    )
  file_bytes = os.path.getsize(out)
  if args.json:
    yield common.dump({"file": out, "file_bytes": file_bytes})
  else:
    yield f"{out}: {common.human_bytes(file_bytes)}, open it in a browser"


def default_out(file: str) -> str:
  """Returns where the page of a table or of a folder goes.

  >>> default_out("glove.safetensors")
  'glove.html'
  """
  path = pathlib.Path(file)
  return str(
    path / "report.html" if path.is_dir() else path.with_suffix(".html")
  )


def check_target(out: str) -> None:
  """Refuses a page that cannot be written, before the work.

  Raises:
    ImportError: If a library of the pages is missing.
    ValueError: If the suffix is not .html: another file would be replaced.
    FileNotFoundError: If there is no such folder.
    OSError: If it cannot be written to.
  """
  from anchor_codes.report import writing

  writing.check_extra()
  path = pathlib.Path(out)
  if path.suffix not in (".html", ".htm"):
    raise ValueError(f"The page must end in .html, got {out!r}.")
  if not path.parent.is_dir():
    raise FileNotFoundError(
      f"There is no folder {str(path.parent)!r} for the page."
    )
  storage.check_target(path)


def _read_original(
  args: argparse.Namespace, words: Sequence[str] | None
) -> np.ndarray | None:
  """Reads the vectors, and checks that their words are those of the table."""
  if args.original is None:
    return None
  with progress.showing("reading") as show:
    vectors, found = formats.read(
      args.original, tensor=args.tensor, progress=show
    )
  if words is not None and found is not None:
    check_words(args.original, found, words)
  return vectors


def check_words(path: str, found: Sequence[str], words: Sequence[str]) -> None:
  """Checks that vectors have the words of a table, in their order.

  Raises:
    ValueError: If they differ; it names the first word that does.

  >>> check_words("glove.txt", ["cat", "cow"], ["cat", "dog"])
  Traceback (most recent call last):
  ...
  ValueError: glove.txt must have the words of the table in its order: row 1 is
  'cow' there and 'dog' in the table.
  """
  for row, (its, ours) in enumerate(zip(found, words, strict=False)):
    if its != ours:
      raise ValueError(
        f"{path} must have the words of the table in its order: row {row} is "
        f"{its!r} there and {ours!r} in the table."
      )
