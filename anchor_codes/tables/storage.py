"""The file of a table: one .safetensors file, with checksums, written whole.

The layout is that of `safetensors <https://github.com/huggingface/safetensors>`_:
the length of the header in eight bytes, the header in JSON, the tensors. Our
part is in the metadata: format and version, the options of the table, a
sha256 of each tensor (``sha256:NAME``), and one of the header itself
(``sha256``), so that no flipped bit goes unseen.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
import secrets
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

FORMAT = "anchor_codes"
FORMAT_VERSION = 1

_MAX_HEADER = 100_000_000  # As the reference reader; a header is tiny.
# Little-endian on every machine: the format knows no other order.
_DTYPES = {
  "F32": np.dtype("<f4"),
  "F16": np.dtype("<f2"),
  "I8": np.dtype("i1"),
  "U32": np.dtype("<u4"),
  "U16": np.dtype("<u2"),
  "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_METADATA = "__metadata__"
_HEADER_HASH = "sha256"
_TENSOR_HASH = "sha256:"


class ArtifactError(ValueError):
  """The file is not a table of ours, is damaged, or is of a newer version."""


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
  """Turns what is wrong with the content of a file into an `ArtifactError`.

  Args:
    path: The file that the error names.

  Raises:
    ArtifactError: For each `ValueError` in the block.
  """
  try:
    yield
  except ArtifactError as error:
    raise ArtifactError(f"{os.fspath(path)}: {error}") from None
  except ValueError as error:
    raise ArtifactError(
      f"{os.fspath(path)}: {str(error).rstrip('.')}. The file is damaged, or "
      "not one of ours: copy or export it again."
    ) from error


def write(
  path: str | os.PathLike,
  tensors: Mapping[str, np.ndarray],
  metadata: Mapping[str, str],
) -> None:
  """Writes a file so that any reader sees the old one or the new one.

  Args:
    path: Where to write. A symbolic link is followed; the mode is that of any
      new file, so it honours the umask.
    tensors: Arrays by name.
    metadata: What else to tell; checksums are added.

  Raises:
    ValueError: If a tensor has non-finite values.
    OSError: If the file cannot be written. The old file stays then, and no
      temporary one.
  """
  arrays = {name: _prepared(name, tensors[name]) for name in _order(tensors)}
  hashes = {_TENSOR_HASH + name: _sha256(a) for name, a in arrays.items()}
  entries = _entries(arrays)
  metadata = {**metadata, **hashes}
  metadata[_HEADER_HASH] = _header_hash(entries, metadata)
  header = _canonical({**entries, _METADATA: metadata})
  header += b" " * (-len(header) % 8)  # Aligns the tensors.
  blobs = (struct.pack("<Q", len(header)), header, *arrays.values())
  write_atomically(path, blobs)


def read(
  path: str | os.PathLike, *, verify: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Maps the tensors of a file into memory, read-only.

  Args:
    path: A file that :func:`write` wrote.
    verify: Whether to compare the tensors with their checksums, which reads
      all of them. The header is always checked.

  Returns:
    The tensors by name, and the metadata.

  Raises:
    ArtifactError: If the file is anything but what was written.
    OSError: If there is no such file, or it cannot be read.
  """
  with naming(path):
    data = _map(path)
    entries, metadata, begin = _parse(data)
    # The format goes first: a foreign file, whose header has no checksum, would
    # seem damaged. Tensors are sliced only once the header can be trusted.
    _check_format(metadata)
    if metadata.get(_HEADER_HASH) != _header_hash(entries, metadata):
      raise ValueError("The header does not match its checksum")
    tensors = _slice(entries, data[begin:])
    for name, array in tensors.items() if verify else ():
      if metadata.get(_TENSOR_HASH + name) != _sha256(array):
        raise ValueError(f"Tensor {name!r} does not match its checksum")
    return tensors, metadata


def _order(tensors: Mapping[str, np.ndarray]) -> list[str]:
  """Orders as the reference writer: the widest types first are all aligned."""
  sizes = {name: array.itemsize for name, array in tensors.items()}
  # Of bytes, those with a sign go first.
  signs = {name: array.dtype != np.int8 for name, array in tensors.items()}
  return sorted(tensors, key=lambda name: (-sizes[name], signs[name], name))


