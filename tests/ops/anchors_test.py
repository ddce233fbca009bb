"""Tests of mixtures of anchors, against loops over their definition."""

import chex
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from anchor_codes.ops import anchors

NUM_EMBEDDINGS, NUM_ANCHORS, FEATURES = 7, 5, 4
BATCHES = [(), (2, 3), (0,)]

# Compiled once for all tests: op by op, JAX would compile each primitive.
lookup = jax.jit(anchors.anchor_lookup, static_argnames="dtype")
sparse_lookup = jax.jit(anchors.sparse_anchor_lookup, static_argnames="dtype")
attend = jax.jit(anchors.anchor_attend)
sparse_attend = jax.jit(anchors.sparse_anchor_attend)
expand = jax.jit(anchors.expand_rows, static_argnames="num_anchors")


def _transform():
  """Returns non-negative weights, half of them zero, no two others alike."""
  generator = np.random.default_rng(0)
  shape = (NUM_EMBEDDINGS, NUM_ANCHORS)
  weights = generator.permutation(np.arange(1, 1 + np.prod(shape)))
  mask = generator.random(shape) < 0.5
  return jnp.asarray(weights.reshape(shape) * mask / 10, jnp.float32)


def _rows(num_nonzeros=3, num_embeddings=NUM_EMBEDDINGS):
  generator = np.random.default_rng(1)
  shape = (num_embeddings, NUM_ANCHORS)
  indices = generator.permuted(np.indices(shape)[1], axis=1)[:, :num_nonzeros]
  weights = generator.random(indices.shape)
  return anchors.SparseRows(
    jnp.asarray(indices, jnp.int32), jnp.asarray(weights, jnp.float32)
  )


def _normal(*shape, seed=2):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


ANCHORS = _normal(NUM_ANCHORS, FEATURES)
# Both kinds of rows with their functions: a law holds for both.
KINDS = [
  pytest.param(lookup, attend, _transform, id="dense"),
  pytest.param(sparse_lookup, sparse_attend, _rows, id="sparse"),
]


def _ids(batch):
  ids = np.random.default_rng(3).integers(0, NUM_EMBEDDINGS, batch)
  return jnp.asarray(ids, jnp.int32)


def _reference_expand(rows, num_anchors):
  indices, weights = map(np.asarray, rows)
  dense = np.zeros((len(weights), num_anchors))
  for i, s in np.ndindex(weights.shape):
    dense[i, indices[i, s]] += weights[i, s]
  return dense


def _reference_table(make_rows):
  """All embeddings by their definition, one number after the other."""
  rows, vectors = make_rows(), np.asarray(ANCHORS, np.float64)
  if isinstance(rows, anchors.SparseRows):
    rows = _reference_expand(rows, NUM_ANCHORS)
  table = np.zeros((NUM_EMBEDDINGS, FEATURES))
  for i, k, feature in np.ndindex(NUM_EMBEDDINGS, NUM_ANCHORS, FEATURES):
    table[i, feature] += float(rows[i, k]) * vectors[k, feature]
  return table


# Lookups and scores.


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("lookup", "attend", "make_rows"), KINDS)
def test_lookups_and_scores_agree_with_the_definition(
  lookup, attend, make_rows, batch
):
  table, ids = _reference_table(make_rows), _ids(batch)
  vectors = lookup(make_rows(), ANCHORS, ids)
  assert vectors.shape == (*batch, FEATURES)
  np.testing.assert_allclose(vectors, table[ids], rtol=1e-4, atol=1e-5)
  query = _normal(*batch, FEATURES, seed=4)
  scores = attend(make_rows(), ANCHORS, query)
  assert scores.shape == (*batch, NUM_EMBEDDINGS)
  np.testing.assert_allclose(scores, query @ table.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("lookup", "attend", "make_rows"), KINDS)
