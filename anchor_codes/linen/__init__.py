"""Flax Linen twins of the layers in :mod:`anchor_codes.nn`.

Options, names of parameters and operations are the same, so the pure dicts of
an NNX layer are variables of its twin: ``nnx.Param`` is the collection
"params", ``nn.Code`` is "codes", ``nnx.BatchStat`` is "batch_stats" (moments,
which move in training where that collection is mutable). The streams of
randomness are "codes" for Gumbel noise and the dropout of digits, "sse" for
the exchange of ids, and "guidance" for where a guide is looked up. Nothing
here imports ``flax.nnx``.
"""

from anchor_codes.linen.anchor_embed import AnchorEmbed
from anchor_codes.linen.base import CompactEmbed
from anchor_codes.linen.baselines import HashEmbed, LowRankEmbed, QREmbed
from anchor_codes.linen.centroid_norm import CentroidNorm
from anchor_codes.linen.dpq_embed import DPQEmbed
from anchor_codes.linen.fixed_code_embed import FixedCodeEmbed
from anchor_codes.linen.guided_embed import GuidedEmbed
from anchor_codes.linen.kd_embed import KDEmbed
from anchor_codes.linen.output_norm import OutputNorm
from anchor_codes.linen.stochastic_sharing import StochasticSharing
from anchor_codes.linen.temperature import Temperature

__all__ = [
  "AnchorEmbed",
  "CentroidNorm",
  "CompactEmbed",
  "DPQEmbed",
  "FixedCodeEmbed",
  "GuidedEmbed",
  "HashEmbed",
  "KDEmbed",
  "LowRankEmbed",
  "OutputNorm",
  "QREmbed",
  "StochasticSharing",
  "Temperature",
]
