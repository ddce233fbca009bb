r"""Trains a graph network with a full or a compact first layer.

  python -m experiments.train_node_classifier \
      --config.dataset=cora --config.embedding=dpq --workdir=/tmp/cora

classifies the nodes of a graph by the convolutions of Kipf and Welling (2017),
in which each word of a node has a vector. It keeps the weights that are best on
the validation nodes, and leaves `result.json`, `metrics.csv`, TensorBoard
events, checkpoints and `embedding.safetensors` in the folder. A run that was
stopped goes on with the same command and `--resume`. With
`--config.dataset=own:FOLDER` it reads a graph of your own from `features.npz`,
`edges.csv` and `labels.csv`.
"""

from absl import app, flags, logging

from experiments import command_line, node_classification, reporting

CONFIG = command_line.define_config(
  node_classification.NodeClassificationConfig()
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
    result = node_classification.train_and_evaluate(
      CONFIG.value, WORKDIR.value, resume=RESUME.value
    )
  except command_line.USER_ERRORS as error:
    raise app.UsageError(str(error)) from error
  counts = [
    f"{value:,} {name.removeprefix('graph_').replace('_', ' ')}"
    for name, value in result.metrics.items()
    if name.startswith("graph_")
  ]
  print(f"The graph has {', '.join(counts)}.\n")
  columns = reporting.columns("accuracy")
  print(reporting.format_table([reporting.row(result)], columns))


if __name__ == "__main__":
  app.run(main)
