"""What a compression has tried, and what came of it."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from anchor_codes import tables


@dataclasses.dataclass(frozen=True)
class Trial:
  """One recipe and what it did.

  Attributes:
    recipe: Its name, with sizes.
    nbytes: Bytes of the table.
    quality: Metrics by name, measured on rows that were not fitted if the
      matrix has more rows than a trial fits.
    seconds: Time of fitting and measuring.
    chosen: Whether it is the one that was taken.
  """

  recipe: str
  nbytes: int
  quality: dict[str, float]
  seconds: float
  chosen: bool = False


@dataclasses.dataclass(frozen=True)
class Report:
  """The curve of quality against bytes.

  Attributes:
    metric: What was chosen by.
    budget: Bytes that were allowed.
    dense_bytes: Bytes of the matrix in float32.
    trials: All that was tried, the best first.
    quality: Metrics of the whole table that was made.
    seconds: Time of all of it.
  """

  metric: str
  budget: int
  dense_bytes: int
  trials: tuple[Trial, ...]
  quality: dict[str, float]
  seconds: float

  @property
  def chosen(self) -> Trial:
    """The trial that was taken."""
    return next(trial for trial in self.trials if trial.chosen)

  def to_json(self) -> str:
    """Returns the report as a JSON object."""
    return json.dumps(dataclasses.asdict(self))

  def __str__(self) -> str:
    names = list(self.trials[0].quality)
    rows = [["recipe", "bytes", "ratio", *names, "seconds", ""]]
    # The last row is not of a trial, which is rough, but of the table.
    made = Trial("as made", self.chosen.nbytes, self.quality, self.seconds)
    for trial in (*self.trials, made):
      values = [f"{trial.quality[name]:.4f}" for name in names]
      mark = "chosen" if trial.chosen else ""
      ratio = f"{self.dense_bytes / trial.nbytes:.1f}"
      size, seconds = f"{trial.nbytes:,}", f"{trial.seconds:.1f}"
      rows.append([trial.recipe, size, ratio, *values, seconds, mark])
    return "\n".join(_aligned(rows))


@dataclasses.dataclass(frozen=True)
class Compressed:
  """A compact table, and how it was found.

  Attributes:
    table: The table, with its quality and vocabulary.
    report: What was tried.
  """

  table: tables.Table
  report: Report


def _aligned(rows: Sequence[Sequence[Any]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    "  ".join(
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  ]
