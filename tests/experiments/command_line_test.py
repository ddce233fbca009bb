"""Tests for `experiments.command_line`."""

import dataclasses
import pathlib
import subprocess
import sys

import pytest
from absl import flags

import experiments
from experiments import (
  command_line,
  language_modeling,
  masked_language_modeling,
  node_classification,
  recommender_options,
  sequential_options,
  text_classification_options,
  translation_options,
)
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
  """Two options.

  Attributes:
    embedding: Kind of the
      embedding.
    seed: Seed of all.
  """

  embedding: str = "full"
  seed: int = 0


@pytest.fixture
def define(monkeypatch):
  """Defines the options of :class:`Config` for a command line."""
  values = flags.FlagValues()

  def run(*arguments):
    monkeypatch.setattr(sys, "argv", ["run", *arguments])
    command_line.define_config(Config(), flag_values=values)
    values(sys.argv)
    return values["config"].value

  return run


def test_help_lists_the_options(monkeypatch):
  monkeypatch.setattr(sys, "argv", ["run"])
  values = flags.FlagValues()
  command_line.define_config(Config(), flag_values=values)
  found = " ".join(values.main_module_help().split())
  assert "--config.embedding=full: Kind of the embedding." in found
  assert "--config.seed=0: Seed of all." in found
  assert "Config(" not in found


@pytest.mark.parametrize(
  "config",
  [
    language_modeling.LanguageModelConfig,
    masked_language_modeling.MaskedLanguageConfig,
    node_classification.NodeClassificationConfig,
    recommender_options.RecommenderConfig,
    sequential_options.SequentialConfig,
    text_classification_options.TextClassificationConfig,
    translation_options.TranslationConfig,
  ],
)
def test_every_option_of_the_binaries_is_explained(config):
  lines = command_line.describe(config()).splitlines()[1:]
  assert len(lines) == len(dataclasses.fields(config))
  assert [line for line in lines if line.endswith(": ")] == []


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


def test_binaries_tell_the_errors_of_their_users_in_a_line():
  for path in pathlib.Path(experiments.__path__[0]).glob("train_*.py"):
    assert "except command_line.USER_ERRORS" in path.read_text()
  assert FloatingPointError in command_line.USER_ERRORS
