"""Tests of the pre-training, and of classifiers that start from it."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from jax import numpy as jnp

from anchor_codes import nn, ops, report, tables, training
from experiments import (
  masked_language_modeling,
  pretrained,
  text_classification,
  transformer_options,
)
from experiments.datasets import classification, tokenizers
from experiments.models import language_model, softmax, text_classifier
from experiments.models import text_transformer as models


@pytest.fixture(autouse=True, scope="module")
def _usual_promotion():
  # The binaries run without the strict settings of the unit tests.
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    yield


def make_data():
  """Texts of words that come in a fixed order, from a random one on."""
  rng = np.random.default_rng(0)
  rows = []
  for _ in range(100):
    first = rng.integers(12)
    text = " ".join(f"w{(first + j) % 12}" for j in range(6))
    rows.append((text, int(first % 2)))
  splits = {
    "train": rows[:72],
    "valid": rows[72:90],
    "test": [(" ".join(["never"] * 6), 0)],
  }
  return classification.make_dataset("toy", splits, "ab", source="ours")


SIZES = {
  "features": 16,
  "num_layers": 1,
  "num_heads": 2,
  "feedforward": 24,
}
RUN = {
  "max_length": 8,
  "min_count": 1,
  "batch_size": 24,
  "block_dropout": 0.0,
  "chunk_steps": 9,
  "checkpoint_chunks": 0,
}


def make_config(**options):
  config = masked_language_modeling.MaskedLanguageConfig(
    **SIZES,
    **RUN,
    start_scale=0.3,
    sharing="se",
    sharing_rate=0.02,
    label_sharing_rate=0.02,
    learning_rate=0.02,
    num_sampled=8,
    epochs=40,
  )
  return dataclasses.replace(config, **options)


def one_device():
  """Several devices are tested elsewhere; for one, compiling takes less."""
  return training.data_mesh(jax.devices()[:1])


@pytest.fixture(name="found", scope="module")
def fixture_found(tmp_path_factory):
  """The one training, and its folder."""
  folder = tmp_path_factory.mktemp("pretrained")
  result = masked_language_modeling.train_and_evaluate(
    make_config(), folder, data=make_data(), mesh=one_device()
  )
  return folder, result


def make_classifier(folder, tmp_path, **options):
  config = text_classification.TextClassificationConfig(
    **RUN, encoder="transformer", pretrained=str(folder)
  )
  return text_classification.Run(
    dataclasses.replace(config, **options),
    tmp_path / "run",
    data=make_data(),
    mesh=one_device(),
  )


def test_it_learns_the_texts(found):
  folder, result = found
  # Twelve words; the others of a text tell which one is hidden.
  assert result.metrics["valid_perplexity"] < 6
  assert result.metrics["valid_accuracy"] > 0.3
  assert result.experiment == "train_masked_language_model"
  record = json.loads((folder / "result.json").read_text())
  assert record["metrics"] == result.metrics
  table = tables.load(folder / "embedding.safetensors")
  assert table.nbytes == result.embedding_bytes
  assert "never" not in (folder / "words.txt").read_text()
  np.testing.assert_array_equal(table.ids_of(["<pad>", "<mask>"]), [0, 3])


def test_its_page_shows_the_table_and_not_the_weights(found, tmp_path):
  page = report.write_run_report(found[0], tmp_path / "page.html").read_text()
  assert "embedding.safetensors" in page
  assert pretrained.FILENAME not in page


def test_all_weights_have_plain_names(found):
  given = pretrained.load_pretrained(found[0])
  block = "encoder.layers.blocks.0."
  names = [
    *("embed.embedding", "encoder.positions", "encoder.pooler.kernel"),
    *(f"{block}attention.query.kernel", f"{block}feed_forward.inner.bias"),
    *("encoder.norm.scale", "transform.kernel", "norm.bias", "output.bias"),
  ]
  assert set(names) < set(given.tensors)
  assert given.architecture.num_positions == 8
  assert given.form["num_heads"] == 2


def test_a_classifier_starts_from_the_weights(found, tmp_path):
  run = make_classifier(found[0], tmp_path)
  given = pretrained.load_pretrained(found[0])
  assert {name: getattr(run.config, name) for name in SIZES} == SIZES
  assert run.data.vocabulary == given.tokenizer.vocabulary
  model = run.trainer.make_model()
  state = nnx.to_flat_state(nnx.state(model))
  started = {".".join(map(str, p)): v.get_value() for p, v in state}
  for name, value in started.items():
    if name.startswith(("embed.", "encoder.")):
      np.testing.assert_array_equal(value, given.tensors[name])
  assert started["output.kernel"].shape == (16, 2)


def test_more_pretraining_starts_from_all_weights(found, tmp_path):
  config = make_config(pretrained=str(found[0]))
  run = masked_language_modeling.Run(config, tmp_path, data=make_data())
  model = run.trainer.make_model()
  given = pretrained.load_pretrained(found[0])
  bias = model.output.bias[...]
  np.testing.assert_array_equal(bias, given.tensors["output.bias"])
  assert np.abs(bias).max() > 0


def test_a_classifier_takes_steps_with_all_options(found, tmp_path):
  run = make_classifier(
    found[0],
    tmp_path,
    sharing="se",
    label_sharing_rate=0.05,
    encoder_learning_rate=0.5,
    warmup_steps=2,
    schedule="linear",
    clip=1.0,
  )
  trainer, texts = run.trainer, run.data.train
  # What is computed is tested elsewhere: here, that all parts fit together.
  state = jax.eval_shape(trainer.init)
  after, _ = jax.eval_shape(trainer.step, state, texts)
  shapes = lambda state: jax.tree.map(lambda a: a.shape, state)
  assert shapes(after) == shapes(state)
  batches = jax.tree.map(lambda a: a[None], texts)
  parameters = state.rows, state.params, state.stats
  right = jax.eval_shape(trainer._count_correct, *parameters, batches)
  assert right.shape == ()
  assert run.config.num_heads == 2
  assert (tmp_path / "run" / "words.txt").is_file()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_heads": 8}, "`num_heads` must be 2 as in .*, got 8"),
    ({"embedding": "kd"}, "`embedding` must be 'full' as in .*, got 'kd'"),
    ({"max_length": 9}, "`max_length` must be at most 8, the positions in"),
    ({"encoder": "cnn"}, "`encoder` must be 'transformer' to start from"),
    ({"pretrained": "nowhere"}, "must hold encoder.safetensors"),
  ],
)
def test_what_does_not_fit_is_named(found, tmp_path, options, message):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    make_classifier(found[0], tmp_path, **options)


def test_another_vocabulary_is_noticed(found, tmp_path):
  folder = tmp_path / "copy"
  shutil.copytree(found[0], folder)
  path = folder / "words.txt"
  path.write_text(path.read_text().replace("w3\n", "w33\n"))
  with pytest.raises(ValueError, match=r"words\.txt must be the vocabulary"):
    pretrained.load_pretrained(folder)
  path.unlink()
  with pytest.raises(FileNotFoundError, match="must hold a vocabulary"):
    pretrained.load_pretrained(folder)
  shutil.copy(folder / "embedding.safetensors", folder / pretrained.FILENAME)
  with pytest.raises(ValueError, match="must hold the weights of a"):
    pretrained.load_pretrained(folder)


def test_weights_of_another_shape_are_named(found):
  given = pretrained.load_pretrained(found[0])
  tensors = dict(given.tensors)
  tensors["encoder.positions"] = tensors["encoder.positions"][:, :4]
  given = dataclasses.replace(given, tensors=tensors)
  encoder = models.TextTransformer(given.architecture, rngs=nnx.Rngs(0))
  holder = nnx.Module()
  holder.encoder = encoder
  with pytest.raises(ValueError, match=r"positions` must have the shape \(8, "):
    given.start(holder, parts=("encoder",))


def make_model(**options):
  form = models.Architecture(
    features=8,
    num_layers=1,
    num_heads=2,
    feedforward=8,
    num_positions=6,
    **options,
  )
  encoder = models.TextTransformer(form, rngs=nnx.Rngs(0), scale=1.0)
  embed = nnx.Embed(9, 8, rngs=nnx.Rngs(1))
  return models.MaskedLanguageModel(embed, encoder, rngs=nnx.Rngs(2))


@pytest.mark.parametrize("norm_first", [True, False])
def test_padding_changes_nothing(norm_first):
  model = make_model(norm_first=norm_first, num_segments=2)
  run = jax.jit(lambda model, x, where: model.encoder(model.embed(x), where))
  tokens = jnp.array([[2, 5, 6, 0, 0], [2, 5, 6, 7, 8]])
  where = jnp.array([[True] * 3 + [False] * 2] * 2)
  first, second = run(model, tokens, where)
  np.testing.assert_allclose(first, second, rtol=1e-6)
  moved = run(model, tokens[:, jnp.array([0, 2, 1, 3, 4])], where)
  assert jnp.abs(moved[0] - first).max() > 1e-3
  with pytest.raises(ValueError, match="at most 6 in a text, got 7"):
    model.encoder(jnp.zeros((1, 7, 8)), jnp.ones((1, 7), bool))


def test_integers_come_back_as_they_were(tmp_path):
  tokenizer = tokenizers.WordTokenizer((*tokenizers.MARKS, *"abcde"))
  given = make_model()
  make_embed = lambda seed: nn.AnchorEmbed(
    9, 8, num_anchors=4, num_nonzeros=2, rngs=nnx.Rngs(seed)
  )
  given.embed = make_embed(3)
  pretrained.save_weights(tmp_path, given, form={}, tokenizer=tokenizer)
  model = make_model()
  model.embed = make_embed(4)
  found = pretrained.load_pretrained(tmp_path)
  found.start(model, parts=("embed",))
  assert model.embed.indices[...].dtype == given.embed.indices[...].dtype
  for name in ("anchors", "indices", "weights"):
    old, new = getattr(given.embed, name), getattr(model.embed, name)
    np.testing.assert_array_equal(old[...], new[...])


def test_a_sample_of_all_symbols_is_the_softmax():
  model = make_model()
  model.output.bias[...] = jnp.linspace(-1, 1, 9)
  hidden = jax.random.normal(jax.random.key(0), (4, 8))
  targets, everyone = jnp.array([3, 0, 8, 3]), jnp.arange(9)
  sample = language_model.Sample(targets, everyone, jnp.zeros(4), jnp.zeros(9))
  ids = jnp.concatenate([targets, everyone])

  @jax.jit
  def both(model, hidden):
    expected = softmax.softmax_nll(model.logits(hidden), targets)
    return model.sampled_nll(hidden, sample, ids), expected

  found, expected = both(model, hidden)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_full_softmax_takes_a_step_of_the_same_form(tmp_path):
  config = make_config(num_sampled=0, label_sharing_rate=0.0)
  run = masked_language_modeling.Run(config, tmp_path, data=make_data())
  trainer = run.trainer
  state = jax.eval_shape(trainer.init)
  after, metrics = jax.eval_shape(trainer.step, state, run.train_tokens[:4])
  assert jax.tree.map(lambda a: a.shape, (state, ())) == jax.tree.map(
    lambda a: a.shape, (after, ())
  )
  assert metrics["loss"].shape == ()
  assert trainer.make_model().label_sharing is None
  assert trainer.is_ordinary.sum() == len(run.tokenizer.vocabulary) - 4


def test_classes_are_exchanged_as_asked(found, tmp_path):
  logits, labels = jnp.array([[2.0, 0.0], [0.5, 1.0]]), jnp.array([0, 0])
  key = jax.random.key(0)

  def loss(rate, label_sharing):
    trainer = object.__new__(text_classification.Trainer)
    trainer.num_classes = 2
    trainer.config = text_classification.TextClassificationConfig(
      label_sharing_rate=rate, label_sharing=label_sharing
    )
    return jax.jit(trainer._loss)(logits, labels, key)

  plain = text_classifier.mean_loss(logits, labels)
  np.testing.assert_allclose(loss(0.0, "expected"), plain)
  expected = jnp.mean(ops.shared_label_loss(logits, labels, rate=0.1))
  np.testing.assert_allclose(loss(0.1, "expected"), expected, rtol=1e-6)
  # Each of two classes becomes the other one.
  other = text_classifier.mean_loss(logits, 1 - labels)
  np.testing.assert_allclose(loss(1.0, "sampled"), other)


def test_options_are_checked(tmp_path):
  for options, message in (
    ({"activation": "tanh"}, "`activation` must be one of 'relu', 'gelu'"),
    ({"schedule": "cosine"}, "`schedule` must be one of 'constant', 'linear'"),
    ({"mask_rate": 2.0}, "`mask_rate` must be"),
    ({"warmup_steps": -1}, "`warmup_steps` must be at least 0"),
  ):
    with pytest.raises(ValueError, match=message):
      masked_language_modeling.Run(
        make_config(**options), tmp_path, data=make_data()
      ).trainer.make_model()
  for options, message in (
    ({"label_sharing": "all"}, "`label_sharing` must be one of 'expected'"),
    ({"label_sharing_rate": -0.1}, "`label_sharing_rate` must be"),
  ):
    config = text_classification.TextClassificationConfig(**options)
    with pytest.raises(ValueError, match=message):
      text_classification.Run(config, tmp_path, data=make_data())


def test_the_rate_rises_and_falls():
  options = transformer_options.TransformerOptions(warmup_steps=4)
  constant = transformer_options.learning_rate(options, 2.0, 10)
  np.testing.assert_allclose(
    [constant(s) for s in (0, 1, 3, 9)], [0.5, 1, 2, 2]
  )
  plain = dataclasses.replace(options, warmup_steps=0, schedule="linear")
  linear = transformer_options.learning_rate(plain, 2.0, 10)
  np.testing.assert_allclose([linear(s) for s in (0, 5, 10, 11)], [2, 1, 0, 0])


def test_subwords_may_be_read_by_any_encoder(tmp_path):
  config = text_classification.TextClassificationConfig(
    **{**RUN, "max_length": 20}, subwords=30, encoder="mean"
  )
  run = text_classification.Run(config, tmp_path, data=make_data())
  assert 2 not in run.data.train.tokens
  assert (tmp_path / "subwords.model").is_file()
  assert run.trainer.known.special_ids == (0, 1, 2, 3)
  assert isinstance(run.workdir, pathlib.Path)
