"""Results as the rows of a table for people."""

from typing import Any

from experiments.reporting.results import RunResult

_SHORT = {"perplexity": "ppl", "accuracy": "acc.", "bleu": "BLEU"}


def columns(metric: str) -> dict[str, str]:
  """Returns the headings of the columns of results by their names.

  Args:
    metric: What was measured, such as "accuracy", as it ends the names of the
      metrics of a result.

  >>> list(columns("accuracy").items())[:3]
  [('label', 'Embedding'), ('test_accuracy', 'Test acc.'),
   ('valid_accuracy', 'Valid acc.')]
  """
  short = _SHORT.get(metric, metric)
  return {
    "label": "Embedding",
    f"test_{metric}": f"Test {short}",
    f"valid_{metric}": f"Valid {short}",
    "embedding_params": "Params",
    "embedding_bytes": "Stored bytes",
    "compression_ratio": "Ratio",
    "training_bytes": "Training bytes",
    "seconds_per_epoch": "s/epoch",
  }


COLUMNS = columns("perplexity")
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
