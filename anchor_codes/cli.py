"""The command ``anchor-codes``: compresses tables and looks into them.

Exit codes: 0 when all went well; 1 after one line on stderr when a file, a word
or a request is not as it must be; 2 when the arguments make no sense.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags
from absl.flags import argparse_flags

from anchor_codes.commands import (
  compress,
  convert,
  inspecting,
  lookup,
  neighbors,
  reporting,
)

_COMMANDS = (compress, inspecting, neighbors, lookup, convert, reporting)
_EPILOG = """\
examples:
  anchor-codes compress glove.txt glove.safetensors --ratio 30
  anchor-codes inspect glove.safetensors
  anchor-codes neighbors glove.safetensors cat dog
  anchor-codes lookup glove.safetensors cat --json
  anchor-codes convert glove.safetensors glove.onnx
  anchor-codes report glove.safetensors --original glove.txt

anchor-codes COMMAND --help tells more. --flagfile=FILE reads arguments from a
file. Exit codes: 0 done, 1 a file or a request is not as it must be, 2 wrong
usage.
"""
# What users can cause. Any other error is a bug, and keeps its traceback.
_USER_ERRORS = (OSError, ValueError, LookupError, ImportError, MemoryError)


class _Parser(argparse_flags.ArgumentParser):
  """A parser of absl, for the commands too, with no flags but our own.

  A program that calls :func:`main` may have flags of the same names.
  """

  def __init__(self, **options: Any) -> None:
    options.setdefault("inherited_absl_flags", flags.FlagValues())
    super().__init__(**options)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line.

  Args:
    argv: The arguments, those of the process by default.

  Returns:
    The exit code: 0, or 1 after one line on stderr that says what is wrong.

  Raises:
    SystemExit: With code 2 if the arguments are wrong, 0 after `--help`.

  >>> main(["inspect", "no-such-file.safetensors"])
  1
  """
  args = _parse(argv)
  try:
    for line in args.run(args):
      print(line)
    sys.stdout.flush()
  except BrokenPipeError:
    # Who reads has seen enough, as `head` does. The interpreter flushes once
    # more at its end: to where it cannot fail.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except KeyboardInterrupt:
    _complain("interrupted")
    return 130  # As shells call a process that such a signal has ended.
  except _USER_ERRORS as error:
    # A KeyError shows its message in quotes, but has it as it was written.
    shown = error.args[0] if isinstance(error, KeyError) else error
    _complain(str(shown) or type(error).__name__)
    return 1
  return 0


def _complain(message: str) -> None:
  # Split and joined again: one line, however the message was broken.
  print("anchor-codes:", *message.split(), file=sys.stderr)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = _Parser(
    prog="anchor-codes",
    description="Makes embedding tables smaller, and looks into the results.",
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(required=True, metavar="COMMAND")
  for command in _COMMANDS:
    command.add(commands)
  try:
    return parser.parse_args(argv)
  except flags.Error as error:  # Of a file of flags.
    parser.error(str(error))


if __name__ == "__main__":
  sys.exit(main())
