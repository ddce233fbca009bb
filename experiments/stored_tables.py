"""Turns trained layers into their files, and checks these."""

import dataclasses
import importlib.util
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from anchor_codes import nn, report, tables
from experiments import embeddings


def store_embedding(
  layer: Any,
  options: embeddings.EmbeddingOptions,
  path: pathlib.Path,
  *,
  vocabulary: Sequence[str] | None = None,
) -> tables.Table:
  """Turns a trained layer into its artefact, and writes it.

  Args:
    layer: The layer, changed in place: out of training, and rounded to the type
      it is stored in, so that it is measured as it is stored. Only what is
      folded into an array for the file, such as an output norm, is rounded
      after that, in the file alone.
    options: Kind and type of what is stored.
    path: The file.
    vocabulary: One string for each row.

  Returns:
    The artefact.

  Raises:
    RuntimeError: If the file does not give back what was trained.
  """
  layer.eval()
  embeddings.round_layer(layer, options)
  table = embeddings.stored_table(layer, options)
  dataclasses.replace(table, vocabulary=vocabulary).save(path)
  check_file(path, layer, options)
  return table


def check_file(
  path: pathlib.Path, layer: Any, options: embeddings.EmbeddingOptions
) -> None:
  """Checks that NumPy reads from a file what the layer has learned.

  Args:
    path: The artefact.
    layer: The layer it was made from.
    options: Type of what is stored.

  Raises:
    RuntimeError: If the file gives back other vectors than the layer's table in
      the type that is stored, or that table before it is rounded differs from
      the layer by more than 1e-5, or a code at all.
  """
  table, exact = tables.load(path), nn.to_table(layer)
  ids = np.arange(table.num_embeddings)
  stored = embeddings.stored_table(layer, options)
  if not np.array_equal(table.lookup(ids), stored.lookup(ids)):
    raise RuntimeError(f"{path}: a vector differs from what was stored.")
  difference = float(np.abs(exact.lookup(ids) - np.asarray(layer(ids))).max())
  if not difference <= 1e-5:
    raise RuntimeError(
      f"{path}: a vector differs from the layer's by {difference}."
    )
  if isinstance(table, tables.CodeTable) and not np.array_equal(
    table.codes, np.asarray(layer.codes())
  ):
    raise RuntimeError(f"{path}: codes differ from those of the layer.")


def write_page(workdir: str | os.PathLike[str]) -> None:
  """Writes `report.html`, a page to explore what a run has left.

  Nothing is written where the libraries of the page are not installed: a run is
  complete without it.

  Args:
    workdir: Folder of the run, with `result.json`.
  """
  if all(map(importlib.util.find_spec, ("altair", "jinja2", "vl_convert"))):
    report.write_run_report(workdir)
