"""The laws that every embedding keeps; a new one is a row in `layers.LAYERS`."""

import json

import chex
import jax
import jax.numpy as jnp
import layers
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from layers import ALL, LAYERS, F, V

from anchor_codes import accounting, nn, tables, training
from anchor_codes.ops import anchors, relaxations

BATCH_SHAPES = ((), (4,), (2, 3), (0,))
OUTSIDE = (-1, V, V + 5)

every_layer = pytest.mark.parametrize("name", LAYERS)
compact_layers = pytest.mark.parametrize("name", layers.names("is_compact"))
smooth_layers = pytest.mark.parametrize(
  "name", layers.names(but="straight_through")
)
straight_through_layers = pytest.mark.parametrize(
  "name", layers.names("straight_through")
)
normalized_layers = pytest.mark.parametrize("name", layers.names("has_norm"))
layers_with_rows = pytest.mark.parametrize("name", layers.names("has_rows"))


def assert_same(first, second):
  """Asserts that two trees are equal, bit for bit."""
  chex.assert_trees_all_equal(first, second)


def assert_close(first, second, *, rtol=1e-5, atol=1e-6):
  """Asserts that two trees are equal up to the order of sums."""
  chex.assert_trees_all_close(first, second, rtol=rtol, atol=atol)


is_trained_row = nnx.All(nn.is_row, nnx.Param)


def params_of(layer):
  return nnx.to_pure_dict(nnx.state(layer, nnx.Param))


@every_layer
def test_any_batch_shape_gives_the_rows_of_the_table(name):
  layer, dense = layers.make_eval(name), layers.dense(name)
  assert dense.shape == (V, F)
  assert len(np.unique(dense, axis=0)) > 1
  for shape in BATCH_SHAPES:
    ids = layers.random_ids(*shape)
    vectors = layers.lookup(layer, ids)
    chex.assert_shape(vectors, (*shape, F))
    assert vectors.dtype == np.float32
    assert_close(vectors, dense[ids])


@every_layer
@pytest.mark.parametrize("shape", BATCH_SHAPES)
def test_types_are_what_was_asked_for(name, shape):
  ids = layers.random_ids(*shape)
  for dtypes, expected in (
    ({}, jnp.float32),
    ({"dtype": jnp.bfloat16}, jnp.bfloat16),
    ({"param_dtype": jnp.bfloat16}, jnp.bfloat16),
    ({"dtype": jnp.float32, "param_dtype": jnp.bfloat16}, jnp.float32),
  ):
    layer = layers.make(name, **dtypes)
    vectors = jax.eval_shape(layers.lookup, layer, ids)
    assert vectors == jax.ShapeDtypeStruct((*shape, F), expected)
    param_dtype = dtypes.get("param_dtype", jnp.float32)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(params_of(layer))}
    assert kinds == {jnp.dtype(param_dtype)}


@every_layer
def test_bfloat16_vectors_are_rounded_ones(name):
  rounded = layers.lookup(layers.make_eval(name, dtype=jnp.bfloat16), ALL)
  assert_close(rounded.astype(jnp.float32), layers.dense(name), rtol=1 / 128)


@every_layer
def test_jit_changes_nothing_and_traces_once(name):
  layer = layers.make(name)
  chex.clear_trace_counter()
  traced_once = jax.jit(
    chex.assert_max_traces(lambda layer, ids: layer(ids), n=1)
  )
  for seed in range(3):
    ids = layers.random_ids(2, 3, seed=seed)
    # Eagerly last: it moves the moments, and draws from the noise.
    assert_close(traced_once(layer, ids), layer(ids))
    params = nnx.state(layer, nnx.Param)
    nnx.update(layer, jax.tree.map(lambda leaf: 1.5 * leaf, params))


@every_layer
def test_vmap_is_a_loop(name):
  layer, ids = layers.make(name), layers.random_ids(3, 4)
  mapped = jax.jit(jax.vmap(lambda layer, ids: layer(ids), (None, 0)))
  loop = [layers.lookup(layer, row) for row in ids]
  assert_close(mapped(layer, ids), jnp.stack(loop))


