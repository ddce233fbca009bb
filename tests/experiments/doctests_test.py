"""Runs the examples in the docstrings of what the experiments share."""

import doctest
import importlib
import pkgutil

import pytest

import experiments.datasets
import experiments.reporting

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PACKAGES = (experiments.datasets, experiments.reporting)
MODULES = [
  "experiments.bert_weights",
  "experiments.best_epoch",
  "experiments.code_options",
  "experiments.command_line",
  "experiments.interaction_options",
  "experiments.models.masking",
  "experiments.transformer_options",
  "experiments.negatives",
  "experiments.optimizers",
  "experiments.recommender_graphs",
  "experiments.recommender_options",
  "experiments.tuning",
  *(
    module.name
    for package in PACKAGES
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
  ),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
  module = importlib.import_module(name)
  assert doctest.testmod(module, optionflags=FLAGS).failed == 0
