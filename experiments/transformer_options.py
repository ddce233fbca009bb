"""Options of what is made of a text's transformer, and what they ask for."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import optax
from flax import nnx
from jax import numpy as jnp

from anchor_codes import typing
from experiments import embeddings
from experiments.datasets import tokenizers
from experiments.models import text_transformer

SCHEDULES = ("constant", "linear")


@dataclasses.dataclass(kw_only=True)
class TransformerOptions(embeddings.EmbeddingOptions):
  """The texts, their symbols, and the encoder of BERT (Devlin et al., 2019).

  The defaults are the sizes of BERT-mini (Turc et al., 2019). BERT-small has
  512 `features`, 8 heads and a `feedforward` of 2048, BERT-tiny 2 layers of 128
  `features`, 2 heads and a `feedforward` of 512.

  Attributes:
    dataset: 'unicode', 'ag_news', 'dbpedia', 'imdb', 'sst2', 'trec' or
      'csv:PATH'.
    data_dir: Folder with one folder for each data set; the environment
      variable `ANCHOR_CODES_DATA` by default.
    max_length: Symbols kept of each text, the first ones, marks included.
    max_words: Largest size of the vocabulary of words, 0 for any.
    min_count: Words seen fewer times in training become one unknown word.
    subwords: Size of the vocabulary of subwords; 0 for words.
    num_layers: Blocks of a transformer.
    num_heads: Heads of its attention.
    feedforward: Width inside of its feed-forward parts.
    norm_first: Whether norms come first in a block; after it, as in BERT, the
      training needs `warmup_steps`.
    activation: 'gelu', 'gelu_erf' or 'relu', inside of the feed-forward parts.
    block_dropout: Rate of the dropout on the input of the transformer, and on
      all parts of its blocks.
    pretrained: Folder that the pre-training has left, or with the weights of a
      BERT, to start from; none by default. The vocabulary and the sizes are
      taken from there: options of these stay at their defaults, or agree.
    label_sharing_rate: Probability that what is to be predicted is exchanged
      for another one, 0 for never.
    warmup_steps: Steps in which the learning rate rises from zero.
    schedule: 'constant', or 'linear' for a learning rate that falls to zero at
      the end of the last epoch.
    clip: Largest global norm of the gradient, 0 for any.
  """

  features: int = 256
  num_anchors: int = 50
  row_optimizer: str = "adam"
  dataset: str = "unicode"
  data_dir: str = ""
  max_length: int = 100
  max_words: int = 0
  min_count: int = 2
  subwords: int = 0
  num_layers: int = 4
  num_heads: int = 4
  feedforward: int = 1024
  norm_first: bool = True
  activation: str = "gelu"
  block_dropout: float = 0.1
  pretrained: str = ""
  label_sharing_rate: float = 0.0
  warmup_steps: int = 0
  schedule: str = "constant"
  clip: float = 0.0


Options = TypeVar("Options", bound=TransformerOptions)

FORM = (
  *("embedding", "num_anchors", "num_nonzeros", "rank"),
  *("num_buckets", "num_hashes", "code_length", "codebook_size", "composition"),
  *("code_features", "code_hidden", "code_layers", "output_norm", "keys"),
  *("relaxation", "shared_codebook", "features", "num_layers", "num_heads"),
  *("feedforward", "norm_first", "activation", "subwords"),
)
"""Options that weights have been trained with, and that others do not fit."""


def form_of(options: TransformerOptions) -> dict[str, Any]:
  """Returns the options in `FORM`."""
  return {name: getattr(options, name) for name in FORM}


def follow(
  options: Options, form: Mapping[str, Any], *, source: Any
) -> Options:
  """Takes over options that weights have been trained with.

  Args:
    options: The options of a run. What differs from its default was meant.
    form: The options of the weights.
    source: Where these are, for the error.

  Raises:
    ValueError: If an option that was meant does not agree.

  >>> follow(TransformerOptions(), {"num_heads": 2}, source="F").num_heads
  2
  """
  defaults = type(options)()
  for name, value in form.items():
    given = getattr(options, name)
    if given not in (value, getattr(defaults, name)):
      raise ValueError(
        f"`{name}` must be {value!r} as in {source}, got {given!r}."
      )
  return dataclasses.replace(options, **form)


def train_tokenizer(
  options: TransformerOptions, texts: Sequence[str]
) -> tokenizers.Tokenizer:
  """Collects the vocabulary of training texts.

  Raises:
    ValueError: If an option is out of range, or nothing is left.
  """
  if options.subwords:
    return tokenizers.SubwordTokenizer.train(texts, vocab_size=options.subwords)
  return tokenizers.WordTokenizer.train(
    texts,
    # What is cut off is not trained.
    max_length=options.max_length,
    max_words=options.max_words,
    min_count=options.min_count,
  )


def make_encoder(
  options: TransformerOptions,
  architecture: text_transformer.Architecture | None = None,
  *,
  rngs: nnx.Rngs,
) -> text_transformer.TextTransformer:
  """Makes the encoder that the options ask for.

  Args:
    options: Its sizes, and the dropout.
    architecture: That of weights to start from, in place of the options.
    rngs: Source of randomness of the start.

  Raises:
    ValueError: If an option is outside its range.
  """
  return text_transformer.TextTransformer(
    architecture or architecture_of(options),
    dropout=options.block_dropout,
    scale=options.start_scale,
    rngs=rngs,
  )


def architecture_of(
  options: TransformerOptions,
) -> text_transformer.Architecture:
  """Returns the form of an encoder that starts at random."""
  return text_transformer.Architecture(
    features=options.features,
    num_layers=options.num_layers,
    num_heads=options.num_heads,
    feedforward=options.feedforward,
    num_positions=options.max_length,
    norm_first=options.norm_first,
    activation=options.activation,
  )


def learning_rate(
  options: TransformerOptions, peak: float, num_steps: int
) -> optax.Schedule:
  """Returns the learning rate at each step.

  Args:
    options: How it rises and falls.
    peak: The highest rate.
    num_steps: Steps of all epochs.

  Raises:
    ValueError: If an option is outside its range.

  >>> options = TransformerOptions(warmup_steps=2, schedule="linear")
  >>> rate = learning_rate(options, 1.0, 6)
  >>> [f"{rate(step):.2f}" for step in (0, 1, 2, 3, 5)]
  ['0.50', '1.00', '1.00', '0.75', '0.25']
  """
  typing.check_choice("schedule", options.schedule, SCHEDULES)
  typing.check_at_least("warmup_steps", options.warmup_steps, 0)
  warmup = options.warmup_steps
  if not warmup and options.schedule == "constant":
    return lambda step: jnp.float32(peak)

  def rate(step: Any) -> Any:
    number = jnp.asarray(step, jnp.float32)
    factor = jnp.minimum((number + 1) / max(warmup, 1), 1.0)
    if options.schedule == "linear":
      left = (num_steps - number) / max(num_steps - warmup, 1)
      factor = jnp.minimum(factor, jnp.clip(left, 0.0, 1.0))
    return peak * factor

  return rate
