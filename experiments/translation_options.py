"""The options of a translator."""

import dataclasses
from typing import NamedTuple

from anchor_codes import typing
from experiments import embeddings
from experiments.datasets import subwords
from experiments.models import beam_search

SELECTIONS = ("loss", "bleu")


@dataclasses.dataclass(kw_only=True)
class TranslationConfig(embeddings.EmbeddingOptions):
  """A small transformer, and options of the run.

  The options of the embedding hold for both languages. With `sharing` 'se' or
  'graph' the input subwords of both are exchanged, by `sharing_rate` where
  there is no rate of their own.

  Attributes:
    dataset: 'synthetic', 'multi30k' or 'files:PREFIX'.
    source: Language to translate from: 'en', 'de' or 'fr', or how the names of
      the user's files end.
    target: Language to translate into.
    test_set: 'test_2016_flickr', 'test_2017_flickr', 'test_2017_mscoco' or
      'test_2018_flickr', for 'multi30k'.
    data_dir: Folder with one folder for each data set; the environment
      variable `ANCHOR_CODES_DATA` by default.
    vocab_size: Subwords of both languages together.
    subword_kind: 'unigram' or 'bpe'.
    subword_model: File of a model of subwords to use; by default one is learned
      from the training text.
    max_length: Subwords of a sentence with its end. Longer training pairs are
      left out, and of longer sentences the begin is translated.
    num_layers: Blocks of the encoder, and of the decoder.
    num_heads: Number of heads.
    hidden: Width inside of the feed-forward parts.
    dropout: Rate of the dropout.
    shared: Whether both languages have one embedding.
    tied: Whether the output layer shares its rows with the target's embedding.
    label_smoothing: Share of a label that all subwords have evenly.
    source_sharing_rate: Probability that a subword of the source is exchanged;
      negative for `sharing_rate`.
    target_sharing_rate: The same for the inputs of the decoder.
    label_sharing_rate: The same for the labels; never `sharing_rate`.
    batch_tokens: Subwords on one side of a batch, padding included, about.
    num_buckets: Lengths that sentences are filled up to: so many shapes are
      compiled.
    lazy_from: A table with more rows than this, for each subword of a batch, is
      updated by row; a smaller or a tied one as a whole.
    epochs: Passes over the training pairs, at most.
    patience: Epochs without a better validation score before the training
      ends, 0 for any.
    select: 'loss' or 'bleu' (of the greedy search), what chooses the epoch.
    optimizer: 'sgd' or 'adam', for all but the rows of the embeddings.
    learning_rate: The highest learning rate, at the end of the warm-up.
    warmup_steps: Steps in which the learning rate rises from zero; it falls
      with the root of the number of steps after that.
    clip: Largest global norm of the gradient, 0 for any.
    beam_size: Hypotheses for each sentence; 1 for the greedy search.
    length_penalty: Exponent of the length penalty of the search.
    chunk_steps: Steps in a compiled chunk, about.
    checkpoint_chunks: Chunks between two checkpoints; 0 for none.
    seed: Seed of all randomness.
  """

  features: int = 192
  num_anchors: int = 100
  start_scale: float = 0.07
  row_optimizer: str = "adam"
  dataset: str = "synthetic"
  source: str = "en"
  target: str = "de"
  test_set: str = "test_2016_flickr"
  data_dir: str = ""
  vocab_size: int = 8000
  subword_kind: str = "unigram"
  subword_model: str = ""
  max_length: int = 64
  num_layers: int = 2
  num_heads: int = 4
  hidden: int = 512
  dropout: float = 0.2
  shared: bool = True
  tied: bool = True
  label_smoothing: float = 0.1
  source_sharing_rate: float = -1.0
  target_sharing_rate: float = -1.0
  label_sharing_rate: float = 0.0
  batch_tokens: int = 1024
  num_buckets: int = 6
  lazy_from: float = 8.0
  epochs: int = 12
  patience: int = 0
  select: str = "loss"
  optimizer: str = "adam"
  learning_rate: float = 2e-3
  warmup_steps: int = 1000
  clip: float = 1.0
  beam_size: int = 4
  length_penalty: float = 1.0
  chunk_steps: int = 40
  checkpoint_chunks: int = 20
  seed: int = 0


class SharingRates(NamedTuple):
  """Probabilities of an exchange, 0 for none.

  Attributes:
    source: Of the subwords that the encoder reads.
    target: Of those that the decoder reads.
    labels: Of those that it is to predict.
  """

  source: float = 0.0
  target: float = 0.0
  labels: float = 0.0


def sharing_rates(config: TranslationConfig) -> SharingRates:
  """Returns the probabilities of exchanges that the options ask for.

  Raises:
    ValueError: If a rate is no probability, or has no effect.

  >>> sharing_rates(TranslationConfig(sharing="se", target_sharing_rate=0.1))
  SharingRates(source=0.01, target=0.1, labels=0.0)
  """
  typing.check_choice("sharing", config.sharing, embeddings.SHARING)
  own = {
    "source": config.source_sharing_rate,
    "target": config.target_sharing_rate,
    "labels": config.label_sharing_rate,
  }
  if config.sharing == "none":
    given = [rate for rate in own.values() if rate > 0]
    if given:
      raise ValueError(
        "`sharing` must not be 'none' where rates of the source, the target or "
        f"the labels are given, got {given}."
      )
    return SharingRates()
  typing.check_rate("sharing_rate", config.sharing_rate)
  typing.check_rate("label_sharing_rate", config.label_sharing_rate)
  for name, rate in own.items():
    own[name] = config.sharing_rate if rate < 0 else rate
    typing.check_rate(f"{name}_sharing_rate", own[name])
  return SharingRates(**own)


def check_config(config: TranslationConfig) -> None:
  """Raises `ValueError` if an option is outside its range.

  What the model, the batches and the data need, they check by themselves.
  """
  typing.check_choice("select", config.select, SELECTIONS)
  typing.check_choice("subword_kind", config.subword_kind, subwords.KINDS)
  for name in ("dropout", "label_smoothing"):
    typing.check_rate(name, getattr(config, name))
  typing.check_at_least("warmup_steps", config.warmup_steps, 1)
  beam_search.check_search(config.beam_size, config.length_penalty)
  sharing_rates(config)
  if not config.clip >= 0:
    raise ValueError(f"`clip` must be non-negative, got {config.clip}.")
