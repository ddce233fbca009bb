"""The options of a sequential recommender."""

import dataclasses
import math

from anchor_codes import typing
from anchor_codes.ops import dropout
from experiments import best_epoch, embeddings

MODELS = ("sasrec", "pt", "sse_pt", "sse_pt++")
"""SASRec has no users; PT has; SSE-PT exchanges ids as well, and SSE-PT++ takes
windows of long sequences at random too."""

GRAPHS = {
  "bigrams": "items",
  "genres": "items",
  "genre_set": "items",
  "ages": "users",
}
"""The table that each graph for sharing is about."""

USER_DRAWS = ("sequence", "position")


@dataclasses.dataclass(kw_only=True)
class SequentialConfig(embeddings.EmbeddingOptions):
  """A recommender of the next item, and options of the run.

  The options of the embedding are those of the items. Those of the users have
  the same, but for their kind and width, and for what is given of the items:
  `vectors`, and codes that are made of them or in a file.

  Attributes:
    start_scale: Standard deviation of an entry of the vectors at the start; 0
      for that of Glorot and Bengio (2010), sqrt(2 / (rows + width)).
    dataset: 'ml-1m', 'video', 'imdb', 'synthetic' or 'csv:PATH'.
    data_dir: Folder with one folder for each data set; the environment
      variable `ANCHOR_CODES_DATA` by default.
    model: One of `MODELS`.
    user_features: Width of the vector of a user; 0 for SASRec.
    user_embedding: Kind of the embedding of the users.
    max_length: Items that the model reads, the last ones.
    num_blocks: Number of attention blocks.
    num_heads: Heads of a block.
    dropout: Rate of the dropout, rounded to a multiple of 1/256.
    sharing: 'none', 'se' or 'graph'; SSE-PT takes 'se' for 'none'.
    user_sharing_rate: Probability that a user is exchanged.
    item_sharing_rate: The same for an item that is read.
    target_sharing_rate: The same for an item that is to be predicted.
    user_draws: 'sequence' to exchange a user once for reading and scoring a
      sequence, or 'position' for a draw at each position and use.
    sharing_graph: Graphs for `sharing` 'graph', between commas, one for each
      table at most: 'bigrams' of items that follow each other in training,
      'genres' of items that share one, 'genre_set' of items that share all, or
      'ages' of users. A table without a graph is shared as by 'se'.
    neighbor_ratio: How many times as likely as another item a neighbour is.
    official_sampler: Whether items are exchanged as in the published code of
      SSE-PT; `target_sharing_rate` is not used then.
    window_rate: Probability of a window anywhere in a sequence, for SSE-PT++.
    weight_decay: Decoupled decay of all parameters at each step; 0 with the
      `row_optimizer` 'yogi' and with the `guidance` 'online', which have none.
    l2_emb: Weight of the squared norms of the vectors that are looked up.
    batch_size: Sequences in a batch; an epoch has as many as fit the users.
    epochs: Number of epochs.
    eval_epochs: Epochs between two validations.
    patience: Epochs without a better validation NDCG before the run ends, at
      least `eval_epochs`, or 0 for any. The best epoch is kept and tested.
    eval_users: Users to measure on, at random if there are more; 0 for all.
    eval_draws: Samples of candidates over which a metric is averaged.
    num_candidates: Items in a sample besides the right one.
    loose_candidates: Whether candidates may be items that the user has taken up
      after training, even the right one, as in the published code.
    eval_seed: Seed of the samples, the same for all runs to compare.
    learning_rate: Learning rate of Adam.
    beta2: Decay of Adam's second moments.
    lazy_from: A table with more rows than this, for each id of a batch, is
      updated by row; a smaller one as a whole, moments and all, as in the
      published code.
    chunk_steps: Steps in a compiled chunk, about.
    checkpoint_chunks: Chunks between two checkpoints; 0 for none.
    seed: Seed of all other randomness.
  """

  features: int = 50
  row_optimizer: str = "adam"
  start_scale: float = 0.0
  dataset: str = "synthetic"
  data_dir: str = ""
  model: str = "sse_pt"
  user_features: int = 50
  user_embedding: str = "full"
  max_length: int = 50
  num_blocks: int = 2
  num_heads: int = 1
  dropout: float = 0.2
  user_sharing_rate: float = 0.92
  item_sharing_rate: float = 0.1
  target_sharing_rate: float = 0.1
  user_draws: str = "sequence"
  sharing_graph: str = "bigrams"
  neighbor_ratio: float = 10.0
  official_sampler: bool = False
  window_rate: float = 0.5
  weight_decay: float = 0.0
  l2_emb: float = 0.0
  batch_size: int = 128
  epochs: int = 200
  eval_epochs: int = 5
  patience: int = 0
  eval_users: int = 10_000
  eval_draws: int = 5
  num_candidates: int = 100
  loose_candidates: bool = False
  eval_seed: int = 0
  learning_rate: float = 1e-3
  beta2: float = 0.98
  lazy_from: float = 1000.0
  chunk_steps: int = 50
  checkpoint_chunks: int = 20
  seed: int = 0

  @property
  def has_users(self) -> bool:
    """Whether the model knows whose sequence it reads."""
    return self.model != "sasrec"

  @property
  def sharing_kind(self) -> str:
    """How ids are exchanged: 'none', 'se' or 'graph'."""
    is_shared = self.model.startswith("sse_pt") and self.sharing == "none"
    return "se" if is_shared else self.sharing


