"""Tests of the training of translators, from data to what it leaves."""

import csv
import dataclasses
import doctest
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from anchor_codes import tables, training
from experiments import (
  knowledge,
  reporting,
  translating,
  translation_options,
  translator_trainer,
)
from experiments.datasets import buckets, subwords, translation
from experiments.datasets.buckets import Bucket
from experiments.models import transformer

ROOT = pathlib.Path(__file__).parents[2]
DATA = translation.make_synthetic((200, 16, 16), longest=4)
VOCAB_SIZE = 12


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # The binaries run without the strict settings of the unit tests.
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    yield


def tiny(**options):
  config = translation_options.TranslationConfig(
    features=16,
    hidden=16,
    num_layers=1,
    num_heads=2,
    dropout=0.1,
    sharing="se",
    sharing_rate=0.02,
    vocab_size=40,
    max_length=30,
    batch_tokens=128,
    num_buckets=1,
    epochs=4,
    learning_rate=0.02,
    warmup_steps=20,
    beam_size=2,
    chunk_steps=12,
    checkpoint_chunks=3,
    num_anchors=6,
    num_nonzeros=3,
    code_length=4,
    codebook_size=4,
    rank=4,
  )
  return dataclasses.replace(config, **options)


def train(workdir, *, config=None, resume=False):
  return translating.train_and_evaluate(
    config or tiny(),
    workdir,
    resume=resume,
    data=DATA,
    mesh=training.data_mesh(jax.devices()[:1]),
  )


def metrics_of(workdir):
  with (workdir / "metrics.csv").open(encoding="utf-8") as file:
    return list(csv.DictReader(file))


@pytest.fixture(name="trained", scope="module")
def fixture_trained(tmp_path_factory):
  """The one run that most tests look at, and its result."""
  workdir = tmp_path_factory.mktemp("trained")
  return workdir, train(workdir)


def test_learns(trained):
  workdir, result = trained
  found = [row["valid_perplexity"] for row in metrics_of(workdir)]
  perplexities = [float(cell) for cell in found if cell]
  assert len(perplexities) == tiny().epochs
  assert perplexities[-1] < 0.5 * perplexities[0]
  best = int(np.argmin(perplexities))
  assert result.metrics["best_epoch"] == best + 1
  # The table in the file is that of the best epoch.
  np.testing.assert_allclose(
    result.metrics["valid_perplexity"], perplexities[best], rtol=1e-5
  )
  assert result.metrics["test_bleu"] > 0
  assert result.seconds_per_epoch > 0


def test_leaves_its_results(trained):
  workdir, result = trained
  record = json.loads((workdir / "result.json").read_text())
  assert record["metrics"] == result.metrics
  assert record["experiment"] == "train_translator"
  assert "tok:13a" in record["versions"]["bleu"]
  assert reporting.read_result(workdir) == result
  table = tables.load(workdir / "source.safetensors")
  assert table.nbytes == record["embedding_bytes"]
  model = subwords.Subwords.load(workdir / "subwords.model")
  assert table.num_embeddings == len(model.vocabulary)
  assert table.ids_of(["<pad>", "</s>"]).tolist() == [0, 3]
  assert not (workdir / "target.safetensors").exists()
  assert result.training_bytes > result.embedding_bytes


def test_leaves_translations_beside_references(trained):
  workdir, result = trained
  for split in ("valid", "test"):
    texts = [
      (workdir / f"{split}.{name}.txt").read_text().splitlines()
      for name in ("translation", "reference")
    ]
    assert tuple(texts[1]) == getattr(DATA, split).targets
    bleu, _ = translating.corpus_bleu(*texts)
    np.testing.assert_allclose(bleu, result.metrics[f"{split}_bleu"])


def test_a_stopped_run_resumes_to_the_same_numbers(trained, tmp_path):
  workdir, result = trained
  stopped = tmp_path / "stopped"
  shutil.copytree(workdir, stopped)
  newest = training.Checkpointer(stopped / "checkpoints").steps()[1:]
  assert newest
  for folder in (stopped / "checkpoints").iterdir():
    if any(folder.name.endswith(str(step)) for step in newest):
      shutil.rmtree(folder)
  resumed = train(stopped, resume=True)
  metrics = [
    {k: v for k, v in found.metrics.items() if k != "translation_seconds"}
    for found in (result, resumed)
  ]
  assert metrics[0] == metrics[1]
  assert metrics_of(stopped) == metrics_of(workdir)
  names = ("source.safetensors", "test.translation.txt")
  for name in names:
    assert (workdir / name).read_bytes() == (stopped / name).read_bytes()
  with pytest.raises(ValueError, match="--resume"):
    train(stopped)


