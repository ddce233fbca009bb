r"""Trains a recommender of the next item: SASRec, PT, SSE-PT or SSE-PT++.

  python -m experiments.train_sequential_recommender \
      --config.dataset=ml-1m --config.model=sse_pt --workdir=/tmp/sse_pt

It keeps the epoch with the best validation NDCG, and leaves `result.json`,
`metrics.csv`, TensorBoard events, checkpoints, `items.safetensors` and
`users.safetensors` in the folder. A run that was stopped goes on with the same
command and `--resume`. Without `--config.dataset` it needs no data: it learns
sequences drawn from a Markov chain.
"""

from absl import app, flags, logging

from experiments import (
  command_line,
  reporting,
  sequential_options,
  sequential_recommending,
)

CONFIG = command_line.define_config(sequential_options.SequentialConfig())
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for all that the run leaves.", required=True
)
RESUME = flags.DEFINE_bool(
  "resume", False, "Whether to go on from the newest checkpoint."
)
COLUMNS = {
  "label": "Model",
  "test_ndcg_at_10": "NDCG@10",
  "test_recall_at_10": "Recall@10",
  "test_full_ndcg_at_10": "NDCG@10, all",
  "test_full_recall_at_10": "Recall@10, all",
  "valid_ndcg_at_10": "Valid NDCG@10",
  "embedding_params": "Params",
  "embedding_bytes": "Stored bytes",
  "compression_ratio": "Ratio",
  "seconds_per_epoch": "s/epoch",
}
"""Headings of the columns of the result by their names."""


def main(argv: list[str]) -> None:
  """Runs the training that the flags describe."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
  logging.set_verbosity(logging.WARNING)
  try:
    result = sequential_recommending.train_and_evaluate(
      CONFIG.value, WORKDIR.value, resume=RESUME.value
    )
  except command_line.USER_ERRORS as error:
    raise app.UsageError(str(error)) from error
  label = f"{result.config['model']}, {result.embedding}"
  row = reporting.row(result, label=label)
  print(reporting.format_table([row], COLUMNS))


if __name__ == "__main__":
  app.run(main)
