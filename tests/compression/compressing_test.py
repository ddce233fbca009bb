"""Tests of `compress`: the search, what it reports, and what it refuses."""

import json

import ml_dtypes
import numpy as np
import pytest

from anchor_codes import compression, tables
from anchor_codes.compression import compressing, finalists, recipes

V, F = 400, 8


def matrix(size: int = V) -> np.ndarray:
  rng = np.random.default_rng(0)
  scales = np.linspace(2, 0.5, F, dtype=np.float32)
  return rng.standard_normal((size, F), np.float32) * scales + 1


@pytest.fixture(scope="module")
def found() -> compression.Compressed:
  return compression.compress(matrix(), budget=2_400)


def test_the_best_of_all_that_fit_is_taken(found):
  report = found.report
  assert found.table.nbytes <= 2_400
  assert found.table.nbytes == report.chosen.nbytes
  losses = [trial.quality["error"] for trial in report.trials]
  names = [trial.recipe for trial in report.trials]
  best = finalists.choose(names, losses)
  assert names.index(report.chosen.recipe) in best
  assert sum(trial.chosen for trial in report.trials) == 1
  errors = [trial.quality["error"] for trial in report.trials]
  assert errors == sorted(errors)
  families = {trial.recipe.split(":")[0] for trial in report.trials}
  assert {"int4", "low_rank", "pq", "opq", "rq", "norm+pq"} <= families
  # All rows were fitted, and then again with more care.
  assert report.quality["error"] <= report.chosen.quality["error"]


@pytest.mark.parametrize(
  ("names", "rough"), [(["int8"], [False]), (["int8", "int4"], [1, 1, 0, 0])]
)
def test_one_recipe_without_rivals_is_fitted_once(names, rough, monkeypatch):
  fits = []

  class Counted(recipes.Scalars):
    def fit(self, rng, points, *, is_trial=False):
      fits.append(is_trial)
      return super().fit(rng, points, is_trial=is_trial)

  monkeypatch.setattr(
    compressing.proposals,
    "candidates",
    lambda *args, **options: [Counted(name) for name in names],
  )
  found = compression.compress(matrix(), budget=100_000)
  assert fits == rough
  error = compression.relative_error(found.table, matrix())
  assert error == found.report.quality["error"]


def test_the_better_one_of_the_best_two_is_taken(monkeypatch):
  """By what a careful fit makes of them, not by what a rough one did."""

  class Better(recipes.ProductCodes):
    """In trials the worst."""

    def fit(self, rng, points, *, is_trial=False):
      vectors = np.zeros_like(points.vectors) if is_trial else points.vectors
      return tables.DenseTable(vectors)

  candidates = [recipes.Scalars("int8"), Better(2, 4), recipes.Scalars("int2")]
  monkeypatch.setattr(
    compressing.proposals, "candidates", lambda *args, **options: candidates
  )
  for num_best, chosen in ((2, "int8"), (3, "pq:2x4")):
    monkeypatch.setattr(finalists, "NUM_BEST", num_best)
    found = compression.compress(matrix(), budget=100_000)
    assert found.report.chosen.recipe == chosen
    assert found.report.trials[0].recipe == "int8"


def test_quality_stays_with_the_table(found, tmp_path):
  found.table.save(tmp_path / "table.safetensors")
  loaded = tables.load(tmp_path / "table.safetensors")
  assert json.loads(loaded.quality or "") == found.report.quality
  error = compression.relative_error(loaded, matrix())
  assert error == pytest.approx(found.report.quality["error"])


def test_reports_for_people_and_programs(found):
  lines = str(found.report).splitlines()
  assert lines[0].split()[:4] == ["recipe", "bytes", "ratio", "error"]
  assert lines[1].endswith("chosen")
  assert len(lines) == 2 + len(found.report.trials)
  assert lines[-1].startswith("as made")
  assert f" {found.report.quality['error']:.4f} " in lines[-1]
  read = json.loads(found.report.to_json())
  assert read["trials"][0]["recipe"] == found.report.chosen.recipe
  assert read["dense_bytes"] == 4 * V * F


def test_metrics_choose():
  for metric in ("cosine", "neighbors"):
    report = compression.compress(
      matrix(), budget=2_000, metric=metric, recipe="opq"
    ).report
    values = [trial.quality[metric] for trial in report.trials]
    assert values[0] == max(values)
    assert report.metric == metric


