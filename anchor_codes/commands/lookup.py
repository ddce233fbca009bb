"""``anchor-codes lookup``: the vectors of some words or ids."""

import argparse
from collections.abc import Iterator

from anchor_codes import tables
from anchor_codes.commands import common


def add(commands: "common.Commands") -> None:
  """Adds the command."""
  command = common.add_command(
    commands,
    "lookup",
    run,
    about="Prints the vectors of words or ids, one on each line.",
    examples="embedding.safetensors cat dog 17\n"
    "embedding.safetensors cat --json",
  )
  common.add_table(command)
  common.add_symbols(command)


def run(args: argparse.Namespace) -> Iterator[str]:
  """Yields one line for each symbol; in JSON, an object on each line."""
  table = tables.load(args.file, verify=True)
  ids = [common.find_id(table, symbol) for symbol in args.symbols]
  for symbol, i, vector in zip(
    args.symbols, ids, table.lookup(ids), strict=True
  ):
    # The shortest digits that give the same float32.
    values = [str(value) for value in vector]
    if args.json:
      numbers = [float(value) for value in values]
      yield common.dump({"symbol": symbol, "id": i, "vector": numbers})
    else:
      yield " ".join([symbol, *values])
