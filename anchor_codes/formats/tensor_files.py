"""Files of .safetensors, of any writer: a language model's, or our own."""

import math
import os
import pathlib
from typing import Any

import numpy as np

from anchor_codes import tables
from anchor_codes.formats import choosing
from anchor_codes.formats.matrix import FormatError
from anchor_codes.tables import storage

_MAX_HEADER = 100_000_000  # As the reference reader.
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16"}
_NAMES["BF16"] = "bfloat16"


def read_safetensors(
  path: str | os.PathLike, tensor: str | None
) -> tuple[np.ndarray, list[str] | None]:
  """Maps one tensor of a file into memory; a table of ours becomes dense.

  Args:
    path: The file.
    tensor: Name of the vectors, as 'model.embed_tokens.weight', or None for
      the only floats of two axes.

  Returns:
    The vectors, and the vocabulary of a table of ours.
  """
  header, data = _open(path)
  metadata = header.pop("__metadata__", None)
  if tensor is None and _is_ours(metadata):
    table = tables.load(path)
    words = table.vocabulary
    return table.to_dense(), None if words is None else list(words)
  entries = {name: _entry(entry) for name, entry in header.items()}
  name = choosing.choose(entries, tensor)
  return _view(name, header[name], data), None


def is_table(path: str | os.PathLike) -> bool:
  """Tells whether a file is, or was before it was damaged, a table of ours.

  Args:
    path: Any file; only its header is read.

  >>> import tempfile
  >>> with tempfile.NamedTemporaryFile() as file:
  ...   is_table(file.name)
  False
  """
  try:
    return _is_ours(_open(path)[0].get("__metadata__"))
  except ValueError:
    return False


def _is_ours(metadata: Any) -> bool:
  # Weights of a model in the same format say nothing of rows.
  return (
    isinstance(metadata, dict)
    and metadata.get("format") == storage.FORMAT
    and "num_embeddings" in metadata
  )


def _open(path: str | os.PathLike) -> tuple[dict[str, Any], np.ndarray]:
  """Returns the header, and the bytes behind it, which stay unread."""
  with pathlib.Path(path).open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    size = os.fstat(file.fileno()).st_size
    # Before it is read: damaged bytes may ask for a header of any length.
    if not 0 < length <= min(_MAX_HEADER, size - 8):
      raise FormatError(
        f"Its first bytes ask for a header of {length} bytes in a file of "
        f"{size}: not a .safetensors file, or cut off."
      )
    header = np.frombuffer(file.read(length), np.uint8)
    data = np.asarray(np.memmap(file, np.uint8, "r"))[8 + length :]
  parsed = storage.parse_json("header", header)
  if not isinstance(parsed, dict):
    raise FormatError("The header is not a JSON object.")
  return parsed, data


def _entry(entry: Any) -> choosing.Entry:
  """Reads what the header says of a tensor; what is no entry gets no shape."""
  try:
    dtype, shape = str(entry["dtype"]), tuple(entry["shape"])
  except (KeyError, TypeError):
    return choosing.Entry("invalid", ())
  return choosing.Entry(_NAMES.get(dtype, dtype), shape)


def _view(name: str, entry: dict[str, Any], data: np.ndarray) -> np.ndarray:
  try:
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    shape, (begin, end) = [*entry["shape"]], entry["data_offsets"]
  except (KeyError, TypeError, ValueError):
    raise FormatError(f"Tensor {name!r} is not of floats: {entry}.") from None
  # `type`, because True is an instance of int.
  if not all(type(size) is int and size >= 0 for size in (*shape, begin, end)):
    raise FormatError(f"The shape or place of {name!r} is not valid.")
  if not math.prod(shape):
    raise FormatError(f"It has no vectors: {name!r} has the shape {shape}.")
  if end - begin != math.prod(shape) * dtype.itemsize or end > len(data):
    raise FormatError(
      f"Bytes {begin} to {end} of {name!r} do not fit its shape {shape} and "
      f"the {len(data)} bytes of tensors: the file is cut off or damaged."
    )
  array = data[begin:end].view(dtype).reshape(shape)
  return array if entry["dtype"] != "BF16" else array.view(_bfloat16())


def _bfloat16() -> np.dtype:
  try:
    import ml_dtypes
  except ImportError:
    raise ImportError(
      "bfloat16 tensors need ml_dtypes: pip install ml_dtypes."
    ) from None
  return np.dtype(ml_dtypes.bfloat16)
