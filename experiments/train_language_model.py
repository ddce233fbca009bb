r"""Trains an LSTM language model with a full or a compact embedding.

  python -m experiments.train_language_model \
      --config.dataset=ptb --config.embedding=anchors --workdir=/tmp/anchors

It leaves `result.json`, `metrics.csv`, TensorBoard events, checkpoints and, for
a compact embedding, `embedding.safetensors` in the folder. A run that was
stopped goes on with the same command and `--resume`.
"""

from absl import app, flags, logging
from ml_collections import config_flags

from experiments import language_modeling, reporting

CONFIG = config_flags.DEFINE_config_dataclass(
  "config", language_modeling.LanguageModelConfig()
)
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder for all that the run leaves.", required=True
)
RESUME = flags.DEFINE_bool(
  "resume", False, "Whether to go on from the newest checkpoint."
)


def main(argv: list[str]) -> None:
  """Runs the training that the flags describe."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
  logging.set_verbosity(logging.WARNING)
  try:
    result = language_modeling.train_and_evaluate(
      CONFIG.value, WORKDIR.value, resume=RESUME.value
    )
  except (ValueError, OSError) as error:
    raise app.UsageError(str(error)) from error
  print(reporting.format_table([reporting.row(result)], reporting.COLUMNS))


if __name__ == "__main__":
  app.run(main)
