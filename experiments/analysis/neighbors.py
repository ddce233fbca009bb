r"""Tells what the anchors of a stored table stand for: whom they serve.

  python -m experiments.analysis.neighbors --table=/tmp/a/items.safetensors \
      --dataset=ml-1m --data_dir=/path/to/data

names for each anchor the items that use it most, and those whose vectors are
nearest to it, with titles and genres where the items are movies. A movie
counts with its rarest genre: most movies are a drama or a comedy besides.
"""

import collections
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from anchor_codes import tables
from anchor_codes import typing as options
from experiments import reporting, tuning
from experiments.analysis import runs
from experiments.datasets import movies
from experiments.reporting import anchor_plots, anchors, files

NAME = "neighbors"


class Symbols(NamedTuple):
  """What is known of the rows of a table.

  Attributes:
    names: Name of each row.
    labels: Label of each row, None for a row without; None if none has one.
  """

  names: Sequence[str]
  labels: Sequence[str | None] | None = None


def describe_movies(
  vocabulary: Sequence[str], known: Mapping[str, movies.Movie]
) -> Symbols:
  """Returns titles and genres of rows, of which some may be no movie.

  Args:
    vocabulary: The ids of the movies, as the table stores them.
    known: The movies by their id.

  Returns:
    The title of each row, or its id, and its rarest genre.

  >>> known = {"1": movies.Movie("Heat (1995)", ("Crime", "Drama")),
  ...          "2": movies.Movie("Fargo (1996)", ("Drama",))}
  >>> describe_movies(["2", "1", "<unseen>"], known)
  Symbols(names=['Fargo (1996)', 'Heat (1995)', '<unseen>'],
          labels=['Drama', 'Crime', None])
  """
  found = [known.get(name, movies.Movie(name, ())) for name in vocabulary]
  counts = collections.Counter(genre for m in found for genre in m.genres)
  labels = [
    min(movie.genres, key=lambda genre: counts[genre], default=None)
    for movie in found
  ]
  return Symbols([movie.title for movie in found], labels)


def nearest_symbols(
  table: tables.AnchorTable, names: Sequence[str], *, top: int = 10
) -> list[list[tuple[str, float]]]:
  """Finds the symbols whose vectors point most nearly the way of each anchor.

  Args:
    table: The table.
    names: Name of each row.
    top: Symbols for each anchor, at least 1.

  Returns:
    For each anchor names and cosines, the nearest first.

  >>> table = tables.AnchorTable(
  ...   np.eye(2, dtype=np.float32),
  ...   weights=np.array([[2, 0], [0, 3]], np.float32),
  ... )
  >>> nearest_symbols(table, ["cat", "dog"], top=1)
  [[('cat', 1.0)], [('dog', 1.0)]]
  """
  options.check_at_least("top", top, 1)
  vectors = _unit(table.lookup(np.arange(table.num_embeddings)))
  cosines = _unit(table.anchors) @ vectors.T
  order = np.argsort(-cosines, axis=1, kind="stable")[:, :top]
  return [
    [(str(names[row]), float(cosines[anchor, row])) for row in rows]
    for anchor, rows in enumerate(order.tolist())
  ]


def label_shares(
  table: tables.AnchorTable, labels: Sequence[str | None]
) -> tuple[list[str], np.ndarray]:
  """Returns what part of each anchor's weights rows of each label have.

  Args:
    table: The table.
    labels: Label of each row, None for a row without.

  Returns:
    The labels, the most common first, and the shares [num_anchors,
    num_labels]; an anchor that no row with a label uses has zeros.

  >>> table = tables.AnchorTable(
  ...   np.eye(2, dtype=np.float32),
  ...   weights=np.array([[3, 0], [1, 1], [0, 1]], np.float32),
  ... )
  >>> known, shares = label_shares(table, ["war", "love", "love"])
  >>> print(known, shares.tolist())
  ['love', 'war'] [[0.25, 0.75], [1.0, 0.0]]
  """
  weights = np.abs(table.to_transform())
  counts = collections.Counter(label for label in labels if label is not None)
  known = [label for label, _ in counts.most_common()]
  has = np.array([[label == name for name in known] for label in labels])
  sums = weights.T @ has.reshape(len(weights), len(known))
  totals = sums.sum(axis=1, keepdims=True)
  return known, sums / np.where(totals > 0, totals, 1)


def take_rows(
  table: tables.AnchorTable, rows: Sequence[int]
) -> tables.AnchorTable:
  """Returns a table of some rows, and all anchors.

  Args:
    table: The table.
    rows: The rows that stay, at least one.

  Raises:
    ValueError: If none stays.
  """
  if not rows:
    raise ValueError(
      "`min_count` must leave a row, got none that is so common."
    )
  transform = table.to_transform()[np.asarray(rows)]
  return tables.AnchorTable.from_transform(table.anchors, transform)


