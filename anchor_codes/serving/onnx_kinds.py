"""The kinds of tables as nodes of an ONNX graph."""

import functools
from typing import Any, NamedTuple

import numpy as np

from anchor_codes import bits, tables
from anchor_codes.tables import parts, rounding, scaled_table
from anchor_codes.typing import num_code_bits

_TYPES = {np.dtype(np.float32): 1, np.dtype(np.int32): 6, np.dtype(np.int64): 7}


class Node(NamedTuple):
  """A node: an operation, the names of its values, and its attributes."""

  operation: str
  inputs: list[str]
  outputs: list[str]
  attributes: dict[str, Any]


class Graph:
  """Nodes and constants of a graph, in order; values are known by names.

  >>> graph = Graph()
  >>> graph.add("Add", "ids", graph.constant(np.int64(1)))
  'value_1'
  """

  def __init__(self) -> None:
    self.nodes: list[Node] = []
    self.constants: dict[str, np.ndarray] = {}

  def constant(self, array: Any) -> str:
    """Adds an array; returns its name."""
    name = f"constant_{len(self.constants)}"
    self.constants[name] = np.ascontiguousarray(array).reshape(np.shape(array))
    return name

  def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
    """Adds a node of one output; returns its name."""
    return self.split(operation, *inputs, number=1, **attributes)[0]

  def split(
    self, operation: str, *inputs: str, number: int, **attributes: Any
  ) -> list[str]:
    """Adds a node of several outputs; returns their names."""
    stem = f"value_{len(self.nodes) + 1}"
    outputs = [stem] if number == 1 else [f"{stem}_{i}" for i in range(number)]
    self.nodes.append(Node(operation, list(inputs), outputs, attributes))
    return outputs

  def cast(self, value: str, dtype: Any) -> str:
    """Casts to float32, int32 or int64."""
    return self.add("Cast", value, to=_TYPES[np.dtype(dtype)])

  def gather(self, array: Any, ids: str, *, axis: int = 0) -> str:
    """Gathers entries of an array that becomes a constant."""
    return self.add("Gather", self.constant(array), ids, axis=axis)

  def gather_floats(self, array: Any, ids: str) -> str:
    """Gathers rows as they are, then makes them float32."""
    return self.cast(self.gather(array, ids), np.float32)

  def reshape(self, value: str, *shape: int) -> str:
    """Reshapes; -1 stands for what is left."""
    return self.add("Reshape", value, self.constant(np.array(shape, np.int64)))

  def apply(self, operation: str, value: str, array: Any) -> str:
    """Applies an operation of two values to one and an array."""
    return self.add(operation, value, self.constant(array))


@functools.singledispatch
def compose(table: Any, graph: Graph, ids: str) -> str:
  """Adds the nodes that compose float32 vectors [batch, features] of ids."""
  del graph, ids
  raise ValueError(f"`table` must be a table, got {type(table).__name__}.")


@compose.register
def _dense(table: tables.DenseTable, graph: Graph, ids: str) -> str:
  row_bits = rounding.PACKED_BITS.get(table.dtype or "", 0)
  if row_bits:
    packed = graph.gather(table.rows, ids)
    digits = _unpack(graph, packed, table.features, 2**row_bits)
    rows = graph.cast(digits, np.float32)
    rows = graph.apply("Sub", rows, np.float32((2**row_bits - 1) / 2))
  else:
    rows = graph.gather_floats(table.rows, ids)
  return _scaled_rows(graph, rows, table.scales, ids)


@compose.register
def _anchors(table: tables.AnchorTable, graph: Graph, ids: str) -> str:
  anchors = graph.constant(parts.to_float(table.anchors, table.anchor_scales))
  if table.indices is None and table.masks is None:
    weights = graph.gather_floats(table.weights, ids)
    weights = _scaled_rows(graph, weights, table.weight_scales, ids)
    return graph.add("MatMul", weights, anchors)
  slots = parts.anchor_slots(table)
  weights = graph.gather_floats(slots.weights, ids)
  weights = _scaled_rows(graph, weights, slots.scales, ids)
  indices = graph.cast(graph.gather(slots.indices, ids), np.int64)
  chosen = graph.add("Gather", anchors, indices)
  weights = graph.reshape(weights, -1, 1, slots.weights.shape[1])
  mixed = graph.add("MatMul", weights, chosen)
  return graph.reshape(mixed, -1, table.features)