def make_trainer(config):
  counts = np.arange(VOCAB_SIZE) + 1
  ids = np.array([[2, 4, 5, 6, 7, 8, 9, 10, 11, 3]])
  sides = ("source",) if config.shared else ("source", "target")
  known = knowledge.load_knowledge(
    config,
    counts,
    vocabulary=tuple("abcdefghijkl"),
    sequences=ids,
    special_ids=range(subwords.NUM_SPECIAL),
  )
  return translator_trainer.Trainer(config, dict.fromkeys(sides, known))


def make_batch(size=8):
  ids = np.random.default_rng(0).integers(4, VOCAB_SIZE, size=(size, 5))
  sources = np.concatenate([ids, np.full((size, 1), 3), 0 * ids], axis=1)
  targets = np.concatenate(
    [np.full((size, 1), 2), ids[:, ::-1], np.full((size, 1), 3), 0 * ids], 1
  )
  return Bucket(sources.astype(np.int32), targets.astype(np.int32))


@pytest.mark.parametrize(
  "options",
  [
    {"embedding": "anchors"},
    {"embedding": "kd", "tied": False, "shared": False, "lazy_from": 0.0},
    {"tied": False, "lazy_from": 0.0, "sharing": "none", "clip": 0.0},
    {"sharing": "graph", "sharing_graph": "bigrams", "label_sharing_rate": 0.1},
  ],
)
def test_any_embedding_has_a_step(options):
  trainer = make_trainer(tiny(**options))
  # Shapes are enough: nothing is compiled.
  state, metrics = jax.eval_shape(
    lambda: trainer.step(trainer.init(), make_batch())
  )
  assert metrics["loss"].shape == ()
  like = jax.eval_shape(trainer.init)
  assert jax.tree.map(lambda a: a.shape, state) == (
    jax.tree.map(lambda a: a.shape, like)
  )


def test_padding_does_not_count():
  trainer = make_trainer(tiny(sharing="none"))
  state, batch = trainer.init(), make_batch()
  alone = Bucket(batch.sources[:, :6], batch.targets[:, :7])
  values = [trainer.mean_nll(state, [part]) for part in (batch, alone)]
  np.testing.assert_allclose(*values, rtol=1e-5)
  # As many batches as there are buckets, and all pairs alike.
  halves = [Bucket(*(side[rows] for side in alone)) for rows in (
    slice(3), slice(3, None))]  # fmt: skip
  np.testing.assert_allclose(trainer.mean_nll(state, halves), values[1], 1e-5)


def test_label_smoothing_is_the_mean_over_smoothed_labels():
  logits = jnp.array([[0.5, -1.0, 2.0, 0.0], [1.0, 1.0, 0.0, 3.0]])
  targets = jnp.array([2, 0])
  labels = 0.8 * jax.nn.one_hot(targets, 4) + 0.2 / 4
  expected = -jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1)
  found = translator_trainer.smoothed_nll(logits, targets, smoothing=0.2)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_special_symbols_are_neither_exchanged_nor_drawn():
  trainer = make_trainer(tiny(sharing_rate=1.0))
  ids = jnp.asarray(np.arange(VOCAB_SIZE).repeat(50))
  share = jax.jit(lambda key: trainer._share(key, "source", ids, 1.0))
  found = np.asarray(share(jax.random.key(0)))
  special = np.asarray(ids) < subwords.NUM_SPECIAL
  np.testing.assert_array_equal(found[special], ids[special])
  assert (found[~special] != ids[~special]).all()
  assert set(found[~special]) == set(range(subwords.NUM_SPECIAL, VOCAB_SIZE))


def test_sides_and_labels_are_exchanged_by_themselves(monkeypatch):
  config = tiny(
    sharing_rate=0.1, source_sharing_rate=0.2, label_sharing_rate=0.3
  )
  seen = []
  trainer = make_trainer(config)
  monkeypatch.setattr(
    trainer,
    "_share",
    lambda key, side, ids, rate: seen.append((key, side, rate)) or ids,
  )
  state = trainer.init()
  model = trainer.model_of(state)
  trainer.select(model, make_batch(), state, jax.random.key(0))
  assert [part[1:] for part in seen] == [
    ("source", 0.2),
    ("target", 0.1),
    ("target", 0.3),
  ]
  assert len({str(jax.random.key_data(key)) for key, _, _ in seen}) == 3


