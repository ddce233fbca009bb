"""Puts tables on a device."""

import functools
from typing import Any

import numpy as np
from jax import numpy as jnp

from anchor_codes import tables
from anchor_codes.serving import jax_base, jax_kinds
from anchor_codes.tables import parts, rounding, scaled_table
from anchor_codes.typing import check_choice

_NETWORK = ("kernels", "biases", "states")


def to_jax(table: tables.Table, *, outside: str = "nan") -> jax_base.JaxTable:
  """Puts a table on the default device, as it is in the file.

  Rows keep their types and stay packed. What rows share becomes float32; masked
  rows of anchors become slots, as many as the longest row has.

  Args:
    table: A table of any kind.
    outside: What an id outside the table gives where its value is not known:
      'nan', or 'clip' for the nearest row.

  Returns:
    A pytree with the calls of the table, jitted. It has no vocabulary.

  Raises:
    ValueError: If `outside` is another word, or the kind is unknown.

  >>> table = tables.DenseTable.from_dense(np.float32([[1], [2]]), dtype="int8")
  >>> on_device = to_jax(table)
  >>> on_device
  JaxDenseTable(num_embeddings=2, features=1, nbytes=10)
  >>> print(on_device.lookup([1, 0])[:, 0], on_device.top_k([[1.0]], 1)[1])
  [2. 1.] [[1]]
  """
  check_choice("outside", outside, jax_base.OUTSIDE)
  return _convert(table, outside)


@functools.singledispatch
def _convert(table: Any, outside: str) -> jax_base.JaxTable:
  del outside
  raise ValueError(
    "`table` must be a table, as `to_table` of a layer returns, got "
    f"{type(table).__name__}."
  )


def _sizes(table: tables.Table, outside: str) -> dict[str, Any]:
  return {
    "num_embeddings": table.num_embeddings,
    "features": table.features,
    "outside": outside,
  }


def _array(array: np.ndarray | None) -> Any:
  return None if array is None else jnp.asarray(array)


def _shared(array: np.ndarray | None, scales: np.ndarray | None = None) -> Any:
  return None if array is None else jnp.asarray(parts.to_float(array, scales))


@_convert.register
def _dense(table: tables.DenseTable, outside: str) -> jax_base.JaxTable:
  return jax_kinds.JaxDenseTable(
    rows=_array(table.rows),
    scales=_array(table.scales),
    row_bits=rounding.PACKED_BITS.get(table.dtype or "", 0),
    **_sizes(table, outside),
  )


@_convert.register
def _anchors(table: tables.AnchorTable, outside: str) -> jax_base.JaxTable:
  indices, weights, scales = None, table.weights, table.weight_scales
  if table.indices is not None or table.masks is not None:
    indices, weights, scales = parts.anchor_slots(table)
  return jax_kinds.JaxAnchorTable(
    anchors=_shared(table.anchors, table.anchor_scales),
    weights=_array(weights),
    indices=_array(indices),
    weight_scales=_array(scales),
    **_sizes(table, outside),
  )


@_convert.register
def _codes(table: tables.CodeTable, outside: str) -> jax_base.JaxTable:
  network = {n: _shared(table.tensors.get(n)) for n in _NETWORK}
  network = {n: array for n, array in network.items() if array is not None}
  return jax_kinds.JaxCodeTable(
    packed=_array(table.packed),
    codebooks=_shared(table.codebooks, table.scales),
    projection=_shared(table.projection),
    bias=_shared(table.bias),
    network=network or None,
    code_length=table.code_length,
    composition=table.composition,
    **_sizes(table, outside),
  )


@_convert.register
def _hash(table: tables.HashTable, outside: str) -> jax_base.JaxTable:
  return jax_kinds.JaxHashTable(
    buckets=tuple(jnp.asarray(array) for array in table.buckets),
    addressing=table.addressing,
    composition=table.composition,
    seed=table.seed,
    **_sizes(table, outside),
  )


@_convert.register
def _projected(table: tables.ProjectedTable, outside: str) -> jax_base.JaxTable:
  return jax_kinds.JaxProjectedTable(
    inner=_convert(table.inner, outside),
    projection=_shared(table.projection, table.projection_scales),
    bias=_shared(table.bias),
    **_sizes(table, outside),
  )


@_convert.register
def _scaled(table: tables.ScaledTable, outside: str) -> jax_base.JaxTable:
  levels = None
  if table.norm_range is not None:
    levels = jnp.asarray(scaled_table.norm_levels(table.norm_range))
  return jax_kinds.JaxScaledTable(
    inner=_convert(table.inner, outside),
    norms=_array(table.norms),
    levels=levels,
    **_sizes(table, outside),
  )


@_convert.register
def _sum(table: tables.SumTable, outside: str) -> jax_base.JaxTable:
  return jax_kinds.JaxSumTable(
    first=_convert(table.first, outside),
    second=_convert(table.second, outside),
    **_sizes(table, outside),
  )


@_convert.register
def _tiered(table: tables.TieredTable, outside: str) -> jax_base.JaxTable:
  hot_ids = table.hot_ids
  if hot_ids is not None:
    hot_ids = jnp.asarray(np.asarray(hot_ids), jnp.int32)
  return jax_kinds.JaxTieredTable(
    hot=_convert(table.hot, outside),
    cold=_convert(table.cold, outside),
    hot_ids=hot_ids,
    **_sizes(table, outside),
  )
