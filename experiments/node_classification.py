"""Trains a graph network with any embedding of words in its first layer."""

import dataclasses
import functools
import math
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anchor_codes import nn, steps, training, typing
from experiments import (
  best_epoch,
  embeddings,
  knowledge,
  optimizers,
  reporting,
  row_trainer,
  stored_tables,
  training_run,
)
from experiments.datasets import node_features, node_graphs
from experiments.models import graph_network


@dataclasses.dataclass(kw_only=True)
class NodeClassificationConfig(embeddings.EmbeddingOptions):
  """The network of Kipf and Welling (ICLR 2017), and options of the run.

  Attributes:
    features: Width of the vector of a word, and so of the hidden layer.
    start_scale: Standard deviation of an entry of the vectors at the start; 0
      for sqrt(2 / (num_words + features)), that of Glorot and Bengio (2010).
    dataset: 'cora', 'citeseer' or 'own:FOLDER'.
    data_dir: Folder with one folder for each data set; the environment
      variable `ANCHOR_CODES_DATA` by default.
    dropout: Rate of the dropout on the words of the nodes and on the hidden
      layer.
    l2: Half of this times the squared norm of the vectors of all words is added
      to the loss.
    epochs: Steps, each on the whole graph, at most; divisible by
      `chunk_steps`.
    patience: Epochs without a better `criterion` before the training ends, 0
      for any.
    criterion: 'accuracy' or 'loss' of the validation nodes, by which the best
      epoch is chosen.
    optimizer: 'sgd' or 'adam', for all but the rows of the embedding.
    learning_rate: Learning rate of the model.
    chunk_steps: Epochs in a compiled chunk; validation follows each chunk.
    checkpoint_chunks: Chunks between two checkpoints; 0 for none.
    seed: Seed of all randomness.
  """

  features: int = 16
  num_anchors: int = 16
  num_nonzeros: int = 3
  code_length: int = 8
  codebook_size: int = 16
  shared_codebook: bool = True
  rank: int = 2
  num_buckets: int = 100
  start_scale: float = 0.0
  row_optimizer: str = "adam"
  dataset: str = "cora"
  data_dir: str = ""
  dropout: float = 0.5
  l2: float = 5e-4
  epochs: int = 200
  patience: int = 0
  criterion: str = "accuracy"
  optimizer: str = "adam"
  learning_rate: float = 0.01
  chunk_steps: int = 5
  checkpoint_chunks: int = 10
  seed: int = 0


CRITERIA = ("accuracy", "loss")


class Batch(NamedTuple):
  """The whole graph, and the nodes of one split.

  Attributes:
    graph: What the network sees.
    labels: The class of each node.
    where: Which nodes belong to the split.
    seed: Seed of the randomness of the steps, [1]. It is part of the data, so
      that runs that differ in it alone are the same program.
  """

  graph: graph_network.Graph
  labels: Int[Array, " num_nodes"]
  where: Bool[Array, " num_nodes"]
  seed: Int[Array, "1"]


def make_batches(
  data: node_graphs.NodeGraph, *, seed: int = 0
) -> dict[str, Batch]:
  """Puts a graph on the device once, and the nodes of each split.

  Args:
    data: The graph; its features are divided by their sum for each node.
    seed: Seed of the randomness of the steps.

  Returns:
    One batch for each split; they share all arrays but their masks.
  """
  graph = graph_network.Graph(
    features=sparse_matrix(data.features.normalized()),
    adjacency=graph_network.normalized_adjacency(
      data.edges, num_nodes=len(data.labels)
    ),
  )
  labels, nodes = jnp.asarray(data.labels), np.arange(len(data.labels))
  members = {
    split: jnp.asarray(np.isin(nodes, getattr(data, split)))
    for split in node_graphs.SPLITS
  }
  return {
    split: Batch(graph, labels, where, jnp.array([seed]))
    for split, where in members.items()
  }


def sparse_matrix(
  features: node_features.SparseFeatures,
) -> graph_network.SparseMatrix:
  """Puts the features of nodes on the device."""
  return graph_network.SparseMatrix(
    rows=jnp.asarray(features.nodes),
    columns=jnp.asarray(features.indices),
    values=jnp.asarray(features.data),
    num_rows=features.num_nodes,
  )