def test_rates_of_sharing():
  rates = translation_options.sharing_rates
  assert rates(tiny(sharing="none")) == (0, 0, 0)
  assert rates(tiny(sharing_rate=0.1)) == (0.1, 0.1, 0)
  assert rates(tiny(target_sharing_rate=0.0)) == (0.02, 0.0, 0)
  found = rates(tiny(sharing="graph", label_sharing_rate=0.3))
  assert found == (0.02, 0.02, 0.3)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"sharing": "rows"}, "`sharing` must be one of 'none', 'se', 'graph'"),
    ({"sharing_rate": 1.5}, "`sharing_rate` must be between 0 and 1"),
    ({"source_sharing_rate": 2.0}, "`source_sharing_rate` must be between"),
    ({"label_sharing_rate": -1.0}, "`label_sharing_rate` must be between"),
    (
      {"sharing": "none", "target_sharing_rate": 0.1},
      "`sharing` must not be 'none' where rates .*",
    ),
    ({"select": "ppl"}, "`select` must be one of 'loss', 'bleu'"),
    ({"dropout": -0.1}, "`dropout` must be between 0 and 1"),
    ({"label_smoothing": float("nan")}, "`label_smoothing` must be between"),
    ({"warmup_steps": 0}, "`warmup_steps` must be at least 1"),
    ({"beam_size": 0}, "`beam_size` must be at least 1"),
    ({"length_penalty": -1.0}, "`length_penalty` must be non-negative"),
    ({"clip": -1.0}, "`clip` must be non-negative, got -1"),
    ({"subword_kind": "words"}, "`subword_kind` must be one of"),
    ({"vocab_size": 8}, "`vocab_size` must fit the training text, got 8"),
    ({"max_length": 3}, "`max_length` must leave training pairs, got 3"),
    ({"num_buckets": 0}, "`num_buckets` must be at least 1"),
    ({"num_heads": 3}, "`features` must be divisible by `num_heads`"),
  ],
)
def test_bad_options_are_named(options, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    train(tmp_path, config=tiny(**options))


def test_a_given_model_of_subwords_is_used(tmp_path):
  model = subwords.Subwords.train(DATA.train.targets, vocab_size=30, kind="bpe")
  model.save(tmp_path / "own.model")
  config = tiny(subword_model=str(tmp_path / "own.model"))
  found = translating.find_subwords(config, DATA.train, tmp_path / "run")
  assert found.model == model.model
  stored = subwords.Subwords.load(tmp_path / "run" / "subwords.model")
  assert stored.model == model.model


def test_selection_by_bleu(tmp_path, monkeypatch):
  run = translating.Run(tiny(select="bleu"), tmp_path, data=DATA)
  monkeypatch.setattr(run.trainer, "mean_nll", lambda *_: 0.0)
  lines = [*DATA.valid.targets[:8], *DATA.valid.sources[8:]]
  monkeypatch.setattr(run, "translate", lambda *_, beam_size: lines)
  score, metrics = run.validate(run.trainer)
  assert 0 < score < 100
  assert metrics == {"valid_perplexity": 1.0, "valid_greedy_bleu": score}


def test_translations_come_back_in_the_order_of_their_sources(monkeypatch):
  trainer = make_trainer(tiny())
  # In place of the search: sources without their padding are translations.
  monkeypatch.setattr(
    trainer, "_search", lambda rows, params, stats, ids, **_: ids
  )
  rng = np.random.default_rng(0)
  sizes = rng.integers(1, 12, size=150)
  sources = [[*rng.integers(4, 12, size=size).tolist(), 3] for size in sizes]
  found = trainer.translate(
    trainer.init(), sources, lengths=(4, 8, 12), beam_size=1
  )
  assert found == [ids[:-1] for ids in sources]


def test_long_pairs_are_left_out_of_training(caplog):
  pairs = buckets.EncodedPairs([[4, 3], [4, 5, 3]], [[2, 3], [2, 3]])
  kept = translating.leave_out_long(pairs, 3)
  assert kept.sources == [[4, 3]]
  assert "1 of 2 training pairs are longer" in caplog.text


def test_examples():
  flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
  for module in (
    transformer,
    translating,
    translation_options,
    translator_trainer,
  ):
    result = doctest.testmod(module, optionflags=flags)
    assert result.attempted
    assert result.failed == 0


def test_the_learning_rate_rises_and_falls():
  schedule = translator_trainer.inverse_sqrt_schedule(0.5, 100)
  rates = [float(schedule(step)) for step in range(1000)]
  assert int(np.argmax(rates)) == 99
  np.testing.assert_allclose([rates[49], rates[399]], [0.25, 0.25], rtol=1e-6)


def test_the_binary_explains_what_is_wrong(tmp_path):
  (tmp_path / "text.train.en").write_text("one\ntwo\n")
  (tmp_path / "text.train.de").write_text("eins\n")
  process = subprocess.run(
    [
      sys.executable,
      "-m",
      "experiments.train_translator",
      f"--config.dataset=files:{tmp_path}/text",
      f"--workdir={tmp_path}/run",
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert process.returncode
  output = process.stderr + process.stdout
  assert "must have as many lines, got 2" in output
  assert "Traceback" not in output
