"""Tests of the sequential recommender against a slow one from the papers."""

import doctest

import jax
import numpy as np
import pytest
from flax import nnx
from jax import numpy as jnp

from anchor_codes import nn
from experiments.models import attention, sequential

ITEMS, USERS, LENGTH = 9, 4, 5


def make_model(*, user_features=3, item_features=5, num_heads=2, num_blocks=2):
  rngs = nnx.Rngs(0)
  users = user_features and nnx.Embed(USERS, user_features, rngs=rngs)
  model = sequential.SequentialRecommender(
    nnx.Embed(ITEMS + 1, item_features, rngs=rngs),
    users or None,
    max_length=LENGTH,
    num_heads=num_heads,
    num_blocks=num_blocks,
    dropout=0.5,
    rngs=rngs,
  )
  # Scales and biases that are 1 and 0 would hide that they are left out.
  noise = lambda p, key: p + 0.2 * jax.random.normal(key, p.shape)
  state = nnx.state(model, nnx.Param)
  leaves, form = jax.tree.flatten(state)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  leaves = [noise(*pair) for pair in zip(leaves, keys, strict=True)]
  nnx.update(model, jax.tree.unflatten(form, leaves))
  return model


def values_of(variable):
  return np.asarray(variable[...], np.float64)


def slow_norm(layer, vector):
  centred = vector - vector.mean()
  scaled = centred / np.sqrt((centred**2).mean() + 1e-8)
  return scaled * values_of(layer.scale) + values_of(layer.bias)


def slow_linear(layer, vector):
  return vector @ values_of(layer.kernel) + values_of(layer.bias)


def slow_block(block, inputs, where):
  """One block for one sequence, position by position and head by head."""
  width = inputs.shape[-1] // block.num_heads
  queries = [slow_norm(block.attention_norm, x) for x in inputs]
  outputs = np.zeros_like(inputs)
  for t in np.flatnonzero(where):
    seen = [s for s in range(t + 1) if where[s]]
    attended = np.zeros(inputs.shape[-1])
    for head in range(block.num_heads):
      part = slice(head * width, (head + 1) * width)
      query = slow_linear(block.query, queries[t])[part]
      keys = [slow_linear(block.key, inputs[s])[part] for s in seen]
      logits = np.array([query @ key for key in keys]) / np.sqrt(width)
      weights = np.exp(logits) / np.exp(logits).sum()
      for s, weight in zip(seen, weights, strict=True):
        attended[part] += weight * slow_linear(block.value, inputs[s])[part]
    # What is added is the normalised vector, not what it was before.
    normed = slow_norm(block.layer_norm, queries[t] + attended)
    inner = np.maximum(slow_linear(block.inner, normed), 0)
    outputs[t] = normed + slow_linear(block.outer, inner)
  return outputs


def slow_scores(model, items, user):
  """The logits of all items after the last one, in the words of the paper."""
  table, where = values_of(model.items.embedding).copy(), np.array(items) > 0
  table[0] = 0
  inputs = table[items] * np.sqrt(table.shape[1])
  own = np.zeros(0)
  if model.users is not None:
    own = values_of(model.users.embedding)[user]
    own = own * np.sqrt(len(own))
  inputs = np.concatenate([inputs, np.tile(own, (len(items), 1))], axis=1)
  hidden = (inputs + values_of(model.positions)) * where[:, None]
  for block in model.blocks:
    hidden = slow_block(block, hidden, where)
  last = slow_norm(model.norm, hidden[-1])
  # Items are scored as they are, only users are scaled.
  return [last @ np.concatenate([vector, own]) for vector in table]


SEQUENCES = np.array([[0, 0, 3, 1, 9], [2, 2, 7, 4, 5]])
OWNERS = np.array([3, 0])


@pytest.mark.parametrize("user_features", [3, 0])
def test_scores_are_those_of_the_papers(user_features):
  model = make_model(
    user_features=user_features, item_features=8 - user_features
  )
  slow = [
    slow_scores(model, items, user)
    for items, user in zip(SEQUENCES, OWNERS, strict=True)
  ]

  @jax.jit
  def compute(items, users):
    """The scores of all items, and the logits that training has of two."""
    scores = model.scores(items, users, model.item_table())
    own = model.users(users[:, None]) if model.users is not None else None
    hidden = model.read(model.items(items), own, items > 0)
    logits = [
      model.logits(hidden, model.items(jnp.full_like(items, item)), own)
      for item in (1, 6)
    ]
    return scores, jnp.stack(logits, axis=1)[..., -1]

  scores, logits = compute(jnp.asarray(SEQUENCES), jnp.asarray(OWNERS))
  # Without what all items have in common.
  differences = lambda scores: np.asarray(scores)[:, 1:] - scores[:, 1:2]
  np.testing.assert_allclose(
    differences(scores), differences(np.array(slow)), atol=1e-4
  )
  # The logits of training have all of it.
  np.testing.assert_allclose(logits, np.array(slow)[:, [1, 6]], atol=1e-4)


