"""The options of a recommender."""

import dataclasses
from typing import Any

from anchor_codes import typing
from anchor_codes.ops import dropout, nonparametric
from experiments import best_epoch, embeddings, interaction_options

GRAPHS = {"ages": "users", "genres": "items", "genre_set": "items"}
"""The table that each graph for sharing is about."""

_CHOICES = {
  "loss": ("mse", "bpr"),
  "dropout_of": ("vectors", "gradients"),
  "sampling": ("shuffle", "independent"),
  "sharing": ("none", "se", "graph", "closed_form"),
  "unseen": ("mean", "own"),
}


@dataclasses.dataclass(kw_only=True)
class RecommenderConfig(
  embeddings.EmbeddingOptions, interaction_options.InteractionOptions
):
  """Matrix factorisation with biases, and options of the run.

  The options of the embedding hold for users and items alike, but for those
  that begin with `item_`.

  Plain SGD with one rating at a time has `row_optimizer` 'sgd', and as
  `row_learning_rate` the batch size: a step then adds up what the ratings of a
  batch ask for, each at `learning_rate`. The gradients are those of a whole
  square, so that this rate and `l2` are half of what is given for half a
  square.

  Attributes:
    loss: 'mse' to predict ratings, or 'bpr' to rank the items that users have
      rated before others (Rendle et al., 2009).
    biases: Whether there are a mean and biases besides the vectors.
    mean_start: Whether entries of full tables start at the root of the mean
      rating over the features, plus noise: products start at the mean rating.
    dropout: Probability with which an entry of a vector is dropped.
    dropout_of: 'vectors', or 'gradients' as in the released code of SSE.
    sharing: 'none', 'se', 'graph', or 'closed_form' for the exact expectation
      of 'se' in place of samples.
    sharing_graph: Graphs for 'graph', between commas, one for each table at
      most: 'ages' of users; 'genres' of items, of which neighbours share one,
      or 'genre_set', of which they share all. A table without a graph is
      shared as by 'se'.
    user_sharing_rate: Probability that a user is exchanged; negative for
      `sharing_rate`.
    item_sharing_rate: The same for an item.
    item_neighbor_ratio: The `neighbor_ratio` of the items, if another one.
    relations: 'genres' to spare the weights of movies that share a genre with
      the movie an anchor stands for; none by default.
    item_embedding: Kind of the items' embedding, if another one.
    item_anchors: Anchors of the items, if another number.
    dataset: 'ml-100k', 'ml-1m', 'ml-latest-small', 'ml-25m', 'csv:PATH',
      'ml-1m-sse-mf' and 'ml-1m-sse-bpr' for the splits released with SSE, or
      'interactions:PATH' for files that need not fit in memory.
    test_file: A CSV file with the ratings of the test, for 'csv:PATH' with the
      split 'given'.
    data_dir: Folder with one folder for each data set; the environment
      variable `ANCHOR_CODES_DATA` by default.
    split: 'random' (80/10/10), 'chronological', 'published' (90/10, the last
      part for validation and test alike), or 'given' with the data.
    split_seed: Seed of a split at random.
    valid_share: Share of the training ratings to validate on, for 'given'. With
      0 the last epoch is stored, and `best_test_...` among the results is the
      best of all epochs *on the test ratings*, as some papers report it.
    positive_from: Lower ratings do not count as liked, for 'bpr'.
    num_negatives: Other items for each that a user likes, for 'bpr'.
    unseen: What is tested for users and items that training has never seen:
      'mean', that of the others, or 'own', their own row.
    l2: Weight of the squared norms of the vectors and biases of each rating.
    max_nonzeros: How many weights 'anchors' keep, users and items together;
      0 for all. The rest is pruned, those first that cost least.
    prune_from: The epoch before the first round of pruning.
    prune_epochs: Rounds of pruning, one after each epoch.
    batch_size: Ratings in a batch.
    sampling: 'shuffle' for each example once in an epoch, or 'independent' for
      draws with replacement, as in the released code of SSE.
    lazy_from: A table with more rows than this, for each rating of a batch, is
      updated by row; a smaller one as a whole.
    epochs: Passes over the training ratings.
    eval_epochs: Epochs between two evaluations.
    decay_epochs: The last epochs, in which the learning rate falls to zero.
    epoch_decay: Factor of the learning rate after each epoch, in (0, 1].
    patience: Epochs without a better validation error before the run ends, at
      least `eval_epochs`, or 0 for any. The best epoch is kept and tested.
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
  loss: str = "mse"
  biases: bool = True
  mean_start: bool = False
  dropout: float = 0.0
  dropout_of: str = "vectors"
  user_sharing_rate: float = -1.0
  item_sharing_rate: float = -1.0
  item_neighbor_ratio: float = 0.0
  item_embedding: str = ""
  item_anchors: int = 0
  dataset: str = "ml-latest-small"
  test_file: str = ""
  data_dir: str = ""
  split: str = "random"
  split_seed: int = 0
  valid_share: float = 0.0
  positive_from: float = 0.0
  num_negatives: int = 3
  unseen: str = "mean"
  l2: float = 0.04
  max_nonzeros: int = 0
  prune_from: int = 8
  prune_epochs: int = 8
  batch_size: int = 2048
  sampling: str = "shuffle"
  lazy_from: float = 8.0
  epochs: int = 28
  eval_epochs: int = 1
  decay_epochs: int = 12
  epoch_decay: float = 1.0
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
  # The closed form has no samples.
  sampled = "none" if config.sharing == "closed_form" else config.sharing
  graphs = graph_names(config) if config.sharing == "graph" else {}
  users: dict[str, Any] = {}
  items: dict[str, Any] = {}
  if config.item_embedding:
    items["embedding"] = config.item_embedding
  if config.item_anchors:
    items["num_anchors"] = config.item_anchors
  if config.item_neighbor_ratio:
    items["neighbor_ratio"] = config.item_neighbor_ratio
  for name, changes in (("users", users), ("items", items)):
    rate = sharing_rate(config, name)
    kind = "se" if sampled == "graph" and name not in graphs else sampled
    changes |= {"sharing": kind, "sharing_rate": rate}
  return {
    "users": dataclasses.replace(config, **users),
    "items": dataclasses.replace(config, **items),
  }


def sharing_rate(config: RecommenderConfig, table: str) -> float:
  """Returns the probability that an id of a table is exchanged.

  >>> sharing_rate(RecommenderConfig(user_sharing_rate=0.1), "users")
  0.1
  >>> sharing_rate(RecommenderConfig(user_sharing_rate=0.1), "items")
  0.01
  """
  rate = getattr(config, f"{table[:-1]}_sharing_rate")
  return config.sharing_rate if rate < 0 else rate


def graph_names(config: RecommenderConfig) -> dict[str, str]:
  """Returns the name of the graph of each table that has one.

  Raises:
    ValueError: If a name is unknown, or a table has two graphs.

  >>> graph_names(RecommenderConfig(sharing_graph="ages,genre_set"))
  {'users': 'ages', 'items': 'genre_set'}
  """
  found: dict[str, str] = {}
  for name in filter(None, config.sharing_graph.split(",")):
    typing.check_choice("sharing_graph", name, GRAPHS)
    table = GRAPHS[name]
    if table in found:
      raise ValueError(
        f"`sharing_graph` must name one graph of {table} at most, got "
        f"{config.sharing_graph!r}."
      )
    found[table] = name
  return found


def check_config(config: RecommenderConfig) -> None:
  """Raises `ValueError` if an option is outside its range."""
  for name in ("batch_size", "eval_epochs", "num_negatives"):
    typing.check_at_least(name, getattr(config, name), 1)
  best_epoch.check_patience(config.patience, eval_epochs=config.eval_epochs)
  for name in ("l1", "l2", "max_nonzeros", "prune_from", "decay_epochs"):
    if not getattr(config, name) >= 0:
      raise ValueError(
        f"`{name}` must be non-negative, got {getattr(config, name)}."
      )
  for name, allowed in _CHOICES.items():
    typing.check_choice(name, getattr(config, name), allowed)
  if config.relations:
    typing.check_choice("relations", config.relations, ("genres",))
  if not 0 < config.epoch_decay <= 1:
    raise ValueError(
      f"`epoch_decay` must be in (0, 1], got {config.epoch_decay}."
    )
  dropout.check_dropout("dropout", config.dropout)
  _check_model(config)
  _check_sharing(config)
  _check_rule(config)
  interaction_options.check_interactions(config)
  if config.max_nonzeros:
    _check_pruning(config)


def _check_model(config: RecommenderConfig) -> None:
  """Checks what options mean for the loss, and where vectors start."""
  kinds = {o.embedding for o in table_options(config).values()}
  if config.mean_start and (kinds != {"full"} or config.loss != "mse"):
    raise ValueError(
      "`mean_start` is for ratings and 'full' tables, got the loss "
      f"{config.loss!r} and {sorted(kinds)}."
    )
  if config.mean_start and config.biases:
    raise ValueError(
      "`mean_start` needs `biases` False: they bring the mean already."
    )


def _check_sharing(config: RecommenderConfig) -> None:
  graphs = graph_names(config)
  if (config.sharing == "graph") != bool(graphs):
    raise ValueError(
      "`sharing` 'graph' and `sharing_graph` need each other, got "
      f"{config.sharing!r} and {config.sharing_graph!r}."
    )
  if config.sharing == "closed_form" and (config.loss, config.dropout) != (
    "mse",
    0,
  ):
    raise ValueError(
      "`sharing` 'closed_form' is for the loss 'mse' without dropout, got "
      f"{config.loss!r} and {config.dropout}."
    )


def _check_rule(config: RecommenderConfig) -> None:
  """Checks the options of learned numbers of anchors."""
  if config.online_batches and config.rule != "marginal":
    raise ValueError(
      "`online_batches` needs `rule` 'marginal', which can grow again, got "
      f"{config.rule!r}."
    )
  if not config.rule:
    return
  nonparametric.check_prices(l1=config.l1, anchor_penalty=config.anchor_penalty)
  needed = {"loss": "mse", "biases": True, "eval_epochs": 1, "epoch_decay": 1}
  for name, value in needed.items():
    if getattr(config, name) != value:
      raise ValueError(
        f"`rule` needs `{name}` {value!r}, got {getattr(config, name)!r}."
      )
  if config.online_batches and config.sharing == "graph":
    raise ValueError(
      "`online_batches` numbers symbols as they come: `sharing` must not be "
      "'graph'."
    )
  if config.split == "given" and not config.valid_share:
    raise ValueError("`rule` needs a validation part: `valid_share` is 0.")


def _check_pruning(config: RecommenderConfig) -> None:
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
