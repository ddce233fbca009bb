r"""Pre-trains a transformer on the texts that a classifier is to learn.

  python -m experiments.train_masked_language_model --config.dataset=sst2 \
      --workdir=/tmp/pretrained
  python -m experiments.train_text_classifier --config.dataset=sst2 \
      --config.encoder=transformer --config.pretrained=/tmp/pretrained \
      --config.learning_rate=2e-4 --workdir=/tmp/sst2

It leaves `encoder.safetensors` with all weights, the vocabulary,
`embedding.safetensors`, `result.json`, `metrics.csv`, TensorBoard events and
checkpoints in the folder. A run that was stopped goes on with the same command
and `--resume`. With `--config.pretrained` it goes on from the weights of
another run, or of a BERT, on other texts.
"""

from absl import app, flags, logging

from experiments import command_line, masked_language_modeling, reporting

CONFIG = command_line.define_config(
  masked_language_modeling.MaskedLanguageConfig()
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
    result = masked_language_modeling.train_and_evaluate(
      CONFIG.value, WORKDIR.value, resume=RESUME.value
    )
  except command_line.USER_ERRORS as error:
    raise app.UsageError(str(error)) from error
  columns = reporting.columns("perplexity")
  del columns["test_perplexity"]  # Nothing here sees the test texts.
  print(reporting.format_table([reporting.row(result)], columns))


if __name__ == "__main__":
  app.run(main)
