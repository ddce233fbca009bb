"""The laws of every embedding; a new one is a row in `layers.LAYERS`."""

import json

import chex
import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from layers import ALL, LAYERS, F, V

from anchor_codes import accounting, nn, tables, training
from anchor_codes.ops import anchors, relaxations

OUTSIDE = (-1, V, V + 5)


def laws_of(names):
  return pytest.mark.parametrize("name", names)


every_layer = laws_of(LAYERS)
compact_layers = laws_of(layers.names("is_compact"))
smooth_layers = laws_of(layers.names(but="straight_through"))
estimated_layers = laws_of(layers.names("straight_through"))
normalized_layers = laws_of(layers.names("has_norm"))
layers_with_rows = laws_of(layers.names("has_rows"))
layers_without_rows = laws_of(layers.names(but="has_rows"))

is_trained_row = nnx.All(nn.is_row, nnx.Param)


def assert_close(first, second, *, rtol=1e-5, atol=1e-6):
  """Asserts that two trees are equal up to the order of sums."""
  chex.assert_trees_all_close(first, second, rtol=rtol, atol=atol)


def params_of(layer):
  return nnx.to_pure_dict(nnx.state(layer, nnx.Param))


def scale_params(layer, factor):
  params = nnx.state(layer, nnx.Param)
  # In NumPy, because JAX would compile for each shape.
  scale = lambda leaf: jnp.asarray(np.float32(factor) * np.asarray(leaf))
  nnx.update(layer, jax.tree.map(scale, params))


@every_layer
def test_a_batch_gives_the_rows_of_the_table(name):
  dense, ids = layers.dense(name), layers.random_ids(2, 3)
  assert dense.shape == (V, F)
  assert len(np.unique(dense, axis=0)) > 1
  assert_close(layers.lookup(layers.make_eval(name), ids), dense[ids])


@every_layer
@pytest.mark.parametrize(
  ("dtypes", "expected"),
  [
    ({}, jnp.float32),
    ({"dtype": jnp.bfloat16}, jnp.bfloat16),
    ({"param_dtype": jnp.bfloat16}, jnp.bfloat16),
    ({"dtype": jnp.float32, "param_dtype": jnp.bfloat16}, jnp.float32),
  ],
)
def test_shapes_and_types_are_what_was_asked_for(name, dtypes, expected):
  layer = nnx.eval_shape(lambda: layers.construct(name, **dtypes))
  param_dtype = dtypes.get("param_dtype", jnp.float32)
  for leaf in jax.tree.leaves(params_of(layer)):
    assert leaf.dtype == param_dtype
  # All shapes for one type, and one shape for all types.
  for shape in ((2, 0),) if dtypes else ((), (4,), (2, 3), (0,), (2, 0)):
    ids = jax.ShapeDtypeStruct(shape, np.int32)
    vectors = jax.eval_shape(lambda layer, ids: layer(ids), layer, ids)
    assert vectors == jax.ShapeDtypeStruct((*shape, F), expected)
    scores = jax.eval_shape(lambda layer, q: layer.attend(q), layer, vectors)
    assert scores == jax.ShapeDtypeStruct((*shape, V), expected)


@every_layer
def test_jit_changes_nothing_and_traces_once(name):
  layer = layers.make(name)
  start = next(layers.num_traces)
  for seed in range(3):
    ids = layers.random_ids(2, 3, seed=seed)
    # Eagerly last: it moves the moments, and draws from the noise.
    assert_close(layers.lookup(layer, ids), layer(ids))
    scale_params(layer, 1.5)
  assert next(layers.num_traces) - start <= 2


@every_layer
def test_vmap_is_a_loop(name):
  layer, ids = layers.make(name), layers.random_ids(3, 2, 3)
  mapped = jax.jit(jax.vmap(lambda layer, ids: layer(ids), (None, 0)))
  loop = np.stack([layers.lookup(layer, batch) for batch in ids])
  assert_close(mapped(layer, ids), loop)


@every_layer
def test_attend_is_the_product_with_the_table(name):
  query = layers.normal(2, 3, F)
  scores = layers.attend(layers.make_eval(name), query)
  assert_close(scores, query @ layers.dense(name).T)


@compact_layers
def test_attend_refuses_queries_of_another_width(name):
  with pytest.raises(ValueError, match=rf"must be \[..., {F}\], .* got \(3, 1"):
    layers.make(name).attend(layers.normal(3, 1))


