"""Trains a translator with any embeddings, and measures what it costs."""

import dataclasses
import functools
import math
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from jax.sharding import Mesh

from anchor_codes import steps
from experiments import (
  best_epoch,
  embeddings,
  knowledge,
  reporting,
  stored_tables,
  training_run,
  translator_trainer,
)
from experiments.datasets import buckets, subwords, translation
from experiments.reporting import files
from experiments.translation_options import TranslationConfig, check_config

SUBWORDS_FILE = "subwords.model"


class Run(best_epoch.BestEpochRun):
  """One training run: the data, the compiled steps, and what they leave.

  Args:
    config: Options of the run.
    workdir: Folder for all that the run leaves; made if need be.
    data: The pairs, where they are loaded already.
    mesh: Devices to train on, all by default.
  """

  trainer: Any

  def __init__(
    self,
    config: TranslationConfig,
    workdir: str | os.PathLike[str],
    *,
    data: translation.ParallelText | None = None,
    mesh: Mesh | None = None,
  ):
    check_config(config)
    self.config = config
    self.data = data or translation.load_parallel(
      config.dataset,
      source=config.source,
      target=config.target,
      test_set=config.test_set,
      data_dir=config.data_dir or None,
    )
    workdir = pathlib.Path(workdir)
    self.subwords = find_subwords(config, self.data.train, workdir)
    train = leave_out_long(self._encode("train"), config.max_length)
    self.plan = self._plan_epochs(train)
    self.pairs = {split: self._encode(split) for split in ("valid", "test")}
    self.lengths = self._measured_lengths()
    trainer = translator_trainer.Trainer(config, self._load_knowledge(train))
    super().__init__(
      config,
      workdir,
      trainer,
      steps_per_epoch=self.plan.num_steps,
      mesh=mesh,
    )
    self.bounds = self.plan.bounds

  def _encode(self, split: str) -> buckets.EncodedPairs:
    return buckets.encode_pairs(
      getattr(self.data, split),
      self.subwords,
      max_length=self.config.max_length,
    )

  def _plan_epochs(self, train: buckets.EncodedPairs) -> buckets.EpochPlan:
    """Puts the training pairs into buckets, and plans what epochs see."""
    config = self.config
    lengths = buckets.bucket_lengths(train.lengths, config.num_buckets)
    return buckets.EpochPlan(
      buckets.fill_buckets(train, lengths)[0],
      batch_tokens=config.batch_tokens,
      chunk_steps=config.chunk_steps,
      seed=config.seed,
    )

  def _measured_lengths(self) -> tuple[int, ...]:
    """Returns the lengths to which what is measured on is filled up."""
    lengths = [part.lengths for part in self.pairs.values()]
    # Half of the shapes: each of them is compiled, for few batches.
    number = max(self.config.num_buckets // 2, 1)
    return buckets.bucket_lengths(np.concatenate(lengths), number)

  def perplexity(self, state: steps.TrainState, split: str) -> float:
    """Returns the perplexity of the targets of a split, by subwords."""
    parts, _ = buckets.fill_buckets(self.pairs[split], self.lengths)
    return math.exp(self.trainer.mean_nll(state, parts))

  def _load_knowledge(
    self, train: buckets.EncodedPairs
  ) -> dict[str, knowledge.Knowledge]:
    """Returns what is known of the subwords of each embedding."""
    sides = {"source": train.sources, "target": train.targets}
    if self.config.shared:
      sides = {"source": train.sources + train.targets}
    size, known = len(self.subwords.vocabulary), {}
    for name, side in sides.items():
      ids = buckets.pad(side, max(map(len, side)))
      counts = np.bincount(ids.ravel(), minlength=size)
      counts[subwords.PADDING_ID] = 0
      known[name] = knowledge.load_knowledge(
        self.config,
        counts,
        vocabulary=self.subwords.vocabulary,
        data_dir=self.config.data_dir,
        sequences=ids,
        special_ids=range(subwords.NUM_SPECIAL),
      )
    return known

  def embedding_options(self) -> dict[str, embeddings.EmbeddingOptions]:
    """Returns the options of each embedding by its attribute of the model."""
    names = ("source",) if self.config.shared else ("source", "target")
    return dict.fromkeys(names, self.config)

  def batches(self, epoch: int, begin: int, end: int) -> buckets.Bucket:
    """Returns batches of pairs in an order that each epoch has for itself."""
    del end
    return self.plan.batches(epoch, begin)

  def seconds_per_epoch(self) -> float:
    """Returns the duration of an epoch, without compilation and evaluation.

    Chunks differ in their shapes: those at the same place of each epoch are
    compared.
    """
    size, seconds = len(self.bounds), np.array(self.chunk_seconds)
    whole = len(seconds) // size * size
    if not whole:
      return super().seconds_per_epoch()
    epochs = seconds[len(seconds) - whole :].reshape(-1, size)
    return float(np.median(epochs, axis=0).sum())

  def report(self, loss: float) -> dict[str, float]:
    """Returns the mean loss of the smoothed labels of a chunk."""
    return {"train_loss": loss}

  def validate(self, state: steps.TrainState) -> tuple[float, dict[str, float]]:
    """Returns the score of the validation pairs that selects the epoch."""
    perplexity = self.perplexity(state, "valid")
    metrics = {"valid_perplexity": perplexity}
    if self.config.select == "loss":
      return -perplexity, metrics
    lines = self.translate(state, "valid", beam_size=1)
    bleu = corpus_bleu(lines, self.data.valid.targets)[0]
    return bleu, metrics | {"valid_greedy_bleu": bleu}

  def translate(
    self, state: steps.TrainState, split: str, *, beam_size: int
  ) -> list[str]:
    """Returns the translations of the sources of a split, as plain text."""
    found = self.trainer.translate(
      state,
      self.pairs[split].sources,
      lengths=self.lengths,
      beam_size=beam_size,
    )
    return self.subwords.decode(found)

  def finish(
    self, state: steps.TrainState, *, seconds: float
  ) -> reporting.RunResult:
    """Measures the best model; writes translations, tables and the result."""
    model = self.trainer.model_of(self.best_of(state))
    artefacts = [
      stored_tables.store_embedding(
        getattr(model, name),
        self.config,
        self.workdir / f"{name}.safetensors",
        vocabulary=self.subwords.vocabulary,
      )
      for name in self.embedding_options()
    ]
    state = self.trainer.replace_model(state, model)
    metrics: dict[str, float] = {"best_epoch": self.best_epoch + 1}
    signature, begin = "", time.perf_counter()
    for split in ("valid", "test"):
      metrics[f"{split}_perplexity"] = self.perplexity(state, split)
      lines = self.translate(state, split, beam_size=self.config.beam_size)
      references = getattr(self.data, split).targets
      metrics[f"{split}_bleu"], signature = corpus_bleu(lines, references)
      self._write_lines(f"{split}.translation.txt", lines)
      self._write_lines(f"{split}.reference.txt", references)
    metrics["translation_seconds"] = time.perf_counter() - begin
    result = self.write_result(
      "train_translator", state, artefacts, metrics, seconds=seconds
    )
    return self._sign(result, signature)

  def _write_lines(self, name: str, lines: Sequence[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    files.write_atomically(self.workdir / name, text)

  def _sign(
    self, result: reporting.RunResult, signature: str
  ) -> reporting.RunResult:
    """Writes beside the versions of libraries how BLEU was measured."""
    versions = {**result.versions, "bleu": signature}
    result = dataclasses.replace(result, versions=versions)
    reporting.write_result(result, self.workdir)
    return result


def find_subwords(
  config: TranslationConfig, train: translation.Pairs, workdir: pathlib.Path
) -> subwords.Subwords:
  """Loads the model of subwords, or learns one; the folder has it after that.

  Args:
    config: Options of the run.
    train: The training pairs.
    workdir: Folder of the run, made if need be. Where the run is resumed, the
      model is there already.

  Raises:
    FileNotFoundError: If the file that the options name is not there.
    ValueError: If it is no model of subwords, or none can be learned.
  """
  path = workdir / SUBWORDS_FILE
  if config.subword_model:
    model = subwords.Subwords.load(config.subword_model)
  elif (workdir / "checkpoints").is_dir() and path.is_file():
    return subwords.Subwords.load(path)
  else:
    model = subwords.Subwords.train(
      [*train.sources, *train.targets],
      vocab_size=config.vocab_size,
      kind=config.subword_kind,
    )
  workdir.mkdir(parents=True, exist_ok=True)
  model.save(path)
  return model


def leave_out_long(
  pairs: buckets.EncodedPairs, max_length: int
) -> buckets.EncodedPairs:
  """Leaves out pairs that fill all the room: they may have been cut.

  Raises:
    ValueError: If none is left.
  """
  kept = np.flatnonzero(pairs.lengths < max_length)
  if len(kept) < len(pairs.lengths):
    logging.warning(
      "%d of %d training pairs are longer than `max_length`, and left out.",
      len(pairs.lengths) - len(kept),
      len(pairs.lengths),
    )
  if not len(kept):
    raise ValueError(
      f"`max_length` must leave training pairs, got {max_length}."
    )
  return buckets.EncodedPairs(*([side[i] for i in kept] for side in pairs))


def corpus_bleu(
  lines: Sequence[str], references: Sequence[str]
) -> tuple[float, str]:
  """Measures translations by BLEU (Papineni et al., 2002; Post, 2018).

  Args:
    lines: Translations, plain text.
    references: One reference for each.

  Returns:
    BLEU from 0 to 100, and the signature that says how it was measured.

  >>> bleu, signature = corpus_bleu(["a b c d e"], ["a b c d e"])
  >>> print(f"{bleu:.1f} {signature.split('|')[3]}")
  100.0 tok:13a
  """
  # Imported here, for only translation needs it.
  from sacrebleu.metrics.bleu import BLEU

  metric = BLEU()
  score = metric.corpus_score(list(lines), [list(references)]).score
  return score, str(metric.get_signature())


train_and_evaluate = functools.partial(
  training_run.train_and_evaluate, run_type=Run
)
"""Trains a translator and leaves its results in a folder."""
