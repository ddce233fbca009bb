"""What travels between devices, read from a compiled program, and compared."""

import re
from typing import Any, NamedTuple

_COLLECTIVE = re.compile(
  r"= (?P<shapes>.*?) (?P<kind>all-gather|all-reduce|all-to-all|"
  r"collective-permute|reduce-scatter)(?:-start)?\("
)
_SHAPE = re.compile(
  r"\b(?P<letter>[a-z]+)(?P<bits>\d*)\w*\[(?P<sizes>[\d,]*)\]"
)


class Collective(NamedTuple):
  """One move of data between devices.

  Attributes:
    kind: Its name in XLA, such as "all-gather".
    nbytes: Size of its result on one device.
    wire_bytes: What a device has to send for it, by ring or directly.
  """

  kind: str
  nbytes: int
  wire_bytes: int


def find_collectives(text: str, *, num_devices: int = 1) -> list[Collective]:
  """Finds what travels in each run of a program; a loop's body counts once.

  Args:
    text: The compiled program, ``compiled.as_text()``.
    num_devices: Number of devices that it runs on.

  Returns:
    The collectives in the order of the text.

  >>> find_collectives("%a = f32[4,8]{1,0} all-gather(%b)", num_devices=4)
  [Collective(kind='all-gather', nbytes=128, wire_bytes=96)]
  """
  found = []
  for match in _COLLECTIVE.finditer(text):
    nbytes = sum(_nbytes(shape) for shape in _SHAPE.finditer(match["shapes"]))
    sent = _wire_bytes(match["kind"], nbytes, num_devices)
    found.append(Collective(match["kind"], nbytes, sent))
  return found


def without_shared(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Adds what is sent for rows to the cells of a table.

  With "scatter" nothing but the gradient of what all devices share is summed
  over all of them; with "auto" the sums are of both.

  >>> scatter = {"devices": 2, "exchange": "scatter", "reduced": 2.0}
  >>> without_shared([scatter | {"kilobytes": 3.0}])[0]["row_kilobytes"]
  1.0
  """
  shared = {
    cell["devices"]: cell["reduced"]
    for cell in cells
    if cell["exchange"] == "scatter"
  }
  return [
    cell | {"row_kilobytes": cell["kilobytes"] - shared[cell["devices"]]}
    for cell in cells
  ]


def ratios(cells: list[dict[str, Any]]) -> dict[str, float]:
  """Returns how much less than "auto" the others send of rows, on most devices.

  >>> cell = {"table": "full", "devices": 2, "exchange": "auto"}
  >>> other = cell | {"exchange": "scatter", "row_kilobytes": 1.0}
  >>> ratios([cell | {"row_kilobytes": 3.0}, other])
  {'full_scatter_wire_ratio': 3.0}
  """
  most = max(cell["devices"] for cell in cells)
  sent = {
    (cell["table"], cell["exchange"]): cell["row_kilobytes"]
    for cell in cells
    if cell["devices"] == most
  }
  return {
    f"{table}_{exchange}_wire_ratio": sent[table, "auto"] / kilobytes
    for (table, exchange), kilobytes in sent.items()
    if exchange != "auto" and kilobytes
  }


def _nbytes(shape: re.Match[str]) -> int:
  # A predicate has no width in its name.
  total = int(shape["bits"] or 8) // 8
  for size in filter(None, shape["sizes"].split(",")):
    total *= int(size)
  return total


def _wire_bytes(kind: str, nbytes: int, num_devices: int) -> int:
  others = num_devices - 1
  if kind == "all-reduce":  # A reduce-scatter, and an all-gather.
    return 2 * nbytes * others // num_devices
  if kind == "reduce-scatter":  # The result is one part of many.
    return nbytes * others
  return (
    nbytes if kind == "collective-permute" else nbytes * others // num_devices
  )
