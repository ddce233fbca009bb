"""Options of the training of a text classifier."""

import dataclasses

from anchor_codes import typing
from experiments import transformer_options
from experiments.models import text_classifier

ENCODERS = (*text_classifier.ENCODERS, "transformer")
LABEL_SHARING = ("expected", "sampled")
"""How the classes of texts are exchanged."""


@dataclasses.dataclass(kw_only=True)
class TextClassificationConfig(transformer_options.TransformerOptions):
  """The word CNN of Chen et al. (NAACL 2019), and options of the run.

  Attributes:
    encoder: 'cnn', 'mean' or 'transformer'.
    num_filters: Filters of each of the widths 3, 4 and 5, for 'cnn'.
    dropout: Rate of the dropout on the vector of a text.
    label_sharing: Whether the loss is the 'expected' one of all exchanges of a
      class at the rate `label_sharing_rate`, or of one that is 'sampled'.
    batch_size: Texts in a batch.
    epochs: Passes over the training texts, at most.
    patience: Epochs without a better validation accuracy before the training
      ends, 0 for any.
    optimizer: 'sgd' or 'adam', for all but the rows of the embedding.
    learning_rate: Learning rate of the model.
    encoder_learning_rate: Learning rate of the encoder relative to that.
    chunk_steps: Steps in a compiled chunk, about.
    checkpoint_chunks: Chunks between two checkpoints; 0 for none.
    seed: Seed of all randomness.
  """

  encoder: str = "cnn"
  num_filters: int = 100
  dropout: float = 0.5
  label_sharing: str = "expected"
  batch_size: int = 64
  epochs: int = 20
  patience: int = 3
  optimizer: str = "adam"
  learning_rate: float = 1e-3
  encoder_learning_rate: float = 1.0
  chunk_steps: int = 50
  checkpoint_chunks: int = 10
  seed: int = 0


def check_config(config: TextClassificationConfig) -> None:
  """Raises `ValueError` if an option is outside its range.

  What the model, the data and the optimisers need, they check by themselves.
  """
  typing.check_at_least("batch_size", config.batch_size, 1)
  typing.check_choice("encoder", config.encoder, ENCODERS)
  typing.check_choice("label_sharing", config.label_sharing, LABEL_SHARING)
  typing.check_rate("label_sharing_rate", config.label_sharing_rate)
  if config.pretrained and config.encoder != "transformer":
    raise ValueError(
      "`encoder` must be 'transformer' to start from `pretrained`, got "
      f"{config.encoder!r}."
    )