def table_options(
  config: SequentialConfig,
) -> dict[str, embeddings.EmbeddingOptions]:
  """Returns the options of the embeddings by their attribute of the model.

  >>> list(table_options(SequentialConfig(model="sasrec")))
  ['items']
  """
  if not config.has_users:
    return {"items": config}
  users = dataclasses.replace(
    config,
    embedding=config.user_embedding,
    features=config.user_features,
    vectors="",
    codes="random",
    start="random" if config.start == "clusters" else config.start,
    guidance="online" if config.guidance == "online" else "none",
  )
  return {"items": config, "users": users}


def graph_names(config: SequentialConfig) -> dict[str, str]:
  """Returns the name of the graph of each table that has one.

  >>> config = SequentialConfig(sharing="graph", sharing_graph="ages,bigrams")
  >>> graph_names(config)
  {'users': 'ages', 'items': 'bigrams'}
  """
  if config.sharing_kind != "graph":
    return {}
  names: dict[str, str] = {}
  for name in config.sharing_graph.split(","):
    typing.check_choice("sharing_graph", name, tuple(GRAPHS))
    if names.setdefault(GRAPHS[name], name) != name:
      raise ValueError(
        f"`sharing_graph` must name one graph of the {GRAPHS[name]} at most, "
        f"got {config.sharing_graph!r}."
      )
  return names


def start_scale(config: SequentialConfig, rows: int, width: int) -> float:
  """Returns the standard deviation of the vectors of a table at the start.

  >>> start_scale(SequentialConfig(), 3417, 50).__round__(4)
  0.024
  """
  return config.start_scale or math.sqrt(2 / (rows + width))


def check_config(config: SequentialConfig) -> None:
  """Raises `ValueError` if an option is outside its range."""
  typing.check_choice("model", config.model, MODELS)
  typing.check_choice("sharing", config.sharing, ("none", "se", "graph"))
  graph_names(config)
  typing.check_choice("user_draws", config.user_draws, USER_DRAWS)
  if config.relations:
    raise ValueError(
      f"`relations` are those of words, got {config.relations!r}: there are "
      "none of items here."
    )
  dropout.check_dropout("dropout", config.dropout)
  typing.check_rate("window_rate", config.window_rate)
  for name in (
    "max_length",
    "num_blocks",
    "num_heads",
    "batch_size",
    "epochs",
    "eval_epochs",
    "eval_draws",
    "num_candidates",
    *(["user_features"] if config.has_users else []),
  ):
    typing.check_at_least(name, getattr(config, name), 1)
  for name in ("weight_decay", "l2_emb", "eval_users"):
    if not getattr(config, name) >= 0:
      raise ValueError(
        f"`{name}` must be non-negative, got {getattr(config, name)}."
      )
  best_epoch.check_patience(config.patience, eval_epochs=config.eval_epochs)
