"""Reads a table of any kind from its file."""

import os

from anchor_codes.tables import base, storage
from anchor_codes.tables.anchor_table import AnchorTable
from anchor_codes.tables.code_table import CodeTable
from anchor_codes.tables.dense_table import DenseTable
from anchor_codes.tables.hash_table import HashTable

_TABLES: dict[str, type[base.Table]] = {
  table.kind: table for table in (AnchorTable, CodeTable, DenseTable, HashTable)
}


def load(path: str | os.PathLike, *, verify: bool = True) -> base.Table:
  """Reads a table; its arrays are mapped into memory, read-only.

  Args:
    path: A file that the `save` method of a table wrote.
    verify: Whether to compare the tensors with their checksums and to check
      that indices are in range, which reads the whole file. Without it a
      lookup reads only the rows that it needs, the first one all masks too;
      the header is checked always.

  Returns:
    A table of the class that was saved.

  Raises:
    ArtifactError: If the file is not a table, is damaged, or is of a newer
      version; it says which.
    FileNotFoundError: If there is no such file.

  >>> import pathlib, tempfile
  >>> import numpy as np
  >>> table = DenseTable(np.eye(3, dtype=np.float32))
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder, "table.safetensors")
  ...   table.save(path)
  ...   load(path)
  DenseTable(num_embeddings=3, features=3, nbytes=36)
  """
  tensors, metadata = storage.read(path, verify=verify)
  with storage.naming(path):
    kind = metadata.get("kind")
    if kind not in _TABLES:
      raise storage.ArtifactError(
        f"The kind {kind!r} is not one of {sorted(_TABLES)}: update "
        "anchor_codes."
      )
    vocabulary = tensors.pop("vocabulary", None)
    if vocabulary is not None:
      vocabulary = base.decode_vocabulary(vocabulary)
    table = _TABLES[kind].from_tensors(
      tensors, metadata, vocabulary=vocabulary, verify=verify
    )
    # A program may read the header alone: it must not contradict the tensors.
    for name, value in table.metadata.items():
      if metadata.get(name) != value:
        raise ValueError(
          f"The metadata say {name} {metadata.get(name)!r}, the tensors "
          f"{value!r}"
        )
    return table