def test_jit_changes_nothing(lookup, attend, make_rows):
  rows, ids = make_rows(), _ids((2, 3))
  eager = lookup.__wrapped__(rows, ANCHORS, ids)
  np.testing.assert_allclose(
    lookup(rows, ANCHORS, ids), eager, rtol=1e-6, atol=1e-6
  )
  eager = attend.__wrapped__(rows, ANCHORS, ANCHORS)
  np.testing.assert_allclose(
    attend(rows, ANCHORS, ANCHORS), eager, rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize(("lookup", "attend", "make_rows"), KINDS)
def test_attend_is_the_lookup_of_all_times_the_query(lookup, attend, make_rows):
  table = lookup(make_rows(), ANCHORS, jnp.arange(NUM_EMBEDDINGS))
  query = _normal(2, 3, FEATURES, seed=4)
  scores = attend(make_rows(), ANCHORS, query)
  np.testing.assert_allclose(scores, query @ table.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_nonzeros", [1, NUM_ANCHORS])
def test_sparse_rows_are_dense_rows_after_expand(num_nonzeros):
  rows, ids = _rows(num_nonzeros), _ids((2, 3))
  dense = expand(rows, num_anchors=NUM_ANCHORS)
  np.testing.assert_allclose(
    sparse_lookup(rows, ANCHORS, ids),
    lookup(dense, ANCHORS, ids),
    rtol=1e-5,
    atol=1e-6,
  )
  query = _normal(2, 3, FEATURES, seed=4)
  np.testing.assert_allclose(
    sparse_attend(rows, ANCHORS, query),
    attend(dense, ANCHORS, query),
    rtol=1e-4,
    atol=1e-5,
  )


def test_weights_at_one_position_add_up():
  rows = anchors.SparseRows(jnp.array([[1, 1]]), jnp.array([[0.5, 2.0]]))
  vectors = jnp.array([[9.0], [4.0]])
  ids, query = jnp.array([0]), jnp.array([3.0])
  assert sparse_lookup(rows, vectors, ids).tolist() == [[10.0]]
  assert sparse_attend(rows, vectors, query).tolist() == [30.0]
  assert expand(rows, num_anchors=2).tolist() == [[0.0, 2.5]]


def test_slots_that_are_not_used_do_not_count():
  # Their positions may be any.
  for position in (4, NUM_ANCHORS, 99, -1, -99):
    indices = jnp.array([[1, position]])
    rows = anchors.SparseRows(indices, jnp.array([[2.0, 0.0]]))
    vector = sparse_lookup(rows, ANCHORS, jnp.array(0))
    np.testing.assert_array_equal(vector, 2 * ANCHORS[1])
    scores = sparse_attend(rows, ANCHORS, ANCHORS[2])
    np.testing.assert_allclose(scores, [2 * ANCHORS[1] @ ANCHORS[2]], rtol=1e-5)
    dense = expand(rows, num_anchors=NUM_ANCHORS)
    np.testing.assert_array_equal(dense, [[0, 2, 0, 0, 0]])


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.uint16])
def test_positions_of_any_integer_type(dtype):
  wide = anchors.SparseRows(jnp.array([[120, 3]]), jnp.array([[1.0, 2.0]]))
  narrow = anchors.SparseRows(wide.indices.astype(dtype), wide.weights)
  vectors, ids = _normal(1000, 3), jnp.array([0])
  for function, *arguments in (
    (sparse_lookup, vectors, ids),
    (sparse_attend, vectors, vectors[0]),
    (lambda rows: expand(rows, num_anchors=1000),),
  ):
    np.testing.assert_array_equal(
      function(narrow, *arguments), function(wide, *arguments)
    )


@pytest.mark.parametrize(("lookup", "attend", "make_rows"), KINDS)
def test_vmap_is_a_loop(lookup, attend, make_rows):
  del attend
  rows, ids = make_rows(), _ids((3,))
  mapped = jax.vmap(lookup, in_axes=(None, None, 0))(rows, ANCHORS, ids)
  loop = np.stack([lookup(rows, ANCHORS, i) for i in ids])
  np.testing.assert_allclose(mapped, loop, rtol=1e-6, atol=1e-6)


# Ids.


