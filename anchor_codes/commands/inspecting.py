"""``anchor-codes inspect``: what a table is, and where its bytes go."""

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

from anchor_codes import tables
from anchor_codes.commands import common
from anchor_codes.tables import storage

# What every table tells, which has rows of its own in the answer.
_COMMON = {
  "format",
  "format_version",
  "kind",
  "num_embeddings",
  "features",
  "quality",
}


def add(commands: "common.Commands") -> None:
  """Adds the command."""
  command = common.add_command(
    commands,
    "inspect",
    run,
    about="Shows what a table holds and verifies its checksums.",
    examples="embedding.safetensors\nembedding.safetensors --json",
  )
  common.add_table(command)


def run(args: argparse.Namespace) -> Iterator[str]:
  """Yields the answer."""
  description = describe(args.file)
  if args.json:
    yield common.dump(description)
  else:
    yield from _show(description)


def describe(path: str | os.PathLike) -> dict[str, Any]:
  """Verifies the file of a table and tells what is in it.

  Args:
    path: The file.

  Returns:
    What can be written as JSON: sizes, options, `quality` as it was measured
    when the table was made, and `parts`, which with `header_bytes` add up to
    `file_bytes`.

  Raises:
    ArtifactError: If the file is damaged, or none of ours.
  """
  table = tables.load(path, verify=True)
  # The tensors as they are stored, the vocabulary among them.
  tensors, _ = storage.read(path, verify=False)
  parts = [
    {
      "name": name,
      "dtype": array.dtype.name,
      "shape": list(array.shape),
      "nbytes": array.nbytes,
    }
    for name, array in tensors.items()
  ]
  file_bytes = os.path.getsize(path)
  words = table.vocabulary
  return {
    "file": os.fspath(path),
    "kind": table.kind,
    "num_embeddings": table.num_embeddings,
    "features": table.features,
    "options": {k: v for k, v in table.metadata.items() if k not in _COMMON},
    "vocabulary": None if words is None else len(words),
    "quality": _parse_quality(table.quality),
    "num_params": table.num_params,
    "bits_per_row": table.bits_per_row,
    "nbytes": table.nbytes,
    "dense_bytes": table.dense_bytes,
    "compression_ratio": table.compression_ratio,
    "file_bytes": file_bytes,
    "header_bytes": file_bytes - sum(part["nbytes"] for part in parts),
    "parts": parts,
    "checksums": "verified",
  }


def _parse_quality(quality: str | None) -> Any:
  try:
    return None if quality is None else json.loads(quality)
  except ValueError:  # Whatever another program wrote there.
    return quality


def _show(description: dict[str, Any]) -> Iterator[str]:
  names = ("file", "kind", "num_embeddings", "features")
  rows = {name: str(description[name]) for name in names}
  rows |= description["options"]
  words = description["vocabulary"]
  rows["vocabulary"] = "no" if words is None else f"{words:,} words"
  rows["parameters"] = f"{description['num_params']:,}"
  rows["bits_per_row"] = f"{description['bits_per_row']:,}"
  rows["bytes"] = common.human_bytes(description["nbytes"])
  for name in ("dense_bytes", "file_bytes"):
    rows[name] = common.human_bytes(description[name])
  rows["compression_ratio"] = f"{description['compression_ratio']:.2f}"
  rows["quality"] = _show_quality(description["quality"])
  rows["checksums"] = description["checksums"]
  yield from common.columns(
    [(name.replace("_", " "), value) for name, value in rows.items()], left=2
  )
  yield ""
  yield from common.columns(_part_rows(description), left=3)


def _show_quality(quality: Any) -> str:
  if not isinstance(quality, dict):
    return "not measured" if quality is None else str(quality)
  values = {
    name: f"{value:.4g}" if isinstance(value, float) else str(value)
    for name, value in quality.items()
  }
  return ", ".join(f"{name} {value}" for name, value in values.items())


def _part_rows(description: dict[str, Any]) -> Iterator[tuple[str, ...]]:
  yield "part", "dtype", "shape", "bytes", "share"
  header = {"name": "header", "dtype": "", "shape": []}
  header["nbytes"] = description["header_bytes"]
  for part in [*description["parts"], header]:
    shape = " x ".join(map(str, part["shape"]))
    share = part["nbytes"] / description["file_bytes"]
    size = common.human_bytes(part["nbytes"])
    yield part["name"], part["dtype"], shape, size, f"{share:.1%}"