@every_layer
def test_attend_is_the_product_with_the_table(name):
  layer, dense = layers.make_eval(name), layers.dense(name)
  for shape in ((), (2, 3), (0,)):
    query = layers.normal(*shape, F)
    scores = layers.attend(layer, query)
    chex.assert_shape(scores, (*shape, V))
    assert_close(scores, query @ dense.T)


@smooth_layers
def test_gradients_agree_with_finite_differences(name):
  layer, step = layers.make(name), 1e-2
  ids, targets = layers.random_ids(V), layers.normal(V, F)
  run = layers.jitted_train_loss
  _, gradients = run(layer, ids, targets)
  params = nnx.state(layer, nnx.Param)
  leaves, tree = jax.tree.flatten(params)
  for number, gradient in enumerate(jax.tree.leaves(gradients)):
    direction = layers.normal(*gradient.shape, seed=number)
    losses = []
    for sign in (1, -1):
      moved = list(leaves)
      moved[number] += sign * step * direction
      nnx.update(layer, jax.tree.unflatten(tree, moved))
      losses.append(run(layer, ids, targets)[0][0])
    slope = (losses[0] - losses[1]) / (2 * step)
    assert_close(slope, jnp.sum(direction * gradient), rtol=1e-2, atol=1e-4)


@straight_through_layers
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
    assert jnp.max(jnp.abs(leaf)) > 1e-6


@every_layer
@pytest.mark.parametrize("factor", [0.0, 1.0, 1e4])
def test_gradients_are_finite_at_the_edges(name, factor):
  layer = layers.make(name, **LAYERS[name].edge)
  params = nnx.state(layer, nnx.Param)
  nnx.update(layer, jax.tree.map(lambda leaf: factor * leaf, params))
  ids = np.full(V, 3, np.int32)
  results = layers.jitted_train_loss(layer, ids, layers.normal(V, F))
  for leaf in jax.tree.leaves(results):
    if jnp.issubdtype(leaf.dtype, jnp.floating):
      assert jnp.isfinite(leaf).all()


@compact_layers
def test_linen_agrees(name, monkeypatch):
  # The same noise for both, whose keys come from different streams.
  perturb, key = relaxations.perturb_logits, jax.random.key(3)
  monkeypatch.setattr(
    relaxations, "perturb_logits", lambda _, logits: perturb(key, logits)
  )
  layer, twin = layers.make(name), layers.make_twin(name)
  variables = layers.variables_of(layer)
  ids, targets = layers.random_ids(V), layers.normal(V, F)
  is_noisy = name == "kd_gumbel"  # Then what is compiled has other noise.
  run = layers.train_loss if is_noisy else layers.jitted_train_loss
  (loss, vectors, rest), gradients = run(layer, ids, targets)
  twin_run = jax.jit(lambda *args: layers.twin_loss(twin, *args))
  results, twin_gradients = twin_run(variables, ids, targets)
  assert_close(results[:2], (loss, vectors))
  assert_close(twin_gradients, nnx.to_pure_dict(gradients))
  stats = nnx.to_pure_dict(nnx.filter_state(rest, nnx.BatchStat))
  assert_close(results[2].get("batch_stats", {}), stats)


@compact_layers
def test_linen_agrees_out_of_training(name):
  layer = layers.make_eval(name)
  variables = layers.variables_of(layer)
  options = {"deterministic": True} if LAYERS[name].straight_through else {}
  twin = layers.make_twin(name, **options)

  @jax.jit
  def run(variables, ids, query):
    vectors = twin.apply(variables, ids)
    return vectors, twin.apply(variables, query, method="attend")

  query = layers.normal(2, 3, F)
  expected = layers.dense(name), layers.attend(layer, query)
  assert_close(run(variables, ALL, query), expected)
  table = twin.apply(variables, method="to_table")
  assert table.metadata == layer.to_table().metadata
  assert_same(table.tensors, layer.to_table().tensors)