@pytest.mark.parametrize(
  "bad", [NUM_EMBEDDINGS, 2**31 - 1, -1, -NUM_EMBEDDINGS]
)
@pytest.mark.parametrize(("lookup", "attend", "make_rows"), KINDS)
def test_ids_outside_give_nan_and_leave_the_others_alone(
  lookup, attend, make_rows, bad
):
  del attend
  result = lookup(make_rows(), ANCHORS, jnp.array([2, bad, 0]))
  assert np.isnan(result[1]).all()
  expected = _reference_table(make_rows)[[2, 0]]
  np.testing.assert_allclose(result[::2], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("lookup", "attend", "make_rows"), KINDS)
def test_ids_outside_spoil_no_gradient(lookup, attend, make_rows):
  del attend

  @jax.jit
  @jax.grad
  def gradient(vectors, ids):
    found = lookup(make_rows(), vectors, ids)
    inside = (ids >= 0) & (ids < NUM_EMBEDDINGS)
    return jnp.sum(jnp.where(inside[:, None], found, 0))

  np.testing.assert_allclose(
    gradient(ANCHORS, jnp.array([2, -1, 0, 99])),
    gradient(ANCHORS, jnp.array([2, 0])),
    rtol=1e-6,
  )


@pytest.mark.parametrize(("lookup", "attend", "make_rows"), KINDS)
def test_queries_of_integers_count_as_floats(lookup, attend, make_rows):
  del lookup
  query = np.array([3, -1, 0, 2], np.int32)
  scores = attend(make_rows(), ANCHORS, query)
  exact = attend(make_rows(), ANCHORS, query.astype(np.float32))
  np.testing.assert_array_equal(scores, exact)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.uint32])
def test_ids_of_any_integer_type(dtype):
  rows = _rows(num_embeddings=1000)
  ids = np.array([[3, 100]], dtype)
  expected = sparse_lookup(rows, ANCHORS, jnp.array([[3, 100]]))
  np.testing.assert_array_equal(sparse_lookup(rows, ANCHORS, ids), expected)
  eager = anchors.sparse_anchor_lookup(rows, ANCHORS, ids)
  np.testing.assert_allclose(eager, expected, rtol=1e-6)


def test_an_id_too_large_for_jax_is_outside():
  ids = np.array([2**40, 2**32 + 1, -(2**40)])
  assert np.isnan(anchors.anchor_lookup(_transform(), ANCHORS, ids)).all()


@pytest.mark.parametrize("dtype", [jnp.float32, bool])
@pytest.mark.parametrize(("lookup", "attend", "make_rows"), KINDS)
def test_ids_that_are_not_integers_are_refused(
  lookup, attend, make_rows, dtype
):
  del attend
  text = f"ids must be integers, got {jnp.dtype(dtype)}"
  with pytest.raises(ValueError, match=text):
    lookup(make_rows(), ANCHORS, jnp.ones(2, dtype))


# Types, shapes, traces.


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(("lookup", "attend", "make_rows"), KINDS)
def test_dtype_of_the_result(lookup, attend, make_rows, dtype):
  del attend
  exact = lookup(make_rows(), ANCHORS, _ids((2, 3)))
  result = lookup(make_rows(), ANCHORS, _ids((2, 3)), dtype=dtype)
  assert (exact.dtype, result.dtype) == (jnp.float32, dtype)
  chex.assert_trees_all_equal(result, exact.astype(dtype))


@pytest.mark.parametrize(("lookup", "attend", "make_rows"), KINDS)
def test_types_do_not_have_to_agree(lookup, attend, make_rows):
  narrow, rows = ANCHORS.astype(jnp.bfloat16), make_rows()
  assert lookup(rows, narrow, _ids((2, 3))).dtype == jnp.bfloat16
  assert attend(rows, narrow, ANCHORS).dtype == jnp.float32
  scores = attend(rows, ANCHORS, narrow)
  assert scores.dtype == jnp.bfloat16
  exact = attend(rows, ANCHORS, ANCHORS)
  error = np.abs(np.asarray(scores, np.float32) - exact)
  assert error.max() < 0.03 * np.abs(exact).max()


