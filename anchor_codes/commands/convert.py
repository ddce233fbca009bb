"""``anchor-codes convert``: a table in the form that another program reads."""

import argparse
import os
import pathlib
from collections.abc import Callable, Iterator

from anchor_codes import formats, tables
from anchor_codes.commands import common, progress
from anchor_codes.tables import storage

# By the suffix of the target, unless the user names another one.
_TARGETS = {
  ".npy": "npy",
  ".vec": "vec",
  ".txt": "vec",
  ".safetensors": "safetensors",
  ".onnx": "onnx",
  ".jaxexport": "jax",
  ".faiss": "faiss",
}
_NO_WORDS = ("npy", "onnx", "jax", "faiss")


def add(commands: "common.Commands") -> None:
  """Adds the command."""
  command = common.add_command(
    commands,
    "convert",
    run,
    about="Writes a table in another format, by the suffix of OUT.",
    examples="embedding.safetensors dense.npy\n"
    "embedding.safetensors embedding.onnx\n"
    "glove.txt glove.safetensors",
  )
  command.add_argument("source", metavar="IN", help="a table, or any vectors")
  command.add_argument("out", metavar="OUT", help="the file to write")
  command.add_argument(
    "--to",
    choices=sorted(set(_TARGETS.values())),
    help="the format, if the suffix of OUT does not tell it",
  )
  command.add_argument("--tensor", help="which array of IN has the vectors")


def run(args: argparse.Namespace) -> Iterator[str]:
  """Writes the file, and yields what has been written."""
  target = args.to or _target(args.out)
  table = read_table(args.source, tensor=args.tensor)
  _WRITERS[target](table, args.out)
  file_bytes = os.path.getsize(args.out)
  words_lost = table.vocabulary is not None and target in _NO_WORDS
  if args.json:
    answer = {
      "file": args.out,
      "format": target,
      "num_embeddings": table.num_embeddings,
      "features": table.features,
      "file_bytes": file_bytes,
      "vocabulary": table.vocabulary is not None and not words_lost,
    }
    yield common.dump(answer)
    return
  shape = f"{table.num_embeddings} x {table.features}"
  lost = "; the words are not in it" if words_lost else ""
  yield f"{args.out}: {shape}, {common.human_bytes(file_bytes)}{lost}"


def read_table(path: str, *, tensor: str | None = None) -> tables.Table:
  """Reads a table of ours, or any vectors as a full table.

  Args:
    path: A file in any format of :func:`anchor_codes.formats.read`.
    tensor: Which array of it has the vectors, or None.

  Raises:
    FormatError: If it is no file of vectors.
  """
  if tensor is None and formats.is_table(path):
    return tables.load(path, verify=True)
  with progress.showing("reading") as report:
    vectors, vocabulary = formats.read(path, tensor=tensor, progress=report)
  return tables.DenseTable.from_dense(vectors, vocabulary=vocabulary)


def _target(out: str) -> str:
  suffix = pathlib.Path(out).suffix.lower()
  if suffix not in _TARGETS:
    raise ValueError(
      f"The suffix of OUT must be one of {', '.join(_TARGETS)}, got "
      f"{suffix!r}: say --to."
    )
  return _TARGETS[suffix]


def _write_onnx(table: tables.Table, out: str) -> None:
  from anchor_codes import serving

  serving.export_onnx(table, out)


def _write_jax(table: tables.Table, out: str) -> None:
  from anchor_codes import serving

  serving.export_jax(table, out)


def _write_faiss(table: tables.Table, out: str) -> None:
  from anchor_codes import serving

  index = serving.to_faiss(table)
  import faiss

  storage.write_atomically(out, [faiss.serialize_index(index)])


def _write_plain(suffix: str) -> Callable[[tables.Table, str], None]:
  return lambda table, out: formats.write(out, table, suffix=suffix)


_WRITERS: dict[str, Callable[[tables.Table, str], None]] = {
  "npy": _write_plain(".npy"),
  "vec": _write_plain(".vec"),
  "safetensors": _write_plain(".safetensors"),
  "onnx": _write_onnx,
  "jax": _write_jax,
  "faiss": _write_faiss,
}
