"""Flax NNX layers: they declare parameters and call the operations."""

from anchor_codes.nn.anchor_embed import AnchorEmbed
from anchor_codes.nn.base import (
  Code,
  CompactEmbed,
  RowParam,
  auxiliary_loss,
  is_row,
  select_rows,
  to_table,
  write_rows,
)
from anchor_codes.nn.baselines import HashEmbed, LowRankEmbed, QREmbed
from anchor_codes.nn.centroid_norm import CentroidNorm
from anchor_codes.nn.dpq_embed import DPQEmbed
from anchor_codes.nn.kd_embed import KDEmbed
from anchor_codes.nn.stochastic_sharing import StochasticSharing

__all__ = [
  "AnchorEmbed",
  "CentroidNorm",
  "Code",
  "CompactEmbed",
  "DPQEmbed",
  "HashEmbed",
  "KDEmbed",
  "LowRankEmbed",
  "QREmbed",
  "RowParam",
  "StochasticSharing",
  "auxiliary_loss",
  "is_row",
  "select_rows",
  "to_table",
  "write_rows",
]