class Trainer(row_trainer.RowTrainer):
  """The compiled functions of one run.

  Args:
    config: Options of the run.
    known: What is known of the words.
    num_classes: Number of classes.
  """

  def __init__(
    self,
    config: NodeClassificationConfig,
    *,
    known: knowledge.Knowledge,
    num_classes: int,
  ):
    self.config = config
    self.known = known
    self.num_words = len(known.counts)
    self.num_classes = num_classes
    rate = lambda step: jnp.float32(config.learning_rate)
    super().__init__(
      optimizer=optimizers.model_optimizer(
        config.optimizer, rate, factors={"embed": config.shared_learning_rate}
      ),
      row_optimizers={"embed": embeddings.row_optimizer(config, rate)},
      ids_per_step={"embed": self.num_words},
      penalties={"embed": known.penalty()},
    )
    self._measure = jax.jit(self._loss_and_hits)

  def make_model(self) -> graph_network.GraphNetwork:
    """Returns the model at the start of training."""
    config = self.config
    rngs = nnx.Rngs(config.seed)
    glorot = math.sqrt(2 / (self.num_words + config.features))
    embed = embeddings.make_embedding(
      self.num_words,
      config,
      scale=config.start_scale or glorot,
      rngs=rngs,
      vectors=self.known.vectors,
    )
    self.known.start(embed, jax.random.key(config.seed))
    return graph_network.GraphNetwork(
      embed,
      self.num_classes,
      dropout=config.dropout,
      sharing=self.known.sharing(),
      rngs=rngs,
    )

  def step(
    self, state: steps.TrainState, batch: Any
  ) -> tuple[steps.TrainState, dict[str, Array]]:
    """Takes the steps of a chunk, for each of which the batch is the same."""
    # Scanned here: the scan around it would want a copy of the graph for each.
    step = lambda state, _: row_trainer.RowTrainer.step(self, state, batch)
    return jax.lax.scan(step, state, length=self.config.chunk_steps)

  def select(
    self,
    model: graph_network.GraphNetwork,
    batch: Batch,
    state: steps.TrainState,
    key: Array,
  ) -> steps.Selection:
    """Takes all words: a step sees the whole graph."""
    key = jax.random.fold_in(key, batch.seed[0])
    words = jnp.arange(self.num_words)
    ids, words = self.take(model, "embed", words, whole=True)

    def loss(model: graph_network.GraphNetwork) -> tuple[Array, Any]:
      vectors = model.word_vectors()
      logits = model(vectors, batch.graph, key=key)
      value = graph_network.masked_loss(logits, batch.labels, batch.where)
      penalty = 0.5 * self.config.l2 * jnp.sum(jnp.square(vectors))
      total = value + penalty + nn.auxiliary_loss(model.embed, words)
      return total, ({"loss": value}, state.carry)

    return steps.Selection(ids, model, loss)

  def evaluate(
    self, state: steps.TrainState, batch: Batch
  ) -> tuple[float, float]:
    """Returns the mean loss and the accuracy on the nodes of a split."""
    parameters = state.rows, state.params, state.stats
    loss, hits = self._measure(*parameters, batch)
    return float(loss), int(hits) / int(np.sum(batch.where))

  def _loss_and_hits(
    self, rows: nnx.State, params: nnx.State, stats: nnx.State, batch: Batch
  ) -> tuple[Float[Array, ""], Int[Array, ""]]:
    model = nnx.merge(self.graphdef, rows, params, stats, copy=True)
    model.eval()
    logits = model(model.word_vectors(), batch.graph)
    loss = graph_network.masked_loss(logits, batch.labels, batch.where)
    hits = (jnp.argmax(logits, axis=-1) == batch.labels) & batch.where
    return loss, jnp.sum(hits)


