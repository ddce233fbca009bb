"""Compact tables as files: NumPy alone reads them and looks vectors up.

A table is rows, one small record for each symbol, and a shared part. Each
class is a frozen record with the same calls: ``lookup``, ``attend``,
``to_dense``, ``save``, and the sizes. :func:`load` reads any of them.
"""

from anchor_codes.tables.anchor_table import AnchorTable
from anchor_codes.tables.base import Table
from anchor_codes.tables.code_table import CodeTable
from anchor_codes.tables.dense_table import DenseTable
from anchor_codes.tables.hash_table import HashTable
from anchor_codes.tables.joining import concatenate
from anchor_codes.tables.loading import load
from anchor_codes.tables.projected_table import ProjectedTable
from anchor_codes.tables.scaled_table import ScaledTable
from anchor_codes.tables.storage import ArtifactError
from anchor_codes.tables.sum_table import SumTable
from anchor_codes.tables.tiered_table import TieredTable

__all__ = [
  "AnchorTable",
  "ArtifactError",
  "CodeTable",
  "DenseTable",
  "HashTable",
  "ProjectedTable",
  "ScaledTable",
  "SumTable",
  "Table",
  "TieredTable",
  "concatenate",
  "load",
]