@compose.register
def _codes(table: tables.CodeTable, graph: Graph, ids: str) -> str:
  codebooks = parts.to_float(table.codebooks, table.scales)
  positions, size, width = codebooks.shape
  packed = graph.gather(table.packed, ids)
  digits = _unpack(graph, packed, table.code_length, size)
  first = np.arange(table.code_length) % positions * size
  digits = graph.apply("Add", digits, first.astype(np.int32))
  vectors = graph.gather(codebooks.reshape(-1, width), digits)
  if table.composition == "concat":
    vectors = graph.reshape(vectors, -1, table.features)
  elif table.composition == "lstm":
    vectors = _mean_lstm(table, graph, vectors)
  else:
    vectors = _sum(graph, vectors)
  if table.composition == "mlp":
    vectors = _residual_layers(table, graph, vectors)
  return _project(graph, vectors, table.projection, table.bias)


@compose.register
def _hash(table: tables.HashTable, graph: Graph, ids: str) -> str:
  if table.addressing == "quotient_remainder":
    divisor = np.int64(len(table.buckets[1]))
    addresses = [graph.apply(name, ids, divisor) for name in ("Div", "Mod")]
  else:
    addresses = [
      _hash_ids(graph, ids, table, number=i) for i in range(len(table.buckets))
    ]
  operation = "Add" if table.composition == "sum" else "Mul"
  vectors = [
    graph.gather_floats(array, address)
    for array, address in zip(table.buckets, addresses, strict=True)
  ]
  return functools.reduce(lambda a, b: graph.add(operation, a, b), vectors)


@compose.register
def _projected(table: tables.ProjectedTable, graph: Graph, ids: str) -> str:
  matrix = parts.to_float(table.projection, table.projection_scales)
  return _project(graph, compose(table.inner, graph, ids), matrix, table.bias)


@compose.register
def _scaled(table: tables.ScaledTable, graph: Graph, ids: str) -> str:
  norms = graph.gather(table.norms, ids)
  if table.norm_range is not None:
    levels = scaled_table.norm_levels(table.norm_range)
    norms = graph.gather(levels, graph.cast(norms, np.int32))
  norms = graph.reshape(graph.cast(norms, np.float32), -1, 1)
  return graph.add("Mul", norms, compose(table.inner, graph, ids))


@compose.register
def _sums(table: tables.SumTable, graph: Graph, ids: str) -> str:
  both = (compose(part, graph, ids) for part in (table.first, table.second))
  return graph.add("Add", *both)


@compose.register
def _tiered(table: tables.TieredTable, graph: Graph, ids: str) -> str:
  num_hot, num_cold = table.hot.num_embeddings, table.cold.num_embeddings
  if table.hot_ids is None:
    below = graph.apply("Min", ids, np.int64(num_hot))
    is_hot = graph.apply("Less", ids, np.int64(num_hot))
  else:
    # There is no search in ONNX: how many hot ids lie below each id.
    hot_ids = np.asarray(table.hot_ids).astype(np.int64)
    counts = np.searchsorted(hot_ids, np.arange(table.num_embeddings))
    below = graph.cast(graph.gather(counts.astype(np.int32), ids), np.int64)
    padded = np.append(hot_ids, -1)
    is_hot = graph.add("Equal", graph.gather(padded, below), ids)
  hot = graph.apply("Min", below, np.int64(num_hot - 1))
  cold = graph.add("Sub", ids, below)
  cold = graph.apply("Min", cold, np.int64(num_cold - 1))
  return graph.add(
    "Where",
    graph.reshape(is_hot, -1, 1),
    compose(table.hot, graph, hot),
    compose(table.cold, graph, cold),
  )


def _scaled_rows(
  graph: Graph, rows: str, scales: np.ndarray | None, ids: str
) -> str:
  if scales is None:
    return rows
  factors = graph.reshape(graph.gather_floats(scales, ids), -1, 1)
  return graph.add("Mul", rows, factors)


