"""The compiled steps of a translator, and its search for translations."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from anchor_codes import nn, ops, steps
from experiments import (
  embeddings,
  knowledge,
  optimizers,
  reporting,
  row_trainer,
  translation_options,
)
from experiments.datasets import buckets, subwords
from experiments.models import translator

EVALUATION_BATCH_SIZE = 64


class Trainer(row_trainer.RowTrainer):
  """The compiled functions of one run.

  Args:
    config: Options of the run.
    known: What is known of the subwords of each embedding: 'source' and
      'target', or 'source' alone if it is that of both.
  """

  def __init__(
    self,
    config: translation_options.TranslationConfig,
    known: Mapping[str, knowledge.Knowledge],
  ):
    translation_options.check_config(config)
    self.config = config
    self.known = known
    self.rates = translation_options.sharing_rates(config)
    rate = inverse_sqrt_schedule(config.learning_rate, config.warmup_steps)
    num_ids = config.batch_tokens * (3 - len(known))
    super().__init__(
      optimizer=optimizers.model_optimizer(
        config.optimizer,
        rate,
        factors=dict.fromkeys(known, config.shared_learning_rate),
      ),
      row_optimizers={
        name: embeddings.row_optimizer(config, rate) for name in known
      },
      ids_per_step=dict.fromkeys(known, num_ids),
      clip=config.clip or None,
      lazy_from=config.lazy_from,
      penalties={name: part.penalty() for name, part in known.items()},
      seed=config.seed,
    )
    self._total_nll = jax.jit(self._nll)
    self._search = jax.jit(
      self._translations, static_argnames=("beam_size", "max_length")
    )

  def make_model(self) -> translator.Translator:
    """Returns the model at the start of training."""
    config = self.config
    rngs = nnx.Rngs(config.seed)
    layers = {}
    for name, known in self.known.items():
      layers[name] = embeddings.make_embedding(
        len(known.counts),
        config,
        scale=config.start_scale,
        rngs=rngs,
        vectors=known.vectors,
      )
      known.start(layers[name], jax.random.key(config.seed))
    return translator.Translator(
      **layers,
      num_layers=config.num_layers,
      num_heads=config.num_heads,
      hidden=config.hidden,
      dropout=config.dropout,
      tied=config.tied,
      rngs=rngs,
    )

  def select(
    self,
    model: translator.Translator,
    batch: Any,
    state: steps.TrainState,
    key: Array,
  ) -> steps.Selection:
    """Exchanges subwords of a batch, and leaves only the rows it needs."""
    source_key, target_key, label_key, drop_key = jax.random.split(key, 4)
    where = batch.sources != subwords.PADDING_ID
    source_rate, target_rate, label_rate = self.rates
    sources = self._share(source_key, "source", batch.sources, source_rate)
    shifted = batch.targets[:, :-1], batch.targets[:, 1:]
    inputs = self._share(target_key, "target", shifted[0], target_rate)
    labels = self._share(label_key, "target", shifted[1], label_rate)
    ids, sources, inputs = self._take_sides(model, sources, inputs)

    def loss(model: translator.Translator) -> tuple[Array, Any]:
      keys = jax.random.split(drop_key)
      memory = model.encode(sources, where, key=keys[0])
      hidden = model.decode(inputs, memory, where, key=keys[1])
      value = mean_loss(
        model, hidden, labels, smoothing=self.config.label_smoothing
      )
      total = value + nn.auxiliary_loss(model.source, sources)
      total += nn.auxiliary_loss(model.target_embedding, inputs)
      return total, ({"loss": value}, state.carry)

    return steps.Selection(ids, model, loss)

  def _share(self, key: Array, side: str, ids: Array, rate: float) -> Array:
    """Exchanges subwords; special symbols stay, and none is drawn."""
    if not rate:
      return ids
    known = self.known.get(side, self.known["source"])
    if known.sharing_graph is not None:
      return ops.sse_graph_transition(
        key,
        ids,
        known.sharing_graph,
        rate=rate,
        neighbor_ratio=self.config.neighbor_ratio,
        low=subwords.NUM_SPECIAL,
      )
    return ops.sse_se_transition(
      key,
      ids,
      num_embeddings=len(known.counts) - subwords.NUM_SPECIAL,
      rate=rate,
      low=subwords.NUM_SPECIAL,
    )

  def _take_sides(
    self, model: translator.Translator, sources: Array, inputs: Array
  ) -> tuple[dict[str, Array], Array, Array]:
    """Takes the rows of both sides, from one table or from two."""
    # A tied output layer scores all subwords: all rows have a gradient.
    tied = self.config.tied
    if "target" in self.known:
      rows, sources = self.take(model, "source", sources)
      more, inputs = self.take(model, "target", inputs, whole=tied)
      return rows | more, sources, inputs
    both = jnp.concatenate([sources, inputs], axis=1)
    rows, both = self.take(model, "source", both, whole=tied)
    return rows, both[:, : sources.shape[1]], both[:, sources.shape[1] :]

  def mean_nll(
    self, state: steps.TrainState, parts: Sequence[buckets.Bucket]
  ) -> float:
    """Returns the mean negative log likelihood of the subwords of pairs.

    Args:
      state: The parameters.
      parts: The pairs; all subwords and ends of their targets count.
    """
    parameters = state.rows, state.params, state.stats
    total = number = 0.0
    for part in parts:
      for batch in buckets.evaluation_batches(
        part, batch_size=EVALUATION_BATCH_SIZE
      ):
        found = self._total_nll(*parameters, batch)
        total, number = total + float(found[0]), number + float(found[1])
    return total / number

  def _nll(
    self,
    rows: nnx.State,
    params: nnx.State,
    stats: nnx.State,
    batch: Any,
  ) -> tuple[Array, Array]:
    model = self._evaluated(rows, params, stats)
    where = batch.sources != subwords.PADDING_ID
    memory = model.encode(batch.sources, where)
    hidden = model.decode(batch.targets[:, :-1], memory, where)
    return total_loss(model, hidden, batch.targets[:, 1:])

  def translate(
    self,
    state: steps.TrainState,
    sources: Sequence[Sequence[int]],
    *,
    lengths: Sequence[int],
    beam_size: int,
  ) -> list[list[int]]:
    """Translates sentences, those of about the same length together.

    Args:
      state: The parameters.
      sources: Ids of the subwords of each sentence, with an end.
      lengths: Lengths to fill them up to, in ascending order; the last one
        holds the longest.
      beam_size: Hypotheses of a sentence; 1 for the greedy search.

    Returns:
      Ids of the subwords of each translation, without its end.
    """
    pairs = buckets.EncodedPairs(list(map(list, sources)), [[]] * len(sources))
    found: list[list[int]] = [[]] * len(sources)
    filled = list(zip(*buckets.fill_buckets(pairs, lengths), strict=True))
    bar = reporting.progress(filled, description="translating", unit="bucket")
    for bucket, places in bar:
      length = bucket.sources.shape[1]
      # A batch is filled up with its own kind: no search waits for sentences
      # that are empty.
      for first in range(0, len(places), EVALUATION_BATCH_SIZE):
        rows = np.arange(first, first + EVALUATION_BATCH_SIZE) % len(places)
        tokens = self._search(
          state.rows,
          state.params,
          state.stats,
          bucket.sources[rows],
          beam_size=beam_size,
          max_length=2 * length + _ROOM,
        )
        rows = rows[: len(places) - first]
        for row, ids in zip(rows, np.asarray(tokens), strict=False):
          found[places[row]] = _until_end(ids)
    return found

  def _translations(
    self,
    rows: nnx.State,
    params: nnx.State,
    stats: nnx.State,
    sources: Array,
    *,
    beam_size: int,
    max_length: int,
  ) -> Array:
    model = self._evaluated(rows, params, stats)
    return model.translate(
      sources,
      beam_size=beam_size,
      max_length=max_length,
      length_penalty=self.config.length_penalty,
    ).tokens

  def _evaluated(
    self, rows: nnx.State, params: nnx.State, stats: nnx.State
  ) -> translator.Translator:
    model = nnx.merge(self.graphdef, rows, params, stats, copy=True)
    model.eval()
    return model


_ROOM = 10
"""A translation has at most twice the subwords of its source, and so many."""


def _until_end(ids: np.ndarray) -> list[int]:
  ends = np.flatnonzero(ids == subwords.END_ID)
  return ids[: ends[0] if len(ends) else None].tolist()


def mean_loss(
  model: translator.Translator,
  hidden: Array,
  labels: Array,
  *,
  smoothing: float,
) -> Array:
  """Returns the mean loss of the labels that are not padding."""
  total, number = total_loss(model, hidden, labels, smoothing=smoothing)
  return total / jnp.maximum(number, 1)


def total_loss(
  model: translator.Translator,
  hidden: Array,
  labels: Array,
  *,
  smoothing: float = 0.0,
) -> tuple[Array, Array]:
  """Returns the sum of the losses of labels, and their number.

  Args:
    model: Its output layer scores the labels.
    hidden: Vectors that predict them, [batch, length, features].
    labels: Ids of subwords, [batch, length]; padding does not count.
    smoothing: Share of a label that all subwords have evenly.
  """
  # One long axis of rows is the fastest.
  rows = hidden.reshape(-1, hidden.shape[-1])
  losses = smoothed_nll(model.logits(rows), labels.ravel(), smoothing=smoothing)
  weights = (labels.ravel() != subwords.PADDING_ID).astype(losses.dtype)
  return jnp.sum(losses * weights), jnp.sum(weights)


def smoothed_nll(
  logits: Float[Array, "rows vocab_size"],
  targets: Int[Array, " rows"],
  *,
  smoothing: float,
) -> Float[Array, " rows"]:
  r"""Returns the cross-entropy of smoothed labels under a softmax.

  Definition (Szegedy et al., 2016): :math:`\log \sum_k e^{x_k} - (1 -
  \epsilon) x_t - \epsilon \bar x`, with the mean :math:`\bar x` of all scores.

  Args:
    logits: Scores of all subwords.
    targets: The labels.
    smoothing: The share :math:`\epsilon` of a label that all subwords have
      evenly; 0 for the negative log likelihood.

  >>> print(smoothed_nll(jnp.zeros((1, 4)), jnp.array([2]), smoothing=0.1))
  [1.3862944]
  """
  chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
  scores = (1 - smoothing) * chosen + smoothing * jnp.mean(logits, axis=-1)
  return jax.nn.logsumexp(logits, axis=-1) - scores


def inverse_sqrt_schedule(peak: float, warmup_steps: int) -> optax.Schedule:
  r"""Returns a rate that rises linearly, and falls with the root of the steps.

  Definition (Vaswani et al., 2017): in proportion to :math:`\min(n^{-1/2}, n
  w^{-3/2})` at step :math:`n`, after :math:`w` steps of warm-up.

  Args:
    peak: The highest rate.
    warmup_steps: Steps until it is reached.

  >>> schedule = inverse_sqrt_schedule(0.1, 4)
  >>> [f"{schedule(step):.3f}" for step in (0, 3, 15)]
  ['0.025', '0.100', '0.050']
  """

  def schedule(step: Any) -> Array:
    number = jnp.asarray(step + 1, jnp.float32) / warmup_steps
    return peak * jnp.minimum(number, number**-0.5)

  return schedule
