"""The time and the memory that it takes to compress a large file."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np

from anchor_codes import accounting
from experiments import reporting
from experiments.reporting import files

COLUMNS = {
  "recipe": "Recipe",
  "rows": "Rows",
  "features": "Features",
  "nbytes": "Bytes",
  "ratio": "Ratio",
  "error": "Error",
  "seconds": "s",
  "cpu_seconds": "CPU s",
  "gigabytes": "Peak GB",
}
"""Headings of what is measured by its names."""

_BLOCK = 65_536  # Rows that are drawn at a time.

# Compresses a mapped file in a process of its own. The peak is that of the
# process that has started it, where that was larger.
_RUN = """
import json, resource, sys, time
import numpy as np
from anchor_codes import compression
begin = time.perf_counter()
matrix = np.load(sys.argv[1], mmap_mode="r")
table, report = vars(compression.compress(
  matrix, budget=int(sys.argv[2]), recipe=sys.argv[3])).values()
seconds = time.perf_counter() - begin
usage = resource.getrusage(resource.RUSAGE_SELF)
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps({
  "recipe": report.chosen.recipe, "nbytes": table.nbytes, **report.quality,
  "seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime,
  "gigabytes": unit * usage.ru_maxrss / 1e9,
}))
"""


def random_walks(
  rng: np.random.Generator, size: int, features: int
) -> np.ndarray:
  """Draws random walks: their spectrum falls with the square of the number.

  Args:
    rng: Random numbers.
    size: How many.
    features: Steps of a walk.

  Returns:
    float32 [size, features].
  """
  steps = rng.standard_normal((size, features), np.float32)
  return steps.cumsum(axis=1, dtype=np.float32)


def write_matrix(
  path: str | os.PathLike[str], *, size: int, features: int
) -> None:
  """Writes random walks as a .npy file, block by block.

  Args:
    path: The file.
    size: Number of rows.
    features: Width of a row.
  """
  rng = np.random.default_rng(0)
  shape = size, features
  matrix = np.lib.format.open_memmap(path, "w+", np.float32, shape)
  starts = range(0, size, _BLOCK)
  for start in reporting.progress(starts, description="drawing", unit="block"):
    block = matrix[start : start + _BLOCK]
    block[...] = random_walks(rng, len(block), features)
  matrix.flush()


def measure(
  workdir: pathlib.Path,
  *,
  size: int = 1_000_000,
  features: int = 128,
  ratio: float = 30,
  recipe: str = "opq:16x256x8",
) -> dict[str, Any]:
  """Compresses a file of random walks in a process of its own.

  Args:
    workdir: Folder for the file, which is removed, and for `scale.json`.
    size: Number of rows.
    features: Width of a row.
    ratio: How many times smaller it is to be.
    recipe: What :func:`anchor_codes.compression.compress` is to make.

  Returns:
    What `COLUMNS` names: seconds of the clock and of the processors, gigabytes
    at most, and the quality.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / "scale.npy"
  dense_bytes = accounting.dense_bytes(size, features)
  try:
    write_matrix(path, size=size, features=features)
    run = subprocess.run(
      [sys.executable, "-c", _RUN, path, str(int(dense_bytes / ratio)), recipe],
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    )
  finally:
    path.unlink(missing_ok=True)
  found = json.loads(run.stdout)
  found |= {"rows": size, "features": features}
  found["ratio"] = dense_bytes / found["nbytes"]
  content = json.dumps(found, indent=2) + "\n"
  files.write_atomically(workdir / "scale.json", content)
  return found
