r"""Trains a recommender with any embeddings of users and items.

  python -m experiments.train_recommender --config.dataset=ml-1m \
      --config.embedding=anchors --config.max_nonzeros=29000 \
      --workdir=/tmp/anchors

It leaves `result.json`, `metrics.csv`, TensorBoard events, checkpoints,
`users.safetensors` and `items.safetensors` in the folder. A run that was
stopped goes on with the same command and `--resume`. `--config.rule=marginal`
lets the data choose the number of anchors; `--config.loss=bpr` ranks items
instead of predicting ratings. `--config.dataset=interactions:PATH` reads CSV,
Parquet or ArrayRecord files that need not fit in memory.
"""

from absl import app, flags, logging

from experiments import (
  command_line,
  interaction_options,
  nonparametric,
  online,
  ranking,
  recommending,
  reporting,
  streamed_recommending,
)

CONFIG = command_line.define_config(recommending.RecommenderConfig())
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for all that the run leaves.", required=True
)
RESUME = flags.DEFINE_bool(
  "resume", False, "Whether to go on from the newest checkpoint."
)


def run_type(
  config: recommending.RecommenderConfig,
) -> type[recommending.Run]:
  """Returns what runs with some options."""
  if interaction_options.is_streamed(config):
    return streamed_recommending.StreamedRun
  if config.loss == "bpr":
    return ranking.RankingRun
  if config.online_batches:
    return online.OnlineRun
  return nonparametric.NonparametricRun if config.rule else recommending.Run


def main(argv: list[str]) -> None:
  """Runs the training that the flags describe."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
  logging.set_verbosity(logging.WARNING)
  try:
    result = recommending.train_and_evaluate(
      CONFIG.value,
      WORKDIR.value,
      resume=RESUME.value,
      run_type=run_type(CONFIG.value),
    )
  except command_line.USER_ERRORS as error:
    raise app.UsageError(str(error)) from error
  metric = "mse" if CONFIG.value.loss == "mse" else "precision_at_10"
  columns = reporting.columns(metric)
  print(reporting.format_table([reporting.row(result)], columns))


if __name__ == "__main__":
  app.run(main)
