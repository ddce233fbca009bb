"""What TensorBoard shows of an embedding as histograms."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx
from jax import numpy as jnp

from anchor_codes import nn, tables
from experiments.reporting.metrics import MetricsWriter

MAX_ROWS = 4096
"""Rows that are looked at: a larger table is as well known by so many."""


def write_histograms(
  writer: MetricsWriter, step: int, layers: Mapping[str, Any]
) -> None:
  """Shows embeddings in TensorBoard, as `name/row_norms` and the like.

  Args:
    writer: Where they go.
    step: Number of training steps done.
    layers: What :func:`histogram_values` takes, by name.
  """
  for name, layer in layers.items():
    found = histogram_values(layer)
    writer.write_histograms(
      step, {f"{name}/{what}": values for what, values in found.items()}
    )


def histogram_values(
  layer: Any, *, max_rows: int = MAX_ROWS
) -> dict[str, np.ndarray]:
  """Returns what is worth a histogram, of rows spread over the whole table.

  Args:
    layer: A layer of the package, or a ``flax.nnx.Embed``.
    max_rows: The most rows to look at.

  Returns:
    By name a list of numbers: `row_norms`; of anchors also `row_nonzeros` and
    the `weights` that are not zero; of codes the `digits`.

  >>> layer = nn.AnchorEmbed(
  ...   9, 4, num_anchors=3, num_nonzeros=2, rngs=nnx.Rngs(0)
  ... )
  >>> {name: len(found) for name, found in histogram_values(layer).items()}
  {'row_norms': 9, 'row_nonzeros': 9, 'weights': 18}
  """
  table = _table_of(layer, max_rows)
  vectors = table.lookup(_spread(table.num_embeddings, max_rows))
  found = {"row_norms": np.linalg.norm(vectors, axis=-1)}
  if isinstance(table, tables.AnchorTable):
    weights = table.to_transform()
    found["row_nonzeros"] = np.count_nonzero(weights, axis=1)
    found["weights"] = weights[weights != 0]
  if isinstance(table, tables.CodeTable):
    found["digits"] = table.codes.ravel()
  return found


def _table_of(layer: Any, max_rows: int) -> tables.Table:
  """Returns the table of some rows, of all where there are few or none."""
  layer = layer.embed if isinstance(layer, nn.GuidedEmbed) else layer
  size = layer.num_embeddings
  has_rows = bool(nnx.state(layer, nn.is_row))
  if size <= max_rows or not has_rows:
    return nn.to_table(layer)
  ids = jnp.asarray(_spread(size, max_rows))
  return nn.to_table(nn.select_rows(layer, ids))


def _spread(size: int, most: int) -> np.ndarray:
  """Returns ids from the first to the last one, all if these are few."""
  return np.linspace(0, size - 1, min(size, most)).astype(np.int32)
