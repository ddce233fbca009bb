"""Tests of the benchmark of learned numbers of anchors, on made-up runs."""

import doctest
import itertools
import types

import pytest

from experiments.analysis import runs
from experiments.benchmarks import learned_anchors, learned_verdicts
from experiments.benchmarks.learned_anchors import Plan

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def cells(part="starts", seed=0, start=10, price="0.003", **given):
  return {
    "part": part,
    "seed": seed,
    "start": start,
    "price": price,
    "users": 4,
    "items": 4,
    "objective": 0.8,
    "test": 0.75,
    "nonzeros": 1000,
    "epochs": 30,
    "seconds": 20.0,
    **given,
  }


@pytest.fixture(name="made_up")
def fixture_made_up(monkeypatch):
  """Takes the place of training; returns the options of all runs."""
  configs = []

  def run_once(config, data, workdir):
    configs.append((config, workdir.name))
    metrics = {"test_mse": 0.75, "valid_mse": 0.7}
    if config.rule:
      metrics |= {"num_anchors_users": 5, "num_anchors_items": 3}
    return types.SimpleNamespace(metrics=metrics, seconds=3.0)

  # Each run is longer than the one before.
  course = lambda workdir: [{}] * (10 + len(configs))
  monkeypatch.setattr(runs, "run_once", run_once)
  monkeypatch.setattr(runs, "read_course", course)
  monkeypatch.setattr(runs, "num_nonzeros", lambda result: 900)
  monkeypatch.setattr(
    runs, "objective", lambda result, anchor_penalty: 0.7 + anchor_penalty
  )
  # A picture after each run takes most of the time of these tests.
  monkeypatch.setattr(learned_anchors.reporting, "plot_table", lambda *_: None)
  return configs


@pytest.fixture(name="data", scope="module")
def fixture_data():
  return runs.load("synthetic", quick=True)


def test_examples():
  for module in (learned_verdicts, learned_anchors):
    assert doctest.testmod(module, optionflags=FLAGS).failed == 0


def test_all_runs_of_a_plan(made_up, data, tmp_path):
  plan = Plan(seeds=2)
  found = learned_anchors.run_benchmark(data, tmp_path, plan=plan)
  parts = [row["part"] for row in found]
  assert {p: parts.count(p) for p in dict.fromkeys(parts)} == {
    "starts": 8,
    "prices": 4,
    "fixed": 14,
    "trend": 4,
  }
  names = [name for _, name in made_up]
  assert len(set(names)) == len(names) == 30
  assert names[0] == "marginal_2_price_0.003_seed_0"
  assert names[-1] == "trend_20_price_0.1_seed_0"


def test_options_of_the_runs(made_up, data, tmp_path):
  learned_anchors.run_benchmark(data, tmp_path)
  for config, name in made_up:
    assert config.checkpoint_chunks == 0
    assert config.embedding == "anchors"
    assert config.l1 == 1e-7
    assert name.startswith(config.rule or "fixed")
  starts = [c for c, n in made_up if n.endswith("0.003_seed_2") and c.rule]
  assert [config.num_anchors for config in starts] == [2, 10, 20, 40]
  trends = [config for config, _ in made_up if config.rule == "trend"]
  assert {config.max_anchors for config in trends} == {100}


def test_the_grid_has_the_epochs_of_the_longest_run(made_up, data, tmp_path):
  learned_anchors.run_benchmark(data, tmp_path, plan=Plan(seeds=2))
  fixed = [config for config, _ in made_up if not config.rule]
  # Runs 4 and 8 are the last ones, and so the longest, of the two seeds.
  assert {c.seed: c.epochs for c in fixed} == {0: 14, 1: 18}
  assert [c.num_anchors for c in fixed[:7]] == [3, 4, 5, 6, 8, 10, 16]


def test_cells_of_learned_and_of_fixed_numbers(made_up, data, tmp_path):
  found = learned_anchors.run_benchmark(data, tmp_path, plan=Plan(seeds=1))
  numbers = {row["part"]: (row["users"], row["items"]) for row in found}
  assert numbers["starts"] == (5, 3)
  assert numbers["fixed"] == (16, 16)
  assert {row["objective"] for row in found if row["part"] == "fixed"} == {
    0.7 + 0.003
  }


