"""Tests of the weights of a BERT: they compute what BERT computes."""

import json
import math
import struct

import jax
import numpy as np
import pytest
from flax import nnx
from jax import numpy as jnp

from experiments import (
  bert_weights,
  knowledge,
  masked_language_modeling,
  masked_language_trainer,
  pretrained,
  text_classification,
)
from experiments.models import text_transformer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES += ["good", "bad", "film", "##s", "the"]
WIDTH, HEADS, INNER, LAYERS, POSITIONS = 8, 2, 12, 2, 7
CONFIG = {
  "model_type": "bert",
  "hidden_size": WIDTH,
  "num_hidden_layers": LAYERS,
  "num_attention_heads": HEADS,
  "intermediate_size": INNER,
  "max_position_embeddings": POSITIONS,
  "hidden_act": "gelu",
  "type_vocab_size": 2,
  "layer_norm_eps": 1e-12,
}


def make_tensors(*, prefix="bert.", rows=12):
  """Random weights by the names that BERT's have."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(0, 0.5, shape).astype(np.float32)
  tensors = {
    f"{prefix}embeddings.{name}_embeddings.weight": normal(number, WIDTH)
    for name, number in (
      ("word", rows),
      ("position", POSITIONS),
      ("token_type", 2),
    )
  }

  def add(name, *shape):
    tensors[f"{name}.weight"] = normal(*shape) if shape else 1 + normal(WIDTH)
    tensors[f"{name}.bias"] = normal(shape[0] if shape else WIDTH)

  add(f"{prefix}embeddings.LayerNorm")
  add(f"{prefix}pooler.dense", WIDTH, WIDTH)
  for i in range(LAYERS):
    layer = f"{prefix}encoder.layer.{i}."
    for part in ("self.query", "self.key", "self.value", "output.dense"):
      add(f"{layer}attention.{part}", WIDTH, WIDTH)
    add(f"{layer}attention.output.LayerNorm")
    add(f"{layer}intermediate.dense", INNER, WIDTH)
    add(f"{layer}output.dense", WIDTH, INNER)
    add(f"{layer}output.LayerNorm")
  add("cls.predictions.transform.dense", WIDTH, WIDTH)
  add("cls.predictions.transform.LayerNorm")
  tensors["cls.predictions.bias"] = normal(rows)
  return tensors


def write_safetensors(path, tensors):
  """The format by its definition; position ids are integers in old files."""
  tensors = {**tensors, "bert.embeddings.position_ids": np.arange(3)}
  names = {"float32": "F32", "float16": "F16", "int64": "I64"}
  header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
  for name, tensor in tensors.items():
    header[name] = {
      "dtype": names[tensor.dtype.name],
      "shape": tensor.shape,
      "data_offsets": [offset, offset + tensor.nbytes],
    }
    blobs.append(tensor.tobytes())
    offset += tensor.nbytes
  text = json.dumps(header).encode()
  path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *blobs]))


def write_bert(folder, tensors, config=CONFIG):
  (folder / "config.json").write_text(json.dumps(config))
  (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
  write_safetensors(folder / "model.safetensors", tensors)
  return folder


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory):
  return write_bert(tmp_path_factory.mktemp("bert"), make_tensors())


class SlowBert:
  """BERT by its definition, one vector after another, for one text."""

  def __init__(self, tensors):
    self.tensors = {
      name.removeprefix("bert."): tensor.astype(np.float64)
      for name, tensor in tensors.items()
    }

  def dense(self, name, x):
    return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

  def norm(self, name, x):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
    return x * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

  def gelu(self, x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2

  def attention(self, layer, x):
    parts = [
      self.dense(f"{layer}attention.self.{part}", x)
      for part in ("query", "key", "value")
    ]
    heads, size = [], WIDTH // HEADS
    for h in range(HEADS):
      q, k, v = (part[:, h * size : (h + 1) * size] for part in parts)
      weights = np.exp(q @ k.T / math.sqrt(size))
      heads.append(weights / weights.sum(-1, keepdims=True) @ v)
    return self.dense(
      f"{layer}attention.output.dense", np.concatenate(heads, -1)
    )

  def hidden(self, ids):
    e = "embeddings."
    x = self.tensors[f"{e}word_embeddings.weight"][ids]
    x = x + self.tensors[f"{e}position_embeddings.weight"][: len(ids)]
    x = x + self.tensors[f"{e}token_type_embeddings.weight"][0]
    x = self.norm(f"{e}LayerNorm", x)
    for i in range(LAYERS):
      layer = f"encoder.layer.{i}."
      x = self.norm(
        f"{layer}attention.output.LayerNorm", x + self.attention(layer, x)
      )
      inner = self.gelu(self.dense(f"{layer}intermediate.dense", x))
      x = self.norm(
        f"{layer}output.LayerNorm",
        x + self.dense(f"{layer}output.dense", inner),
      )
    return x

  def pooled(self, ids):
    return np.tanh(self.dense("pooler.dense", self.hidden(ids)[0]))

  def scores(self, ids, place):
    p = "cls.predictions."
    x = self.gelu(self.dense(f"{p}transform.dense", self.hidden(ids)[place]))
    x = self.norm(f"{p}transform.LayerNorm", x)
    table = self.tensors["embeddings.word_embeddings.weight"]
    return table @ x + self.tensors[f"{p}bias"]


TEXTS = ["The good films", "bad film", "films the"]
IDS = [[2, 9, 5, 7, 8, 3], [2, 6, 7, 3], [2, 7, 8, 9, 3]]


def padded():
  tokens = np.zeros((3, 6), np.int32)
  for row, ids in zip(tokens, IDS, strict=True):
    row[: len(ids)] = ids
  return jnp.asarray(tokens)


def make_trainer(folder):
  given = pretrained.load_pretrained(folder)
  config = given.follow(
    masked_language_modeling.MaskedLanguageConfig(max_length=POSITIONS)
  )
  return masked_language_trainer.Trainer(
    config,
    known=knowledge.Knowledge(config, np.ones(len(PIECES), int)),
    tokenizer=given.tokenizer,
    max_length=6,
    given=given,
  )


def test_the_vocabulary_is_that_of_the_folder(folder):
  tokenizer = bert_weights.load_bert(folder).tokenizer
  marked = [
    [tokenizer.marks.begin, *ids, tokenizer.marks.end]
    for ids in tokenizer.encode(TEXTS)
  ]
  assert marked == IDS


def test_it_computes_what_bert_computes(folder):
  model, slow = make_trainer(folder).make_model(), SlowBert(make_tensors())
  tokens = padded()
  where = tokens != 0

  @jax.jit
  def run(model, tokens, where):
    vectors = model.embed(tokens)
    hidden = model.encoder.hidden(vectors, where)
    places = jnp.array([1, 2, 6, 13])
    scores = model.logits(model(tokens, where, places))
    return hidden, model.encoder(vectors, where), scores

  hidden, pooled, scores = run(model, tokens, where)
  for row, ids in enumerate(IDS):
    expected = slow.hidden(ids)
    np.testing.assert_allclose(hidden[row, : len(ids)], expected, atol=2e-5)
    np.testing.assert_allclose(pooled[row], slow.pooled(ids), atol=2e-5)
  for row, (number, place) in enumerate([(0, 1), (0, 2), (1, 0), (2, 1)]):
    expected = slow.scores(IDS[number], place)[: len(PIECES)]
    np.testing.assert_allclose(scores[row], expected, atol=5e-5)


def test_a_classifier_starts_from_it(folder, tmp_path):
  write = "text,label\n" + "".join(
    f"{text} {i},{i % 2}\n" for i, text in enumerate(TEXTS * 9)
  )
  (tmp_path / "own.csv").write_text(write)
  config = text_classification.TextClassificationConfig(
    dataset=f"csv:{tmp_path / 'own.csv'}",
    encoder="transformer",
    pretrained=str(folder),
    max_length=6,
    batch_size=8,
    checkpoint_chunks=0,
  )
  run = text_classification.Run(config, tmp_path / "run")
  assert run.config.num_heads == HEADS
  assert not run.config.norm_first
  model, tensors = run.trainer.make_model(), make_tensors()
  np.testing.assert_array_equal(
    model.embed.embedding[...],
    tensors["bert.embeddings.word_embeddings.weight"][: len(PIECES)],
  )
  np.testing.assert_array_equal(
    model.encoder.layers.blocks[1].attention.key.kernel[...],
    tensors["bert.encoder.layer.1.attention.self.key.weight"].T,
  )
  assert (tmp_path / "run" / "vocab.txt").is_file()


def test_names_without_prefix_and_old_ones_are_known():
  plain = bert_weights.our_tensors(make_tensors(prefix=""))
  old = {
    name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
      "LayerNorm.bias", "LayerNorm.beta"
    ): tensor
    for name, tensor in make_tensors().items()
  }
  for other in (bert_weights.our_tensors(old), plain):
    assert other.keys() == plain.keys()
    for name, tensor in other.items():
      np.testing.assert_array_equal(tensor, plain[name])


def test_a_missing_pooler_starts_at_random(tmp_path):
  tensors = {n: t for n, t in make_tensors().items() if "pooler" not in n}
  model = make_trainer(write_bert(tmp_path, tensors)).make_model()
  assert np.isfinite(model.encoder.pooler.kernel[...]).all()


def test_half_precision_is_read(tmp_path):
  tensor = np.array([[1.5, -2.0]], np.float16)
  write_safetensors(tmp_path / "a", {"a": tensor})
  found = bert_weights.read_safetensors(tmp_path / "a")
  assert list(found) == ["a"]
  np.testing.assert_array_equal(found["a"], tensor)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model_type": "roberta"}, "'bert' with 'absolute' .* got 'roberta'"),
    ({"position_embedding_type": "relative_key"}, "got 'bert' with 'relative"),
    ({"hidden_act": "silu"}, "`hidden_act` must be one of .*, got 'silu'"),
  ],
)
def test_other_models_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    bert_weights.read_architecture({**CONFIG, **changes})


def test_mistakes_are_named(folder, tmp_path):
  with pytest.raises(ValueError, match="must have the entry 'hidden_size'"):
    bert_weights.read_architecture({"model_type": "bert"})
  write_bert(tmp_path, make_tensors(rows=4))
  with pytest.raises(ValueError, match="a row for each of the 10 pieces"):
    bert_weights.load_bert(tmp_path)
  data = (folder / "model.safetensors").read_bytes()
  for size in (0, 20, len(data) - 40):
    (tmp_path / "model.safetensors").write_bytes(data[:size])
    with pytest.raises(ValueError, match=r"no \.safetensors file"):
      bert_weights.load_bert(tmp_path)
  given = pretrained.load_pretrained(folder)
  config = text_classification.TextClassificationConfig
  for options, message in (
    ({"features": 16}, "`features` must be 8 as in .*, got 16"),
    ({"embedding": "anchors"}, "`embedding` must be 'full' as in"),
    ({"subwords": 99}, "`subwords` must be 0 as in"),
    ({"max_length": 50}, "`max_length` must be at most 7"),
  ):
    with pytest.raises(ValueError, match=message):
      given.follow(config(**{"max_length": 5} | options))


def test_a_missing_weight_is_named(folder):
  given = pretrained.load_pretrained(folder)
  del given.tensors["encoder.positions"]
  encoder = text_transformer.TextTransformer(
    given.architecture, rngs=nnx.Rngs(0)
  )
  holder = nnx.Module()
  holder.encoder = encoder
  with pytest.raises(ValueError, match=r"must hold `encoder\.positions`"):
    given.start(holder)
