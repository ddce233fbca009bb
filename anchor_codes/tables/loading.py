"""Reads a table of any kind from its file."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from anchor_codes.tables import base, storage
from anchor_codes.tables import vocabulary as vocabularies
from anchor_codes.tables.anchor_table import AnchorTable
from anchor_codes.tables.code_table import CodeTable
from anchor_codes.tables.dense_table import DenseTable
from anchor_codes.tables.hash_table import HashTable
from anchor_codes.tables.projected_table import ProjectedTable
from anchor_codes.tables.scaled_table import ScaledTable
from anchor_codes.tables.sum_table import SumTable
from anchor_codes.tables.tiered_table import TieredTable

_TABLES: dict[str, type[base.Table]] = {
  table.kind: table
  for table in (
    AnchorTable,
    CodeTable,
    DenseTable,
    HashTable,
    ProjectedTable,
    ScaledTable,
    SumTable,
    TieredTable,
  )
}


def load(path: str | os.PathLike, *, verify: bool = True) -> base.Table:
  """Reads a table; its arrays are mapped into memory, read-only.

  Args:
    path: A file that the `save` method of a table wrote.
    verify: Whether to compare the tensors with their checksums and to check
      that indices are in range, which reads the whole file. Without it a
      lookup reads only the rows that it needs, the first one all masks too,
      and words are read when they are asked for; the header is checked always.

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
    words, vocabulary = tensors.pop("vocabulary", None), None
    if words is not None and verify:
      vocabulary = vocabularies.decode(words)
    elif words is not None:
      size = int(metadata.get("num_embeddings", ""))
      vocabulary = vocabularies.LazyVocabulary(words, size, path)
    table = build(tensors, metadata, vocabulary=vocabulary, verify=verify)
    # A program may read the header alone: it must not contradict the tensors.
    for name, value in table.metadata.items():
      if metadata.get(name) != value:
        raise ValueError(
          f"The metadata say {name} {metadata.get(name)!r}, the tensors "
          f"{value!r}"
        )
    return table


def build(
  tensors: Mapping[str, np.ndarray],
  metadata: Mapping[str, str],
  **options: Any,
) -> base.Table:
  """Builds a table of the kind that the metadata name.

  Args:
    tensors: Arrays by name.
    metadata: Strings by name.
    **options: `vocabulary` and `verify`.

  Raises:
    ArtifactError: If there is no such kind.
    ValueError: If something is missing, unknown, or does not fit.
  """
  kind = metadata.get("kind")
  if kind not in _TABLES:
    raise storage.ArtifactError(
      f"The kind {kind!r} is not one of {sorted(_TABLES)}: update anchor_codes."
    )
  return _TABLES[kind].from_tensors(tensors, metadata, **options)