def test_report_is_written_as_runs_come(
  made_up, data, tmp_path, capsys, monkeypatch
):
  pictures = []
  plot = lambda cells, path, picture: pictures.append((len(cells), path.name))
  monkeypatch.setattr(learned_anchors.reporting, "plot_table", plot)
  learned_anchors.run_benchmark(data, tmp_path, plan=Plan(seeds=1))
  assert pictures == [(n, "learned_anchors.png") for n in range(1, 20)]
  text = (tmp_path / "learned_anchors.md").read_text()
  assert text.count("| starts |") == 4
  assert "0.7030" in text  # Four decimals, though the table rounds to two.
  assert text.count("\n- ") == 6
  assert len(capsys.readouterr().out.splitlines()) == 19


def test_the_picture_is_drawn(tmp_path):
  path = tmp_path / "picture.png"
  found = learned_anchors._named([cells(), cells("fixed", start=4)])
  learned_anchors.reporting.plot_table(found, path, learned_anchors.PICTURE)
  assert path.read_bytes().startswith(b"\x89PNG")


def test_quick_plan_is_small():
  plan = learned_anchors.QUICK_PLAN
  assert plan.settings["growth_rounds"] == 1
  assert plan.seeds == 1


def test_questions_wait_for_their_runs():
  assert learned_verdicts.verdicts([]) == []
  assert len(learned_verdicts.verdicts([cells()])) == 2
  only_prices = learned_verdicts.verdicts([cells("prices", price="0.1")])
  assert len(only_prices) == 1
  assert learned_verdicts.verdicts([cells("fixed")]) == []
  both = [cells(), cells("fixed", start=4)]
  lines = [line.split(":")[0] for line in learned_verdicts.verdicts(both)]
  assert lines[2:] == ["no worse than the best of the grid", "cost"]


@pytest.mark.parametrize(
  ("numbers", "answer"),
  [((4, 5, 6), "yes"), ((4, 4, 4), "yes"), ((4, 5, 7), "no")],
)
@pytest.mark.parametrize("table", learned_verdicts.TABLES)
def test_numbers_are_compared_table_by_table(table, numbers, answer):
  starts = [cells(**{table: number}) for number in numbers]
  line = learned_verdicts.numbers_agree(starts)
  assert line.startswith(f"numbers within ±1: {answer} (")
  assert f"{table} {min(numbers)} to {max(numbers)}" in line


def test_seeds_may_differ():
  starts = [cells(seed=0), cells(seed=1, users=9, objective=2.0)]
  assert "yes" in learned_verdicts.numbers_agree(starts)
  assert "yes" in learned_verdicts.objectives_agree(starts)


@pytest.mark.parametrize(("other", "answer"), [(0.807, "yes"), (0.809, "no")])
def test_objectives_may_differ_by_one_percent(other, answer):
  starts = [cells(), cells(objective=other)]
  assert answer in learned_verdicts.objectives_agree(starts)


@pytest.mark.parametrize(
  ("numbers", "answer"), [((9, 5, 4), "yes"), ((5, 6, 4), "no")]
)
def test_prices_are_sorted_as_numbers(numbers, answer):
  prices = ("1e-05", "0.01", "0.1")
  rows = [
    cells("prices", price=price, users=number)
    for price, number in zip(prices, numbers, strict=True)
  ]
  for order in itertools.permutations(rows):
    assert f"rises: {answer}" in learned_verdicts.never_rises(order)


def test_the_start_with_the_same_seed_is_one_more_price():
  rows = [
    cells("prices", price="0.1", start=20, users=2),
    cells(start=20, users=3),
    cells(start=40, users=30),
    cells(start=20, seed=1, users=30),
  ]
  line = next(x for x in learned_verdicts.verdicts(rows) if "rises" in x)
  assert line.endswith("(price: users + items; 0.003: 3 + 4, 0.1: 2 + 4)")


def test_each_seed_has_its_own_best():
  fixed = [
    cells("fixed", start=3, objective=0.9),
    cells("fixed", start=4, objective=0.8),
    cells("fixed", seed=1, start=6, objective=0.7),
  ]
  good = [cells(objective=0.79), cells(seed=1, objective=0.7)]
  line = learned_verdicts.no_worse_than_grid(good, fixed)
  assert "yes (2 of 2 runs" in line
  assert line.endswith("the best: 4, 6)")
  bad = [*good, cells(seed=1, objective=0.77), cells(seed=2, objective=9.0)]
  line = learned_verdicts.no_worse_than_grid(bad, fixed)
  assert "no (2 of 3 runs" in line
  assert "at worst +10.00 %" in line


def test_trend_says_where_it_ends():
  rows = [cells("trend", price="0.1"), cells("trend", start=20, users=50)]
  (line,) = learned_verdicts.verdicts(rows)
  assert line == (
    "trend: 10 at price 0.1 ends with 4 + 4, 20 at price 0.003 ends with 50 + 4"
  )