@smooth_layers
def test_gradients_agree_with_finite_differences(name):
  layer, step = layers.make(name), np.float32(1e-2)
  ids, targets = layers.random_ids(V), layers.normal(V, F)
  run = layers.jitted_train_loss
  _, gradients = run(layer, ids, targets)
  leaves, tree = jax.tree.flatten(nnx.state(layer, nnx.Param))
  for number, gradient in enumerate(jax.tree.leaves(gradients)):
    # Not far from the gradient, for a slope well above the rounding.
    largest = np.abs(gradient).max()
    assert largest > 0
    random = layers.normal(*gradient.shape, seed=number)
    direction = np.asarray(gradient / largest) + 0.3 * random
    losses = []
    for sign in (1, -1):
      moved = [np.asarray(leaf) for leaf in leaves]
      moved[number] = moved[number] + sign * step * direction
      nnx.update(layer, jax.tree.unflatten(tree, moved))
      losses.append(float(run(layer, ids, targets)[0][0]))
    slope = (losses[0] - losses[1]) / (2 * step)
    expected = np.sum(direction * np.asarray(gradient))
    assert_close(slope, expected, rtol=1e-2)


@estimated_layers
def test_gradients_are_those_of_the_stated_estimator(name):
  layer = layers.make(name, scale=0.5)
  ids, targets = layers.random_ids(V), layers.normal(V, F)
  noise = jnp.zeros(())
  if name == "kd_gumbel":
    key = nnx.clone(layer).rngs.codes()
    noise = relaxations.perturb_logits(key, jnp.zeros((V, 4, 4)))

  @jax.jit
  @jax.value_and_grad
  def expected_loss(params):
    vectors, loss = layers.estimated_vectors(name, params, ids, noise)
    return jnp.mean(jnp.square(vectors - targets)) + loss

  expected = expected_loss(params_of(layer))
  (loss, *_), gradients = layers.jitted_train_loss(layer, ids, targets)
  assert_close((loss, nnx.to_pure_dict(gradients)), expected, rtol=1e-4)
  for leaf in jax.tree.leaves(gradients):
    assert np.abs(leaf).max() > 1e-6


@every_layer
def test_gradients_are_finite_at_the_edges(name):
  ids, targets = np.full(V, 3, np.int32), layers.normal(V, F)
  for factor in (0.0, 1.0, 1e2):
    layer = layers.make(name, **LAYERS[name].edge)
    scale_params(layer, factor)
    (loss, vectors, _), gradients = layers.jitted_train_loss(
      layer, ids, targets
    )
    chex.assert_tree_all_finite((loss, vectors, nnx.to_pure_dict(gradients)))


@compact_layers
def test_linen_agrees(name, monkeypatch):
  # The same noise for both, whose keys come from different streams.
  perturb, key = relaxations.perturb_logits, jax.random.key(3)
  monkeypatch.setattr(
    relaxations, "perturb_logits", lambda _, logits: perturb(key, logits)
  )
  layer, twin = layers.make(name), layers.make_twin(name)
  ids, targets = layers.random_ids(V), layers.normal(V, F)
  run = layers.jitted_train_loss
  if name == "kd_gumbel":  # What is compiled has another noise.
    run = jax.jit(lambda *args: layers.train_loss(*args))
  (loss, vectors, rest), gradients = run(layer, ids, targets)
  twin_run = jax.jit(lambda *args: layers.twin_loss(twin, *args))
  variables = layers.variables_of(layer)
  (*results, moved), twin_gradients = twin_run(variables, ids, targets)
  assert_close(results, [loss, vectors])
  assert_close(twin_gradients, nnx.to_pure_dict(gradients))
  stats = nnx.to_pure_dict(nnx.filter_state(rest, nnx.BatchStat))
  assert_close(moved.get("batch_stats", {}), stats)


@compact_layers
def test_linen_agrees_out_of_training(name):
  layer = layers.make_eval(name)
  options = {"deterministic": True} if LAYERS[name].straight_through else {}
  twin = layers.make_twin(name, **options)
  variables, query = layers.variables_of(layer), layers.normal(2, 3, F)

  @jax.jit
  def run(variables, ids, query):
    vectors = twin.apply(variables, ids)
    return vectors, twin.apply(variables, query, method="attend")

  expected = layers.dense(name), layers.attend(layer, query)
  assert_close(run(variables, ALL, query), expected)
  table, expected_table = (
    twin.apply(variables, method="to_table"),
    layer.to_table(),
  )
  assert table.metadata == expected_table.metadata
  chex.assert_trees_all_equal(table.tensors, expected_table.tensors)


