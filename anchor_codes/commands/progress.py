"""How far a long work is: one line on a terminal, nothing elsewhere."""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def showing(verb: str) -> Iterator[Callable[..., None] | None]:
  """Gives what to call with what is done, all there is, and perhaps a name.

  Args:
    verb: What the line begins with.

  Yields:
    The function, or None where nobody would see the line.
  """
  if not sys.stderr.isatty():
    yield None
    return

  def show(done: int, total: int, name: str = "") -> None:
    share = done / total if total else 1
    line = f"{verb} {share:4.0%} {name}".rstrip()
    _write(line[: shutil.get_terminal_size().columns - 1])

  try:
    yield show
  finally:
    # What comes next, perhaps an error, starts a clean line.
    _write("")


def _write(line: str) -> None:
  # Back to the start of the line, and what stood there is wiped.
  print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
