"""Tests for `experiments.tuning`."""

import subprocess
import sys

import pytest
from absl import flags

from experiments import tuning


@pytest.fixture
def parse():
  """Parses a command line with a flag that takes two names."""

  def run(*arguments):
    values = flags.FlagValues()
    tuning.define_names(
      "rows",
      ("full", "low rank"),
      "Rows.",
      default=("full",),
      flag_values=values,
    )
    values(["run", *arguments])
    return values

  return run


def test_names_are_taken_from_a_list(parse):
  assert parse("--rows=low rank,full").rows == ["low rank", "full"]
  assert parse().rows == ["full"]
  assert "Of: full, low rank." in parse().get_help()


@pytest.mark.parametrize("given", ["low", "full,low", "full,"])
def test_other_names_are_refused(parse, given):
  with pytest.raises(flags.Error, match="must be one of 'full', 'low rank'"):
    parse(f"--rows={given}")


@pytest.mark.parametrize(
  ("benchmark", "argument", "allowed"),
  [
    ("text_classifiers", "--rows=anchor", "'anchors of words'"),
    ("recommender_frontier", "--kinds=anchor", "'anchors'"),
    ("shared_factorization", "--rows=anchor", "N(0, 1), SSE-SE"),
  ],
)
def test_benchmarks_refuse_other_names(benchmark, argument, allowed):
  run = subprocess.run(
    [sys.executable, "-m", f"experiments.benchmarks.{benchmark}", argument],
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 1
  assert allowed in run.stderr
  assert "Traceback" not in run.stderr
