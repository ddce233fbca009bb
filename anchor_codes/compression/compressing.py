"""Makes a compact table of a matrix: fits, searches, measures."""

import concurrent.futures
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from anchor_codes import accounting, tables
from anchor_codes.compression import finalists, proposals, quality, workers
from anchor_codes.compression.points import Points, blocks
from anchor_codes.compression.recipes import Recipe
from anchor_codes.compression.reports import Compressed, Report, Trial
from anchor_codes.compression.scaling import Magnitude
from anchor_codes.tables import vocabulary as vocabularies
from anchor_codes.typing import check_at_least, check_choice

TRIAL_ROWS = 16_384
"""Rows that a trial fits; of smaller matrices all."""
FIT_ROWS = 65_536
"""Rows that the recipe fits that was chosen."""
_HELD_OUT = 4_096

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
  fitted, and they are those to measure on. The best two, and the
  best one of another family if it is near, are fitted again, to at most 65,536
  rows and in more steps, and the best one of these, by all rows, is the table.
  All rows of the matrix are encoded, block by block: a memory map stays on
  disk. Very small and very large values are fitted at another power of two, and
  a few more parts of the table are float32 then.

  Args:
    matrix: Finite floats [num_embeddings, features]; also `np.load(path,
      mmap_mode="r")`.
    budget: The most bytes that rows and shared part may take together.
    metric: What the recipe is chosen by: 'error' (squared error as a share of
      the variance), 'cosine', 'neighbors' (shared nearest neighbours), or a
      function of a table and the float32 matrix of its rows that returns more
      for better tables. The function always gets a table of all rows by their
      ids, with the hot rows and the vocabulary, and the whole matrix to read:
      each trial encodes all rows for it. Several trials may call it at once.
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
  if vocabulary is not None:
    vocabulary = vocabularies.check(vocabulary, len(job.matrix))
  cold, tiers = job.split(num_hot)
  finish = lambda t: dataclasses.replace(tiers(t), vocabulary=vocabulary)
  cold = dataclasses.replace(cold, task=lambda t: job.task(finish(t)))
  candidates = proposals.candidates(
    recipe,
    cold.sample,
    num_embeddings=len(cold.matrix),
    budget=cold.budget,
    magnitude=cold.magnitude,
  )
  trials = cold.trials(candidates, progress or (lambda *_: None))
  finals: dict[int, tuple[tables.Table, dict[str, float]]] = {}
  for i, table in cold.finals(candidates, job.finalists(trials)).items():
    table = finish(table)
    measured = quality.measure(table, job.matrix, job.weights) | job.task(table)
    finals[i] = table, measured
  best = min(finals, key=lambda i: job.loss(finals[i][1]))
  table, measured = finals[best]
  table = dataclasses.replace(table, quality=json.dumps(measured))
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
    tuple(sorted(marked, key=lambda trial: job.loss(trial.quality))),
    measured,
    time.perf_counter() - begin,
  )
  return Compressed(table, report)


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
  """What all trials of a compression share.

  `task` is what a function of the caller says of a table, if there is one.
  """

  matrix: np.ndarray
  weights: np.ndarray | None
  budget: int
  metric: str | quality.Metric
  seed: int
  task: Callable[[tables.Table], dict[str, float]]

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
    weights, task = _as_weights(weights, len(matrix)), _task(metric, matrix)
    return cls(matrix, weights, budget, metric, seed, task)

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
    if num_hot >= size:
      raise ValueError(
        f"`num_hot` must be less than {size} rows, which are all, got "
        f"{num_hot}: some have to be left to compress."
      )
    ids = np.arange(num_hot)
    if self.weights is not None:
      ids = np.sort(np.argsort(-self.weights, kind="stable")[:num_hot])
    is_first = np.array_equal(ids, np.arange(num_hot))
    hot_ids = None if is_first else ids.astype(accounting.index_dtype(size))
    hot = tables.DenseTable(self.matrix[ids].astype(np.float32))
    used = hot.nbytes + (0 if hot_ids is None else hot_ids.nbytes)
    if used >= self.budget:
      raise ValueError(
        f"`num_hot` must be rows that fit `budget`, {self.budget} bytes, got "
        f"{num_hot}, which take {used}."
      )
    rest: Any = slice(num_hot, None)  # A view of a memory map.
    if hot_ids is not None:
      rest = np.setdiff1d(np.arange(size), ids)
    cold = dataclasses.replace(
      self,
      matrix=self.matrix[rest],
      weights=self.weights_of(rest),
      budget=self.budget - used,
    )
    return cold, lambda table: tables.TieredTable(hot, table, hot_ids=hot_ids)

  @functools.cached_property
  def rows(self) -> np.ndarray:
    """All rows in the order in which they are drawn."""
    return np.random.default_rng(self.seed).permutation(len(self.matrix))

  def points(self, most: int) -> Points:
    """Returns the points of at most so many rows, of all in their order."""
    rows: Any = slice(None)
    if len(self.matrix) > most:
      rows = np.sort(self.rows[:most])
    return Points.of(self.read(rows), self.weights_of(rows))

  def read(self, rows: Any) -> np.ndarray:
    """Returns some rows as they are fitted and encoded, float32."""
    return self.magnitude.reduce(self.matrix[rows])

  def weights_of(self, rows: Any) -> np.ndarray | None:
    """Returns the weights of some rows, if there are weights."""
    return None if self.weights is None else self.weights[rows]

  @functools.cached_property
  def magnitude(self) -> Magnitude:
    """How large the values are."""
    parts = (self.matrix[block] for block in blocks(len(self.matrix)))
    return Magnitude(max(float(np.abs(part).max()) for part in parts))

  @functools.cached_property
  def held_out(self) -> Any:
    """The rows that trials are measured on: others than those they fit.

    Of large matrices with weights first those that have some.
    """
    if len(self.matrix) <= TRIAL_ROWS:
      return slice(None)
    rows = self.rows[self.num_fitted :]
    if self.weights is not None:
      rows = rows[np.argsort(self.weights[rows] <= 0, kind="stable")]
    return np.sort(rows[:_HELD_OUT])

  @functools.cached_property
  def sample(self) -> Points:
    """What the trials fit."""
    return self.points(self.num_fitted)

  @property
  def num_fitted(self) -> int:
    """How many rows the trials fit; of many so few that others are left."""
    size = len(self.matrix)
    others = 0 if size <= TRIAL_ROWS else min(_HELD_OUT, size // 5)
    return min(TRIAL_ROWS, size - others)

  @functools.cached_property
  def fitted(self) -> dict[int, tables.Table]:
    """Tables of trials by their numbers, if no more can be made of them."""
    return {}

  def trials(
    self, candidates: Sequence[Recipe], progress: Progress
  ) -> list[Trial]:
    """Fits and measures all candidates, some at a time."""
    results: dict[int, Trial] = {}
    with workers.start(len(candidates)) as pool:
      futures = {
        pool.submit(self.trial, candidate, i, has_rivals=len(candidates) > 1): i
        for i, candidate in enumerate(candidates)
      }
      for future in concurrent.futures.as_completed(futures):
        number = futures[future]
        results[number] = future.result()
        progress(len(results), len(candidates), str(candidates[number]))
    return [results[i] for i in range(len(candidates))]

  def trial(self, recipe: Recipe, number: int, *, has_rivals: bool) -> Trial:
    """Fits one candidate and measures it."""
    begin = time.perf_counter()
    table = recipe.fit(self.rng(number), self.sample, is_trial=has_rivals)
    rows, encoded = self.held_out, table
    has_all = len(self.matrix) <= TRIAL_ROWS
    if not has_all:
      encoded = table._encode(self.read(rows))
    elif not has_rivals:
      self.fitted[number] = table
    restored = self.magnitude.restore(encoded)
    matrix, weights = self.matrix[rows], self.weights_of(rows)
    measured = quality.measure(restored, matrix, weights)
    if callable(self.metric):
      whole = table if has_all else self.encode(table, map)
      measured |= self.task(self.magnitude.restore(whole))
    seconds = time.perf_counter() - begin
    return Trial(str(recipe), self.nbytes(recipe), measured, seconds)

  def finals(
    self, candidates: Sequence[Recipe], numbers: Sequence[int]
  ) -> dict[int, tables.Table]:
    """Fits some candidates with care, beside each other."""
    fit = lambda i: self.final(candidates[i], i)
    if len(numbers) == 1:  # Its products may take all cores.
      return {i: fit(i) for i in numbers}
    with workers.start(len(numbers)) as pool:
      return dict(zip(numbers, pool.map(fit, numbers), strict=True))

  def final(self, recipe: Recipe, number: int) -> tables.Table:
    """Returns the table of all rows."""
    table = self.fitted.get(number)
    if table is None:
      table = recipe.fit(self.rng(number), self.points(FIT_ROWS))
      if len(self.matrix) > FIT_ROWS:
        with workers.start(len(self.matrix)) as pool:
          table = self.encode(table, pool.map)
    return self.magnitude.restore(table)

  def encode(
    self, table: tables.Table, apply: Callable[..., Iterable[tables.Table]]
  ) -> tables.Table:
    """Returns the rows of the whole matrix in a table that was fitted."""
    encode = lambda block: table._encode(self.read(block))
    return tables.concatenate(list(apply(encode, blocks(len(self.matrix)))))

  def nbytes(self, recipe: Recipe) -> int:
    """Returns the bytes of the table of a recipe."""
    return self.magnitude.nbytes(recipe, *self.matrix.shape)

  def rng(self, number: int) -> np.random.Generator:
    """Returns the random numbers of a candidate."""
    return np.random.default_rng([self.seed, number])

  def finalists(self, trials: Sequence[Trial]) -> list[int]:
    """Chooses the trials that are fitted again, by their numbers."""
    losses = [self.loss(trial.quality) for trial in trials]
    # How much is lost by a function of the caller is not known.
    reach = None if callable(self.metric) else finalists.REACH
    return finalists.choose([t.recipe for t in trials], losses, reach=reach)

  def loss(self, measured: dict[str, float]) -> float:
    """Returns what is smaller for better tables."""
    value = measured[self.metric_name]
    if callable(self.metric):
      return -value
    return value if self.metric == "error" else 1 - value


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


def _task(
  metric: str | quality.Metric, matrix: np.ndarray
) -> Callable[[tables.Table], dict[str, float]]:
  if isinstance(metric, str):
    return lambda table: {}
  rows = matrix.astype(np.float32, copy=False).view()
  rows.flags.writeable = False  # It may be the array of the caller.
  return lambda table: {"metric": float(metric(table, rows))}


def _is_function(metric: Any) -> bool:
  return callable(metric)
