"""Makes compact tables of matrices that somebody has: :func:`compress`.

A recipe says what a table is made of: rounded rows, principal components,
product codes, additive codes, anchors, and chains of them. :func:`compress`
tries those that fit a budget of bytes, and takes the best by a metric.
"""

from anchor_codes.compression.compressing import compress
from anchor_codes.compression.proposals import FAMILIES
from anchor_codes.compression.quality import (
  METRICS,
  mean_cosine,
  relative_error,
  shared_neighbors,
)
from anchor_codes.compression.recipes import Recipe, parse
from anchor_codes.compression.reports import Compressed, Report, Trial

__all__ = [
  "FAMILIES",
  "METRICS",
  "Compressed",
  "Recipe",
  "Report",
  "Trial",
  "compress",
  "mean_cosine",
  "parse",
  "relative_error",
  "shared_neighbors",
]
