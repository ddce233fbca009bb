"""Writes the lookup of a table as an ONNX graph."""

import os
from typing import Any

import numpy as np

from anchor_codes import tables
from anchor_codes.serving import onnx_kinds
from anchor_codes.tables import storage

_OPSET = 18  # The first with operations on bits.
_IR_VERSION = 10  # What runtimes of 2024 read.
_MAX_BYTES = 2**31 - 2**20  # A protocol buffer has at most 2 GiB.


def export_onnx(table: tables.Table, path: str | os.PathLike) -> None:
  """Writes a graph that looks vectors up: any ONNX runtime serves it.

  Input `ids` int64 [batch], output `vectors` float32 [batch, features]. Rows
  are gathered as they are packed, then decoded: the full table is never built.
  An id that is negative or past the end is an error of the runtime, whose text
  speaks of an index 1 for an array of one element; without that guard a runtime
  would take -1 for the last row.

  Masked rows of anchors become slots, as many as the longest row has, and the
  ids of hot symbols take 4 bytes for each row.

  Args:
    table: A table of any kind; its vocabulary is not written.
    path: Where to write; an old file is replaced at once.

  Raises:
    ImportError: If `onnx` is not installed.
    ValueError: If the table is too large for a file of this format.

  >>> import pathlib, tempfile
  >>> import onnxruntime
  >>> table = tables.DenseTable.from_dense(np.float32([[1], [2]]), dtype="int8")
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder, "table.onnx")
  ...   export_onnx(table, path)
  ...   session = onnxruntime.InferenceSession(path)
  >>> session.run(None, {"ids": np.array([1, 0, 1])})[0][:, 0]
  array([2., 1., 2.], dtype=float32)
  """
  try:
    import onnx
  except ImportError as error:
    raise ImportError(
      "`export_onnx` needs the package onnx: `pip install onnx`."
    ) from error
  if table.nbytes > _MAX_BYTES:
    raise ValueError(
      f"`table` must have at most {_MAX_BYTES} bytes for an ONNX file, got "
      f"{table.nbytes}."
    )
  model = _make_model(onnx, table)
  onnx.checker.check_model(model)
  content = model.SerializeToString()
  storage.write_atomically(path, [content])


def _make_model(onnx: Any, table: tables.Table) -> Any:
  helper, types = onnx.helper, onnx.TensorProto
  graph = onnx_kinds.Graph()
  ids = _guarded(graph, table.num_embeddings)
  vectors = graph.add("Identity", onnx_kinds.compose(table, graph, ids))
  info = helper.make_tensor_value_info
  arrays = (
    onnx.numpy_helper.from_array(array, name)
    for name, array in graph.constants.items()
  )
  proto = helper.make_graph(
    [
      helper.make_node(n.operation, n.inputs, n.outputs, **n.attributes)
      for n in graph.nodes
    ]
    + [helper.make_node("Identity", [vectors], ["vectors"])],
    "lookup",
    [info("ids", types.INT64, ["batch"])],
    [info("vectors", types.FLOAT, ["batch", table.features])],
    list(arrays),
  )
  model = helper.make_model(
    proto,
    opset_imports=[helper.make_opsetid("", _OPSET)],
    producer_name="anchor_codes",
    ir_version=_IR_VERSION,
  )
  names = ("kind", "num_embeddings", "features")
  helper.set_model_props(model, {n: table.metadata[n] for n in names})
  return model


def _guarded(graph: onnx_kinds.Graph, num_embeddings: int) -> str:
  """Adds zero to ids, gathered where an id outside makes the gather fail."""
  bounds = [np.array(bound, np.int64) for bound in (0, num_embeddings)]
  below = graph.add("Less", "ids", graph.constant(bounds[0]))
  above = graph.add("GreaterOrEqual", "ids", graph.constant(bounds[1]))
  outside = graph.cast(graph.add("Or", below, above), np.int64)
  zeros = graph.add("Gather", graph.constant(np.zeros(1, np.int64)), outside)
  return graph.add("Add", "ids", zeros)