@every_layer
def test_the_table_looks_up_what_the_layer_does(name):
  layer = layers.make_eval(name)
  table, ids = nn.to_table(layer), layers.random_ids(2, 3)
  assert_close(table.lookup(ids), layers.dense(name)[ids])
  if LAYERS[name].straight_through:
    np.testing.assert_array_equal(table.codes, layer.codes())


@every_layer
def test_a_saved_table_is_the_same_to_the_byte(name, tmp_path):
  table = nn.to_table(layers.make_eval(name))
  first, second = tmp_path / "first", tmp_path / "second"
  table.save(first)
  loaded = tables.load(first)
  loaded.save(second)
  assert first.read_bytes() == second.read_bytes()
  np.testing.assert_array_equal(loaded.lookup(ALL), table.lookup(ALL))


@every_layer
def test_bytes_are_those_of_the_file(name, tmp_path):
  table, path = nn.to_table(layers.make_eval(name)), tmp_path / "table"
  table.save(path)
  content = path.read_bytes()
  header_size = int.from_bytes(content[:8], "little")
  header = json.loads(content[8 : 8 + header_size])
  del header["__metadata__"]
  assert table.nbytes == len(content) - 8 - header_size
  assert table.nbytes == max(e["data_offsets"][1] for e in header.values())
  row = LAYERS[name]
  assert table.bits_per_row == row.row_bits
  assert table.nbytes == accounting.table_bytes(
    V, row_bits=row.row_bits, shared_bytes=4 * row.num_shared
  )


@jax.jit
def select_and_write(layer, ids):
  """Selects two rows and two of padding, spoils these, writes all back."""
  selected = nn.select_rows(layer, ids)
  vectors = selected(np.arange(4))
  rows = nnx.state(selected, is_trained_row)
  nnx.update(selected, jax.tree.map(lambda leaf: leaf.at[2:].set(9.0), rows))
  nn.write_rows(layer, ids, selected)
  return vectors, nnx.state(layer)


@layers_with_rows
def test_selected_rows_are_rows_and_go_back_as_they_came(name):
  layer, dense = layers.make_eval(name), layers.dense(name)
  vectors, written = select_and_write(layer, np.array([7, 3, V, V]))
  assert_close(vectors[:2], dense[[7, 3]])
  assert np.isfinite(vectors).all()
  before = layers.variables_of(layer)
  nnx.update(layer, written)
  assert_close(layers.lookup(layer, ALL), dense)
  # Sparse rows come back in the order of their weights.
  if name != "anchors_sparse":
    chex.assert_trees_all_equal(layers.variables_of(layer), before)


@layers_without_rows
def test_layers_without_rows_cannot_be_selected(name):
  with pytest.raises(ValueError, match="Embed has no rows to select"):
    nn.select_rows(layers.make(name), jnp.array([1]))


@jax.jit
def row_sparse_step(layer, ids, targets):
  """Takes a step of SGD that sees no more than the rows of the batch."""
  unique, inverse = training.unique_ids(ids, num_embeddings=V)
  selected = nn.select_rows(layer, unique)
  _, gradients = layers.train_loss(selected, inverse, targets)
  rows = nnx.state(selected, is_trained_row)
  gradients = nnx.filter_state(gradients, is_trained_row)
  nnx.update(selected, jax.tree.map(lambda p, g: p - g, rows, gradients))
  nn.write_rows(layer, unique, selected)
  return nnx.state(layer, nn.is_row)


def dense_step(layer, ids, targets):
  _, gradients = layers.jitted_train_loss(layer, ids, targets)
  rows = nnx.state(layer, is_trained_row)
  gradients = nnx.filter_state(gradients, is_trained_row)
  return jax.tree.map(lambda p, g: np.asarray(p) - g, rows, gradients)


@laws_of([n for n in layers.names("has_rows") if n != "anchors_sparse"])
def test_a_row_sparse_step_is_a_dense_step(name):
  layer, ids = layers.make(name), layers.random_ids(V)
  assert len(np.unique(ids)) < V - 2
  targets = 5 * layers.normal(V, F)
  sparse = row_sparse_step(layer, ids, targets)
  assert_close(sparse, dense_step(layer, ids, targets))