def test_a_metric_of_ones_own_chooses():
  def prefers_few_bytes(table, rows):
    assert rows.shape == (table.num_embeddings, F)
    return -float(table.nbytes)

  report = compression.compress(
    matrix(), budget=2_000, metric=prefers_few_bytes, recipe="pq"
  ).report
  assert report.chosen.nbytes == min(t.nbytes for t in report.trials)
  assert report.quality["metric"] == -report.chosen.nbytes


@pytest.mark.parametrize("trial_rows", [100, 16_384])
@pytest.mark.parametrize("num_hot", [0, 10])
@pytest.mark.parametrize("scale", [1, 1e-25])
def test_a_metric_of_ones_own_sees_all_rows_by_their_ids(
  trial_rows, num_hot, scale, monkeypatch
):
  monkeypatch.setattr(compressing, "TRIAL_ROWS", trial_rows)
  monkeypatch.setattr(compressing, "_HELD_OUT", 50)
  given = matrix() * np.float32(scale)
  words, seen = [f"w{i}" for i in range(V)], []

  def keeps_rows(table, rows):
    np.testing.assert_array_equal(rows, given)
    assert (table.num_embeddings, table.features) == (V, F)
    assert tuple(table.vocabulary) == tuple(words)
    ids = [3, 250]
    np.testing.assert_array_equal(table.lookup_words(["w3"]), table.lookup([3]))
    np.testing.assert_allclose(table.lookup(ids), given[ids], atol=0.5 * scale)
    seen.append(table.nbytes)
    return -np.abs(table.lookup(ids) - given[ids]).max()

  found = compression.compress(
    given,
    budget=4_000,
    metric=keeps_rows,
    recipe="opq",
    num_hot=num_hot,
    weights=(np.arange(V) % 7 == 3) + 1.0,  # Ids that are not the first.
    vocabulary=words,
  )
  trials = found.report.trials
  num_finals = finalists.NUM_BEST
  assert len(seen) == len(trials) + num_finals
  tried = sorted(seen[:-num_finals])
  assert tried == sorted(trial.nbytes for trial in trials)
  values = [trial.quality["metric"] for trial in trials]
  assert values == sorted(values, reverse=True)


def test_a_metric_of_ones_own_cannot_change_the_matrix():
  given = matrix()

  def changes(table, rows):
    rows[0] = 0
    return 0.0

  with pytest.raises(ValueError, match="read-only"):
    compression.compress(given, budget=9_000, metric=changes, recipe="int8")
  given[0] = 1  # It stays writeable for the caller.


def test_weights_that_few_rows_have(monkeypatch):
  one = np.arange(V) == 77
  found = compression.compress(
    matrix(), budget=3_000, recipe="pq", weights=1.0 * one, metric="neighbors"
  )
  assert found.report.quality["error"] >= 0
  monkeypatch.setattr(compressing, "TRIAL_ROWS", 300)
  monkeypatch.setattr(compressing, "_HELD_OUT", 60)
  few = 1.0 * (np.arange(V) % 20 == 0)
  for num_hot in (0, 20):  # All of those with weight.
    found = compression.compress(
      matrix(), budget=3_000, recipe="pq", weights=few, num_hot=num_hot
    )
    assert found.table.nbytes <= 3_000
    errors = [trial.quality["error"] for trial in found.report.trials]
    assert all(0 < error < 1 for error in errors)
  assert found.report.quality["error"] == 0


def test_rows_with_weight_are_held_out_first(monkeypatch):
  monkeypatch.setattr(compressing, "TRIAL_ROWS", 300)
  monkeypatch.setattr(compressing, "_HELD_OUT", 10)
  weights = 1.0 * (np.arange(V) % 8 == 0)
  job = compressing._Job.of(matrix(), 1, "error", weights, 0)
  held_out = job.held_out
  assert (weights[held_out] > 0).all()
  assert not set(held_out) & set(job.rows[:300])


@pytest.mark.parametrize("trial_rows", [100, 16_384])
def test_rows_of_large_weights_are_kept_best(trial_rows, monkeypatch):
  monkeypatch.setattr(compressing, "TRIAL_ROWS", trial_rows)
  weights = np.where(np.arange(V) % 10 == 3, 50.0, 1.0)
  options = {"budget": 9_000, "recipe": "pq:4x16"}
  plain = compression.compress(matrix(), **options)
  found = compression.compress(matrix(), **options, weights=weights)
  error = compression.relative_error(plain.table, matrix(), weights)
  assert found.report.quality["error"] < 0.8 * error


