"""What a training run has left in its folder."""

import csv
import dataclasses
import itertools
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from anchor_codes import formats, tables
from anchor_codes.accounting import human_bytes
from anchor_codes.report.facts import Fact, in_words, named_facts

_PARTS = {"train": "training", "valid": "validation", "test": "test"}
_CODES = ("unique_codes", "dead_codes", "changed_codes", "changed_digits")
# Those with a panel of several lines, by what comes before and after it.
_FAMILIES = (
  (re.compile(r"(train|valid|test)_(.+)"), "{1}", "{0}"),
  (re.compile(r"(num_anchors)_?(.*)"), "number of anchors", "{1}"),
  (re.compile(r"num_nonzeros"), "weights that are not zero", "all"),
  (re.compile(rf"(.*?)_?({'|'.join(_CODES)})"), "codes by epoch", "{0} {1}"),
)
_NBANT = ("number of anchors", "weights that are not zero", "objective")
_HIDDEN = ("step", "time_batch")


class Panel(NamedTuple):
  """Some metrics that share a chart.

  Attributes:
    title: What they measure.
    axis: What they are drawn against: 'step' or 'epoch'.
    rows: Points: `x`, `y`, and `line`, which tells the metric.
    breaks: The steps after which other data came.
  """

  title: str
  axis: str
  rows: list[dict[str, Any]]
  breaks: list[float]


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run.

  Attributes:
    name: Name of its folder.
    result: What is in `result.json`.
    metrics: The rows of `metrics.csv`: those values of each that are known.
    tables: Its tables by the names of their files.
  """

  name: str
  result: Mapping[str, Any]
  metrics: Sequence[Mapping[str, float]]
  tables: Mapping[str, tables.Table]

  def facts(self) -> list[Fact]:
    """Lists what the run was, and what came of it."""
    found = self.result
    return [
      Fact("experiment", in_words(str(found.get("experiment", "")))),
      Fact("data", str(found.get("dataset", ""))),
      Fact("embedding", str(found.get("embedding", ""))),
      Fact("seed", str(found.get("seed", ""))),
      *named_facts(found.get("metrics", {})),
      *_size_facts(found),
    ]

  def panels(self) -> list[Panel]:
    """Groups the metrics by what they measure; how NBANT went comes first."""
    lines: dict[str, dict[str, str]] = {}
    for name in {name: None for row in self.metrics for name in row}:
      if name not in _HIDDEN:
        title, line = _family(name)
        lines.setdefault(title, {})[name] = line
    titles = sorted(lines, key=lambda title: title not in _NBANT)
    panels = (self._panel(title, lines[title]) for title in titles)
    # A count that stays at zero is no news.
    return [panel for panel in panels if any(row["y"] for row in panel.rows)]

  def _panel(self, title: str, lines: Mapping[str, str]) -> Panel:
    by_epoch = title == "codes by epoch"
    known = [row for row in self.metrics if lines.keys() & row.keys()]
    rows = [
      {"x": epoch if by_epoch else row["step"], "y": row[name], "line": line}
      for epoch, row in enumerate(known, 1)
      for name, line in lines.items()
      if math.isfinite(row.get(name, math.nan))
    ]
    breaks = [] if by_epoch else list(_breaks(self.metrics))
    return Panel(title, "epoch" if by_epoch else "step", rows, breaks)


def read_run(folder: str | os.PathLike[str]) -> Run:
  """Reads the folder of a training run.

  Args:
    folder: A folder with `result.json`; with `metrics.csv` and tables, if the
      run has left some.

  Raises:
    FileNotFoundError: If there is no `result.json`.
    ValueError: If it or `metrics.csv` is not as a run writes it.
    ArtifactError: If a table is damaged.
  """
  path = pathlib.Path(folder)
  if not (path / "result.json").exists():
    raise FileNotFoundError(
      f"{path} has no result.json: name a table, or the folder of a training "
      "run that has ended."
    )
  return Run(
    name=path.resolve().name,
    result=_read_result(path / "result.json"),
    metrics=_read_metrics(path / "metrics.csv"),
    tables=dict(_read_tables(path)),
  )


def _read_result(path: pathlib.Path) -> Mapping[str, Any]:
  try:
    result = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(f"{path} is not valid JSON: {error}.") from None
  if not isinstance(result, dict) or not isinstance(
    result.get("metrics", {}), dict
  ):
    raise ValueError(f"{path} must hold an object, as training runs write it.")
  return result


def _read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
  if not path.exists():
    return []
  with path.open(encoding="utf-8", newline="") as file:
    try:
      rows = [
        {name: float(cell) for name, cell in row.items() if cell}
        for row in csv.DictReader(file)
      ]
    except (TypeError, ValueError) as error:
      raise ValueError(f"{path} must hold numbers: {error}.") from None
  if any("step" not in row for row in rows):
    raise ValueError(f"{path} must have a column `step` without gaps.")
  return rows


def _read_tables(path: pathlib.Path) -> Iterator[tuple[str, tables.Table]]:
  for file in sorted(path.glob("*.safetensors")):
    # A run may keep the weights of its model in the same format.
    if formats.is_table(file):
      yield file.name, tables.load(file)


def _family(name: str) -> tuple[str, str]:
  """Returns the title of the chart of a metric, and what its line is called.

  >>> _family("valid_perplexity"), _family("num_anchors_users")
  (('perplexity', 'validation'), ('number of anchors', 'users'))
  """
  for pattern, title, line in _FAMILIES:
    match = pattern.fullmatch(name)
    if match:
      words = [_PARTS.get(word, word) for word in match.groups()]
      title, line = title.format(*words), line.format(*words)
      return in_words(title), in_words(line or title)
  return in_words(name), in_words(name)


def _breaks(metrics: Sequence[Mapping[str, float]]) -> Iterator[float]:
  for before, after in itertools.pairwise(metrics):
    if before.get("time_batch", 0) != after.get("time_batch", 0):
      yield before["step"]


def _size_facts(result: Mapping[str, Any]) -> Iterator[Fact]:
  for name in ("embedding_bytes", "training_bytes"):
    if name in result:
      yield Fact(name.replace("_", " "), human_bytes(result[name]))
  if "compression_ratio" in result:
    yield Fact("times smaller", f"{result['compression_ratio']:.1f}")
  if result.get("num_anchors"):
    yield Fact("number of anchors", f"{result['num_anchors']:,}")
  if "seconds" in result:
    yield Fact("seconds", f"{result['seconds']:.1f}")
