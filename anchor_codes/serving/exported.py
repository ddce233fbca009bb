"""Writes the lookup of a table as a compiled program of JAX, and reads it."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import export
from jax import numpy as jnp
from jaxtyping import Array, Float

from anchor_codes import tables
from anchor_codes.serving import jax_base, jax_tables
from anchor_codes.tables import storage
from anchor_codes.typing import check_integer_ids

PLATFORMS = ("cpu", "cuda", "tpu")
# At the end of the file, where readers of the program do not look.
_MAGIC = b"anchor-codes jax"
_DIGEST = hashlib.sha256().digest_size
_MAX_BYTES = 2**31 - 2**20  # Offsets in the format have 31 bits.
_MAX_ROWS = 2**31 - 1  # One id has to be left that is outside.


@dataclasses.dataclass(frozen=True)
class ExportedLookup:
  """A lookup that needs JAX, but no model and no table.

  Attributes:
    exported: The program, from int32 ids [batch] to vectors.
  """

  exported: export.Exported

  @property
  def features(self) -> int:
    """Width of a vector."""
    return self.exported.out_avals[0].shape[1]

  def __call__(self, ids: Any) -> Float[Array, "*batch features"]:
    """Looks up one vector for each id.

    Args:
      ids: Integers of any shape.

    Returns:
      float32 vectors; for an id outside the table `nan`, or the nearest row if
      it was exported so.

    Raises:
      ValueError: If the ids are not integers.
    """
    if not isinstance(ids, jax.Array):
      ids = np.asarray(ids)
      if not ids.size:
        ids = ids.astype(np.int32)
    check_integer_ids(ids)
    if not np.can_cast(ids.dtype, np.int32):
      # Cut down to 32 bits, a large id would be that of another row.
      xp: Any = np if isinstance(ids, np.ndarray) else jnp
      ids = xp.minimum(ids, 2**31 - 1)
      if ids.dtype.kind == "i":
        ids = xp.maximum(ids, -1)
    shape = (*ids.shape, self.features)
    if not ids.size:  # Programs are for one id at least.
      return jnp.zeros(shape, jnp.float32)
    flat = jnp.asarray(ids, jnp.int32).reshape(-1)
    return self.exported.call(flat).reshape(shape)


def export_jax(
  table: tables.Table,
  path: str | os.PathLike,
  *,
  platforms: Sequence[str] = PLATFORMS,
  outside: str = "nan",
) -> None:
  """Writes a program that looks vectors up, the table inside.

  The file is what ``jax.export`` writes, for any number of ids, so that
  ``jax.export.deserialize`` reads it without this library. JAX promises to read
  it for about six months: keep the table itself for longer.

  Args:
    table: A table of any kind; its vocabulary is not written.
    path: Where to write; an old file is replaced at once.
    platforms: Where the program may run.
    outside: What an id outside the table gives: 'nan', or 'clip' for the
      nearest row.

  Raises:
    ValueError: If an option is unknown, or the table too large.

  >>> import tempfile
  >>> table = tables.DenseTable(np.float32([[1], [2]]))
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder, "table.jax")
  ...   export_jax(table, path)
  ...   lookup = load_exported(path)
  >>> print(lookup([1, 0, 5])[:, 0])
  [ 2.  1. nan]
  """
  if table.nbytes > _MAX_BYTES:
    raise ValueError(
      f"`table` must have at most {_MAX_BYTES} bytes for one program, got "
      f"{table.nbytes}."
    )
  if table.num_embeddings > _MAX_ROWS:
    raise ValueError(
      f"`table` must have at most {_MAX_ROWS} rows, whose ids are int32, got "
      f"{table.num_embeddings}."
    )
  if not platforms or not set(platforms) <= {*PLATFORMS, "rocm"}:
    raise ValueError(
      f"`platforms` must be some of {[*PLATFORMS, 'rocm']}, got "
      f"{list(platforms)}."
    )
  on_device = jax_tables.to_jax(table, outside=outside)
  # Arrays that a function closes over become constants of its program.
  lookup = jax.jit(lambda ids: jax_base.lookup_rows(on_device, ids))
  ids = jax.ShapeDtypeStruct(export.symbolic_shape("batch"), jnp.int32)
  program = export.export(lookup, platforms=tuple(platforms))(ids)
  content = bytes(program.serialize())
  digest = hashlib.sha256(content).digest()
  storage.write_atomically(path, [content, digest, _MAGIC])


def load_exported(path: str | os.PathLike) -> ExportedLookup:
  """Reads what :func:`export_jax` wrote.

  Args:
    path: The file.

  Returns:
    A function of ids.

  Raises:
    ArtifactError: If the file is another one, or damaged.
    FileNotFoundError: If there is no such file.
  """
  content = pathlib.Path(path).read_bytes()
  content, magic = _split(content, len(_MAGIC))
  program, digest = _split(content, _DIGEST)
  if magic != _MAGIC:
    raise tables.ArtifactError(f"{path}: not a program of `export_jax`")
  # Before it is parsed: damaged bytes could end the process there.
  if hashlib.sha256(program).digest() != digest:
    raise tables.ArtifactError(f"{path}: damaged, the checksum differs")
  return ExportedLookup(export.deserialize(bytearray(program)))


def _split(content: bytes, size: int) -> tuple[bytes, bytes]:
  """Splits off the last bytes."""
  return content[:-size], content[-size:]
