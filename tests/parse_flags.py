"""Parses command lines of the experiments, without running them.

Reads a JSON list of lists ``[place, module, *arguments]`` from stdin and
prints what is wrong with each one, as JSON. It is a program of its own because
all binaries define the same flags: each has to be forgotten before the next.
"""

import json
import runpy
import sys
from collections.abc import Sequence

from absl import app, flags


def complaint(place: str, module: str, *arguments: str) -> str:
  """Returns what is wrong with a command, or an empty string."""
  known = set(flags.FLAGS)
  # Commands within a sentence say what matters, not where results go.
  is_inline = place.endswith("(inline)")

  def parse(main: object, argv: Sequence[str] | None = None) -> None:
    del main, argv
    given = list(arguments)
    if is_inline and "workdir" in flags.FLAGS:
      given.append("--workdir=unused")
    try:
      rest = flags.FLAGS([module, *given])[1:]
      if rest:
        raise flags.Error(f"unexpected arguments {rest}")
    finally:
      for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)

  app.run = parse
  # Overrides of a config become flags when it is defined, by these.
  sys.argv = [module, *arguments]
  try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
  except (flags.Error, ImportError, LookupError) as error:
    return f"{place}: {module}: {error}"
  except SystemExit as end:
    if isinstance(end.code, str):
      return f"{place}: {module}: {end.code}"
  return ""


if __name__ == "__main__":
  sys.path.insert(0, ".")
  found = [complaint(*command) for command in json.load(sys.stdin)]
  print(json.dumps([text for text in found if text]))
