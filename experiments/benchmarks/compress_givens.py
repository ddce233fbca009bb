"""Vectors that the benchmark of `compress` makes small."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from anchor_codes import accounting, compression, tables, typing
from experiments import item_factors, word_quality
from experiments.benchmarks import compress_scale
from experiments.datasets import embeddings

TABLES = (*embeddings.WORD_VECTOR_NAMES, "recommender")
TASKS = {
  "men": "MEN",
  "ws353": "WS-353",
  "analogies": "Analogies",
  "recall": "Recall@20",
}
"""Headings of what some vectors are for."""

Row = dict[str, Any]
"""Cells by the names of the columns, with `kind`, and `family` of others."""


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
  """Vectors that somebody has.

  Attributes:
    name: What they are called.
    matrix: float32 [num_embeddings, features].
    tasks: What they are for: functions of vectors in their place.
  """

  name: str
  matrix: np.ndarray
  tasks: Mapping[str, Callable[[np.ndarray], float]]

  @functools.cached_property
  def digest(self) -> str:
    """SHA-256 of the numbers."""
    return hashlib.sha256(self.matrix.tobytes()).hexdigest()

  @property
  def dense_bytes(self) -> int:
    """Bytes in float32."""
    return accounting.dense_bytes(*self.matrix.shape)

  def row(self, kind: str, method: str, nbytes: int, **cells: Any) -> Row:
    """Returns a row with these cells."""
    ratio = self.dense_bytes / nbytes
    sizes = {"nbytes": nbytes, "ratio": ratio}
    return {"kind": kind, "method": method, **sizes, **cells}

  def measure(self, vectors: np.ndarray) -> dict[str, float]:
    """Measures vectors that stand for those that are given."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    table = tables.DenseTable(vectors)
    return {
      **{n: f(table, self.matrix) for n, f in compression.METRICS.items()},
      **{name: float(task(vectors)) for name, task in self.tasks.items()},
    }


def load_given(
  name: str,
  *,
  data_dir: str | os.PathLike[str] | None,
  workdir: str | os.PathLike[str],
) -> Given:
  """Loads what is to be made small, and what it is for.

  Args:
    name: One of `TABLES`.
    data_dir: Folder of data sets.
    workdir: Folder for the run of the recommender, trained if need be.

  Raises:
    ValueError: If the name is unknown.
    FileNotFoundError: If a file is missing.
  """
  typing.check_choice("tables", name, TABLES)
  if name == "recommender":
    config = dataclasses.replace(
      item_factors.CONFIG, data_dir=os.fspath(data_dir or "")
    )
    folder = pathlib.Path(workdir) / name
    factors = item_factors.load_factors(folder, config=config)
    task = functools.partial(item_factors.recall, factors=factors)
    return Given(name, factors.items, {"recall": task})
  found = embeddings.load_word_vectors(name, data_dir=data_dir)
  tasks = word_quality.load_tasks(found.words, data_dir=data_dir)
  return Given(name, found.vectors, tasks)


def make_up() -> Given:
  """Makes up vectors to see that all works."""
  rng = np.random.default_rng(0)
  return Given("made up", compress_scale.random_walks(rng, 400, 16), {})
