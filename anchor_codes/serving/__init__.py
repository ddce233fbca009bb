"""Serves tables from elsewhere: JAX, ONNX, exported programs, faiss.

:func:`to_jax` puts a table on a device, :func:`export_jax` and
:func:`export_onnx` write programs that look vectors up without this library,
and :func:`to_faiss` makes an index of codes. NumPy alone serves a table by its
own calls, see :mod:`anchor_codes.tables`.
"""

from anchor_codes.serving.exported import (
  ExportedLookup,
  export_jax,
  load_exported,
)
from anchor_codes.serving.faiss_index import rerank, to_faiss
from anchor_codes.serving.jax_base import JaxTable
from anchor_codes.serving.jax_tables import to_jax
from anchor_codes.serving.onnx_graphs import export_onnx

__all__ = [
  "ExportedLookup",
  "JaxTable",
  "export_jax",
  "export_onnx",
  "load_exported",
  "rerank",
  "to_faiss",
  "to_jax",
]
