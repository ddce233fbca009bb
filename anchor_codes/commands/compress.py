"""``anchor-codes compress``: makes a table smaller and says what it cost."""

import argparse
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from anchor_codes import accounting, formats
from anchor_codes.commands import common, progress, reporting
from anchor_codes.formats import matrix
from anchor_codes.tables import storage

METRICS = ("error", "cosine", "neighbors")


def add(commands: "common.Commands") -> None:
  """Adds the command."""
  command = common.add_command(
    commands,
    "compress",
    run,
    about="Makes a table smaller and lists what was tried.",
    examples="glove.txt glove.safetensors --ratio 30\n"
    "items.npy items.safetensors --budget 300000 --metric neighbors\n"
    "model.safetensors small.safetensors --ratio 8 "
    "--tensor embed_tokens.weight",
  )
  command.add_argument("source", metavar="IN", help="vectors in any format")
  command.add_argument("out", metavar="OUT", help="the .safetensors to write")
  _add_budget(command)
  command.add_argument(
    "--recipe",
    default="auto",
    help="a family such as 'opq', or one as the answer lists them (default: "
    "auto, the best of all)",
  )
  command.add_argument(
    "--metric",
    choices=METRICS,
    default="error",
    help="what 'auto' judges by (default: error)",
  )
  command.add_argument("--tensor", help="which array of IN has the vectors")
  command.add_argument(
    "--weights", metavar="FILE.npy", help="how much each row counts"
  )
  command.add_argument(
    "--hot",
    type=int,
    default=0,
    metavar="N",
    help="keep the N rows of the largest weights, or the first N, as they are",
  )
  command.add_argument(
    "--report",
    metavar="PAGE.html",
    help="write a page on what was tried, and on the table beside IN",
  )
  command.add_argument(
    "--seed", type=int, default=0, help="of all random choices (default: 0)"
  )


def _add_budget(command: argparse.ArgumentParser) -> None:
  budget = command.add_mutually_exclusive_group(required=True)
  budget.add_argument(
    "--ratio", type=_ratio, help="how many times smaller than float32"
  )
  budget.add_argument(
    "--budget", type=_size, metavar="BYTES", help="the most it may take"
  )


def run(args: argparse.Namespace) -> Iterator[str]:
  """Yields what was tried; writes the table that was chosen."""
  # Here, and not above: it takes a while to load.
  from anchor_codes import compression

  check_target(args.out)
  if args.report:
    reporting.check_target(args.report)
  with progress.showing("reading") as report:
    vectors, vocabulary = formats.read(
      args.source, tensor=args.tensor, progress=report
    )
  size, features = vectors.shape
  dense_bytes = accounting.dense_bytes(size, features)
  budget = args.budget or max(1, math.floor(dense_bytes / args.ratio))
  with progress.showing("trying") as report:
    compressed = compression.compress(
      vectors,
      budget=budget,
      metric=args.metric,
      recipe=args.recipe,
      vocabulary=vocabulary,
      weights=_weights(args.weights, size),
      num_hot=args.hot,
      seed=args.seed,
      progress=report,
    )
  compressed.table.save(args.out)
  if args.report:
    _write_page(args, compressed, vectors)
  yield from _answer(args, compressed, budget)


def _write_page(
  args: argparse.Namespace, compressed: Any, vectors: np.ndarray
) -> None:
  from anchor_codes import report

  report.write_report(
    compressed.table,
    args.report,
    name=pathlib.Path(args.out).name,
    original=vectors,
    curve=json.loads(compressed.report.to_json()),
  )


def check_target(out: str) -> None:
  """Refuses a place that cannot be written to, before hours of work.

  Raises:
    ValueError: If the suffix is not .safetensors.
    FileNotFoundError: If there is no such folder.
    OSError: If it cannot be written to.
  """
  path = pathlib.Path(out)
  if path.suffix != ".safetensors":
    raise ValueError(f"OUT must end in .safetensors, got {out!r}.")
  if not path.parent.is_dir():
    raise FileNotFoundError(f"There is no folder {str(path.parent)!r} for OUT.")
  storage.check_target(path)


def _weights(path: str | None, size: int) -> np.ndarray | None:
  if path is None:
    return None
  with matrix.naming(path):
    weights = np.load(path, allow_pickle=False)
    if not isinstance(weights, np.ndarray):
      weights.close()
      raise ValueError("It must be a .npy file of one array, got an archive.")
    if weights.shape != (size,) or weights.dtype.kind not in "fiu":
      raise ValueError(
        f"It must hold {size} numbers, one for each row, got {weights.dtype} "
        f"{list(weights.shape)}."
      )
  return weights


def _answer(
  args: argparse.Namespace, compressed: Any, budget: int
) -> Iterator[str]:
  table, report = compressed.table, compressed.report
  file_bytes = os.path.getsize(args.out)
  if args.json:
    answer = {
      "file": args.out,
      "num_embeddings": table.num_embeddings,
      "features": table.features,
      "budget": budget,
      "nbytes": table.nbytes,
      "file_bytes": file_bytes,
      "dense_bytes": table.dense_bytes,
      "compression_ratio": table.compression_ratio,
      "report": json.loads(report.to_json()),
    }
    yield common.dump(answer)
    return
  yield str(report).rstrip("\n")
  yield ""
  yield (
    f"{args.out}: {common.human_bytes(table.nbytes)} for "
    f"{common.human_bytes(table.dense_bytes)}, "
    f"{table.compression_ratio:.1f} times smaller; "
    f"{common.human_bytes(file_bytes)} with words and header"
  )


def _ratio(text: str) -> float:
  ratio = float(text)
  # In this form `nan` is refused, too.
  if not 1 <= ratio < math.inf:
    raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
  return ratio


def _size(text: str) -> int:
  size = int(text)
  if size < 1:
    raise argparse.ArgumentTypeError(f"must be positive, got {text}")
  return size
