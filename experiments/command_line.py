"""How the training binaries read their options from the command line."""

import dataclasses
import difflib
import inspect
import re
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

USER_ERRORS = (ValueError, OSError, FloatingPointError)
"""What the options or the data of a run are to blame for: one line says so."""
_PREFIXES = ("--config.", "-config.")


def define_config(
  default: Any, *, flag_values: flags.FlagValues = flags.FLAGS
) -> flags.FlagHolder:
  """Defines the flag `config`, with an option for each field.

  Args:
    default: A dataclass of options and their values.
    flag_values: The flags that it is added to.

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
  holder = config_flags.DEFINE_config_dataclass(
    "config",
    default,
    help_string=describe(default),
    flag_values=flag_values,
  )
  # Of the binary that runs, whose `--help` lists it then; once is enough for
  # the defaults.
  flag = flag_values["config"]
  flag_values.register_key_flag_for_module(sys.argv[0], flag)
  flag.default_as_str = None
  return holder


def describe(default: Any) -> str:
  """Returns a line for each option: its name, its default, what it is.

  Args:
    default: A dataclass whose docstring, and those of its bases, have a section
      of attributes.

  >>> @dataclasses.dataclass
  ... class Options:
  ...   \"\"\"Options.
  ...
  ...   Attributes:
  ...     rate: Learning rate, which
  ...       is positive.
  ...   \"\"\"
  ...   rate: float = 0.5
  >>> print(describe(Options()))
  The options, with their defaults:
  --config.rate=0.5: Learning rate, which is positive.
  """
  texts: dict[str, str] = {}
  for base in reversed(type(default).__mro__):
    texts |= _attributes(inspect.getdoc(base) or "")
  # Those of the class itself before those of its bases.
  own = vars(type(default)).get("__annotations__", {})
  names = [field.name for field in dataclasses.fields(default)]
  names.sort(key=lambda name: name not in own)
  lines = [
    f"--config.{name}={getattr(default, name)}: {texts.get(name, '')}"
    for name in names
  ]
  return "\n".join(["The options, with their defaults:", *lines])


def _attributes(docstring: str) -> dict[str, str]:
  """Returns the texts of the section of attributes, each in one line."""
  section = docstring.partition("Attributes:\n")[2].split("\n\n")[0]
  found = re.split(r"^  (\w+): ", section, flags=re.MULTILINE)[1:]
  texts = (" ".join(text.split()) for text in found[1::2])
  return dict(zip(found[::2], texts, strict=True))


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
