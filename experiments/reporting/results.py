"""The record of a run, `result.json`."""

import dataclasses
import json
import math
import os
import pathlib
import platform
import re
import resource
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import anchor_codes
from anchor_codes import typing as options
from experiments.reporting.files import write_atomically

_FILENAME = "result.json"
_PEAK = r"VmHWM:\s+(\d+) kB"


def peak_rss_bytes() -> int:
  """Returns the most memory that this process has held, in bytes.

  >>> peak_rss_bytes() > 1_000_000
  True
  """
  # On Linux `getrusage` counts the parent's memory in for a process that a
  # large one has started; the kernel's high-water mark does not.
  status = pathlib.Path("/proc/self/status")
  if status.exists() and (mark := re.search(_PEAK, status.read_text())):
    return 1024 * int(mark[1])
  unit = 1 if sys.platform == "darwin" else 1024
  return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def library_versions() -> dict[str, str]:
  """Returns the versions of Python and of the libraries behind a result."""
  libraries = ("jax", "jaxlib", "flax", "optax", "numpy")
  return {
    "anchor_codes": anchor_codes.__version__,
    "python": platform.python_version(),
    **{name: metadata.version(name) for name in libraries},
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
  """What a run has found, in the terms in which runs are compared.

  Attributes:
    experiment: Name of the binary, such as "train_language_model".
    dataset: Name of the data.
    embedding: Name of the kind of embedding, "full" for the dense table.
    seed: The seed that makes the run repeatable.
    metrics: Values by name, such as "test_perplexity". A value that is not
      finite becomes `null` in the file and `nan` on reading.
    embedding_params: Parameters of the embedding as stored.
    embedding_bytes: Bytes of the embedding as stored, at least 1.
    dense_bytes: Bytes of the float32 table that it replaces.
    training_bytes: Bytes of embedding parameters and optimiser state in
      training.
    num_anchors: Number of anchors at the end, 0 where there are none.
    seconds: Duration of the run.
    seconds_per_epoch: Duration of one pass over the training data.
    peak_rss_bytes: The most memory held, measured if not given.
    config: The options of the run; values that JSON lacks become text.
    versions: Versions of the libraries, looked up if not given.
  """

  experiment: str
  dataset: str
  embedding: str
  seed: int
  metrics: Mapping[str, float]
  embedding_params: int
  embedding_bytes: int
  dense_bytes: int
  training_bytes: int
  num_anchors: int = 0
  seconds: float
  seconds_per_epoch: float
  peak_rss_bytes: int = dataclasses.field(default_factory=peak_rss_bytes)
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  versions: Mapping[str, str] = dataclasses.field(
    default_factory=library_versions
  )

  def __post_init__(self):
    options.check_at_least("embedding_bytes", self.embedding_bytes, 1)

  @property
  def compression_ratio(self) -> float:
    """Bytes of the dense float32 table over ours: more is better."""
    return self.dense_bytes / self.embedding_bytes


def write_result(
  result: RunResult, workdir: str | os.PathLike[str]
) -> pathlib.Path:
  """Writes `result.json`, whole or not at all.

  Args:
    result: What the run has found.
    workdir: Folder of the run, made if missing.

  Returns:
    The path of the file.
  """
  record = {}
  for field in dataclasses.fields(result):
    record[field.name] = _plain(getattr(result, field.name))
    if field.name == "dense_bytes":
      record["compression_ratio"] = result.compression_ratio
  path = pathlib.Path(workdir) / _FILENAME
  write_atomically(path, json.dumps(record, indent=2, allow_nan=False) + "\n")
  return path


def _plain(value: Any) -> Any:
  """Turns a value into one that JSON has."""
  if isinstance(value, Mapping):
    return {str(key): _plain(entry) for key, entry in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(entry) for entry in value]
  if hasattr(value, "tolist"):  # Arrays of NumPy and JAX.
    return _plain(value.tolist())
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  return value if isinstance(value, int | str | None) else str(value)


def read_result(workdir: str | os.PathLike[str]) -> RunResult:
  """Reads `result.json` back.

  Args:
    workdir: Folder of a run.

  Returns:
    The record.

  Raises:
    FileNotFoundError: If the run has left no result.
    ValueError: If the file has missing or unknown fields; it names them.
  """
  path = pathlib.Path(workdir) / _FILENAME
  record = json.loads(path.read_text(encoding="utf-8"))
  record.pop("compression_ratio", None)
  wrong = {f.name for f in dataclasses.fields(RunResult)} ^ set(record)
  if wrong:
    raise ValueError(
      f"{path} must have the fields of a result, got missing or unknown ones: "
      f"{', '.join(sorted(wrong))}."
    )
  metrics = record["metrics"].items()
  record["metrics"] = {k: math.nan if v is None else v for k, v in metrics}
  return RunResult(**record)
