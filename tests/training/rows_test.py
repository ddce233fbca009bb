"""Row-sparse training: against NumPy, and against steps on whole tables."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from anchor_codes import training

NUM_EMBEDDINGS = 12


def random_rows():
  """Rows of three shapes, all with the same first axis."""
  keys = jax.random.split(jax.random.key(0), 3)
  return {
    "weights": jax.random.normal(keys[0], (NUM_EMBEDDINGS, 4)),
    "logits": jax.random.normal(keys[1], (NUM_EMBEDDINGS, 2, 3)),
    "bias": jax.random.normal(keys[2], (NUM_EMBEDDINGS,)),
  }


def id_stream(num_steps):
  """Batches of ids with duplicates; the last ids of the table never occur."""
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.integers(0, NUM_EMBEDDINGS - 2, (num_steps, 8)))


def batch_loss(batch, positions, target):
  """A loss in which every row of a batch has a gradient of its own."""
  picked = jax.tree.map(lambda leaf: jnp.take(leaf, positions, axis=0), batch)
  squares = jax.tree.map(lambda x: jnp.sum((x - target) ** 2), picked)
  return sum(jax.tree.leaves(squares)) / positions.size


def dense_step(transformation, rows, state, ids, target):
  gradients = jax.grad(batch_loss)(rows, ids, target)
  updates, state = transformation.update(gradients, state, rows)
  return optax.apply_updates(rows, updates), state


def lazy_step(transformation, rows, state, ids, target):
  unique, inverse = training.unique_ids(ids, num_embeddings=NUM_EMBEDDINGS)
  batch = training.gather_rows(rows, unique)
  gradients = jax.grad(batch_loss)(batch, inverse, target)
  return training.update_rows(transformation, rows, state, unique, gradients)


def train(step, transformation, rows, stream):
  jitted = jax.jit(lambda *args: step_of(step, transformation, *args))
  state = transformation.init(rows)
  for number, ids in enumerate(stream):
    rows, state = jitted(rows, state, ids, jnp.float32(number % 3))
  return rows, state


def step_of(step, transformation, *args):
  # The optimisers of optax rely on promotion.
  with jax.numpy_dtype_promotion("standard"):
    return step(transformation, *args)


@hypothesis.given(
  ids=st.lists(st.integers(-20, 20), min_size=12, max_size=12),
  num_embeddings=st.sampled_from([1, 7, 15]),
)
def test_unique_ids_agree_with_numpy(ids, num_embeddings):
  ids = np.array(ids, np.int32)
  result = training.unique_ids(ids, num_embeddings=num_embeddings)
  inside = np.where((ids >= 0) & (ids < num_embeddings), ids, num_embeddings)
  size = min(ids.size, num_embeddings + 1)
  expected = np.full(size, num_embeddings)
  distinct = np.unique(inside)
  expected[: distinct.size] = distinct
  np.testing.assert_array_equal(result.ids, expected)
  np.testing.assert_array_equal(np.asarray(result.ids)[result.inverse], inside)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,), (0, 3), (2, 1, 2)])
def test_unique_ids_keep_the_shape_of_the_batch(shape):
  ids = jnp.zeros(shape, jnp.int32)
  unique = jax.jit(lambda ids: training.unique_ids(ids, num_embeddings=9))
  result = unique(ids)
  chex.assert_shape(result.inverse, shape)
  chex.assert_shape(result.ids, (ids.size,))
  chex.assert_trees_all_equal_dtypes(result.ids, jnp.int32(0))


@pytest.mark.parametrize(
  ("dtype", "ids", "expected"),
  [
    (jnp.int8, [-1, 127], [127, 300]),
    (jnp.uint8, [255, 0], [0, 255]),
    (jnp.uint32, [2**32 - 1, 5], [5, 300]),
    (jnp.int16, [-300, 299], [299, 300]),
  ],
)
def test_unique_ids_never_wrap(dtype, ids, expected):
  ids = jnp.asarray(np.array(ids, dtype))
  result = training.unique_ids(ids, num_embeddings=300)
  np.testing.assert_array_equal(result.ids, expected)


def test_unique_ids_never_wrap_64_bits():
  with jax.enable_x64(True):
    ids = jnp.array([2**40, 2**32 + 1, 3], jnp.int64)
    result = training.unique_ids(ids, num_embeddings=9)
  np.testing.assert_array_equal(result.ids, [3, 9, 9])


def test_unique_ids_make_room_for_the_sentinel():
  ids = jnp.array([0, 1, 2, -1, 7, 0, 1])
  unique, inverse = training.unique_ids(ids, num_embeddings=3)
  np.testing.assert_array_equal(unique, [0, 1, 2, 3])
  np.testing.assert_array_equal(inverse, [0, 1, 2, 3, 3, 0, 1])


def test_unique_ids_refuse_floats():
  with pytest.raises(ValueError, match="ids must be integers, got float32"):
    training.unique_ids(jnp.ones(3), num_embeddings=9)


def test_unique_ids_refuse_empty_tables():
  with pytest.raises(ValueError, match="`num_embeddings` must be at least 1"):
    training.unique_ids(jnp.zeros(3, jnp.int32), num_embeddings=0)


@pytest.mark.parametrize(
  "dtype", [jnp.float32, jnp.bfloat16, jnp.int8, jnp.uint8, jnp.int32, bool]
)
def test_gather_fills_with_zeros(dtype):
  rows = jnp.ones((3, 2), dtype)
  result = training.gather_rows(rows, jnp.array([2, 3, -1, -3, 99]))
  expected = np.zeros((5, 2))
  expected[0] = 1
  np.testing.assert_array_equal(result.astype(jnp.float32), expected)
  assert result.dtype == dtype


def test_gather_takes_ids_of_any_shape():
  rows = random_rows()
  result = training.gather_rows(rows, jnp.array([[1, 2, 3], [4, 5, 6]]))
  chex.assert_shape(result["logits"], (2, 3, 2, 3))
  chex.assert_shape(result["bias"], (2, 3))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.uint8])
def test_scatter_drops_what_is_outside(dtype):
  rows = jnp.zeros((3, 2), dtype)
  values = jnp.arange(1.0, 9.0).reshape(4, 2)
  result = training.scatter_rows(rows, jnp.array([1, 3, -1, 99]), values)
  expected = [[0, 0], [1, 2], [0, 0]]
  np.testing.assert_array_equal(result.astype(jnp.float32), expected)
  assert result.dtype == dtype


def test_scatter_undoes_gather():
  rows = random_rows()
  ids, _ = training.unique_ids(
    jnp.array([3, 3, 1, -5]), num_embeddings=NUM_EMBEDDINGS
  )
  gathered = training.gather_rows(rows, ids)
  result = training.scatter_rows(rows, ids, gathered)
  chex.assert_trees_all_equal(result, rows)


def test_gather_after_scatter_gives_the_values():
  rows, ids = random_rows(), jnp.array([2, 5, 9])
  values = jax.tree.map(
    lambda leaf: jnp.full((3, *leaf.shape[1:]), 7.0), random_rows()
  )
  result = training.gather_rows(training.scatter_rows(rows, ids, values), ids)
  chex.assert_trees_all_equal(result, values)


EXACT = {
  "sgd": lambda: optax.sgd(0.1),
  "sgd_schedule": lambda: optax.sgd(lambda count: 0.1 / (1 + count)),
  "adagrad": lambda: optax.adagrad(0.1),
  "row_adagrad": lambda: optax.chain(
    training.scale_by_row_adagrad(), optax.scale_by_learning_rate(0.1)
  ),
  "clipped_sgd": lambda: optax.chain(
    optax.clip_by_global_norm(0.5), optax.sgd(0.1)
  ),
}
LAZY = {
  "adam": lambda: optax.adam(0.1),
  "momentum": lambda: optax.sgd(0.1, momentum=0.9),
  "weight_decay": lambda: optax.chain(
    optax.add_decayed_weights(0.1), optax.sgd(0.1)
  ),
  "proximal": lambda: optax.chain(
    optax.sgd(0.1), training.proximal_l1(0.1, l1=0.1)
  ),
  "proximal_yogi": lambda: training.proximal_yogi(0.1, l1=0.01),
}


@pytest.mark.parametrize("name", EXACT)
def test_lazy_is_dense(name):
  rows, stream = random_rows(), id_stream(50)
  dense = train(dense_step, EXACT[name](), rows, stream)
  lazy = train(lazy_step, EXACT[name](), rows, stream)
  chex.assert_trees_all_close(lazy, dense, rtol=1e-5, atol=1e-6)


@pytest.fixture
def _optimizations():
  """Compiles as users do: equal to the bit is what the compiler makes of it."""
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.usefixtures("_optimizations")
@pytest.mark.parametrize("name", ["sgd", "adagrad", "row_adagrad"])
def test_lazy_is_dense_to_the_bit_without_duplicates(name):
  rows = random_rows()
  rng = np.random.default_rng(0)
  stream = np.stack([rng.permutation(NUM_EMBEDDINGS)[:8] for _ in range(30)])
  stream = jnp.asarray(np.sort(stream))
  dense = train(dense_step, EXACT[name](), rows, stream)
  lazy = train(lazy_step, EXACT[name](), rows, stream)
  chex.assert_trees_all_equal(lazy, dense)


@pytest.mark.parametrize("name", LAZY)
def test_other_optimisers_differ_from_dense_as_documented(name):
  rows, stream = random_rows(), id_stream(30)
  dense, _ = train(dense_step, LAZY[name](), rows, stream)
  lazy, _ = train(lazy_step, LAZY[name](), rows, stream)
  distance = jnp.abs(lazy["weights"] - dense["weights"]).max()
  assert float(distance) > 1e-2


@pytest.mark.parametrize("name", [*EXACT, *LAZY])
def test_rows_outside_the_batch_stay_bit_for_bit(name):
  transformation, rows = (EXACT | LAZY)[name](), random_rows()
  stream = jnp.array([[2, 7, 7, 2], [7, 7, 99, -1]])
  after = train(lazy_step, transformation, rows, stream)
  others = np.delete(np.arange(NUM_EMBEDDINGS), [2, 7])
  before = rows, transformation.init(rows)
  pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
  for old, new in pairs:
    if old.ndim:
      np.testing.assert_array_equal(old[others], new[others])
  assert (after[0]["weights"][7] != rows["weights"][7]).all()


def test_adam_on_all_rows_is_dense_adam():
  everything = jnp.tile(jnp.arange(NUM_EMBEDDINGS), (20, 1))
  dense = train(dense_step, optax.adam(0.1), random_rows(), everything)
  lazy = train(lazy_step, optax.adam(0.1), random_rows(), everything)
  chex.assert_trees_all_close(lazy, dense, rtol=1e-5, atol=1e-6)


def test_ids_outside_the_table_have_no_effect():
  rows, transformation = random_rows(), optax.adagrad(0.1)
  stream = jnp.array([[-1, NUM_EMBEDDINGS, 99]])
  after = train(lazy_step, transformation, rows, stream)
  chex.assert_trees_all_equal(after, (rows, transformation.init(rows)))


def test_empty_batches_have_no_effect():
  rows, transformation = random_rows(), optax.adagrad(0.1)
  ids = jnp.zeros((0,), jnp.int32)
  gradients = training.gather_rows(rows, ids)
  result, _ = training.update_rows(
    transformation, rows, transformation.init(rows), ids, gradients
  )
  chex.assert_trees_all_equal(result, rows)


def test_stateless_transformations():
  rows = jnp.ones((4, 2))
  transformation = optax.stateless(
    lambda updates, params: jax.tree.map(lambda u, p: -u * p, updates, params)
  )
  result, state = training.update_rows(
    transformation,
    rows,
    transformation.init(rows),
    jnp.array([1]),
    jnp.full((1, 2), 0.25),
  )
  np.testing.assert_array_equal(result[:, 0], [1, 0.75, 1, 1])
  assert not jax.tree.leaves(state)


def test_partitions_update_each_leaf_its_own_way():
  rows = {"a": jnp.ones((4, 2)), "b": jnp.ones((4, 3))}
  transformation = optax.partition(
    {"fast": optax.adagrad(0.5), "slow": optax.sgd(0.125)},
    {"a": "fast", "b": "slow"},
  )
  ids = jnp.array([1, 4])
  gradients = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 3))}
  result, _ = training.update_rows(
    transformation, rows, transformation.init(rows), ids, gradients
  )
  np.testing.assert_array_equal(result["b"][:, 0], [1, 0.875, 1, 1])
  np.testing.assert_array_less(result["a"][1], 0.6)


def test_row_updates_take_rows_in_another_form():
  # The table holds pairs, the batch is trained as their sums.
  transformation = optax.adagrad(1.0, initial_accumulator_value=0.0, eps=0.0)
  state = transformation.init(jnp.zeros((5, 1)))
  updates, state = training.row_updates(
    transformation,
    jnp.ones((2, 1)),
    state,
    jnp.array([3, 5]),
    jnp.full((2, 1), 2.0),
    num_embeddings=5,
  )
  np.testing.assert_array_equal(updates, [[-1.0], [-1.0]])
  sums = optax.tree.get(state, "sum_of_squares")
  np.testing.assert_array_equal(sums[:, 0], [0, 0, 0, 4, 0])


def test_refuses_a_state_that_is_not_made_of_rows():
  rows = jnp.ones((300, 200))
  transformation = optax.adafactor(0.1)
  with pytest.raises(ValueError, match="rows: every array in it"):
    training.update_rows(
      transformation,
      rows,
      transformation.init(rows),
      jnp.array([1]),
      jnp.ones((1, 200)),
    )


@pytest.mark.parametrize(
  ("name", "optimizer"),
  [
    (
      "MultiSteps",
      optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation(),
    ),
    ("apply_every", optax.apply_every(2)),
  ],
)
def test_refuses_to_gather_gradients_over_steps(name, optimizer):
  """Those of rows that the last of the steps does not touch would be lost."""
  optimizer = optax.chain(optax.scale(0.5), optimizer)
  rows, ids = jnp.zeros(5), jnp.array([1, 5])
  state, gradients = optimizer.init(rows), jnp.ones(2)
  with pytest.raises(ValueError, match=f"`{name}` would lose gradients"):
    step_of(training.update_rows, optimizer, rows, state, ids, gradients)


@pytest.mark.parametrize(
  "rows",
  [{"a": jnp.ones((3, 2)), "b": jnp.ones((4, 2))}, {"a": jnp.ones(())}],
)
def test_refuses_leaves_with_other_numbers_of_rows(rows):
  with pytest.raises(ValueError, match="the same number of rows"):
    training.update_rows(optax.sgd(0.1), rows, (), jnp.array([0]), rows)


def test_traces_once():
  chex.clear_trace_counter()
  transformation = optax.adagrad(0.1)
  step = jax.jit(
    chex.assert_max_traces(
      lambda *args: lazy_step(transformation, *args, jnp.float32(0)), n=1
    )
  )
  rows = random_rows()
  state = transformation.init(rows)
  for ids in id_stream(3):
    rows, state = step(rows, state, ids)


def test_step_needs_no_memory_of_the_size_of_the_table():
  rows = jax.ShapeDtypeStruct((100_000, 16), jnp.float32)
  transformation = optax.adagrad(0.1)

  def chunk(carry, stream):
    def step(carry, ids):
      rows, state = carry
      unique, inverse = training.unique_ids(ids, num_embeddings=100_000)
      batch = training.gather_rows(rows, unique)
      gradient = jax.grad(batch_loss)(batch, inverse, jnp.float32(1))
      return training.update_rows(
        transformation, rows, state, unique, gradient
      ), None

    return jax.lax.scan(step, carry, stream)

  carry = rows, jax.eval_shape(transformation.init, rows)
  stream = jax.ShapeDtypeStruct((5, 32), jnp.int32)
  compiled = jax.jit(chunk, donate_argnums=0).lower(carry, stream).compile()
  memory = compiled.memory_analysis()
  table_bytes = 100_000 * 16 * 4
  assert memory.temp_size_in_bytes < table_bytes / 10
  assert memory.alias_size_in_bytes >= 2 * table_bytes


def test_row_adagrad_by_hand():
  gradients = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
  transformation = training.scale_by_row_adagrad(
    initial_accumulator=0.5, eps=0.01
  )
  state = transformation.init(jnp.zeros((5, 3)))
  sums = np.full(5, 0.5)
  for gradient in gradients:
    updates, state = transformation.update(jnp.asarray(gradient), state)
    sums += np.mean(gradient**2, axis=1)
    expected = gradient / np.sqrt(sums + 0.01)[:, None]
    np.testing.assert_allclose(updates, expected, rtol=1e-5)
  np.testing.assert_allclose(state.sum_of_squares, sums, rtol=1e-5)


def test_row_adagrad_is_adagrad_on_rows_of_one_element():
  rows = {"column": jnp.zeros((6, 1)), "vector": jnp.zeros(6)}
  gradients = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)), rows)
  gradients = jax.tree.map(lambda g, x: g.reshape(x.shape), gradients, rows)
  ours = training.scale_by_row_adagrad()
  theirs = optax.scale_by_rss()
  updates, _ = ours.update(gradients, ours.init(rows))
  expected, _ = theirs.update(gradients, theirs.init(rows))
  chex.assert_trees_all_close(updates, expected, rtol=1e-6)


def test_row_adagrad_keeps_one_number_for_each_row():
  rows = random_rows()
  state = training.scale_by_row_adagrad().init(rows)
  chex.assert_tree_shape_prefix(state.sum_of_squares, (NUM_EMBEDDINGS,))
  sizes = [leaf.size for leaf in jax.tree.leaves(state)]
  assert sizes == [NUM_EMBEDDINGS] * 3


def test_row_adagrad_sums_in_float32():
  rows = jnp.zeros((2, 4), jnp.bfloat16)
  transformation = training.scale_by_row_adagrad(initial_accumulator=0.0)
  state = transformation.init(rows)
  for _ in range(300):
    updates, state = transformation.update(jnp.ones_like(rows), state)
  np.testing.assert_array_equal(state.sum_of_squares, [300.0, 300.0])
  assert updates.dtype == jnp.bfloat16


def test_row_adagrad_leaves_zero_gradients_alone():
  transformation = training.scale_by_row_adagrad(
    initial_accumulator=0.0, eps=0.0
  )
  zeros = jnp.zeros((2, 3))
  updates, state = transformation.update(zeros, transformation.init(zeros))
  np.testing.assert_array_equal(updates, zeros)
  chex.assert_tree_all_finite((updates, state))


def test_row_adagrad_refuses_negative_accumulators():
  with pytest.raises(ValueError, match="`initial_accumulator` must be non-neg"):
    training.scale_by_row_adagrad(initial_accumulator=-0.1)