def test_shapes_that_do_not_fit_are_refused():
  ids, query = jnp.array([0]), jnp.ones(FEATURES)
  with pytest.raises(AssertionError, match="6"):
    lookup(_transform(), jnp.ones((6, FEATURES)), ids)
  with pytest.raises(AssertionError, match="rank"):
    lookup(jnp.ones(5), ANCHORS, ids)
  with pytest.raises(AssertionError, match="rank"):
    attend(jnp.ones(5), ANCHORS, query)
  rows = anchors.SparseRows(jnp.ones((7, 3), jnp.int32), jnp.ones((7, 2)))
  with pytest.raises(AssertionError, match=r"\(7, 3\).*\(7, 2\)"):
    sparse_lookup(rows, ANCHORS, ids)
  with pytest.raises(AssertionError, match=r"\(7, 3\).*\(7, 2\)"):
    sparse_attend(rows, ANCHORS, query)


@pytest.mark.parametrize(("lookup", "attend", "make_rows"), KINDS)
def test_one_trace_for_repeated_calls(lookup, attend, make_rows):
  chex.clear_trace_counter()
  for function, last in ((lookup, _ids((3,))), (attend, ANCHORS)):
    counted = chex.assert_max_traces(function.__wrapped__, n=1)
    jitted = jax.jit(counted)
    for _ in range(3):
      jitted(make_rows(), ANCHORS, last)


# Memory.


def _sizes(jaxpr):
  """Yields the size of every intermediate array, nested ones included."""
  for equation in jaxpr.eqns:
    for variable in equation.outvars:
      yield int(np.prod(variable.aval.shape))
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from _sizes(inner)


@pytest.mark.parametrize("gradient", [False, True])
def test_no_array_of_all_chosen_anchors_is_built(gradient):
  batch, features, rows = 11, 13, _rows(3)

  def total(weights, vectors, ids):
    sparse = anchors.SparseRows(rows.indices, weights)
    return jnp.sum(anchors.sparse_anchor_lookup(sparse, vectors, ids))

  function = jax.grad(total, argnums=(0, 1)) if gradient else total
  jaxpr = jax.make_jaxpr(function)(
    rows.weights, _normal(NUM_ANCHORS, features), jnp.zeros(batch, jnp.int32)
  )
  sizes = list(_sizes(jaxpr.jaxpr))
  assert batch * features in sizes
  assert max(sizes) < batch * 3 * features


def test_scores_need_no_table():
  rows, features = _rows(3, num_embeddings=101), 103
  jaxpr = jax.make_jaxpr(anchors.sparse_anchor_attend)(
    rows, _normal(NUM_ANCHORS, features), _normal(2, features)
  )
  assert max(_sizes(jaxpr.jaxpr)) < 101 * features


# Gradients.


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_of_lookup_and_attend(sparse):
  rows, ids = _rows(), jnp.array([[2, 2], [0, 6]])

  @jax.jit
  def both(weights, vectors, query):
    if sparse:
      kept = anchors.SparseRows(rows.indices, weights)
      found = anchors.sparse_anchor_lookup(kept, vectors, ids)
      return found, anchors.sparse_anchor_attend(kept, vectors, query)
    found = anchors.anchor_lookup(weights, vectors, ids)
    return found, anchors.anchor_attend(weights, vectors, query)

  first = rows.weights if sparse else _transform()
  query = _normal(2, FEATURES, seed=4)
  check_grads(
    both, (first, ANCHORS, query), order=1, modes=["rev"], atol=2e-2, rtol=2e-2
  )


def test_gradient_of_dense_rows_sees_all_anchors():
  @jax.jit
  @jax.grad
  def gradient(transform):
    vectors = anchors.anchor_lookup(transform, ANCHORS, jnp.array([2, 2, 5]))
    return jnp.sum(vectors)

  expected = np.zeros((NUM_EMBEDDINGS, NUM_ANCHORS))
  for i in (2, 2, 5):
    expected[i] += np.asarray(ANCHORS).sum(axis=1)
  np.testing.assert_allclose(
    gradient(jnp.zeros_like(expected, jnp.float32)),
    expected,
    rtol=1e-5,
    atol=1e-6,
  )
