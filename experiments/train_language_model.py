r"""Trains an LSTM language model with a full or a compact embedding.

  python -m experiments.train_language_model \
      --config.dataset=ptb --config.embedding=anchors --workdir=/tmp/anchors

It leaves `result.json`, `metrics.csv`, TensorBoard events, checkpoints and
`embedding.safetensors` in the folder. A run that was stopped goes on with the
same command and `--resume`. `--setting=medium` and `--setting=large` are the
larger models of Zaremba et al. (2014).
"""

from absl import app, flags, logging
from ml_collections import config_flags

from experiments import command_line, language_modeling, reporting

CONFIG = command_line.define_config(language_modeling.LanguageModelConfig())
SETTING = flags.DEFINE_enum(
  "setting",
  "small",
  tuple(language_modeling.SETTINGS),
  "Sizes and schedule of Zaremba et al. (2014); options that are given win.",
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
  given = config_flags.get_override_values(flags.FLAGS["config"])
  config = language_modeling.apply_setting(
    CONFIG.value, SETTING.value, given=tuple(given)
  )
  try:
    result = language_modeling.train_and_evaluate(
      config, WORKDIR.value, resume=RESUME.value
    )
  except command_line.USER_ERRORS as error:
    raise app.UsageError(str(error)) from error
  print(reporting.format_table([reporting.row(result)], reporting.COLUMNS))


if __name__ == "__main__":
  app.run(main)