class Run(best_epoch.BestEpochRun):
  """One training run: the data, the compiled steps, and what they leave.

  A step sees the whole graph and is an epoch. What the base class calls an
  epoch, after which it validates, is a chunk of them here. All runs on one
  device: a graph is not split.

  Args:
    config: Options of the run.
    workdir: Folder for all that the run leaves; made if need be.
    data: The graph, where it is loaded already.
  """

  def __init__(
    self,
    config: NodeClassificationConfig,
    workdir: str | os.PathLike[str],
    *,
    data: node_graphs.NodeGraph | None = None,
  ):
    check_config(config)
    self.data = data or node_graphs.load_node_graph(
      config.dataset, data_dir=config.data_dir or None
    )
    features = self.data.features
    # Words have no names, so that none are related.
    known = knowledge.load_knowledge(
      config,
      np.bincount(features.indices, minlength=features.num_words),
      vocabulary=tuple(map(str, range(features.num_words))),
      data_dir=config.data_dir,
    )
    self.splits = make_batches(self.data, seed=config.seed)
    trainer = Trainer(config, known=known, num_classes=len(self.data.classes))
    super().__init__(
      config,
      pathlib.Path(workdir),
      trainer,
      steps_per_epoch=1,
      mesh=training.data_mesh(jax.local_devices()[:1]),
    )
    self.evaluate = trainer.evaluate
    self._batches = self.chunk.put_batches(
      jax.tree.map(lambda part: part[None], self.splits["train"])
    )

  def batches(self, epoch: int, begin: int, end: int) -> Batch:
    """Returns the whole graph, which lies on the device already."""
    del epoch, begin, end
    return self._batches

  def max_epochs(self) -> int:
    """Returns the number of chunks."""
    return self.config.epochs // self.config.chunk_steps

  def is_over(self, epoch: int) -> bool:
    """Tells whether the best chunk is too long ago."""
    waited = (epoch - 1 - self.best_epoch) * self.config.chunk_steps
    return bool(self.config.patience) and waited >= self.config.patience

  def seconds_per_epoch(self) -> float:
    """Returns the duration of a step, without compilation and evaluation."""
    return super().seconds_per_epoch() / self.config.chunk_steps

  def report(self, loss: float) -> dict[str, float]:
    """Returns the mean negative log likelihood of a chunk."""
    return {"train_loss": loss}

  def validate(self, state: steps.TrainState) -> tuple[float, dict[str, float]]:
    """Returns what the criterion makes of the validation nodes."""
    loss, accuracy = self.evaluate(state, self.splits["valid"])
    score = accuracy if self.config.criterion == "accuracy" else -loss
    return score, {"valid_loss": loss, "valid_accuracy": accuracy}

  def finish(
    self, state: steps.TrainState, *, seconds: float
  ) -> reporting.RunResult:
    """Measures the best model, and writes the table and the result."""
    model = self.trainer.model_of(self.best_of(state))
    table = stored_tables.store_embedding(
      model.embed, self.config, self.workdir / "embedding.safetensors"
    )
    state = self.put_state(self.trainer.replace_model(state, model))
    metrics: dict[str, float] = {}
    for split in ("test", "valid"):
      loss, accuracy = self.evaluate(state, self.splits[split])
      metrics |= {f"{split}_accuracy": accuracy, f"{split}_loss": loss}
    metrics["best_epoch"] = (self.best_epoch + 1) * self.config.chunk_steps
    metrics |= {f"graph_{name}": n for name, n in self.data.counts.items()}
    return self.write_result(
      "train_node_classifier", state, [table], metrics, seconds=seconds
    )


def check_config(config: NodeClassificationConfig) -> None:
  """Raises `ValueError` if an option of the run is out of range."""
  typing.check_choice("criterion", config.criterion, CRITERIA)
  typing.check_at_least("chunk_steps", config.chunk_steps, 1)
  typing.check_at_least("epochs", config.epochs, 1)
  typing.check_divisible(
    "epochs", config.epochs, "chunk_steps", config.chunk_steps
  )
  if not 0 <= config.l2 < math.inf:
    raise ValueError(f"`l2` must be finite and not negative, got {config.l2}.")


train_and_evaluate = functools.partial(
  training_run.train_and_evaluate, run_type=Run
)
"""Trains a graph network and leaves its results in a folder."""
