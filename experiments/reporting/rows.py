"""Results as the rows of a table for people."""

from typing import Any

from experiments.reporting.results import RunResult

COLUMNS = {
  "label": "Embedding",
  "test_perplexity": "Test ppl",
  "valid_perplexity": "Valid ppl",
  "embedding_params": "Params",
  "embedding_bytes": "Stored bytes",
  "compression_ratio": "Ratio",
  "training_bytes": "Training bytes",
  "seconds_per_epoch": "s/epoch",
}
"""Headings of the columns of a language model's results."""


def row(result: RunResult, *, label: str | None = None) -> dict[str, Any]:
  """Returns the cells of a result by the name of their column.

  Args:
    result: What a run has found.
    label: Name of the row, that of the embedding by default.

  Returns:
    The fields and the metrics of the result, and its label.
  """
  return {
    "label": label or result.embedding,
    "embedding_params": result.embedding_params,
    "embedding_bytes": result.embedding_bytes,
    "compression_ratio": result.compression_ratio,
    "training_bytes": result.training_bytes,
    "seconds_per_epoch": result.seconds_per_epoch,
    **result.metrics,
  }
