r"""Trains a translator with full or compact embeddings.

  python -m experiments.train_translator --config.dataset=multi30k \
      --config.source=en --config.target=de --workdir=/tmp/multi30k

On Multi30k three epochs (`--config.epochs=3`) reach a test BLEU of about 29.

It keeps the epoch with the best validation loss, and leaves `result.json`,
`metrics.csv`, TensorBoard events, checkpoints, the model of subwords, the
tables and the translations of the validation and test texts in the folder. A
run that was stopped goes on with the same command and `--resume`. Without
`--config.dataset` it needs no data: it learns to name digits from the last to
the first.
"""

from absl import app, flags, logging

from experiments import (
  command_line,
  reporting,
  translating,
  translation_options,
)

CONFIG = command_line.define_config(translation_options.TranslationConfig())
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
    result = translating.train_and_evaluate(
      CONFIG.value, WORKDIR.value, resume=RESUME.value
    )
  except command_line.USER_ERRORS as error:
    raise app.UsageError(str(error)) from error
  columns = reporting.columns("bleu")
  print(reporting.format_table([reporting.row(result)], columns))


if __name__ == "__main__":
  app.run(main)
