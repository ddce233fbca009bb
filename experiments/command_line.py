"""How the training binaries read their options from the command line."""

import dataclasses
import difflib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

_PREFIXES = ("--config.", "-config.")


def define_config(default: Any) -> flags.FlagHolder:
  """Defines the flag `config`, with an option for each field.

  Args:
    default: A dataclass of options and their values.

  Returns:
    What holds the options after the flags are parsed.

  Raises:
    SystemExit: If the command line gives an option that does not exist; the
      message says which one may be meant.
  """
  options = [field.name for field in dataclasses.fields(default)]
  # Before the flag is defined, which reads the command line and would end with
  # a traceback.
  for argument in sys.argv[1:]:
    name = option_name(argument)
    if name is not None and name not in options:
      raise SystemExit(unknown(name, options))
  return config_flags.DEFINE_config_dataclass("config", default)


def option_name(argument: str) -> str | None:
  """Returns the name of an option of `config`, None for any other argument.

  >>> option_name("--config.seed=3"), option_name("--workdir=/tmp")
  ('seed', None)
  """
  for prefix in _PREFIXES:
    if argument.startswith(prefix):
      return argument.removeprefix(prefix).partition("=")[0]
  return None


def unknown(name: str, options: Sequence[str]) -> str:
  """Says that there is no such option, and which one may be meant.

  >>> print(unknown("embeding", ["embedding", "seed"]))
  `--config.embeding` is no option. Did you mean `--config.embedding`?
  >>> print(unknown("x", ["seed", "epochs"]))
  `--config.x` is no option. There are: epochs, seed.
  """
  near = difflib.get_close_matches(name, options, n=1)
  if near:
    more = f"Did you mean `--config.{near[0]}`?"
  else:
    more = f"There are: {', '.join(sorted(options))}."
  return f"`--config.{name}` is no option. {more}"