def describe_table(
  path: str | pathlib.Path,
  workdir: str | pathlib.Path,
  *,
  known: Mapping[str, movies.Movie] | None = None,
  counts: Mapping[str, int] | None = None,
  min_count: int = 0,
  top: int = 10,
) -> dict[str, Any]:
  """Describes the anchors of a stored table.

  Args:
    path: The file, such as the `items.safetensors` of a run.
    workdir: Folder for `neighbors.md`, `neighbors.json` and `neighbors.png`, a
      map of whom each anchor serves: genres, else the symbols themselves.
    known: The movies by their id, if the rows are movies.
    counts: How often each symbol occurs in the data.
    min_count: Rows of rarer symbols are left out, if counts are given: pruning
      leaves them so few weights that they would head all lists.
    top: Symbols that are named for each anchor.

  Returns:
    What is in the JSON file.

  Raises:
    ValueError: If the file holds no anchors.
    FileNotFoundError: If the file is missing.
  """
  table, workdir = tables.load(path), pathlib.Path(workdir)
  if not isinstance(table, tables.AnchorTable):
    raise ValueError(f"{path} must hold anchors, got {type(table).__name__}.")
  names = table.vocabulary or [str(row) for row in range(table.num_embeddings)]
  if counts is not None:
    rows = [
      n for n, name in enumerate(names) if counts.get(name, 0) >= min_count
    ]
    table, names = take_rows(table, rows), [names[row] for row in rows]
  symbols = Symbols(names) if known is None else describe_movies(names, known)
  report = anchors.anchor_report(
    table,
    symbols=symbols.names,
    labels=symbols.labels,
    counts=None if counts is None else [counts.get(n, 0) for n in names],
    top=top,
  )
  nearest = nearest_symbols(table, symbols.names, top=top)
  record = {**report.to_dict(), "nearest": nearest}
  text = f"{anchors.format_report(report)}\n{format_nearest(nearest)}\n"
  files.write_atomically(workdir / f"{NAME}.md", text)
  files.write_atomically(
    workdir / f"{NAME}.json", json.dumps(record, indent=2) + "\n"
  )
  draw_shares(table, symbols, report, workdir / f"{NAME}.png")
  return record


def format_nearest(nearest: Sequence[Sequence[tuple[str, float]]]) -> str:
  """Writes the nearest symbols of each anchor as a table in Markdown.

  >>> print(format_nearest([[("cat", 0.9)]]))
  | Anchor | Nearest (cosine) |
  | -----: | ---------------- |
  |      0 | cat (0.90)       |
  """
  rows = [
    {"anchor": n, "near": ", ".join(f"{s} ({c:.2f})" for s, c in found)}
    for n, found in enumerate(nearest)
  ]
  columns = {"anchor": "Anchor", "near": "Nearest (cosine)"}
  return reporting.format_table(rows, columns, markdown=True)


def draw_shares(
  table: tables.AnchorTable,
  symbols: Symbols,
  report: anchors.AnchorReport,
  path: pathlib.Path,
) -> None:
  """Draws whom each anchor serves: labels if there are any, else symbols.

  Shares are divided by their mean over all anchors, since a genre such as drama
  has a large share everywhere.

  Args:
    table: The table.
    symbols: What is known of its rows.
    report: Its report.
    path: The PNG file to write.
  """
  labels = symbols.labels
  if labels is None or not any(labels):
    # The three that use an anchor most stand for the rest of the symbols.
    first = {name for anchor in report.anchors for name, _ in anchor.top[:3]}
    labels = [name if name in first else None for name in symbols.names]
  known, shares = label_shares(table, labels)
  means = shares.mean(axis=0, keepdims=True)
  shares = shares / np.where(means > 0, means, 1)
  names = [f"anchor {anchor.index}" for anchor in report.anchors]
  anchor_plots.plot_shares(
    shares,
    path,
    rows=names,
    columns=known,
    title="Whom each anchor serves more than the others do",
  )


def _unit(vectors: np.ndarray) -> np.ndarray:
  lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors / np.where(lengths > 0, lengths, 1)


def _analyse() -> None:
  given = flags.FLAGS
  path, workdir = given.table, pathlib.Path(given.workdir)
  if not path and not given.quick:
    raise ValueError("`--table` must name a stored table, or use `--quick`.")
  data, known = runs.data_of_flags(), None
  if given.quick:
    config = runs.make_config(data.name, quick=True, num_anchors=3)
    runs.run_once(config, data, workdir / "run")
    path = workdir / "run" / "items.safetensors"
  elif given.dataset in movies.MOVIE_NAMES:
    known = movies.load_movies(given.dataset, data_dir=given.data_dir)
  counts = np.bincount(data.items, minlength=len(data.item_names)).tolist()
  describe_table(
    path,
    workdir,
    known=known,
    counts=dict(zip(data.item_names, counts, strict=True)),
    min_count=given.min_count,
  )
  print((workdir / f"{NAME}.md").read_text(encoding="utf-8"))
  print(f"See {workdir / NAME}.png.")


if __name__ == "__main__":
  runs.define_flags(NAME)
  flags.DEFINE_string("table", None, "The `items.safetensors` of a run.")
  flags.DEFINE_integer("min_count", 50, "Ratings that a symbol has at least.")
  tuning.run_app(_analyse)
