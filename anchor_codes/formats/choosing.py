"""Which of the arrays of a file are the vectors."""

import difflib
from collections.abc import Mapping
from typing import NamedTuple

from anchor_codes.formats.matrix import FLOATS, FormatError

_SHOWN = 8  # Names in an error: a language model has hundreds of tensors.


class Entry(NamedTuple):
  """An array as the header of a file describes it.

  Attributes:
    dtype: Name of its type.
    shape: Its axes.
    kind: NumPy's letter for the type.
  """

  dtype: str
  shape: tuple[int, ...]
  kind: str = "f"

  def __str__(self) -> str:
    return f"{self.dtype} {list(self.shape)}"


def choose(entries: Mapping[str, Entry], name: str | None) -> str:
  """Finds the vectors among the arrays of a file.

  Args:
    entries: What there is.
    name: The name that the user gave, or None.

  Returns:
    The name, or that of the only floats of two axes.

  Raises:
    FormatError: If there is no such name, or none was given and there are
      several. It lists the nearest names, or those to choose from.

  >>> entries = {"embed.weight": Entry("float32", (9, 2))}
  >>> choose(entries, None)
  'embed.weight'
  >>> choose(entries, "embed.weights")
  Traceback (most recent call last):
  ...
  anchor_codes.formats.matrix.FormatError: It has no tensor 'embed.weights';
  near: 'embed.weight' float32 [9, 2].
  """
  if name in entries:
    return str(name)
  matrices = {
    key: entry
    for key, entry in entries.items()
    if entry.dtype in FLOATS and len(entry.shape) == 2
  }
  if name is not None:
    near = difflib.get_close_matches(name, entries, _SHOWN, cutoff=0.5)
    shown = {key: entries[key] for key in near} or entries
    raise FormatError(f"It has no tensor {name!r}; near: {_listed(shown)}.")
  if not matrices:
    raise FormatError(f"It has no floats of two axes: {_listed(entries)}.")
  if len(matrices) > 1:
    raise FormatError(f"Name the tensor, one of {_listed(matrices)}.")
  return next(iter(matrices))


def _listed(entries: Mapping[str, Entry]) -> str:
  # What is called an embedding goes first: it is likely what is meant.
  names = sorted(entries, key=lambda name: "embed" not in name.lower())
  shown = [f"{name!r} {entries[name]}" for name in names[:_SHOWN]]
  more = ["..."] if len(names) > _SHOWN else []
  return ", ".join([*shown, *more]) or "nothing at all"
