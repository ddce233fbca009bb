r"""Trains a text classifier with a full or a compact embedding.

  python -m experiments.train_text_classifier \
      --config.dataset=sst2 --config.embedding=anchors --workdir=/tmp/sst2

It keeps the epoch with the best validation accuracy, and leaves `result.json`,
`metrics.csv`, TensorBoard events, checkpoints and `embedding.safetensors` in
the folder. A run that was stopped goes on with the
same command and `--resume`. Without `--config.dataset` it needs no data: it
learns the categories of Unicode's characters from their names.

With `--config.encoder=transformer` it trains the encoder of BERT, from scratch
or, with `--config.pretrained=FOLDER`, from what `train_masked_language_model`
has left there, or from the weights of a BERT (`config.json`, `vocab.txt` and
`model.safetensors`); those need a rate such as `--config.learning_rate=2e-5`.
"""

from absl import app, flags, logging

from experiments import command_line, reporting, text_classification

CONFIG = command_line.define_config(
  text_classification.TextClassificationConfig()
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
    result = text_classification.train_and_evaluate(
      CONFIG.value, WORKDIR.value, resume=RESUME.value
    )
  except command_line.USER_ERRORS as error:
    raise app.UsageError(str(error)) from error
  columns = reporting.columns("accuracy")
  print(reporting.format_table([reporting.row(result)], columns))


if __name__ == "__main__":
  app.run(main)