def _prepared(name: str, array: np.ndarray) -> np.ndarray:
  if array.dtype.kind == "f" and not np.isfinite(array).all():
    raise ValueError(f"`{name}` must be finite, got nan or infinite values.")
  return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def _entries(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  entries, offset = {}, 0
  for name, array in arrays.items():
    entries[name] = {
      "dtype": _NAMES[array.dtype],
      "shape": list(array.shape),
      "data_offsets": [offset, offset + array.nbytes],
    }
    offset += array.nbytes
  return entries


def _canonical(value: Any) -> bytes:
  # One way only to write a value: the reader hashes what it has parsed.
  return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _sha256(array: np.ndarray) -> str:
  # The buffer itself: `tobytes` would copy a table that may be mapped.
  return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def _header_hash(
  entries: Mapping[str, Any], metadata: Mapping[str, str]
) -> str:
  rest = {key: metadata[key] for key in metadata if key != _HEADER_HASH}
  return hashlib.sha256(_canonical([entries, rest])).hexdigest()


def write_atomically(path: str | os.PathLike, blobs: Iterable[Any]) -> None:
  """Writes bytes so that any reader sees the old file or the new one.

  Args:
    path: Where to write. A symbolic link is followed.
    blobs: Bytes, or arrays of them, in order.

  Raises:
    OSError: If the file cannot be written. The old file stays then, and no
      temporary one.
  """
  # The file behind a symbolic link: the link itself would be replaced.
  path = os.path.realpath(path)
  _check_replaceable(path)
  # In the same folder, hence on the same file system.
  folder = pathlib.Path(path).parent
  # Two processes that write the same file must not share the temporary one.
  temporary = folder / f".tmp-{secrets.token_hex(8)}"
  try:
    with temporary.open("xb") as file:
      file.writelines(blobs)
      file.flush()
      # Content before name: a crash must not leave the name of half a file.
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException as error:
    # Whatever it was, a keyboard interrupt among others: no litter.
    temporary.unlink(missing_ok=True)
    if isinstance(error, OSError) and error.errno:
      # In words of what the caller knows.
      raise OSError(error.errno, error.strerror, path) from error
    raise
  if os.name == "posix":  # Makes the new name durable.
    handle = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(handle)
    finally:
      os.close(handle)


def check_target(path: str | os.PathLike) -> None:
  """Checks that a file can be written, before the work on what it will hold.

  Args:
    path: Where to write. The file itself is not touched.

  Raises:
    OSError: If it is a folder or a device, or nothing can be written into its
      folder.
  """
  path = os.path.realpath(path)
  _check_replaceable(path)
  try:
    with tempfile.TemporaryFile(dir=os.path.dirname(path)):
      pass
  except OSError as error:
    error.filename = path
    raise


def _check_replaceable(path: str) -> None:
  if os.path.isdir(path):
    raise IsADirectoryError(errno.EISDIR, "It is a folder, not a file", path)
  # A device or a pipe would be gone, and a file in its place.
  if os.path.exists(path) and not os.path.isfile(path):
    raise OSError(errno.EINVAL, "It is no regular file", path)


def _map(path: str | os.PathLike) -> np.ndarray:
  with pathlib.Path(path).open("rb") as file:
    size = os.fstat(file.fileno()).st_size
    if size < 8:
      raise ValueError(f"It has {size} bytes only: empty or cut off")
    return np.asarray(np.memmap(file, np.uint8, "r"))


def _parse(data: np.ndarray) -> tuple[dict[str, Any], dict[str, str], int]:
  """Returns the entries of the tensors, the metadata and where data begins."""
  length = int.from_bytes(data[:8].tobytes(), "little")
  # Before it is read: damaged bytes may ask for a header of any length.
  if length > min(_MAX_HEADER, len(data) - 8):
    raise ValueError(
      f"Its first bytes ask for a header of {length} bytes in a file of "
      f"{len(data)}"
    )
  header = parse_json("header", data[8 : 8 + length])
  if not isinstance(header, dict):
    raise ValueError("The header is not a JSON object")
  metadata = header.pop(_METADATA, {})
  if not isinstance(metadata, dict) or not all(
    isinstance(value, str) for value in metadata.values()
  ):
    raise ValueError("The metadata does not map strings to strings")
  return header, metadata, 8 + length


def parse_json(name: str, data: np.ndarray) -> Any:
  """Parses bytes that may be anything.

  Args:
    name: What an error calls them.
    data: JSON in UTF-8, uint8 [size].

  Raises:
    ValueError: If the bytes are not JSON, or an object repeats a key.
  """
  try:
    return json.loads(data.tobytes(), object_pairs_hook=_unique)
  except (ValueError, RecursionError) as error:
    # A RecursionError is what brackets come to that are nested deep enough.
    raise ValueError(f"The {name} is not valid JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  # Of two equal keys one reader takes the first, and another one the last.
  if len(dict(pairs)) != len(pairs):
    raise ValueError("a key is there twice")
  return dict(pairs)


def _check_format(metadata: Mapping[str, str]) -> None:
  if metadata.get("format") != FORMAT:
    raise ArtifactError(
      "A safetensors file, but not one of ours: write it with the `save` "
      "method of a table."
    )
  version = metadata.get("format_version")
  if version != str(FORMAT_VERSION):
    raise ArtifactError(
      f"The file has format version {version}, and this version of "
      f"anchor_codes reads version {FORMAT_VERSION}: update anchor_codes."
    )


def _slice(
  entries: Mapping[str, Any], data: np.ndarray
) -> dict[str, np.ndarray]:
  tensors, spans = {}, []
  for name, entry in entries.items():
    dtype, shape, (begin, end) = _parse_entry(name, entry)
    # Python's integers do not overflow.
    if end - begin != math.prod(shape) * dtype.itemsize or end > len(data):
      raise ValueError(f"Bytes {begin} to {end} of {name!r} do not fit")
    tensors[name] = data[begin:end].view(dtype).reshape(shape)
    spans.append((begin, end))
  _check_spans(spans, len(data))
  return tensors


def _parse_entry(name: str, entry: Any) -> tuple[np.dtype, list, list]:
  try:
    dtype = _DTYPES[entry["dtype"]]
    shape, offsets = [*entry["shape"]], [*entry["data_offsets"]]
  except (KeyError, TypeError):
    raise ValueError(f"The entry of {name!r} is not valid") from None
  # `type` below, because True is an instance of int.
  sizes = (*shape, *offsets)
  if len(offsets) != 2 or not all(type(x) is int and x >= 0 for x in sizes):
    raise ValueError(f"The shape or place of {name!r} is not valid")
  return dtype, shape, offsets


def _check_spans(spans: list[tuple[int, int]], size: int) -> None:
  position = 0
  # A gap would hold bytes that no checksum covers.
  for begin, end in sorted(spans):
    if begin != position:
      raise ValueError("There are gaps or overlaps between the tensors")
    position = end
  if position != size:
    raise ValueError(f"It holds {size} bytes of tensors, not {position}")
