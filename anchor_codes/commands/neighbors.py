"""``anchor-codes neighbors``: which vectors are nearest to that of a word."""

import argparse
from collections.abc import Iterator

import numpy as np

from anchor_codes import tables
from anchor_codes.commands import common
from anchor_codes.tables import searching
from anchor_codes.typing import check_choice

METRICS = ("cosine", "dot")
_BLOCK = 4096  # Rows that are dense at a time.


def add(commands: "common.Commands") -> None:
  """Adds the command."""
  command = common.add_command(
    commands,
    "neighbors",
    run,
    about="Lists the nearest neighbours of words or ids.",
    examples="embedding.safetensors cat dog\n"
    "embedding.safetensors cat --k 3 --metric dot --json",
  )
  common.add_table(command)
  common.add_symbols(command)
  command.add_argument(
    "--k", type=int, default=10, help="how many for each (default: 10)"
  )
  command.add_argument(
    "--metric",
    choices=METRICS,
    default="cosine",
    help="how alike two vectors are (default: cosine)",
  )


def run(args: argparse.Namespace) -> Iterator[str]:
  """Yields a list for each symbol; in JSON, an object on each line."""
  table = tables.load(args.file, verify=True)
  ids = [common.find_id(table, symbol) for symbol in args.symbols]
  scores, neighbors = nearest(table, ids, k=args.k, metric=args.metric)
  for n, (symbol, i) in enumerate(zip(args.symbols, ids, strict=True)):
    found = [
      {"symbol": _symbol(table, j), "id": j, "score": score}
      for j, score in zip(
        neighbors[n].tolist(), scores[n].tolist(), strict=True
      )
    ]
    if args.json:
      yield common.dump({"symbol": symbol, "id": i, "neighbors": found})
    else:
      yield symbol if n == 0 else f"\n{symbol}"
      rows = [(f"  {r['symbol']}", f"{r['score']:.4f}") for r in found]
      yield from common.columns(rows)


def nearest(
  table: tables.Table, ids: list[int], *, k: int, metric: str = "cosine"
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the rows that are most alike, by blocks: exact, never dense.

  Args:
    table: The table.
    ids: Rows whose neighbours are wanted; none is its own neighbour.
    k: How many; all others if there are fewer.
    metric: 'cosine', where a row of zeros is like nothing (0), or 'dot'.

  Returns:
    Scores float32 and ids int64, both [len(ids), k], the best first; of equal
    scores the lower id.

  Raises:
    ValueError: If `k` is not positive, or the metric is another one.

  >>> table = tables.DenseTable(np.array([[1, 0], [2, 1], [0, 1]], np.float32))
  >>> nearest(table, [0], k=2, metric="dot")
  (array([[2., 0.]], dtype=float32), array([[1, 2]]))
  """
  check_choice("metric", metric, METRICS)
  if k < 1:
    raise ValueError(f"`k` must be at least 1, got {k}.")
  prepare = _normalized if metric == "cosine" else np.asarray
  queries, own = prepare(table.lookup(ids)), np.asarray(ids)[:, None]
  size = min(k, table.num_embeddings - 1)
  best = np.empty((len(ids), 0), np.float32)
  best_ids = np.empty((len(ids), 0), np.int64)
  for start in range(0, table.num_embeddings, _BLOCK):
    rows = np.arange(start, min(start + _BLOCK, table.num_embeddings))
    scores = queries @ prepare(table.lookup(rows)).T
    scores[rows == own] = -np.inf
    candidates = np.broadcast_to(rows, scores.shape)
    best, best_ids = _merge(
      np.concatenate([best, scores], axis=1),
      np.concatenate([best_ids, candidates], axis=1),
      # One more for the row itself, which goes last.
      size + 1,
    )
  return best[:, :size], best_ids[:, :size]


def _merge(
  scores: np.ndarray, ids: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Keeps the best of each row; the ids of a row ascend where scores tie."""
  # Stable, so that of equal scores the lower id stays in front.
  order = np.argsort(-scores, axis=1, kind="stable")[:, :size]
  return (
    np.take_along_axis(scores, order, axis=1),
    np.take_along_axis(ids, order, axis=1),
  )


def _normalized(vectors: np.ndarray) -> np.ndarray:
  return searching.unit(vectors).astype(np.float32)


def _symbol(table: tables.Table, i: int) -> str:
  return str(i) if table.vocabulary is None else table.vocabulary[i]