def test_trials_are_judged_by_weights_also_beside_hot_rows():
  weights = np.arange(V) % 7 * 10.0 + 0.1
  options = {"budget": 9_000, "recipe": "pq:4x16", "weights": weights}
  found = compression.compress(matrix(), **options)
  assert found.report.quality == pytest.approx(found.report.chosen.quality)
  found = compression.compress(matrix(), **options, num_hot=9)
  cold = np.setdiff1d(np.arange(V), np.asarray(found.table.hot_ids))
  expected = compression.relative_error(
    found.table.cold, matrix()[cold], weights[cold]
  )
  assert found.report.chosen.quality["error"] == pytest.approx(expected)


def test_rows_are_drawn_by_the_seed():
  zero, one = (
    compressing._Job.of(matrix(), 1, "error", None, seed).rows
    for seed in (0, 1)
  )
  np.testing.assert_array_equal(np.sort(zero), np.arange(V))
  assert (zero != one).any()


@pytest.mark.parametrize("sign", [-1, 1])
def test_magnitudes_have_no_sign(sign):
  given = sign * np.abs(matrix()) * np.float32(1e-20)
  job = compressing._Job.of(given, 1, "error", None, 0)
  assert job.magnitude.largest == np.abs(given).max()


@pytest.mark.parametrize("trial_rows", [100, 16_384])
def test_seeds_draw(trial_rows, monkeypatch):
  monkeypatch.setattr(compressing, "TRIAL_ROWS", trial_rows)
  tables_ = [
    compression.compress(
      matrix(), budget=9_000, recipe="pq:4x16", seed=seed
    ).table.to_dense()
    for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(tables_[0], tables_[1])
  assert (tables_[0] != tables_[2]).any()


@pytest.mark.parametrize("trial_rows", [V - 1, V - 5, V // 2])
def test_some_rows_are_left_to_be_judged_by(trial_rows, monkeypatch):
  """Of a single row there is no variance: all errors would be the same."""
  monkeypatch.setattr(compressing, "TRIAL_ROWS", trial_rows)
  job = compressing._Job.of(matrix(), 1, "error", None, 0)
  assert len(job.held_out) >= V // 5
  fitted = {row.tobytes() for row in job.sample.vectors}
  assert len(fitted) == len(job.sample.vectors) <= trial_rows
  assert not fitted & {row.tobytes() for row in job.read(job.held_out)}
  report = compression.compress(matrix(), budget=2_000).report
  errors = [trial.quality["error"] for trial in report.trials]
  assert len({round(error, 6) for error in errors}) == len(errors)
  assert report.chosen.quality["error"] <= sorted(errors)[1]


@pytest.mark.parametrize("size", [40, 400, 1_100])
@pytest.mark.parametrize("family", ["anchors", "nonnegative_anchors"])
def test_small_tables_have_few_anchors(family, size):
  found = compression.compress(matrix(size), budget=10**9, recipe=family)
  for trial in found.report.trials:
    number, count = map(int, trial.recipe.split(":")[1].split("x"))
    assert number <= size // 4
    assert count <= number
  assert found.report.quality["error"] < 0.2
  tight = size * 9
  found = compression.compress(matrix(size), budget=tight, recipe=family)
  assert found.table.nbytes <= tight


@pytest.mark.parametrize("family", compression.FAMILIES)
def test_a_budget_is_never_too_large(family):
  found = compression.compress(matrix(), budget=10**9, recipe=family)
  assert found.report.quality["error"] < 0.2


def test_a_recipe_with_sizes_is_all_that_is_tried():
  words = [f"w{i}" for i in range(V)]
  told = []
  found = compression.compress(
    matrix(),
    budget=5_000,
    recipe="opq:4x16x2",
    vocabulary=words,
    progress=lambda *args: told.append(args),
  )
  assert [t.recipe for t in found.report.trials] == ["opq:4x16x2"]
  assert found.table.vocabulary == tuple(words)
  assert told == [(1, 1, "opq:4x16x2")]


def test_large_matrices_stay_on_disk_and_are_judged_on_other_rows(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(compressing, "TRIAL_ROWS", 300)
  monkeypatch.setattr(compressing, "FIT_ROWS", 350)
  np.save(tmp_path / "matrix.npy", matrix())
  mapped = np.load(tmp_path / "matrix.npy", mmap_mode="r")
  found = compression.compress(mapped, budget=2_000, recipe="opq")
  assert found.table.num_embeddings == V
  chosen = found.report.chosen
  assert chosen.nbytes == found.table.nbytes
  assert chosen.quality["error"] != found.report.quality["error"]
  assert chosen.quality["error"] < 2 * found.report.quality["error"]
  again = compression.compress(matrix(), budget=2_000, recipe="opq")
  np.testing.assert_array_equal(again.table.to_dense(), found.table.to_dense())


def test_all_rows_choose_between_the_best_two(monkeypatch):
  """The second of the trials may be the first where more rows are fitted."""
  monkeypatch.setattr(compressing, "TRIAL_ROWS", 100)
  monkeypatch.setattr(compressing, "_HELD_OUT", 20)
  wholes = []

  def likes_the_last_whole(table, rows):
    del rows
    error = np.square(table.to_dense() - matrix()).mean()
    wholes.append((table, error))
    # The trials are over once their number is reached.
    return -error if len(wholes) <= num_trials else float(len(wholes))

  options = {"budget": 3_000, "recipe": "opq"}
  num_trials = len(compression.compress(matrix(), **options).report.trials)
  found = compression.compress(matrix(), **options, metric=likes_the_last_whole)
  trials = found.report.trials
  assert [trial.chosen for trial in trials[:2]] == [False, True]
  assert found.table.nbytes == trials[1].nbytes
  assert found.report.quality["metric"] == num_trials + 2
  np.testing.assert_array_equal(
    found.table.to_dense(), wholes[-1][0].to_dense()
  )


@pytest.mark.parametrize("dtype", ["float16", "float64", ml_dtypes.bfloat16])
def test_other_floats(dtype):
  given = matrix().astype(dtype)
  found = compression.compress(given, budget=2_000, recipe="pq")
  assert found.report.quality["error"] < 0.5


@pytest.mark.parametrize("weighted", [False, True])
def test_hot_rows_are_kept_as_they_are(weighted):
  weights = np.arange(V) % 50.0
  found = compression.compress(
    matrix(),
    budget=3_000,
    recipe="pq",
    num_hot=8,
    weights=weights if weighted else None,
  )
  hot = np.arange(49, V, 50) if weighted else np.arange(8)
  np.testing.assert_array_equal(found.table.lookup(hot), matrix()[hot])
  assert found.table.nbytes == found.report.chosen.nbytes <= 3_000
  assert found.report.quality["error"] < 0.5


def test_one_row():
  found = compression.compress(matrix(1), budget=100)
  np.testing.assert_allclose(found.table.to_dense(), matrix(1), rtol=1e-2)


@pytest.mark.parametrize(
  ("given", "options", "message"),
  [
    (np.zeros(3), {}, r"`matrix` must be floats \[num_embeddings"),
    (np.zeros((2, 0)), {}, r"got float64 of shape \(2, 0\)"),
    (np.zeros((2, 3), int), {}, "got int64 of shape"),
    (np.full((2, 3), np.nan), {}, "`matrix` must be finite"),
    (np.full((2, 3), 1e300), {}, "`matrix` must be finite"),
    (matrix(), {"budget": 0}, "`budget` must be at least 1"),
    (matrix(), {"budget": 10}, r"`budget` must be larger: no recipe of 'auto'"),
    (matrix(), {"budget": 10}, r"in 10 bytes; 'int2' takes \d+\."),
    (matrix(), {"recipe": "opq:8x256x4", "budget": 99}, "'opq:8x256x4' takes"),
    (matrix(), {"recipe": "best"}, "'best' is not a recipe"),
    (matrix(), {"recipe": "best"}, r"'int8'.*, or a name with sizes.*'rq'"),
    (matrix(), {"metric": "mse"}, "`metric` must be one of 'error'"),
    (matrix(), {"num_hot": -1}, "`num_hot` must be at least 0"),
    (matrix(), {"num_hot": V}, "`num_hot` must be less than 400 rows"),
    (matrix(), {"num_hot": V + 1}, "`num_hot` must be less than 400 rows.*401"),
    (matrix(), {"num_hot": 300}, "fit `budget`, 9000 .* which take 9600"),
    (matrix(40), {"recipe": "opq"}, "`recipe` must suit the matrix, got 'opq'"),
    (matrix(40), {"recipe": "rq"}, "no sizes for 40 x 8: there are too few"),
    (matrix(), {"recipe": "pq:5x16"}, "must have a length that divides the 8"),
    (matrix(), {"recipe": "low_rank:0x8"}, "sizes must be at least 1, got 0"),
    (matrix(), {"weights": np.ones(3)}, r"`weights` must be 400 finite"),
    (matrix(), {"weights": -np.ones(V)}, "at least 0"),
    (matrix(), {"weights": np.zeros(V)}, "not all of them 0"),
    (matrix(), {"vocabulary": ["a"], "recipe": "int8"}, "`vocabulary` must"),
  ],
)
def test_what_is_refused(given, options, message):
  with np.errstate(over="ignore"), pytest.raises(ValueError, match=message):
    compression.compress(given, **{"budget": 9_000, **options})