def test_a_row_sparse_step_of_sparse_rows_projects_a_dense_one():
  layer, ids = layers.make("anchors_sparse"), layers.random_ids(V)
  targets = 20 * layers.normal(V, F)
  sparse = row_sparse_step(layer, ids, targets)
  whole = layer.select(jnp.arange(V))
  before = np.asarray(whole.transform)
  after = dense_step(whole, ids, targets)["transform"][...]
  nearest = anchors.project_rows(after, num_nonzeros=3)
  nearest = anchors.expand_rows(nearest, num_anchors=6)
  expected = np.where(np.isin(ALL, ids)[:, None], nearest, before)
  assert ((before == 0) & (expected > 0)).any()  # Some take up a new anchor.
  rows = anchors.SparseRows(sparse["indices"][...], sparse["weights"][...])
  assert_close(anchors.expand_rows(rows, num_anchors=6), expected)


def adam_direction(gradients):
  """Computes the step of Adam (Kingma and Ba, 2015) from all gradients so far.

  In NumPy, because JAX would compile it anew for the parameters of each layer.
  """
  first = second = 0.0
  for gradient in gradients:
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
  first, second = (
    moment / (1 - decay ** len(gradients))
    for moment, decay in ((first, 0.9), (second, 0.999))
  )
  return first / (np.sqrt(second) + 1e-8)


@every_layer
def test_the_loss_falls(name):
  layer, targets = layers.make(name), layers.normal(V, F)
  leaves, tree = jax.tree.flatten(nnx.state(layer, nnx.Param))
  history, errors = [[] for _ in leaves], []
  for _ in range(50):
    (_, vectors, rest), gradients = layers.jitted_train_loss(
      layer, ALL, targets
    )
    for i, gradient in enumerate(jax.tree.leaves(gradients)):
      history[i].append(np.asarray(gradient))
      leaves[i] = np.asarray(leaves[i]) - 0.03 * adam_direction(history[i])
    nnx.update(layer, jax.tree.unflatten(tree, leaves), rest)
    errors.append(np.mean(np.square(np.asarray(vectors) - targets)))
  assert np.mean(errors[-5:]) < 0.75 * errors[0]


@compact_layers
@pytest.mark.parametrize("bad", OUTSIDE)
def test_an_id_outside_the_table_is_named(name, bad):
  text = rf"id {bad} at position \(0, 1\) is out of range for a table of {V} "
  with pytest.raises(IndexError, match=text):
    layers.make(name)([[0, bad], [bad, 0]])


@every_layer
def test_ids_that_are_not_integers_are_refused(name):
  layer = layers.make(name)
  for run in (layer, jax.jit(layer)):
    with pytest.raises(ValueError, match="integer"):
      run(np.array([0.0, 1.0]))


@compact_layers
def test_an_id_outside_the_table_is_nan_under_jit(name):
  ids = layers.random_ids(V)
  ids[3:6] = OUTSIDE
  vectors = layers.lookup(layers.make_eval(name), ids)
  is_bad = np.isin(ALL, [3, 4, 5])
  assert np.isnan(vectors[is_bad]).all()
  assert_close(vectors[~is_bad], layers.dense(name)[ids[~is_bad]])


@normalized_layers
def test_an_id_outside_the_table_leaves_the_others_alone(name):
  layer, targets = layers.make(name), layers.normal(V, F)
  # Moments do not change if everything is there twice.
  ids = layers.random_ids(V // 2)
  twice = np.concatenate([ids, ids])
  padded = np.concatenate([ids, np.resize(OUTSIDE, V // 2)])
  run = layers.jitted_train_loss
  (_, expected, rest), _ = run(layer, twice, targets)
  (_, vectors, padded_rest), _ = run(layer, padded, targets)
  assert_close(vectors[: V // 2], expected[: V // 2])
  stats = [nnx.filter_state(s, nnx.BatchStat) for s in (rest, padded_rest)]
  assert_close(*stats)


@every_layer
def test_two_devices_are_one(name):
  layer, ids, targets = (
    layers.make(name),
    layers.random_ids(V),
    layers.normal(V, F),
  )
  mesh = training.data_mesh(jax.devices()[:2])
  by_rows = NamedSharding(mesh, PartitionSpec("data"))
  split = jax.device_put((ids, targets), by_rows)
  everywhere = jax.device_put(layer, NamedSharding(mesh, PartitionSpec()))
  run = layers.jitted_train_loss
  (loss, vectors, _), gradients = run(everywhere, *split)
  assert vectors.sharding.is_equivalent_to(by_rows, vectors.ndim)
  (expected_loss, expected, _), expected_gradients = run(layer, ids, targets)
  assert_close((loss, vectors), (expected_loss, expected))
  assert_close(gradients, expected_gradients)
