"""Makes a compact table of a matrix: fits, searches, measures."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import threadpoolctl

from anchor_codes import accounting, tables
from anchor_codes.compression import proposals, quality, recipes
from anchor_codes.compression.points import Points, blocks
from anchor_codes.compression.recipes import Recipe
from anchor_codes.compression.reports import Compressed, Report, Trial
from anchor_codes.typing import check_at_least, check_choice

TRIAL_ROWS = 16_384
"""Rows that a trial fits; of smaller matrices all."""
FIT_ROWS = 65_536
"""Rows that the recipe fits that was chosen."""
_HELD_OUT = 4_096
_MOST_WORKERS = 8

Progress = Callable[[int, int, str], None]
"""Is told how many of how many trials are done, and the last one's name."""


def compress(
  matrix: Any,
  *,
  budget: int,
  metric: str | quality.Metric = "error",
  recipe: str = "auto",
  vocabulary: Sequence[str] | None = None,
  weights: Any = None,
  num_hot: int = 0,
  seed: int = 0,
  progress: Progress | None = None,
) -> Compressed:
  """Makes a compact table of a matrix, in at most so many bytes.

  With 'auto' it tries sizes of all families of recipes that fit, on at most
  16,384 rows, and measures them on other rows; of a smaller matrix all rows are
  fitted, and they are those to measure on. The best recipe is fitted again to
  at most 65,536 rows. All rows of the matrix are encoded, block by block: a
  memory map stays on disk.

  Args:
    matrix: Finite floats [num_embeddings, features]; also `np.load(path,
      mmap_mode="r")`.
    budget: The most bytes that rows and shared part may take together.
    metric: What the recipe is chosen by: 'error' (squared error as a share of
      the variance), 'cosine', 'neighbors' (shared nearest neighbours), or a
      function of a table and the float32 matrix of its rows that returns more
      for better tables.
    recipe: 'auto', a family ('scalars', 'low_rank', 'pq', 'opq', 'rq',
      'anchors', 'nonnegative_anchors', 'norm+pq', 'norm+opq', 'anchors+opq')
      of which the best sizes are taken, or a recipe with sizes as in the
      report, 'opq:20x256x5'.
    vocabulary: One different string for each row, or None.
    weights: How much the error of each row counts, non-negative
      [num_embeddings], such as frequencies; None for all alike.
    num_hot: So many rows are kept as they are, in float32: those of the largest
      weights, without weights the first ones. The rest of the budget is for
      the others.
    seed: Of all that is drawn: equal seeds give equal tables.
    progress: Called after each trial.

  Returns:
    The table, and the report of what was tried.

  Raises:
    ValueError: If an argument is not like that, or nothing fits the budget.

  >>> matrix = np.random.default_rng(0).standard_normal((500, 8))
  >>> table, report = (lambda c: (c.table, c.report))(
  ...     compress(matrix, budget=3_000, recipe="opq"))
  >>> table.nbytes <= 3_000, report.chosen.recipe.startswith("opq:")
  (True, True)
  """
  begin = time.perf_counter()
  job = _Job.of(matrix, budget, metric, weights, seed)
  cold, tiers = job.split(num_hot)
  candidates = cold.candidates(recipe)
  trials = cold.trials(candidates, progress or _silent)
  best = max(range(len(trials)), key=lambda i: job.score(trials[i].quality))
  table = tiers(cold.final(candidates[best], best))
  measured = job.measure(table, job.matrix, job.weights)
  names = None if vocabulary is None else tuple(vocabulary)
  table = dataclasses.replace(
    table, vocabulary=names, quality=json.dumps(measured)
  )
  marked = (
    dataclasses.replace(
      trial, chosen=i == best, nbytes=trial.nbytes + budget - cold.budget
    )
    for i, trial in enumerate(trials)
  )
  report = Report(
    job.metric_name,
    budget,
    accounting.dense_bytes(*job.matrix.shape),
    tuple(sorted(marked, key=lambda trial: -job.score(trial.quality))),
    measured,
    time.perf_counter() - begin,
  )
  return Compressed(table, report)


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
  """What all trials of a compression share."""

  matrix: np.ndarray
  weights: np.ndarray | None
  budget: int
  metric: str | quality.Metric
  seed: int

  @classmethod
  def of(
    cls, matrix: Any, budget: int, metric: Any, weights: Any, seed: int
  ) -> "_Job":
    """Checks the arguments."""
    matrix = matrix if isinstance(matrix, np.ndarray) else np.asarray(matrix)
    is_float = matrix.dtype.kind == "f" or matrix.dtype.name == "bfloat16"
    if matrix.ndim != 2 or not matrix.size or not is_float:
      raise ValueError(
        "`matrix` must be floats [num_embeddings, features], got "
        f"{matrix.dtype} of shape {matrix.shape}."
      )
    check_at_least("budget", budget, 1)
    if not _is_function(metric):
      check_choice("metric", metric, quality.METRICS)
    for block in blocks(len(matrix)):
      if not np.isfinite(matrix[block].astype(np.float32)).all():
        raise ValueError(
          "`matrix` must be finite in float32, got nan or infinite values in "
          f"rows {block.start} to {block.stop - 1}."
        )
    return cls(matrix, _as_weights(weights, len(matrix)), budget, metric, seed)

  @property
  def metric_name(self) -> str:
    """The name of the metric in reports."""
    return self.metric if isinstance(self.metric, str) else "metric"

  def split(
    self, num_hot: int
  ) -> tuple["_Job", Callable[[tables.Table], tables.Table]]:
    """Sets rows apart that are kept as they are.

    Returns:
      The job of the other rows, and what adds the hot ones to its table.

    Raises:
      ValueError: If there are not so many rows, or no budget for them.
    """
    check_at_least("num_hot", num_hot, 0)
    if not num_hot:
      return self, lambda table: table
    size = len(self.matrix)
    ids = np.arange(num_hot)
    if self.weights is not None:
      ids = np.sort(np.argsort(-self.weights, kind="stable")[:num_hot])
    is_first = np.array_equal(ids, np.arange(num_hot))
    hot_ids = None if is_first else ids.astype(accounting.index_dtype(size))
    hot = tables.DenseTable(self.matrix[ids].astype(np.float32))
    used = hot.nbytes + (0 if hot_ids is None else hot_ids.nbytes)
    if num_hot >= size or used >= self.budget:
      raise ValueError(
        f"`num_hot` must be less than {size} rows that fit {self.budget} "
        f"bytes, got {num_hot}, which take {used}."
      )
    rest: Any = slice(num_hot, None)  # A view of a memory map.
    if hot_ids is not None:
      rest = np.setdiff1d(np.arange(size), ids)
    cold = dataclasses.replace(
      self,
      matrix=self.matrix[rest],
      weights=None if self.weights is None else self.weights[rest],
      budget=self.budget - used,
    )
    return cold, lambda table: tables.TieredTable(hot, table, hot_ids=hot_ids)

  @functools.cached_property
  def rows(self) -> np.ndarray:
    """All rows in the order in which they are drawn."""
    return np.random.default_rng(self.seed).permutation(len(self.matrix))

  def points(self, most: int) -> Points:
    """Returns the points of at most so many rows, of all in their order."""
    if len(self.matrix) <= most:
      return Points.of(self.matrix, self.weights)
    rows = np.sort(self.rows[:most])
    weights = None if self.weights is None else self.weights[rows]
    return Points.of(self.matrix[rows], weights)

  @functools.cached_property
  def sample(self) -> Points:
    """What the trials fit."""
    return self.points(TRIAL_ROWS)

  @functools.cached_property
  def fitted(self) -> dict[int, tables.Table]:
    """Tables of the trials by their numbers, if those fitted all rows."""
    return {}

  def candidates(self, recipe: str) -> list[Recipe]:
    """Lists what to try.

    Raises:
      ValueError: If the recipe is unknown, or nothing fits the budget.
    """
    families = [recipe] if recipe in proposals.FAMILIES else []
    if recipe == "auto":
      families = list(proposals.AUTO)
    sizes = self.matrix.shape
    found = [
      candidate
      for family in families
      for candidate in proposals.propose(
        family, self.sample, num_embeddings=sizes[0], budget=self.budget
      )
    ]
    if not families:
      found = [
        r for r in [recipes.parse(recipe)] if r.nbytes(*sizes) <= self.budget
      ]
    if not found:
      least = recipes.parse("int2" if families else recipe)
      raise ValueError(
        f"`budget` must be larger: no recipe of {recipe!r} makes a table of "
        f"{sizes[0]} x {sizes[1]} in {self.budget} bytes; '{least}' takes "
        f"{least.nbytes(*sizes)}."
      )
    return found

  def trials(
    self, candidates: Sequence[Recipe], progress: Progress
  ) -> list[Trial]:
    """Fits and measures all candidates, some at a time."""
    results: dict[int, Trial] = {}
    with _workers(len(candidates)) as pool:
      futures = {
        pool.submit(self.trial, candidate, i): i
        for i, candidate in enumerate(candidates)
      }
      for future in concurrent.futures.as_completed(futures):
        number = futures[future]
        results[number] = future.result()
        progress(len(results), len(candidates), str(candidates[number]))
    return [results[i] for i in range(len(candidates))]

  def trial(self, recipe: Recipe, number: int) -> Trial:
    """Fits one candidate and measures it."""
    begin = time.perf_counter()
    table = recipe.fit(self.rng(number), self.sample)
    rows, weights = self.sample.vectors, self.sample.weights
    if len(self.matrix) > TRIAL_ROWS:
      held_out = np.sort(self.rows[TRIAL_ROWS : TRIAL_ROWS + _HELD_OUT])
      rows = self.matrix[held_out].astype(np.float32)
      weights = None if self.weights is None else self.weights[held_out]
      table = table._encode(rows)
    else:
      self.fitted[number] = table
    measured = self.measure(table, rows, weights)
    seconds = time.perf_counter() - begin
    nbytes = recipe.nbytes(*self.matrix.shape)
    return Trial(str(recipe), nbytes, measured, seconds)

  def final(self, recipe: Recipe, number: int) -> tables.Table:
    """Returns the table of all rows."""
    if number in self.fitted:
      return self.fitted[number]
    table = recipe.fit(self.rng(number), self.points(FIT_ROWS))
    if len(self.matrix) <= FIT_ROWS:
      return table
    encode = lambda block: table._encode(self.matrix[block].astype(np.float32))
    with _workers(len(self.matrix)) as pool:
      parts = list(pool.map(encode, blocks(len(self.matrix))))
    return tables.concatenate(parts)

  def rng(self, number: int) -> np.random.Generator:
    """Returns the random numbers of a candidate."""
    return np.random.default_rng([self.seed, number])

  def measure(
    self, table: tables.Table, rows: np.ndarray, weights: np.ndarray | None
  ) -> dict[str, float]:
    """Returns all metrics of a table of some rows."""
    found = {
      name: metric(table, rows, weights)
      for name, metric in quality.METRICS.items()
    }
    if callable(self.metric):
      found["metric"] = float(self.metric(table, rows.astype(np.float32)))
    return found

  def score(self, measured: dict[str, float]) -> float:
    """Returns what is larger for better tables."""
    value = measured[self.metric_name]
    return -value if self.metric_name == "error" else value


def _as_weights(weights: Any, size: int) -> np.ndarray | None:
  if weights is None:
    return None
  weights = np.asarray(weights, np.float64)
  if weights.shape != (size,) or not (
    np.isfinite(weights).all() and (weights >= 0).all() and weights.any()
  ):
    raise ValueError(
      f"`weights` must be {size} finite numbers of at least 0, not all of them "
      f"0, got shape {weights.shape}."
    )
  return weights


@contextlib.contextmanager
def _workers(
  count: int,
) -> Iterator[concurrent.futures.ThreadPoolExecutor]:
  """Yields threads for so many pieces of work, whose products use one each.

  Many small products on all cores wait for each other: ten times as long on a
  busy machine.
  """
  workers = min(os.cpu_count() or 1, _MOST_WORKERS, count)
  with (
    threadpoolctl.threadpool_limits(1, user_api="blas"),
    concurrent.futures.ThreadPoolExecutor(workers) as pool,
  ):
    yield pool


def _is_function(metric: Any) -> bool:
  return callable(metric)


def _silent(done: int, total: int, name: str) -> None:
  del done, total, name
