"""Tests of the guidance of a layer by a full table, for both Flax APIs."""

import chex
import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest
from flax import nnx

from anchor_codes import linen, nn, ops

V, F = layers.V, layers.F
OPTIONS = {"code_length": 4, "codebook_size": 4}
AUTOENCODING = ops.GuidanceWeights(10.0, 3.0, 2.0)


def make(student="kd_sum", *, guide=None, **options):
  rngs = nnx.Rngs(params=3, guidance=4)
  embed = layers.make(student)
  return nn.GuidedEmbed(embed, guide=guide, **options, rngs=rngs)


def given_table():
  return layers.normal(V, F, seed=5)


# Compiled, because op by op JAX would compile each primitive.
auxiliary_loss = jax.jit(lambda layer, ids: layer.auxiliary_loss(ids))


def gradients_of(layer, ids, targets):
  return nnx.to_pure_dict(layers.jitted_train_loss(layer, ids, targets)[1])


def test_out_of_training_there_is_only_the_embedding():
  layer = make(rate=1.0)
  layer.eval()
  student = layers.make("kd_sum")
  student.eval()
  ids, query = layers.random_ids(2, 3), layers.normal(2, F)
  np.testing.assert_array_equal(
    layers.lookup(layer, ids), layers.lookup(student, ids)
  )
  np.testing.assert_array_equal(
    layers.attend(layer, query), layers.attend(student, query)
  )
  np.testing.assert_array_equal(layer.codes(), student.codes())
  tables = layer.to_table(), student.to_table()
  assert tables[0].metadata == tables[1].metadata
  chex.assert_trees_all_equal(*[table.tensors for table in tables])


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_in_training_the_rate_chooses_the_table(rate):
  layer, ids = make(rate=rate), layers.random_ids(5)
  expected = layers.lookup(layers.make("kd_sum"), ids)
  if rate:
    expected = np.asarray(layer.guide[...])[ids]
  np.testing.assert_allclose(layers.lookup(layer, ids), expected, rtol=1e-6)


def test_both_learn_online_and_the_table_not_from_the_guidance():
  ids, targets = layers.random_ids(40), layers.normal(40, F)
  with_task = gradients_of(make(), ids, targets)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(with_task))
  layer = make(rate=0.0)
  only_guidance = gradients_of(layer, ids, targets)
  np.testing.assert_array_equal(only_guidance["guide"], np.zeros((V, F)))
  assert np.abs(only_guidance["embed"]["codebooks"]).max() > 0


def test_a_given_table_has_no_gradient_and_is_not_looked_up():
  layer = make(guide=given_table())
  student, ids = layers.make("kd_sum"), layers.random_ids(5)
  assert "guide" not in gradients_of(layer, ids, layers.normal(5, F))
  vectors = np.asarray(layers.lookup(student, ids))
  np.testing.assert_array_equal(layers.lookup(layer, ids), vectors)
  expected = np.mean(np.square(vectors - given_table()[ids]))
  np.testing.assert_allclose(auxiliary_loss(layer, ids), expected, rtol=1e-5)


def test_the_embedding_keeps_what_it_adds_itself():
  embed = layers.make("dpq_nearest")
  own = auxiliary_loss(embed, layers.ALL)
  layer = make(
    "dpq_nearest", guide=given_table(), weights=ops.GuidanceWeights(0.0)
  )
  np.testing.assert_allclose(auxiliary_loss(layer, layers.ALL), own, rtol=1e-6)


def test_the_guidance_moves_no_moments():
  layer = make(guide=given_table())
  before = np.array(layer.embed.norm.mean[...])

  @jax.jit
  def moments_after(layer):
    layer.auxiliary_loss(layers.ALL)
    return layer.embed.norm.mean[...]

  np.testing.assert_array_equal(moments_after(layer), before)


def test_guidance_finds_codes_of_a_table_that_has_some():
  # Four groups of equal rows, of which one digit would tell two apart.
  guide = layers.normal(4, F)[np.arange(V) % 4]
  layer = make(guide=guide, weights=ops.GuidanceWeights(1.0))
  graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

  @jax.jit
  def step(params, rest):
    def loss_fn(params):
      model = nnx.merge(graphdef, params, rest, copy=True)
      model(layers.ALL)  # Moves the moments.
      return model.auxiliary_loss(layers.ALL), nnx.state(
        model, nnx.Not(nnx.Param)
      )

    (loss, rest), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    return jax.tree.map(lambda p, g: p - 3 * g, params, grads), rest, loss

  losses = []
  for _ in range(400):
    params, rest, loss = step(params, rest)
    losses.append(float(loss))
  assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("student", ["kd_linear", "kd_gumbel"])
