"""Flax NNX layers: they declare parameters and call the operations."""

from anchor_codes.nn.anchor_embed import AnchorEmbed
from anchor_codes.nn.base import (
  Code,
  CompactEmbed,
  GivenRow,
  RowParam,
  auxiliary_loss,
  is_row,
  is_trained_row,
  select_rows,
  to_table,
  write_rows,
)
from anchor_codes.nn.baselines import HashEmbed, LowRankEmbed, QREmbed
from anchor_codes.nn.centroid_norm import CentroidNorm
from anchor_codes.nn.dpq_embed import DPQEmbed
from anchor_codes.nn.fixed_code_embed import FixedCode, FixedCodeEmbed
from anchor_codes.nn.guided_embed import GuidedEmbed
from anchor_codes.nn.kd_embed import KDEmbed
from anchor_codes.nn.output_norm import OutputNorm
from anchor_codes.nn.stochastic_sharing import StochasticSharing
from anchor_codes.nn.temperature import Temperature

__all__ = [
  "AnchorEmbed",
  "CentroidNorm",
  "Code",
  "CompactEmbed",
  "DPQEmbed",
  "FixedCode",
  "FixedCodeEmbed",
  "GivenRow",
  "GuidedEmbed",
  "HashEmbed",
  "KDEmbed",
  "LowRankEmbed",
  "OutputNorm",
  "QREmbed",
  "RowParam",
  "StochasticSharing",
  "Temperature",
  "auxiliary_loss",
  "is_row",
  "is_trained_row",
  "select_rows",
  "to_table",
  "write_rows",
]
