"""Tests of layers that go on from a table."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax import numpy as jnp

from anchor_codes import nn, tables
from anchor_codes.tables import parts

V, FEATURES = 12, 6


def floats(*shape, seed=0):
  values = np.random.default_rng(seed).standard_normal(shape)
  return values.astype(np.float32)


def code_table(composition, *, positions=3, bias=False, seed=0):
  width, size = (2, FEATURES) if composition == "concat" else (FEATURES, 4)
  codes = np.random.default_rng(seed).integers(0, size, (V, 3))
  arrays = {}
  if composition in ("linear", "mlp"):
    arrays["projection"] = floats(width, FEATURES, seed=1)
  if composition == "mlp":
    arrays["biases"] = floats(2, width, seed=3)
    arrays["kernels"] = floats(1, width, width, seed=4)
  if composition == "lstm":
    arrays = {
      "projection": floats(5, FEATURES, seed=1),
      "kernels": floats(width + 5, 20, seed=2),
      "biases": floats(20, seed=3),
      "states": floats(2, 5, seed=4),
    }
  if bias:
    arrays["bias"] = floats(FEATURES, seed=5)
  books = floats(positions, size, width, seed=6)
  return tables.CodeTable.from_codes(
    codes, books, composition=composition, **arrays
  )


def slots(rows=None):
  rows = floats(V, 3) if rows is None else rows
  indices = np.random.default_rng(0).integers(0, 5, (V, 3))
  return tables.AnchorTable(floats(5, FEATURES), weights=rows, indices=indices)


def masked():
  transform = floats(V, 40) * (np.random.default_rng(0).random((V, 40)) < 0.1)
  transform[0, :9] = 1
  table = tables.AnchorTable.from_transform(floats(40, FEATURES), transform)
  assert table.masks is not None
  return table


def low_rank():
  return tables.AnchorTable(floats(2, FEATURES), weights=floats(V, 2))


CASES = {
  "anchors": (nn.AnchorEmbed, slots),
  "masked anchors": (nn.AnchorEmbed, masked),
  "dense anchors": (nn.AnchorEmbed, low_rank),
  "low rank": (nn.LowRankEmbed, low_rank),
  "projected": (
    nn.LowRankEmbed,
    lambda: tables.ProjectedTable(
      tables.DenseTable.from_dense(floats(V, 2), dtype="int8"),
      projection=floats(2, FEATURES),
    ),
  ),
}
for number, composition in enumerate(
  ("concat", "sum", "linear", "mlp", "lstm")
):
  # Each layer with a bias where the other one has none.
  for layer, bias in (
    (nn.KDEmbed, bool(number % 2)),
    (nn.FixedCodeEmbed, not number % 2),
  ):
    CASES[f"{layer.__name__} {composition}"] = (
      layer,
      lambda name=composition, bias=bias: code_table(name, bias=bias),
    )
CASES["FixedCodeEmbed shared"] = (
  nn.FixedCodeEmbed,
  lambda: code_table("sum", positions=1, bias=True),
)


@pytest.mark.parametrize("name", CASES)
def test_the_vectors_are_those_of_the_table(name):
  layer, make = CASES[name]
  table = make()
  embed = layer.from_table(table)
  assert isinstance(embed, layer)
  dense = table.to_dense()
  np.testing.assert_allclose(
    embed.to_table().to_dense(), dense, rtol=1e-5, atol=1e-5
  )
  vectors = embed(jnp.arange(V))
  assert vectors.dtype == jnp.float32
  np.testing.assert_allclose(vectors, dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.KDEmbed, nn.FixedCodeEmbed])
def test_codes_stay(layer):
  table = code_table("linear")
  embed = layer.from_table(table)
  np.testing.assert_array_equal(embed.codes(), table.codes)
  np.testing.assert_array_equal(embed.to_table().packed, table.packed)


def test_the_margin_is_that_of_the_logits():
  embed = nn.KDEmbed.from_table(code_table("sum"), margin=0.25)
  logits = np.sort(embed.logits[...], axis=-1)
  assert (logits[..., -1] == 0.25).all()
  assert not logits[..., :-1].any()


def test_options_are_those_of_the_layer():
  embed = nn.KDEmbed.from_table(
    code_table("sum"),
    relaxation="gumbel",
    temperature=0.5,
    param_dtype=jnp.bfloat16,
    rngs=nnx.Rngs(3),
  )
  assert embed.relaxation == "gumbel"
  assert embed.norm is None
  assert embed.codebooks[...].dtype == embed.logits[...].dtype == jnp.bfloat16
  low = nn.LowRankEmbed.from_table(low_rank(), dtype=jnp.float16)
  assert low(jnp.array([0])).dtype == jnp.float16


def test_rows_stay_rows():
  for name in ("anchors", "dense anchors", "low rank", "KDEmbed sum"):
    layer, make = CASES[name]
    rows = nnx.state(layer.from_table(make()), nn.is_row)
    assert jax.tree.leaves(rows), name
    assert all(len(leaf) == V for leaf in jax.tree.leaves(rows)), name


@pytest.mark.parametrize(
  ("layer", "table", "text"),
  [
    (
      nn.AnchorEmbed,
      code_table("sum"),
      "AnchorTable for AnchorEmbed, got Code",
    ),
    (nn.KDEmbed, low_rank(), "CodeTable for KDEmbed, got AnchorTable"),
    (nn.FixedCodeEmbed, low_rank(), "CodeTable for FixedCodeEmbed"),
    (nn.LowRankEmbed, slots(), "got sparse ones: load it by"),
  ],
)
def test_other_tables_are_refused(layer, table, text):
  with pytest.raises(ValueError, match=text):
    layer.from_table(table)


def test_bad_options_are_refused():
  with pytest.raises(ValueError, match="`margin` must be positive"):
    nn.KDEmbed.from_table(code_table("sum"), margin=0.0)
  with pytest.raises(ValueError, match="`output_norm` must be False"):
    nn.KDEmbed.from_table(code_table("sum"), output_norm=True)


@pytest.mark.parametrize(
  "name",
  [
    "anchors",
    "low rank",
    "KDEmbed concat",
    "FixedCodeEmbed concat",
  ],
)
def test_the_original_is_distilled_in_place(name):
  layer, make = CASES[name]
  table = make()
  original = table.to_dense() + 0.3 * floats(V, FEATURES, seed=9)
  embed = nn.GuidedEmbed(
    layer.from_table(table), guide=original, rngs=nnx.Rngs(0)
  )
  graphdef, params, rest = nnx.split(embed, nnx.Param, ...)
  optimizer = optax.adam(1e-2)
  ids = jnp.arange(V)

  def loss_of(params):
    return nnx.merge(graphdef, params, rest).auxiliary_loss(ids)

  @jax.jit
  def step(params, state):
    loss, gradients = jax.value_and_grad(loss_of)(params)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(params, updates), state, loss

  state, losses = optimizer.init(params), []
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    for _ in range(12):
      params, state, loss = step(params, state)
      losses.append(float(loss))
  assert losses[-1] < 0.95 * losses[0]
  # The first loss is the error of the table itself.
  error = np.mean((table.to_dense() - original) ** 2)
  np.testing.assert_allclose(
    losses[0] / embed.weights.vectors, error, rtol=1e-3
  )


def test_slots_of_masks_hold_the_same_weights():
  table = masked()
  found = parts.anchor_slots(table)
  dense = np.zeros((V, 40), np.float32)
  for row in range(V):
    np.add.at(dense[row], found.indices[row], found.weights[row])
  np.testing.assert_array_equal(dense, table.to_transform())