def test_an_auto_encoder_learns_from_all_of_its_parts(student):
  layer = make(student, guide=given_table(), weights=AUTOENCODING)
  gradients = gradients_of(layer, layers.ALL, layers.normal(V, F))
  for leaf in jax.tree.leaves(gradients):
    assert np.isfinite(leaf).all()
    assert np.abs(leaf).max() > 0
  assert gradients["encoder"]["kernel"].shape == (F, 4, 4)


@pytest.mark.parametrize(
  ("student", "is_given"), [("kd_sum", True), ("anchors_sparse", False)]
)
def test_rows_of_a_batch_are_trained_and_written_back(student, is_given):
  guide = given_table() if is_given else None
  layer = make(student, guide=guide, rate=0.0)
  layer.eval()  # The moments of a batch are not those of the table.
  ids = jnp.array([7, 3, V, V + 1])
  before = np.asarray(layers.lookup(layer, layers.ALL))
  table = np.array(layer.guide[...])
  selected = nn.select_rows(layer, ids)
  vectors = layers.lookup(selected, np.arange(2))
  np.testing.assert_allclose(vectors, before[[7, 3]], atol=1e-6)
  np.testing.assert_array_equal(selected.guide[:2], table[[7, 3]])
  rows = nnx.state(selected, nn.is_trained_row)
  assert len(jax.tree.leaves(rows)) == 1 + (not is_given)
  nnx.update(selected, jax.tree.map(lambda leaf: leaf + 1, rows))
  nn.write_rows(layer, ids, selected)
  moved = np.flatnonzero((np.asarray(layer.guide[...]) != table).any(axis=1))
  np.testing.assert_array_equal(moved, [] if is_given else [3, 7])


def test_padding_does_not_count():
  layer = make(guide=given_table(), weights=AUTOENCODING)
  ids, padded = np.array([3, 5]), np.array([3, 5, V + 1])
  np.testing.assert_allclose(
    auxiliary_loss(layer, padded), auxiliary_loss(layer, ids), rtol=1e-5
  )


@pytest.mark.parametrize(
  ("is_given", "options"),
  [
    (False, {"rate": 0.0}),
    (False, {"rate": 1.0}),
    (True, {"weights": AUTOENCODING}),
  ],
)
def test_linen_agrees(is_given, options):
  guide = given_table() if is_given else None
  layer = make(guide=guide, **options)
  twin = linen.GuidedEmbed(
    linen.KDEmbed(V, F, **OPTIONS), guide=guide, **options
  )
  variables = layers.variables_of(layer)
  if is_given:
    variables["given"] = {"guide": jnp.asarray(guide)}
  ids, targets = layers.random_ids(6), layers.normal(6, F)
  (loss, vectors, _), gradients = layers.jitted_train_loss(layer, ids, targets)
  others = {name: variables[name] for name in variables if name != "params"}

  def loss_fn(params):
    state = {"params": params, **others}
    rngs = {"guidance": jax.random.key(0)}
    vectors, _ = twin.apply(state, ids, rngs=rngs, mutable="batch_stats")
    auxiliary = twin.apply(state, ids, method="auxiliary_loss")
    return jnp.mean(jnp.square(vectors - targets)) + auxiliary, vectors

  (twin_loss, twin_vectors), twin_gradients = jax.jit(
    jax.value_and_grad(loss_fn, has_aux=True)
  )(variables["params"])
  expected = loss, vectors, nnx.to_pure_dict(gradients)
  found = twin_loss, twin_vectors, twin_gradients
  chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)
  table = twin.apply(variables, method="to_table")
  layer.eval()
  assert table.metadata == layer.to_table().metadata


@pytest.mark.parametrize("api", ["nnx", "linen"])
@pytest.mark.parametrize(
  ("student", "options", "message"),
  [
    ("KDEmbed", {"rate": 1.5}, "`rate` must be between 0 and 1, got 1.5"),
    (
      "KDEmbed",
      {"guide": np.zeros((V + 1, F))},
      r"shape \(20, 8\) .*\(21, 8\)",
    ),
    ("KDEmbed", {"guide": np.full((V, F), np.nan)}, "finite, got 20 rows"),
    ("KDEmbed", {"weights": AUTOENCODING}, "need a `guide` .* no guide"),
    (
      "DPQEmbed",
      {"weights": AUTOENCODING, "guide": np.zeros((V, F))},
      "`embed` of KDEmbed, got DPQEmbed",
    ),
  ],
)
def test_bad_options_are_refused(api, student, options, message):
  def build():
    if api == "nnx":
      embed = getattr(nn, student)(V, F, **OPTIONS, rngs=nnx.Rngs(0))
      return nn.GuidedEmbed(embed, **options, rngs=nnx.Rngs(0))
    twin = linen.GuidedEmbed(
      getattr(linen, student)(V, F, **OPTIONS), **options
    )
    return jax.eval_shape(twin.init, jax.random.key(0), jnp.arange(2))

  with pytest.raises(ValueError, match=message):
    build()