def read(model, items):
  items = jnp.asarray(items)
  users = model.users(jnp.asarray(OWNERS)[:, None])
  return np.asarray(run(model, model.items(items), users, items > 0))


@nnx.jit
def run(model, *inputs):
  return model.read(*inputs)


def test_what_comes_later_changes_nothing():
  model = make_model()
  before = read(model, SEQUENCES)
  changed = SEQUENCES.copy()
  changed[:, 3:] = [[8, 2], [9, 1]]
  after = read(model, changed)
  # To the bit.
  np.testing.assert_array_equal(before[:, :3], after[:, :3])
  assert not np.allclose(before[:, 3:], after[:, 3:])


def test_padding_is_never_read():
  model = make_model()
  before = read(model, SEQUENCES)
  model.items.embedding[...] = model.items.embedding[...].at[0].set(1e3)
  np.testing.assert_array_equal(before, read(model, SEQUENCES))
  # Nor are its positions.
  positions = model.positions[...].at[:2].add(7.0)
  model.positions[...] = positions
  np.testing.assert_array_equal(before[0, 2:], read(model, SEQUENCES)[0, 2:])


def test_the_loss_counts_positions_with_a_target():
  positive, negative = jnp.array([[9.0, 1.0]]), jnp.array([[9.0, -2.0]])
  where = jnp.array([[False, True]])
  expected = np.log1p(np.exp(-1)) + np.log1p(np.exp(-2))
  loss = sequential.next_item_loss(positive, negative, where)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  assert sequential.next_item_loss(positive, negative, where & False) == 0


def test_the_gradient_is_finite_and_leaves_padding_alone():
  model = make_model(num_blocks=1)
  graphdef, params = nnx.split(model)
  items = jnp.stack([jnp.asarray(SEQUENCES)] * 3)
  users = jnp.stack([jnp.asarray(OWNERS)[:, None]] * 2)

  @jax.jit
  def loss(params):
    model = nnx.merge(graphdef, params)
    return model.loss(items, users, items[0] > 0, l2=0.1)

  (total, value), gradients = jax.value_and_grad(loss, has_aux=True)(params)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  assert not np.any(gradients["items"]["embedding"][...][0])
  assert np.any(gradients["users"]["embedding"][...][3])
  norms = sum(
    np.sum(values_of(model.items.embedding)[row] ** 2)
    for row in SEQUENCES[SEQUENCES > 0]
  )
  own = np.sum(values_of(model.users.embedding)[OWNERS] ** 2) / len(OWNERS)
  number = np.sum(SEQUENCES > 0)
  np.testing.assert_allclose(
    total - value, 0.1 * (3 * norms / number + own), rtol=1e-3
  )


def test_rows_are_composed_once_where_ids_are_many():
  layer = nn.LowRankEmbed(6, 4, rank=2, rngs=nnx.Rngs(0))
  ids = jnp.arange(40).reshape(5, 8) % 6
  vectors = sequential.look_up(layer, ids)
  np.testing.assert_allclose(vectors, layer(ids), rtol=1e-6)
  assert vectors.shape == (5, 8, 4)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_has_its_rate_and_keeps_the_mean(rate):
  ones = jnp.ones((301, 33))
  dropped = np.asarray(attention.byte_dropout(jax.random.key(0), ones, rate))
  np.testing.assert_allclose(np.mean(dropped == 0), rate, atol=0.015)
  np.testing.assert_allclose(dropped.mean(), 1, atol=0.02)
  assert len(np.unique(dropped)) == 2


def test_dropout_may_do_nothing():
  ones = jnp.ones((3, 3))
  assert attention.byte_dropout(None, ones, 0.5) is ones
  assert attention.byte_dropout(jax.random.key(0), ones, 0.0) is ones


def test_heads_must_divide_the_width():
  with pytest.raises(ValueError, match="`num_heads`"):
    make_model(num_heads=3)


@pytest.mark.parametrize("module", [attention, sequential])
def test_examples_of_the_docstrings(module):
  flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
  result = doctest.testmod(module, optionflags=flags)
  assert result.attempted
  assert not result.failed