@every_layer
def test_the_table_looks_up_what_the_layer_does(name):
  layer = layers.make_eval(name)
  table = nn.to_table(layer)
  ids = layers.random_ids(2, 3)
  assert_close(table.lookup(ids), layers.dense(name)[ids])
  if LAYERS[name].straight_through:
    assert_same(table.codes, np.asarray(layer.codes()))


@every_layer
def test_a_saved_table_is_the_same_to_the_byte(name, tmp_path):
  table, paths = (
    nn.to_table(layers.make_eval(name)),
    (tmp_path / n for n in "ab"),
  )
  first, second = paths
  table.save(first)
  loaded = tables.load(first)
  loaded.save(second)
  assert first.read_bytes() == second.read_bytes()
  assert_same(loaded.lookup(ALL), table.lookup(ALL))


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


@layers_with_rows
def test_selected_rows_are_rows_of_the_table(name):
  layer, dense = layers.make_eval(name), layers.dense(name)
  selected = nn.select_rows(layer, jnp.array([7, 3, V, V]))
  vectors = layers.lookup(selected, np.arange(4))
  assert_close(vectors[:2], dense[np.array([7, 3])])
  assert jnp.isfinite(vectors).all()


@layers_with_rows
def test_writing_back_what_was_selected_changes_nothing(name):
  layer, dense = layers.make_eval(name), layers.dense(name)
  before = jax.tree.map(np.asarray, layers.variables_of(layer))
  ids = jnp.array([7, V, 3, V])
  selected = nn.select_rows(layer, ids)
  rows = nnx.state(selected, is_trained_row)
  padding = jax.tree.map(lambda leaf: leaf.at[jnp.array([1, 3])].set(9.0), rows)
  nnx.update(selected, padding)
  nn.write_rows(layer, ids, selected)
  # Sparse rows come back in the order of their weights.
  if name != "anchors_sparse":
    assert_same(layers.variables_of(layer), before)
  assert_close(layers.lookup(layer, ALL), dense)


@pytest.mark.parametrize("name", ["hash", "qr_product"])
def test_layers_without_rows_cannot_be_selected(name):
  with pytest.raises(ValueError, match="Embed has no rows to select"):
    nn.select_rows(layers.make(name), jnp.array([1]))


def sgd(layer, ids, targets):
  """Takes a step of SGD on the rows, and on nothing else."""
  (*_, rest), gradients = layers.train_loss(layer, ids, targets)
  rows = nnx.state(layer, is_trained_row)
  gradients = nnx.filter_state(gradients, is_trained_row)
  nnx.update(layer, jax.tree.map(lambda p, g: p - g, rows, gradients))
  nnx.update(layer, nnx.filter_state(rest, nnx.BatchStat))


@jax.jit
def row_sparse_step(layer, ids, targets):
  unique, inverse = training.unique_ids(ids, num_embeddings=V)
  selected = nn.select_rows(layer, unique)
  sgd(selected, inverse, targets)
  nn.write_rows(layer, unique, selected)
  return nnx.state(layer)


@jax.jit
def dense_step(layer, ids, targets):
  sgd(layer, ids, targets)
  return nnx.state(layer)


@layers_with_rows
def test_a_row_sparse_step_is_a_dense_step(name):
  layer = layers.make(name)
  ids, targets = layers.random_ids(12), 5 * layers.normal(12, F)
  sparse = row_sparse_step(layer, ids, targets)
  if name == "anchors_sparse":
    expected = projected_step(layer, ids, targets)
    # The order within a row is free.
    rows = anchors.SparseRows(sparse["indices"][...], sparse["weights"][...])
    assert_close(anchors.expand_rows(rows, num_anchors=6), expected)
    return
  expected = dense_step(layer, ids, targets)
  assert_close(
    nnx.to_pure_dict(
      nnx.filter_state(sparse, nnx.Any(nnx.Param, nnx.BatchStat))
    ),
    nnx.to_pure_dict(
      nnx.filter_state(expected, nnx.Any(nnx.Param, nnx.BatchStat))
    ),
  )


