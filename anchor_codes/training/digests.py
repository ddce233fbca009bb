"""SHA-256 of arrays that may lie on many devices and hosts, and of files.

A split array is hashed in the pieces in which it lies, each by the process that
holds it, so that no host ever has to hold all of it. The digests, a few bytes
for each piece, are then known to all.
"""

import hashlib
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils


class Piece(NamedTuple):
  """A part of an array.

  Attributes:
    start: Its first position along each axis.
    stop: The positions after its last.
    process: Number of the process that hashes it.
  """

  start: tuple[int, ...]
  stop: tuple[int, ...]
  process: int


def describe_arrays(
  arrays: Mapping[str, Any], num_rows: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
  """Describes arrays for a record; all processes make the same call.

  Args:
    arrays: Arrays of JAX or NumPy by name, typed keys among them.
    num_rows: How many rows of each array are no padding, 0 for all of them.

  Returns:
    For each array its shape, its type, and its SHA-256 or, if it lies in more
    than one piece, the bounds and the SHA-256 of each.

  >>> described = describe_arrays({"w": np.zeros((2, 3))}, {"w": 0})
  >>> described["w"]["shape"], described["w"]["sha256"][:8]
  ([2, 3], '17b0761f')
  """
  data = {name: _data(leaf) for name, leaf in arrays.items()}
  pieces = {name: _pieces(data[name], num_rows[name]) for name in arrays}
  found = iter(
    _gather_digests([(data[n], piece) for n in pieces for piece in pieces[n]])
  )
  records = {}
  for name, leaf in arrays.items():
    record = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
    if num_rows[name]:
      record["num_rows"] = num_rows[name]
    if len(pieces[name]) == 1:
      record["sha256"] = next(found)
    else:
      record["pieces"] = [
        {"start": [*piece.start], "stop": [*piece.stop], "sha256": next(found)}
        for piece in pieces[name]
      ]
    records[name] = record
  return records


def agrees(leaf: Any, record: Mapping[str, Any]) -> bool:
  """Tells whether an array is the one that a record describes.

  Args:
    leaf: The array. It may lie on other devices than it did, and have other
      padding.
    record: What :func:`describe_arrays` has returned for it.

  Returns:
    False if a piece has another SHA-256. Pieces that this process does not hold
    completely are not looked at.

  >>> record = describe_arrays({"w": np.ones(2)}, {"w": 0})["w"]
  >>> agrees(np.ones(2), record), agrees(np.zeros(2), record)
  (True, False)
  """
  data = _data(leaf)
  for start, stop, digest in _recorded_pieces(record, data.shape):
    values = _read(data, start, stop)
    if values is not None and _sha256(values).hex() != digest:
      return False
  return True


def digest_of_file(path: pathlib.Path) -> str:
  """Returns the SHA-256 of the content of a file.

  >>> import tempfile
  >>> with tempfile.NamedTemporaryFile() as file:
  ...   print(digest_of_file(pathlib.Path(file.name))[:8])
  e3b0c442
  """
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def digests_of_files(folder: pathlib.Path) -> dict[str, str]:
  """Returns the SHA-256 of all files in a folder by their paths in it.

  >>> import tempfile
  >>> digests_of_files(pathlib.Path(tempfile.mkdtemp()))
  {}
  """
  files = sorted(path for path in folder.rglob("*") if path.is_file())
  return {
    path.relative_to(folder).as_posix(): digest_of_file(path) for path in files
  }


def is_key(leaf: Any) -> bool:
  """Tells whether an array holds typed keys of random numbers.

  >>> is_key(jax.random.key(0)), is_key(np.zeros(2))
  (True, False)
  """
  return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
  return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _pieces(data: Any, num_rows: int) -> list[Piece]:
  """The distinct pieces of an array, without padding, in order."""
  owners: dict[tuple, int] = {}
  if isinstance(data, jax.Array):
    indices = data.sharding.devices_indices_map(data.shape)
    # Of the devices with the same piece one hashes it, the same for all.
    for device in sorted(indices, key=lambda device: device.id):
      bounds = _bounds(indices[device], data.shape)
      owners.setdefault(bounds, device.process_index)
  else:
    owners[_bounds((), data.shape)] = 0
  pieces = [
    Piece(start, stop, owner) for (start, stop), owner in sorted(owners.items())
  ]
  return [*_without_padding(pieces, num_rows)] if num_rows else pieces


def _without_padding(pieces: list[Piece], num_rows: int) -> Iterator[Piece]:
  for piece in pieces:
    if piece.start[0] < num_rows:
      stop = min(piece.stop[0], num_rows), *piece.stop[1:]
      yield piece._replace(stop=stop)


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple:
  """Writes an index as the positions that it starts and stops at."""
  index = *index, *[slice(None)] * (len(shape) - len(index))
  ranges = [part.indices(n) for part, n in zip(index, shape, strict=True)]
  return tuple(r[0] for r in ranges), tuple(r[1] for r in ranges)


def _gather_digests(pieces: list[tuple[Any, Piece]]) -> list[str]:
  """Hashes the pieces of this process, and learns the rest from the others."""
  digests = np.zeros((len(pieces), 32), np.uint8)
  for line, (data, piece) in zip(digests, pieces, strict=True):
    if piece.process == jax.process_index():
      values = _read(data, piece.start, piece.stop)
      line[:] = np.frombuffer(_sha256(values), np.uint8)
  if jax.process_count() > 1 and pieces:
    # Where a process has hashed nothing it has zeros.
    digests = np.max(multihost_utils.process_allgather(digests), axis=0)
  return [line.tobytes().hex() for line in digests]


def _recorded_pieces(
  record: Mapping[str, Any], shape: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], str]]:
  if "pieces" in record:
    for piece in record["pieces"]:
      yield tuple(piece["start"]), tuple(piece["stop"]), piece["sha256"]
  else:
    num_rows = record.get("num_rows")
    # The data of a single key have an axis that the key has not.
    rows = [num_rows] if num_rows else record["shape"][:1] or shape[:1]
    yield (0,) * len(shape), (*rows, *shape[1:]), record["sha256"]


def _read(
  data: Any, start: tuple[int, ...], stop: tuple[int, ...]
) -> np.ndarray | None:
  """Returns a piece of an array, None unless this process has all of it."""
  if not isinstance(data, jax.Array):
    return np.asarray(data)[tuple(map(slice, start, stop))]
  parts = {
    _bounds(s.index, data.shape): s.data for s in data.addressable_shards
  }
  shape = tuple(np.subtract(stop, start))
  piece, missing = None, math.prod(shape)
  if not missing:
    return np.empty(shape, data.dtype)
  for (first, last), values in parts.items():
    low, high = np.maximum(first, start), np.minimum(last, stop)
    if (low >= high).any():
      continue
    part = np.asarray(values)[tuple(map(slice, low - first, high - first))]
    missing -= part.size
    if piece is None and not missing:
      return part  # Most pieces lie on one device: no copy.
    if piece is None:
      piece = np.empty(shape, part.dtype)
    piece[tuple(map(slice, low - start, high - start))] = part
  return None if missing else piece


def _sha256(values: Any) -> bytes:
  flat = np.ascontiguousarray(values).reshape(-1)
  return hashlib.sha256(flat.view(np.uint8).data).digest()
