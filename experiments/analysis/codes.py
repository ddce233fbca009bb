r"""Tells how a stored table uses its codes: collisions, balance, neighbours.

  python -m experiments.analysis.codes --table=/tmp/a/embedding.safetensors

describes the codes of a table, with its vocabulary. Codes alone come as an
`.npz` file with an array `codes`, and `vocabulary` if it is to name the
symbols; else the words of a text do, the most frequent first:

  python -m experiments.analysis.codes --dataset=ptb \
      --codes=/path/to/small_embs.code.K32D32.npz --symbols=monday,john

Where `metrics.csv` of the run is beside the table, what changed from epoch to
epoch is drawn, too.
"""

import csv
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags
from numpy.lib.npyio import NpzFile

from anchor_codes import tables
from experiments import tuning
from experiments.datasets import language_model as datasets
from experiments.reporting import anchor_plots, code_plots, code_statistics
from experiments.reporting import codes as code_reports

NAME = "codes"


class StoredCodes(NamedTuple):
  """Codes of a file.

  Attributes:
    codes: Integers [num_embeddings, code_length].
    codebook_size: Number of values that a digit can take.
    vocabulary: Name of each symbol, None if the file has none.
    shared_codebook: Whether all digits choose from one codebook.
  """

  codes: np.ndarray
  codebook_size: int
  vocabulary: Sequence[str] | None = None
  shared_codebook: bool = False


def load_codes(
  path: str | pathlib.Path, *, codebook_size: int = 0
) -> StoredCodes:
  """Loads the codes of a table, or of an `.npz` file with an array `codes`.

  Args:
    path: The file. An `.npz` file may have an array of strings `vocabulary`.
    codebook_size: Number of values of a digit, for an `.npz` file, which does
      not tell; 0 for the least power of two that holds all digits.

  Returns:
    The codes.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it holds no codes.
  """
  path = pathlib.Path(path)
  if path.suffix == ".npz":
    return _load_arrays(path, codebook_size)
  table = tables.load(path)
  if not isinstance(table, tables.CodeTable):
    raise ValueError(f"{path} must hold codes, got {type(table).__name__}.")
  return StoredCodes(
    codes=table.codes,
    codebook_size=table.codebook_size,
    vocabulary=table.vocabulary,
    # A codebook for the only digit is no shared one, but counts alike.
    shared_codebook=len(table.codebooks) == 1,
  )


def _load_arrays(path: pathlib.Path, codebook_size: int) -> StoredCodes:
  try:
    # Not `np.load`, which takes other files too, and leaves bad ones open.
    with path.open("rb") as file, NpzFile(file) as archive:
      arrays = {name: archive[name] for name in archive.files}
  except zipfile.BadZipFile as error:
    raise ValueError(f"{path} must be an `.npz` file: {error}.") from error
  if "codes" not in arrays:
    raise ValueError(
      f"{path} must have an array `codes`, got {sorted(arrays)}."
    )
  codes = arrays["codes"]
  if not codebook_size and codes.size and codes.dtype.kind in "iu":
    codebook_size = max(2, 1 << int(codes.max()).bit_length())
  vocabulary = arrays.get("vocabulary")
  return StoredCodes(
    codes=code_statistics.check_codes(codes, codebook_size or 2),
    codebook_size=codebook_size,
    vocabulary=None if vocabulary is None else vocabulary.astype(str).tolist(),
  )


