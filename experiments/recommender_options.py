"""The options of a recommender."""

import dataclasses
from typing import Any

from anchor_codes import typing
from anchor_codes.ops import nonparametric
from experiments import embeddings


@dataclasses.dataclass(kw_only=True)
class RecommenderConfig(embeddings.EmbeddingOptions):
  """Matrix factorisation with biases, and options of the run.

  The options of the embedding hold for users and items alike, but for those
  that begin with `item_`.

  Attributes:
    relations: 'genres' to spare the weights of movies that share a genre with
      the movie an anchor stands for; none by default.
    item_embedding: Kind of the items' embedding, if another one.
    item_anchors: Anchors of the items, if another number.
    dataset: 'ml-100k', 'ml-1m', 'ml-latest-small', 'ml-25m' or 'csv:PATH'.
    data_dir: Folder with one folder for each data set; the environment
      variable `ANCHOR_CODES_DATA` by default.
    split: 'random' (80/10/10), 'chronological', or 'published' (90/10, the last
      part for validation and test alike).
    split_seed: Seed of a split at random.
    l2: Weight of the squared norms of the vectors and biases of each rating.
    max_nonzeros: How many weights 'anchors' keep, users and items together;
      0 for all. The rest is pruned, those first that cost least.
    prune_from: The epoch before the first round of pruning.
    prune_epochs: Rounds of pruning, one after each epoch.
    batch_size: Ratings in a batch.
    lazy_from: A table with more rows than this, for each rating of a batch, is
      updated by row; a smaller one as a whole.
    epochs: Passes over the training ratings.
    decay_epochs: The last epochs, in which the learning rate falls to zero.
    patience: Epochs without a better validation error before the run ends, 0
      for any. The best epoch is kept and tested.
    learning_rate: Learning rate of Adam.
    chunk_steps: Steps in a compiled chunk, about.
    checkpoint_chunks: Chunks between two checkpoints; 0 for none.
    seed: Seed of all other randomness.
    rule: 'marginal' or 'trend' to learn the number of anchors of each table;
      none by default.
    anchor_penalty: Price of one more anchor, for a rule; that of a weight is
      `l1`.
    max_anchors: The most anchors that a table may have, for a rule.
    growth_rounds: Epochs of growth before pruning, for 'marginal'.
    online_batches: Into how many batches the training ratings are cut, in time
      order, to be learned one after the other, for 'marginal'; 0 for none.
    replay: How many ratings of earlier batches are kept, for online learning.
    regrowth_rounds: Epochs with all anchors, and growth if there is room, when
      a batch of new ratings comes.
  """

  features: int = 16
  num_anchors: int = 16
  num_nonzeros: int = 0
  weight_scale: float = 0.1
  start: str = "antipodal"
  start_scale: float = 0.07
  rank: int = 4
  l1: float = 0.0
  row_optimizer: str = "adam"
  shared_learning_rate: float = 0.3
  item_embedding: str = ""
  item_anchors: int = 0
  dataset: str = "ml-latest-small"
  data_dir: str = ""
  split: str = "random"
  split_seed: int = 0
  l2: float = 0.04
  max_nonzeros: int = 0
  prune_from: int = 8
  prune_epochs: int = 8
  batch_size: int = 2048
  lazy_from: float = 8.0
  epochs: int = 28
  decay_epochs: int = 12
  patience: int = 0
  learning_rate: float = 0.005
  chunk_steps: int = 400
  checkpoint_chunks: int = 10
  seed: int = 0
  rule: str = ""
  anchor_penalty: float = 0.003
  max_anchors: int = 40
  growth_rounds: int = 8
  online_batches: int = 0
  replay: int = 600_000
  regrowth_rounds: int = 8


def table_options(
  config: RecommenderConfig,
) -> dict[str, embeddings.EmbeddingOptions]:
  """Returns the options of the two embeddings: items may differ from users."""
  items: dict[str, Any] = {}
  if config.item_embedding:
    items["embedding"] = config.item_embedding
  if config.item_anchors:
    items["num_anchors"] = config.item_anchors
  return {"users": config, "items": dataclasses.replace(config, **items)}


def check_config(config: RecommenderConfig) -> None:
  """Raises `ValueError` if an option is outside its range."""
  typing.check_at_least("batch_size", config.batch_size, 1)
  for name in ("l1", "l2", "max_nonzeros", "prune_from", "decay_epochs"):
    if not getattr(config, name) >= 0:
      raise ValueError(
        f"`{name}` must be non-negative, got {getattr(config, name)}."
      )
  if config.relations:
    typing.check_choice("relations", config.relations, ("genres",))
  if config.rule:
    nonparametric.check_prices(
      l1=config.l1, anchor_penalty=config.anchor_penalty
    )
  if config.online_batches and config.rule != "marginal":
    raise ValueError(
      "`online_batches` needs `rule` 'marginal', which can grow again, got "
      f"{config.rule!r}."
    )
  if not config.max_nonzeros:
    return
  options = table_options(config)
  if not any(o.embedding == "anchors" for o in options.values()):
    raise ValueError("`max_nonzeros` prunes 'anchors', got none of them.")
  if config.num_nonzeros or config.row_optimizer not in ("adam", "yogi"):
    raise ValueError(
      "`max_nonzeros` needs dense rows and second moments: `num_nonzeros` 0 "
      f"and `row_optimizer` 'adam' or 'yogi', got {config.num_nonzeros} and "
      f"{config.row_optimizer!r}."
    )
  # The first round ends an epoch: there must be one before it.
  for name in ("prune_from", "prune_epochs"):
    typing.check_at_least(name, getattr(config, name), 1)
  if config.prune_from + config.prune_epochs >= config.epochs:
    raise ValueError(
      "`prune_from` + `prune_epochs` must be less than `epochs`, got "
      f"{config.prune_from} + {config.prune_epochs} and {config.epochs}."
    )
