"""A progress bar for people, silence for log files."""

from collections.abc import Iterable
from typing import TypeVar

import tqdm

T = TypeVar("T")


def progress(
  iterable: Iterable[T],
  *,
  description: str = "",
  total: int | None = None,
  unit: str = "step",
) -> Iterable[T]:
  """Shows a progress bar on the standard error stream if it is a terminal.

  Args:
    iterable: What to iterate over.
    description: Text in front of the bar.
    total: Number of items, by default the length of `iterable` if it has one.
    unit: What an item is called.

  Returns:
    An iterable of the same items.

  >>> list(progress(range(3), description="epoch 1", unit="batch"))
  [0, 1, 2]
  """
  return tqdm.tqdm(
    iterable,
    desc=description,
    total=total,
    unit=unit,
    dynamic_ncols=True,
    leave=False,
    disable=None,  # Which asks the stream whether it is a terminal.
  )
