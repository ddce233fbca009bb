"""Tests for `experiments.command_line`."""

import dataclasses
import functools
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

import experiments
from experiments import command_line
from experiments.datasets import (
  classification,
  language_model,
  node_graphs,
  ratings,
  sequences,
  translation,
)


@dataclasses.dataclass
class Config:
  """Two options."""

  embedding: str = "full"
  seed: int = 0


@pytest.fixture
def define(monkeypatch):
  """Defines the options of :class:`Config` for a command line."""
  values = flags.FlagValues()
  define_flag = functools.partial(
    config_flags.DEFINE_config_dataclass, flag_values=values
  )
  monkeypatch.setattr(
    command_line.config_flags, "DEFINE_config_dataclass", define_flag
  )

  def run(*arguments):
    monkeypatch.setattr(sys, "argv", ["run", *arguments])
    command_line.define_config(Config())
    values(sys.argv)
    return values["config"].value

  return run


@pytest.mark.parametrize("prefix", ["-", "--"])
def test_options_that_exist_are_parsed(define, prefix):
  config = define(f"{prefix}config.seed=3", "config.x", "--config.embedding=kd")
  assert config == Config("kd", 3)


@pytest.mark.parametrize(
  ("argument", "text"),
  [
    ("--config.embeding=full", "no option. Did you mean `--config.embedding`?"),
    ("-config.sed", "Did you mean `--config.seed`?"),
    ("--config.x=1", "`--config.x` is no option. There are: embedding, seed."),
    ("--config.=1", "There are: embedding, seed."),
  ],
)
def test_an_unknown_option_ends_with_what_may_be_meant(define, argument, text):
  with pytest.raises(SystemExit) as end:
    define(argument)
  assert text in str(end.value)


def test_a_binary_says_what_may_be_meant(tmp_path):
  process = subprocess.run(
    [
      sys.executable,
      "-m",
      "experiments.train_language_model",
      "--config.learning_rat=1",
      f"--workdir={tmp_path}",
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert process.returncode == 1
  assert "Did you mean `--config.learning_rate`?" in (
    process.stdout + process.stderr
  )
  assert "Traceback" not in process.stderr


def test_all_binaries_read_their_options_in_the_same_way():
  # By their text: only one of them can be imported, as flags are global.
  folder = pathlib.Path(experiments.__file__).parent
  binaries = sorted(folder.glob("train_*.py"))
  assert len(binaries) == 7
  for path in binaries:
    assert "CONFIG = command_line.define_config(" in path.read_text()


@pytest.mark.parametrize(
  ("load", "own"),
  [
    (classification.load_classification, "csv:PATH"),
    (language_model.load_text, "text:PATH"),
    (node_graphs.load_node_graph, "own:FOLDER"),
    (ratings.load_ratings, "csv:PATH"),
    (sequences.load_sequences, "csv:PATH"),
    (translation.load_parallel, "files:PREFIX"),
  ],
)
def test_an_unknown_data_set_lists_those_that_there_are(load, own):
  with pytest.raises(
    ValueError, match=rf"no data set 'nix': take .* or '{own}"
  ):
    load("nix")
