"""What a run leaves behind: results, metrics, tables and pictures."""

from experiments.reporting.marks import Picture
from experiments.reporting.metrics import MetricsWriter
from experiments.reporting.plots import plot_table, write_table
from experiments.reporting.progress import progress
from experiments.reporting.results import (
  RunResult,
  library_versions,
  peak_rss_bytes,
  read_result,
  write_result,
)
from experiments.reporting.rows import COLUMNS, columns, row
from experiments.reporting.tables import format_table

__all__ = [
  "COLUMNS",
  "MetricsWriter",
  "Picture",
  "RunResult",
  "columns",
  "format_table",
  "library_versions",
  "peak_rss_bytes",
  "plot_table",
  "progress",
  "read_result",
  "row",
  "write_result",
  "write_table",
]
