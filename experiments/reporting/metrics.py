"""The course of a run: `metrics.csv`, and what TensorBoard shows."""

import csv
import io
import os
import pathlib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from experiments.reporting.files import write_atomically

_FILENAME = "metrics.csv"
_STEP = "step"
_BINS = 64


class MetricsWriter:
  """Writes metrics to `metrics.csv` and to TensorBoard events.

  The CSV file has one line for each step and one column for each metric, in
  the order in which the metrics first came up; a metric that a step lacks is
  an empty cell. Every line is in the file when `write` returns; the events
  follow within seconds, all of them when the writer is closed.

  Attributes:
    path: The CSV file.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as workdir:
  ...   with MetricsWriter(workdir) as writer:
  ...     writer.write(10, {"train_loss": 6.5})
  ...     writer.write(20, {"train_loss": 6.0, "valid_perplexity": 420.0})
  ...   print(writer.path.read_text())
  step,train_loss,valid_perplexity
  10,6.5,
  20,6.0,420.0
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    *,
    restored_step: int | None = None,
  ):
    """Opens the files of a run.

    Args:
      workdir: Folder of the run, made if missing.
      restored_step: Step of the checkpoint with which the run goes on. Lines
        of later steps, and one that was cut short, are dropped: those steps
        are run again. None starts anew and drops all.
    """
    # Imported here, for it takes longer than all the rest.
    import tensorboardX

    self.path = pathlib.Path(workdir) / _FILENAME
    self._last_step = -1 if restored_step is None else restored_step
    self._columns = [_STEP]
    rows = _read_rows(self.path)
    kept = [row for row in rows if int(row[_STEP]) <= self._last_step]
    for row in kept[:1]:
      self._columns = list(row)
    self._rewrite(kept)
    self._events = tensorboardX.SummaryWriter(
      str(workdir), purge_step=self._last_step + 1, flush_secs=10
    )

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Appends the metrics of a step.

    Args:
      step: Number of training steps done, larger than at the call before.
      metrics: Values by name.

    Raises:
      ValueError: If the step is not larger than the last one, or a metric is
        called "step".
    """
    if _STEP in metrics:
      raise ValueError("`metrics` must not have the name of a column, 'step'.")
    if step <= self._last_step:
      raise ValueError(
        f"`step` must be larger than the last one, {self._last_step}, got "
        f"{step}."
      )
    values = {name: float(value) for name, value in metrics.items()}
    self._add_columns(values)
    with self.path.open("a", encoding="utf-8", newline="") as file:
      file.write(_csv_line([step, *map(values.get, self._columns[1:])]))
    for name, value in values.items():
      self._events.add_scalar(name, value, step)
    self._last_step = step

  def write_histograms(self, step: int, values: Mapping[str, Any]) -> None:
    """Adds histograms to the events, for TensorBoard alone.

    Args:
      step: Number of training steps done.
      values: Numbers by name, of any shape. What is not finite is left out, and
        so is a name without any number.
    """
    for name, found in values.items():
      numbers = np.ravel(found)
      numbers = numbers[np.isfinite(numbers)]
      if numbers.size:
        self._events.add_histogram(
          name, numbers.astype(float), step, bins=_edges(numbers)
        )

  def _add_columns(self, names: Iterable[str]) -> None:
    new = [name for name in names if name not in self._columns]
    if new:
      rows = _read_rows(self.path)
      self._columns.extend(new)
      self._rewrite(rows)

  def _rewrite(self, rows: Iterable[Mapping[str, str]]) -> None:
    lines = ([row.get(name) for name in self._columns] for row in rows)
    content = map(_csv_line, [self._columns, *lines])
    write_atomically(self.path, "".join(content))

  def close(self) -> None:
    """Closes the event file; nothing can be written any more."""
    self._events.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self.close()


def _edges(numbers: np.ndarray) -> Any:
  """Returns the edges of the bins: one for each integer if these are few."""
  low, high = numbers.min(), numbers.max()
  if np.issubdtype(numbers.dtype, np.integer) and int(high) - int(low) < _BINS:
    return np.arange(int(low), int(high) + 2) - 0.5
  return np.histogram_bin_edges(numbers.astype(float), _BINS)


def _read_rows(path: pathlib.Path) -> list[dict[str, str]]:
  if not path.exists():
    return []
  with path.open(encoding="utf-8", newline="") as file:
    whole = [line for line in file if line.endswith("\n")]
  return list(csv.DictReader(whole))


def _csv_line(cells: Iterable[object]) -> str:
  buffer = io.StringIO()
  csv.writer(buffer, lineterminator="\n").writerow(cells)
  return buffer.getvalue()
