"""Makes embeddings by codes, and looks after them while they train."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array

from anchor_codes import nn, ops, tables, training, typing
from experiments import code_options, codes_files
from experiments.reporting import code_history

KEYS: dict[str, bool | None] = {"default": None, "tied": True, "untied": False}
"""Whether keys are values; None leaves that to the layer."""

GUIDANCE = {
  "none": ops.GuidanceWeights(0.0),
  "online": ops.GuidanceWeights(0.1),
  "pretrained": ops.GuidanceWeights(1000.0),
  "autoencoding": ops.GuidanceWeights(1000.0, 100.0, 10.0),
}
"""Weights of the guidance of Chen et al. (ICML 2018): for small models online,
for all with a table given."""


class Start(NamedTuple):
  """What an embedding starts from.

  Attributes:
    scale: Standard deviation of an entry of the vectors.
    rngs: Source of randomness.
    vectors: Given vectors, one for each symbol, where there are some.
  """

  scale: float
  rngs: nnx.Rngs
  vectors: np.ndarray | None = None


def make_kd(
  vocab_size: int, options: Any, start: Start
) -> nn.KDEmbed | nn.GuidedEmbed:
  """Makes K-way D-dimensional codes, under guidance if that is asked for."""
  layer = nn.KDEmbed(
    vocab_size,
    options.features,
    code_length=code_options.code_length(options),
    codebook_size=options.codebook_size,
    composition=options.composition,
    code_features=options.code_features or None,
    hidden=options.code_hidden or None,
    num_layers=options.code_layers,
    output_norm=options.output_norm,
    relaxation=options.relaxation,
    temperature=make_temperature(options),
    entropy_weight=options.entropy_weight,
    code_dropout=options.code_dropout,
    shared_codebook=options.shared_codebook,
    scale=start.scale,
    rngs=start.rngs,
  )
  return guide(layer, options, start)


def make_dpq(
  vocab_size: int, options: Any, start: Start
) -> nn.DPQEmbed | nn.GuidedEmbed:
  """Makes differentiable product quantisation, under guidance if asked for."""
  typing.check_choice("keys", options.keys, tuple(KEYS))
  layer = nn.DPQEmbed(
    vocab_size,
    options.features,
    code_length=code_options.code_length(options),
    codebook_size=options.codebook_size,
    relaxation=options.relaxation,
    temperature=make_temperature(options),
    tied=KEYS[options.keys],
    commitment_weight=options.commitment_weight,
    shared_codebook=options.shared_codebook,
    scale=start.scale,
    rngs=start.rngs,
  )
  return guide(layer, options, start)


def make_fixed(
  vocab_size: int, options: Any, start: Start
) -> nn.FixedCodeEmbed:
  """Makes an embedding of given codes: at random, clustered, or of a file."""
  return nn.FixedCodeEmbed(
    vocab_size,
    options.features,
    given_codes=given_codes(vocab_size, options, start),
    code_length=code_options.code_length(options),
    codebook_size=options.codebook_size,
    composition=options.composition,
    code_features=options.code_features or None,
    hidden=options.code_hidden or None,
    num_layers=options.code_layers,
    shared_codebook=options.shared_codebook,
    scale=start.scale,
    rngs=start.rngs,
  )


def given_codes(
  vocab_size: int, options: Any, start: Start
) -> np.ndarray | None:
  """Returns the codes that the options ask for, None for random ones."""
  if options.codes == "random":
    return None
  if options.codes == "vectors":
    _, codes = ops.product_kmeans(
      start.rngs.params(),
      jnp.asarray(vectors_of("codes", options, start)),
      code_length=code_options.code_length(options),
      codebook_size=options.codebook_size,
    )
    return np.asarray(codes)
  return codes_files.read_codes(
    options.codes,
    codebook_size=options.codebook_size,
    num_embeddings=vocab_size,
  )


def guide(layer: Any, options: Any, start: Start) -> Any:
  """Puts a layer under guidance, if the options ask for it."""
  typing.check_choice("guidance", options.guidance, tuple(GUIDANCE))
  if options.guidance == "none":
    return layer
  weights, online = GUIDANCE[options.guidance], options.guidance == "online"
  if options.guide_weight:
    weights = weights._replace(vectors=options.guide_weight)
  return nn.GuidedEmbed(
    layer,
    guide=None if online else vectors_of("guidance", options, start),
    rate=options.guide_rate if online else 0.0,
    weights=weights,
    scale=start.scale,
    rngs=start.rngs,
  )


def vectors_of(option: str, options: Any, start: Start) -> np.ndarray:
  """Returns the given vectors; an option needs them."""
  if start.vectors is None:
    raise ValueError(
      f"`{option}` {getattr(options, option)!r} needs given vectors: set "
      "`vectors`."
    )
  return start.vectors


def make_temperature(
  options: code_options.CodeOptions,
) -> float | typing.Schedule:
  """Returns the temperature, a number or a schedule."""
  if options.temperature_schedule == "constant":
    return options.temperature
  return training.temperature_schedule(
    options.temperature_schedule,
    initial=options.temperature,
    decay_rate=options.temperature_decay,
    decay_steps=options.temperature_steps,
    lowest=options.lowest_temperature,
  )


def code_metrics(artefacts: Mapping[str, tables.Table]) -> dict[str, float]:
  """Measures the codes that are stored.

  Args:
    artefacts: The table of each embedding by its name.

  Returns:
    Metrics by name, those of :class:`~code_history.CodeHistory`; with the name
    of the embedding in front, if there are several.
  """
  metrics = {}
  for name, table in artefacts.items():
    if isinstance(table, tables.CodeTable):
      history = code_history.CodeHistory(
        codebook_size=table.codebook_size,
        shared_codebook=len(table.codebooks) == 1,
      )
      prefix = f"{name}_" if len(artefacts) > 1 else ""
      found = history.update(table.codes)
      metrics |= {f"{prefix}{metric}": v for metric, v in found.items()}
  return metrics


class CodeCare:
  """What is done for the codes of a layer between chunks and epochs.

  They are measured after each epoch. Entries that no symbol uses are revived,
  and fixed codes clustered again, if the options ask for it; never at the end,
  for what is changed has to be trained.

  Args:
    options: Options of the embedding, one of `KINDS`.
  """

  KINDS = ("kd", "dpq", "fixed")

  def __init__(self, options: Any):
    self.options = options
    self.history = code_history.CodeHistory(
      codebook_size=options.codebook_size,
      shared_codebook=options.shared_codebook,
    )

  @property
  def changes_layers(self) -> bool:
    """Whether there is more to do than to measure."""
    options = self.options
    return options.revival_chunks > 0 or options.recluster_epochs > 0

  def end_epoch(
    self, layer: Any, key: Array, *, epoch: int, is_last: bool
  ) -> dict[str, float]:
    """Measures the codes of a layer; clusters fixed ones again when it is time.

    Args:
      layer: An embedding by codes, maybe under guidance; changed in place.
      key: Source of randomness.
      epoch: Number of the epoch that has ended, from 0.
      is_last: Whether no epoch follows.

    Returns:
      Metrics by name. Where some rows are not finite there are no codes to
      measure: their number is all there is.
    """
    layer, broken = _unguided(layer), count_nonfinite(layer)
    if broken:
      return {"nonfinite_rows": float(broken)}
    metrics = self.history.update(layer.codes())
    every = 0 if is_last else self.options.recluster_epochs
    is_fixed = isinstance(layer, nn.FixedCodeEmbed)
    if is_fixed and every and (epoch + 1) % every == 0:
      metrics["recluster_error"] = layer.recluster(key)
    return metrics

  def is_due(self, chunk: int) -> bool:
    """Tells whether to revive entries after a chunk, counted from 0."""
    every = self.options.revival_chunks
    return every > 0 and (chunk + 1) % every == 0

  def revive(
    self, layer: Any, key: Array, *, counts: np.ndarray | None = None
  ) -> dict[str, float]:
    """Revives entries of a layer, in place; returns how many, by name.

    Args:
      layer: An embedding by codes, maybe under guidance.
      key: Source of randomness.
      counts: How often each symbol occurs, alike by default.
    """
    layer = _unguided(layer)
    if isinstance(layer, nn.FixedCodeEmbed) or count_nonfinite(layer):
      return {}
    return {"revived_codes": float(revive(layer, key, counts=counts))}


def care_for(
  cares: Mapping[str, CodeCare],
  model: Any,
  key: Array,
  *,
  chunk: int,
  epoch: int | None,
  is_last: bool,
  counts: Mapping[str, np.ndarray],
) -> dict[str, float]:
  """Does what is due for all embeddings by codes of a model, in place.

  Args:
    cares: What is done for each, by the attribute that holds it.
    model: The model.
    key: Source of randomness.
    chunk: Number of the chunk that has ended, from 0.
    epoch: Number of the epoch that ends with it, None if none does.
    is_last: Whether no chunk follows.
    counts: How often each symbol occurs, by attribute.

  Returns:
    Metrics by name; with several embeddings their attributes go before.
  """
  metrics = {}
  for index, (name, care) in enumerate(cares.items()):
    layer, layer_key = getattr(model, name), jax.random.fold_in(key, index)
    found = {}
    if epoch is not None:
      found |= care.end_epoch(layer, layer_key, epoch=epoch, is_last=is_last)
    if care.is_due(chunk) and not is_last:
      found |= care.revive(layer, layer_key, counts=counts.get(name))
    prefix = f"{name}_" if len(cares) > 1 else ""
    metrics |= {prefix + metric: value for metric, value in found.items()}
  return metrics


def _unguided(layer: Any) -> Any:
  """Returns the embedding by codes, without what guides it."""
  return layer.embed if isinstance(layer, nn.GuidedEmbed) else layer


def count_nonfinite(layer: Any) -> int:
  """Counts the trained rows of a layer that are not finite."""
  rows = jax.tree.leaves(nnx.state(layer, nn.is_trained_row))
  return sum(int(ops.nonfinite_rows(leaf)) for leaf in rows)


def revive(
  layer: Any,
  key: Array,
  *,
  counts: np.ndarray | None = None,
  max_rounds: int = 4,
) -> int:
  """Revives dead entries of a layer, in place.

  Args:
    layer: A layer with a method `revive`.
    key: Source of randomness.
    counts: How often each symbol occurs, alike by default; for 'dpq'.
    max_rounds: The most rounds: an entry that moves may take the symbol of
      another one that has moved, which the next round finds.

  Returns:
    How many entries moved, counting each round.
  """
  total, options = 0, {}
  if counts is not None and isinstance(layer, nn.DPQEmbed):
    options["weights"] = jnp.asarray(counts, jnp.float32)
  for round_key in jax.random.split(key, max_rounds):
    moved = layer.revive(round_key, **options)
    total += moved
    if not moved:
      break
  return total