def describe_codes(
  path: str | pathlib.Path,
  workdir: str | pathlib.Path,
  *,
  codebook_size: int = 0,
  counts: Mapping[str, int] | None = None,
  chosen: Sequence[str] = (),
  top: int = 10,
) -> code_reports.CodeReport:
  """Describes the codes of a stored table.

  Args:
    path: The file, see :func:`load_codes`.
    workdir: Folder for `codes.md`, `codes.json` and `codes.png`, and for
      `code_changes.png` where the metrics of a run are beside the file.
    codebook_size: Number of values of a digit, for an `.npz` file.
    counts: How often each symbol occurs in the data. The symbols of a file
      without a vocabulary are these, in this order.
    chosen: Symbols whose neighbours are looked for, by default the most
      frequent ones.
    top: Number of neighbours, collisions and symbols to name.

  Returns:
    What is in the files.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it holds no codes, or a symbol is not in it.
  """
  stored = load_codes(path, codebook_size=codebook_size)
  names = stored.vocabulary or (None if counts is None else list(counts))
  given = None
  if counts is not None and names is not None:
    given = [counts.get(name, 0) for name in names]
  report = code_reports.code_report(
    stored.codes,
    codebook_size=stored.codebook_size,
    symbols=names,
    counts=given,
    chosen=chosen,
    shared_codebook=stored.shared_codebook,
    top=top,
  )
  usage = code_statistics.count_values(
    stored.codes, codebook_size=stored.codebook_size
  )
  code_reports.write_report(report, usage, workdir)
  course = read_changes(pathlib.Path(path).parent)
  if course:
    target = pathlib.Path(workdir) / "code_changes.png"
    code_plots.plot_changes(course, target)
  return report


def read_changes(run: pathlib.Path) -> anchor_plots.Course:
  """Reads what a run has measured of its codes at the end of each epoch.

  Args:
    run: Folder of the run; without `metrics.csv` there is nothing to read.

  Returns:
    The metrics of each epoch, and its last `step`.
  """
  path = run / "metrics.csv"
  if not path.exists():
    return []
  with path.open(encoding="utf-8", newline="") as file:
    rows = [
      {name: float(cell) for name, cell in row.items() if cell}
      for row in csv.DictReader(file)
    ]
  return [row for row in rows if "unique_codes" in row]


def count_words(name: str, *, data_dir: str | None = None) -> dict[str, int]:
  """Counts the words of a training text, in the order of their ids.

  Args:
    name: What :func:`experiments.datasets.language_model.load_text` takes.
    data_dir: Folder of data sets.
  """
  data = datasets.load_text(name, data_dir=data_dir)
  counts = np.bincount(data.train, minlength=len(data.vocabulary)).tolist()
  return dict(zip(data.vocabulary, counts, strict=True))


def make_up_codes(path: pathlib.Path) -> pathlib.Path:
  """Writes random codes, to see that all works; returns the file."""
  codes = np.random.default_rng(0).integers(0, 8, (300, 4), np.uint8)
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez(path, codes=codes, vocabulary=[f"word{i}" for i in range(300)])
  return path


def _analyse() -> None:
  given = flags.FLAGS
  paths = [path for path in (given.table, given.codes) if path]
  if given.quick:
    paths = [make_up_codes(pathlib.Path(given.workdir) / "random.npz")]
  if len(paths) != 1:
    raise ValueError(
      "One of `--table` and `--codes` must name a file, or use `--quick`; got "
      f"{len(paths)} files."
    )
  counts = None
  if given.dataset and not given.quick:
    counts = count_words(given.dataset, data_dir=given.data_dir)
  report = describe_codes(
    paths[0],
    given.workdir,
    codebook_size=given.codebook_size,
    counts=counts,
    chosen=given.symbols,
  )
  print(report.to_text())
  print(f"See {pathlib.Path(given.workdir) / NAME}.png.")


def _define_flags() -> None:
  flags.DEFINE_string("table", None, "The `embedding.safetensors` of a run.")
  flags.DEFINE_string("codes", None, "An `.npz` file with `codes`.")
  flags.DEFINE_integer("codebook_size", 0, "Values of a digit in an `.npz`.")
  flags.DEFINE_list("symbols", [], "Symbols whose neighbours are shown.")
  flags.DEFINE_string("dataset", "", "The text that counts the symbols.")
  flags.DEFINE_string("data_dir", None, "Folder with a folder such as `ptb`.")
  flags.DEFINE_string("workdir", f"workdir/{NAME}", "Folder for what is left.")
  flags.DEFINE_bool("quick", False, "Random codes: does all work?")


if __name__ == "__main__":
  _define_flags()
  tuning.run_app(_analyse)