def projected_step(layer, ids, targets):
  """A step on dense rows, of which those of the batch are made sparse again."""
  whole = layer.select(jnp.arange(V))
  before = whole.transform[...]
  after = dense_step(whole, ids, targets)["transform"][...]
  nearest = anchors.project_rows(after, num_nonzeros=3)
  nearest = anchors.expand_rows(nearest, num_anchors=6)
  touched = np.isin(ALL, ids)[:, None]
  assert jnp.any((before == 0) & (nearest != 0) & touched)  # A new anchor.
  return jnp.where(touched, nearest, before)


@every_layer
def test_the_loss_falls(name):
  layer, targets = layers.make(name), layers.normal(V, F)
  optimizer = optax.adam(0.03)
  params = nnx.state(layer, nnx.Param)
  state = optimizer.init(params)

  @jax.jit
  def update(gradients, state, params):
    with jax.numpy_dtype_promotion("standard"):  # Optax relies on it.
      updates, state = optimizer.update(gradients, state, params)
      return optax.apply_updates(params, updates), state

  errors = []
  for _ in range(50):
    (_, vectors, rest), gradients = layers.jitted_train_loss(
      layer, ALL, targets
    )
    params, state = update(gradients, state, params)
    nnx.update(layer, params, rest)
    errors.append(jnp.mean(jnp.square(vectors - targets)))
  assert np.mean(errors[-5:]) < 0.75 * errors[0]


@compact_layers
@pytest.mark.parametrize("bad", OUTSIDE)
def test_an_id_outside_the_table_is_named(name, bad):
  layer = layers.make(name)
  text = (
    rf"id {bad} at position \(0, 1\) is out of range for a table of 20 rows"
  )
  for call in (layer, layer.auxiliary_loss):
    if call == layer or name.startswith("dpq_n"):
      with pytest.raises(IndexError, match=text):
        call([[0, bad], [bad, 0]])


@every_layer
def test_ids_that_are_not_integers_are_refused(name):
  layer = layers.make(name)
  for run in (layer, jax.jit(layer)):
    with pytest.raises(ValueError, match="integer"):
      run(jnp.array([0.0, 1.0]))


@compact_layers
def test_an_id_outside_the_table_is_nan_under_jit(name):
  ids = np.array([3, *OUTSIDE, 8])
  vectors = layers.lookup(layers.make_eval(name), ids)
  assert jnp.isnan(vectors[1:-1]).all()
  assert_close(vectors[::4], layers.dense(name)[ids[::4]])


@normalized_layers
def test_an_id_outside_the_table_leaves_the_others_alone(name):
  layer = layers.make(name)
  ids, targets = layers.random_ids(V), layers.normal(V, F)
  padded = np.concatenate([ids, OUTSIDE])
  run = layers.jitted_train_loss
  (_, expected, rest), _ = run(layer, ids, targets)
  padded_targets = jnp.concatenate([targets, layers.normal(3, F)])
  (_, vectors, padded_rest), _ = run(layer, padded, padded_targets)
  if name != "kd_gumbel":  # Noise of another shape is another noise.
    assert_close(vectors[:V], expected)
  stats = [nnx.filter_state(s, nnx.BatchStat) for s in (rest, padded_rest)]
  assert_close(*stats)


@every_layer
def test_two_devices_are_one(name):
  layer, rows = layers.make(name), PartitionSpec("data")
  ids, targets = layers.random_ids(V), layers.normal(V, F)
  mesh = training.data_mesh(jax.devices()[:2])
  split = jax.device_put((ids, targets), NamedSharding(mesh, rows))
  replicated = jax.device_put(layer, NamedSharding(mesh, PartitionSpec()))
  run = layers.jitted_train_loss
  (loss, vectors, _), gradients = run(replicated, *split)
  assert len(vectors.sharding.device_set) == 2
  (expected_loss, expected, _), expected_gradients = run(layer, ids, targets)
  assert_close((loss, vectors), (expected_loss, expected))
  assert_close(gradients, expected_gradients)
