"""Tests of the blocks of transformers, and of the translator made of them."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from jax import numpy as jnp

from experiments.models import transformer, translator

FEATURES, HEADS = 8, 2


def random(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def reference_attention(queries, keys, values, mask):
  """Attention by its definition, one query at a time."""
  result = np.zeros(queries.shape)
  for b, q, h in np.ndindex(queries.shape[:3]):
    scores = [
      float(queries[b, q, h] @ keys[b, k, h]) / np.sqrt(queries.shape[-1])
      for k in range(keys.shape[1])
      if mask[b, q, k]
    ]
    weights = np.exp(scores) / np.sum(np.exp(scores))
    seen = values[b, mask[b, q], h]
    result[b, q, h] = weights @ seen
  return result


def test_attention_is_its_definition():
  queries = random(2, 3, HEADS, 4)
  keys, values = random(2, 5, HEADS, 4, seed=1), random(2, 5, HEADS, 4, seed=2)
  mask = np.random.default_rng(0).random((2, 3, 5)) < 0.5
  mask[..., 0] = True
  found = jax.jit(transformer.attend)(
    queries, transformer.KeysValues(keys, values), jnp.asarray(mask)
  )
  expected = reference_attention(
    *(np.asarray(a, np.float64) for a in (queries, keys, values)), mask
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_query_without_keys_is_finite():
  memory = transformer.KeysValues(random(1, 4, 1, 2), random(1, 4, 1, 2))
  mask = jnp.zeros((1, 1, 4), bool)
  total = lambda q: transformer.attend(q, memory, mask).sum()
  gradient = jax.jit(jax.grad(total))(random(1, 1, 1, 2))
  assert np.isfinite(gradient).all()


def test_positions_are_those_of_the_paper():
  found = transformer.sinusoidal_positions(7, 6)
  for t, i in np.ndindex(7, 3):
    angle = t / 10_000 ** (2 * i / 6)
    np.testing.assert_allclose(
      found[t, [i, i + 3]], [np.sin(angle), np.cos(angle)], atol=1e-5
    )
  with pytest.raises(ValueError, match="divisible by `2`, got 5"):
    transformer.sinusoidal_positions(7, 5)


def make_encoder(**options):
  return transformer.Encoder(
    FEATURES,
    num_layers=1,
    num_heads=HEADS,
    hidden=12,
    rngs=nnx.Rngs(0),
    **options,
  )


@jax.jit
def encode(encoder, hidden, where, key=None):
  return encoder(hidden, where, key=key)


@pytest.mark.parametrize("norm_first", [True, False])
def test_padding_changes_nothing(norm_first):
  encoder = make_encoder(norm_first=norm_first, activation="gelu")
  hidden, where = random(2, 6, FEATURES), jnp.arange(6)[None] < 4
  where = jnp.broadcast_to(where, (2, 6))
  found = encode(encoder, hidden, where)
  other = encode(encoder, hidden.at[:, 4:].set(99.0), where)
  np.testing.assert_array_equal(found[:, :4], other[:, :4])
  seen = encode(encoder, hidden.at[:, 3].set(99.0), where)
  assert not np.allclose(found[:, :3], seen[:, :3])


def test_norms_after_the_parts_end_every_block():
  encoder = make_encoder(norm_first=False, activation="gelu")
  assert encoder.norm is None
  found = encode(encoder, random(2, 6, FEATURES), jnp.ones((2, 6), bool))
  np.testing.assert_allclose(found.mean(-1), 0, atol=1e-5)
  np.testing.assert_allclose(found.std(-1), 1, atol=1e-3)


def test_dropout_is_on_with_a_key_alone():
  encoder = make_encoder(dropout=0.5)
  arguments = random(2, 6, FEATURES), jnp.ones((2, 6), bool)
  plain = encode(encoder, *arguments)
  one, same, other = (
    encode(encoder, *arguments, jax.random.key(seed)) for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(one, same)
  assert not np.allclose(one, other)
  assert not np.allclose(one, plain)
  np.testing.assert_array_equal(plain, encode(encoder, *arguments))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_heads": 3}, "`features` must be divisible by `num_heads`, got 8"),
    ({"num_heads": 0}, "`num_heads` must be at least 1"),
    ({"hidden": 0}, "`hidden` must be at least 1"),
    ({"num_layers": 0}, "`num_layers` must be at least 1"),
    ({"activation": "tanh"}, "`activation` must be one of 'relu', 'gelu'"),
  ],
)
def test_bad_sizes(options, message):
  sizes = {"num_layers": 1, "num_heads": HEADS, "hidden": 12, **options}
  with pytest.raises(ValueError, match=message):
    transformer.Encoder(FEATURES, **sizes, rngs=nnx.Rngs(0))


@functools.cache
def make_translator(*, shared=False, tied=True, vocab_size=9, scale=1.0):
  rngs = nnx.Rngs(3)
  init = nnx.initializers.normal(scale)
  source, target = (
    nnx.Embed(vocab_size, FEATURES, embedding_init=init, rngs=rngs)
    for _ in range(2)
  )
  model = translator.Translator(
    source,
    None if shared else target,
    num_layers=2,
    num_heads=HEADS,
    hidden=12,
    tied=tied,
    rngs=rngs,
  )
  model.eval()
  return model


SOURCES = jnp.array([[5, 7, 3, 0, 0], [4, 8, 6, 5, 3]])
INPUTS = jnp.array([[2, 6, 4, 7, 7, 4], [2, 5, 5, 8, 6, 5]])


@jax.jit
def read(model, sources, where):
  return model.encode(sources, where)


@jax.jit
def decode(model, inputs, memory, where):
  return model.decode(inputs, memory, where)


def test_no_target_sees_later_ones_or_padding():
  model = make_translator()
  where = SOURCES != 0
  memory = read(model, SOURCES, where)
  found = decode(model, INPUTS, memory, where)
  later = decode(model, INPUTS.at[:, 2:].set(3), memory, where)
  np.testing.assert_array_equal(found[:, :2], later[:, :2])
  assert not np.allclose(found[:, 2:], later[:, 2:])
  padded = decode(model, INPUTS, memory.at[0, 3:].set(9.0), where)
  np.testing.assert_array_equal(found, padded)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_scores_of_the_rows(tied):
  model = nnx.clone(make_translator(tied=tied))
  hidden = random(2, 3, FEATURES)
  rows = model.output.kernel if not tied else model.target.embedding
  bias = jnp.arange(9.0)
  model.output.bias[...] = bias
  expected = hidden @ rows[...].T + bias[None, None]
  np.testing.assert_allclose(model.logits(hidden), expected, rtol=1e-5)


def test_a_shared_table_is_there_once():
  sizes = [
    sum(a.size for a in jax.tree.leaves(nnx.state(model, nnx.Param)))
    for model in (make_translator(shared=True), make_translator())
  ]
  assert sizes[1] - sizes[0] == 9 * FEATURES
  model = make_translator(shared=True)
  assert model.target_embedding is model.source


@pytest.mark.parametrize("beam_size", [1, 3])
def test_the_cache_gives_what_full_computation_gives(beam_size):
  model = make_translator()
  found = jax.jit(
    lambda model: model.translate(
      SOURCES, beam_size=beam_size, max_length=6, length_penalty=0.5
    )
  )(model)
  where = SOURCES != 0
  begin = jnp.full((2, 1), 2, jnp.int32)
  inputs = jnp.concatenate([begin, found.tokens[:, :-1]], axis=1)
  hidden = decode(model, inputs, read(model, SOURCES, where), where)
  logits = model.logits(hidden)
  # Padding, unknown and begin are in no translation.
  gains = np.asarray(jax.nn.log_softmax(logits.at[..., :3].set(-jnp.inf)))
  for tokens, gain, score in zip(
    found.tokens, gains, found.scores, strict=True
  ):
    length = int((tokens != 0).sum())
    assert tokens[length - 1] == 3
    total = sum(gain[i, tokens[i]] for i in range(length))
    np.testing.assert_allclose(
      score, total / ((5 + length) / 6) ** 0.5, rtol=1e-4
    )
    if beam_size == 1:
      # The greedy search, but for the end that the last place enforces.
      for i in range(min(length, 5)):
        assert tokens[i] == gain[i].argmax()