def _unpack(
  graph: Graph, packed: str, code_length: int, codebook_size: int
) -> str:
  """Unpacks digits as :func:`anchor_codes.bits.unpack_codes` does, int32."""
  wide, digit_bits = graph.cast(packed, np.int32), num_code_bits(codebook_size)
  if digit_bits == 8:
    return wide
  first_bit = np.arange(code_length) * digit_bits
  last_byte = (code_length * digit_bits - 1) // 8
  digits = None
  for step in range((digit_bits + 6) // 8 + 1):
    # What is taken twice past the end lies above the bits that are kept.
    byte = np.minimum(first_bit // 8 + step, last_byte)
    columns = graph.constant(byte.astype(np.int64))
    values = graph.add("Gather", wide, columns, axis=1)
    values = graph.apply("Mul", values, np.int32(256**step))
    digits = graph.add("Add", digits, values) if digits else values
  # A division for each shift: those of ONNX are for unsigned numbers alone.
  window = graph.apply(
    "Div", digits or wide, np.int32(2) ** (first_bit % 8).astype(np.int32)
  )
  return graph.apply("Mod", window, np.int32(2**digit_bits))


def _sum(graph: Graph, vectors: str) -> str:
  axis = graph.constant(np.array([1], np.int64))
  return graph.add("ReduceSum", vectors, axis, keepdims=0)


def _project(
  graph: Graph,
  vectors: str,
  projection: np.ndarray | None,
  bias: np.ndarray | None,
) -> str:
  if projection is not None:
    vectors = graph.apply("MatMul", vectors, parts.to_float(projection, None))
  if bias is not None:
    vectors = graph.apply("Add", vectors, parts.to_float(bias, None))
  return vectors


def _residual_layers(table: tables.CodeTable, graph: Graph, sums: str) -> str:
  arrays = {n: parts.to_float(a, None) for n, a in table.tensors.items()}
  first, *biases = arrays["biases"]
  hidden = graph.add("Relu", graph.apply("Add", sums, first))
  for kernel, bias in zip(arrays.get("kernels", ()), biases, strict=True):
    layer = _project(graph, hidden, kernel, bias)
    hidden = graph.add("Add", hidden, graph.add("Relu", layer))
  return hidden


def _mean_lstm(table: tables.CodeTable, graph: Graph, vectors: str) -> str:
  """Adds the steps of the network, see `CodeTable`, one for each digit."""
  arrays = {n: parts.to_float(a, None) for n, a in table.tensors.items()}
  of_input, of_hidden = np.split(arrays["kernels"], [table.codebooks.shape[2]])
  hidden, cell = (graph.constant(state[None]) for state in arrays["states"])
  kernel, outputs = graph.constant(of_hidden), []
  for i in range(table.code_length):
    vector = graph.add("Gather", vectors, graph.constant(np.int64(i)), axis=1)
    gates = _project(graph, vector, of_input, arrays["biases"])
    gates = graph.add("Add", gates, graph.add("MatMul", hidden, kernel))
    enter, forget, new, leave = graph.split(
      "Split", gates, number=4, axis=1, num_outputs=4
    )
    enter, forget, leave = (
      graph.add("Sigmoid", gate) for gate in (enter, forget, leave)
    )
    kept = graph.add("Mul", forget, cell)
    added = graph.add("Mul", enter, graph.add("Tanh", new))
    cell = graph.add("Add", kept, added)
    hidden = graph.add("Mul", leave, graph.add("Tanh", cell))
    outputs.append(hidden)
  return graph.add("Mean", *outputs)


def _hash_ids(
  graph: Graph, ids: str, table: tables.HashTable, *, number: int
) -> str:
  """Hashes ids as :func:`anchor_codes.bits.hash_ids` does.

  In int64 without an overflow: runtimes lack operations on uint32.
  """
  start = np.asarray([(table.seed + number + bits._GOLDEN) % 2**32], np.uint32)
  key, words = bits._mix(start), ids
  if table.num_embeddings <= 2**32:
    key = graph.constant(bits._mix(key).astype(np.int64))
  else:  # Only a word that is not 0 changes the key.
    high = graph.apply("Div", ids, np.int64(2**32))
    words = graph.apply("Mod", ids, np.int64(2**32))
    key = _mix(graph, graph.apply("BitwiseXor", high, key.astype(np.int64)))
  words = _mix(graph, graph.add("BitwiseXor", words, key))
  return graph.apply("Mod", words, np.int64(len(table.buckets[number])))


def _mix(graph: Graph, words: str) -> str:
  for shift, factor in zip((16, 13), bits._FACTORS[:, 0], strict=True):
    words = _times(graph, _fold(graph, words, shift), int(factor))
  return _fold(graph, words, 16)


def _fold(graph: Graph, words: str, shift: int) -> str:
  """Returns ``words ^ (words >> shift)``."""
  high = graph.apply("Div", words, np.int64(2**shift))
  return graph.add("BitwiseXor", words, high)


def _times(graph: Graph, words: str, factor: int) -> str:
  """Returns ``words * factor`` modulo 2 ** 32, half by half."""
  half, whole = np.int64(2**16), np.int64(2**32)
  low = graph.apply("Mul", graph.apply("Mod", words, half), np.int64(factor))
  high = graph.apply("Mul", graph.apply("Div", words, half), np.int64(factor))
  high = graph.apply("Mul", graph.apply("Mod", high, half), half)
  return graph.apply("Mod", graph.add("Add", low, high), whole)
