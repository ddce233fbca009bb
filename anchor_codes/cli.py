"""The command ``anchor-codes``: looks into the files of compact tables."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence

from anchor_codes import tables

_EPILOG = """\
examples:
  anchor-codes info embedding.safetensors
  anchor-codes lookup embedding.safetensors cat dog 17
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line.

  Args:
    argv: The arguments, those of the process by default.

  Returns:
    The exit code: 0, or 2 after one line on stderr that says what is wrong.

  >>> main(["info", "no-such-file.safetensors"])
  2
  """
  args = _parser().parse_args(argv)
  try:
    for line in args.run(args):
      print(line)
  except (OSError, ValueError, LookupError) as error:
    # What users can cause. Any other error is a bug, and keeps its traceback.
    # A KeyError shows its message in quotes, but has it as it was written.
    message = error.args[0] if isinstance(error, KeyError) else error
    # Split and joined again: one line, however the message was broken.
    print("anchor-codes:", *str(message).split(), file=sys.stderr)
    return 2
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="anchor-codes",
    description="Looks into the file of a compact embedding table.",
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(required=True, metavar="COMMAND")
  text = "Shows what a file holds, and verifies its checksums."
  info = commands.add_parser("info", help=text, description=text)
  text = "Prints vectors, one JSON object on each line."
  lookup = commands.add_parser("lookup", help=text, description=text)
  for command, run in ((info, _info), (lookup, _lookup)):
    command.set_defaults(run=run)
    command.add_argument("file", metavar="FILE", help="a .safetensors file")
  lookup.add_argument(
    "symbols",
    metavar="SYMBOL_OR_ID",
    nargs="+",
    help="a word of the vocabulary, else the number of a row",
  )
  return parser


def _info(args: argparse.Namespace) -> Iterator[str]:
  table = tables.load(args.file, verify=True)
  rows = {
    "file": args.file,
    **table.metadata,
    "vocabulary": "no" if table.vocabulary is None else "yes",
    "parameters": f"{table.num_params:,}",
    "bits per row": f"{table.bits_per_row:,}",
    "bytes": f"{table.nbytes:,}",
    "dense bytes": f"{table.dense_bytes:,}",
    "compression ratio": f"{table.compression_ratio:.2f}",
    "checksums": "verified",
  }
  for name, value in rows.items():
    yield f"{name.replace('_', ' '):18} {value}"
  yield ""
  yield f"{'tensor':18} {'dtype':8} {'shape':20} {'bytes':>14}"
  for name, array in table.tensors.items():
    shape = " x ".join(map(str, array.shape))
    yield f"{name:18} {array.dtype.name:8} {shape:20} {array.nbytes:14,}"


def _lookup(args: argparse.Namespace) -> Iterator[str]:
  table = tables.load(args.file, verify=True)
  ids = [_id_of(table, symbol) for symbol in args.symbols]
  for symbol, i, vector in zip(
    args.symbols, ids, table.lookup(ids), strict=True
  ):
    # The shortest digits that give the same float32.
    values = [float(str(value)) for value in vector]
    yield json.dumps({"symbol": symbol, "id": i, "vector": values})


def _id_of(table: tables.Table, symbol: str) -> int:
  """Finds a word of the vocabulary; a number that is no word is an id."""
  known = table.vocabulary is not None and symbol in table.vocabulary
  # A negative number is let through for the lookup to refuse it as an id;
  # "no such word" would mislead.
  if not known and symbol.removeprefix("-").isdecimal():
    return int(symbol)
  return int(table.ids_of([symbol])[0])


if __name__ == "__main__":
  sys.exit(main())
