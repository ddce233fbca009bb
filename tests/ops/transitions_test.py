"""Tests of transitions."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes.ops import graphs, transitions

NUM_NODES = 7
# Node 5 has one neighbour, node 6 has none; 0 is tied to all of 1 to 4.
EDGES = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (3, 4), (4, 5)]
GRAPH = graphs.graph_from_edges(EDGES, num_nodes=NUM_NODES)
EMPTY = graphs.graph_from_edges([], num_nodes=NUM_NODES)
ADJACENCY = np.zeros((NUM_NODES, NUM_NODES), bool)
for i, j in EDGES:
  ADJACENCY[i, j] = ADJACENCY[j, i] = True


def _matrix(rate, neighbor_ratio=1.0):
  return reference.transition_matrix(ADJACENCY, rate, neighbor_ratio)


KEY = jax.random.key(0)
IDS = jnp.asarray(np.arange(210) % NUM_NODES, jnp.int32)


def _eager_se(key, ids, *, rate, **options):
  return transitions.sse_se_transition(
    key, ids, num_embeddings=NUM_NODES, rate=rate, **options
  )


def _eager_graph(key, ids, *, rate, neighbor_ratio=3.0, **options):
  return transitions.sse_graph_transition(
    key, ids, GRAPH, rate=rate, neighbor_ratio=neighbor_ratio, **options
  )


_se = jax.jit(_eager_se, static_argnames=("low",))
_graph = jax.jit(_eager_graph, static_argnames=("low",))
BOTH = pytest.mark.parametrize("transition", [_se, _graph])


# --- The law ---


@functools.partial(jax.jit, static_argnames=("transition", "low"))
def _counts(transition, low=0, **options):
  """Counts of the pairs that are drawn side by side, for each node."""
  nodes = jnp.arange(NUM_NODES, dtype=jnp.int32)
  ids = jnp.broadcast_to(nodes[None, :, None], (30_000, NUM_NODES, 2)) + low
  drawn = transition(jax.random.key(7), ids, low=low, **options) - low
  places = NUM_NODES**2 * nodes[None] + drawn @ jnp.array([NUM_NODES, 1])
  return jnp.bincount(places.ravel(), length=NUM_NODES**3)


def _assert_probable(counts, expected):
  """Checks counts against probabilities, by five standard deviations."""
  total = counts.sum(axis=-1, keepdims=True)
  deviation = np.sqrt(expected * (1 - expected) / total)
  assert (np.abs(counts / total - expected) <= 5 * deviation + 1e-12).all()


@pytest.mark.parametrize(
  ("transition", "low", "options"),
  [
    (_se, 0, {"rate": 0.3}),
    (_graph, 0, {"rate": 0.3, "neighbor_ratio": 5.0}),
    (_graph, 0, {"rate": 1.0, "neighbor_ratio": 200.0}),
    (_graph, 0, {"rate": 0.5, "neighbor_ratio": 1.0}),
    (_graph, 10, {"rate": 0.5, "neighbor_ratio": 3.0}),
  ],
)
def test_draws_follow_the_law_and_are_independent(transition, low, options):
  expected = _matrix(**options)
  shape = (NUM_NODES, NUM_NODES, NUM_NODES)
  joint = np.asarray(_counts(transition, low, **options)).reshape(shape)
  _assert_probable(joint.sum(axis=1), expected)
  _assert_probable(joint.sum(axis=2), expected)
  pairs = expected[:, :, None] * expected[:, None, :]
  _assert_probable(joint.reshape(NUM_NODES, -1), pairs.reshape(NUM_NODES, -1))


def test_draws_of_two_tables_are_independent():
  ids = jnp.zeros(100_000, jnp.int32)
  first, second = (_se(key, ids, rate=0.5) for key in jax.random.split(KEY))
  joint = np.bincount(first * NUM_NODES + second, minlength=NUM_NODES**2)
  row = _matrix(0.5)[0]
  _assert_probable(joint, np.outer(row, row).ravel())


def test_a_graph_without_edges_is_uniform():
  ids = jnp.full(50_000, 3)
  drawn = jax.jit(transitions.sse_graph_transition)(
    KEY, ids, EMPTY, rate=0.5, neighbor_ratio=9.0
  )
  counts = np.bincount(drawn, minlength=NUM_NODES)
  _assert_probable(counts, _matrix(0.5)[3])


def test_pairs_swap_under_a_large_ratio():
  pairs = graphs.graph_from_edges([(0, 1), (2, 3)], num_nodes=4)
  ids = np.arange(210) % 4
  drawn = jax.jit(transitions.sse_graph_transition)(
    KEY, jnp.asarray(ids), pairs, rate=1.0, neighbor_ratio=1e9
  )
  np.testing.assert_array_equal(drawn, np.array([1, 0, 3, 2])[ids])


@pytest.mark.parametrize("ratio", [1e30, 1e38, 1e300])
@pytest.mark.parametrize("traced", [False, True])
def test_ratios_without_an_end_draw_neighbours_alone(ratio, traced):
  # The product with a degree is more than float32 holds.
  star = graphs.graph_from_edges([(0, i) for i in range(1, 9)], num_nodes=50)
  ids = jnp.zeros(200, jnp.int32)
  if traced:
    ratio = jnp.float32(min(ratio, 3e38))
  new = transitions.sse_graph_transition(
    jax.random.key(0), ids, star, rate=1.0, neighbor_ratio=ratio
  )
  assert set(np.unique(new)) == set(range(1, 9))
  lonely = transitions.sse_graph_transition(
    jax.random.key(0), ids + 20, star, rate=1.0, neighbor_ratio=ratio
  )
  assert len(np.unique(lonely)) > 30


@pytest.mark.parametrize("neighbor_ratio", [1.0, 3.0, 500.0])
@pytest.mark.parametrize("rate", [0.0, 0.01, 1.0])
def test_rows_are_the_law(rate, neighbor_ratio):
  expected = _matrix(rate, neighbor_ratio)
  for node in range(NUM_NODES):
    row = transitions.transition_row(
      node,
      num_embeddings=NUM_NODES,
      rate=rate,
      graph=GRAPH,
      neighbor_ratio=neighbor_ratio,
    )
    np.testing.assert_allclose(row, expected[node], atol=1e-12)
    np.testing.assert_allclose(row.sum(), 1)


def test_row_without_a_graph_is_uniform():
  row = transitions.transition_row(2, num_embeddings=5, rate=0.4)
  np.testing.assert_allclose(row, [0.1, 0.1, 0.6, 0.1, 0.1])


def test_row_of_a_single_embedding():
  row = transitions.transition_row(0, num_embeddings=1, rate=0.4)
  np.testing.assert_array_equal(row, [1])


@pytest.mark.parametrize("rate", [0.01, 0.5])
def test_uniform_transitions_have_two_eigenvalues(rate):
  rows = [
    transitions.transition_row(i, num_embeddings=9, rate=rate) for i in range(9)
  ]
  eigenvalues = np.sort(np.linalg.eigvalsh(np.stack(rows)))
  np.testing.assert_allclose(eigenvalues[-1], 1)
  np.testing.assert_allclose(eigenvalues[:-1], 1 - rate * 9 / 8)


def test_replacing_labels_is_label_smoothing():
  rate, size, label = 0.3, 5, 2
  log_probs = np.log(reference.softmax(np.arange(5.0)))
  row = transitions.transition_row(label, num_embeddings=size, rate=rate)
  smoothing = rate * size / (size - 1)
  target = (1 - smoothing) * np.eye(size)[label] + smoothing / size
  np.testing.assert_allclose(row @ log_probs, target @ log_probs)


# --- What stays ---


@BOTH
def test_rate_zero_is_the_identity(transition):
  ids = np.asarray(IDS) - 3 + np.arange(210, dtype=np.int32) // 10
  chex.assert_trees_all_equal(transition(KEY, ids, rate=0.0), ids)


@BOTH
def test_rate_one_changes_every_id(transition):
  drawn = transition(KEY, IDS, rate=1.0)
  assert (np.asarray(drawn) != np.asarray(IDS)).all()


@functools.partial(jax.jit, static_argnames=("transition", "low"))
def _draw_some(transition, seed, rate, low):
  key_ids, key_where, key = jax.random.split(jax.random.key(seed), 3)
  ids = jax.random.randint(key_ids, (64,), -2, low + NUM_NODES + 3)
  where = jax.random.bernoulli(key_where, 0.5, (64,))
  return ids, where, transition(key, ids, rate=rate, low=low, where=where)


@pytest.mark.parametrize(("transition", "low"), [(_se, 3), (_graph, 0)])
@given(seed=st.integers(0, 2**31 - 1), rate=st.floats(0, 1, width=32))
def test_only_ordinary_ids_where_allowed_change(transition, low, seed, rate):
  ids, where, drawn = map(
    np.asarray, _draw_some(transition, seed, np.float32(rate), low)
  )
  ordinary = (ids >= low) & (ids < low + NUM_NODES)
  np.testing.assert_array_equal(drawn != ids, (drawn != ids) & where & ordinary)
  assert (drawn[ordinary] >= low).all()
  assert (drawn[ordinary] < low + NUM_NODES).all()
  assert drawn.dtype == ids.dtype


def test_a_single_embedding_stays():
  ids = jnp.zeros(9, jnp.int32)
  drawn = transitions.sse_se_transition(KEY, ids, num_embeddings=1, rate=1.0)
  chex.assert_trees_all_equal(drawn, ids)
  lonely = graphs.graph_from_edges([], num_nodes=1)
  drawn = transitions.sse_graph_transition(
    KEY, ids, lonely, rate=1.0, neighbor_ratio=2.0
  )
  chex.assert_trees_all_equal(drawn, ids)


# --- Types, shapes, transformations ---


@BOTH
@pytest.mark.parametrize("shape", [(), (0,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.int16, jnp.uint32])
def test_shape_and_type_are_kept(transition, shape, dtype):
  ids = jax.ShapeDtypeStruct(shape, dtype)
  drawn = jax.eval_shape(functools.partial(transition, rate=1.0), KEY, ids)
  chex.assert_trees_all_equal_shapes_and_dtypes(drawn, ids)


@pytest.mark.parametrize(
  ("transition", "dtype"),
  [
    (_se, np.int16),
    (_se, np.uint32),
    (_graph, np.uint8),
    (_graph, np.uint32),
  ],
)
def test_ids_of_any_type_are_replaced(transition, dtype):
  drawn = np.asarray(transition(KEY, np.full((2, 3, 4), 3, dtype), rate=1.0))
  assert ((drawn != 3) & (drawn < NUM_NODES)).all()


def test_a_full_table_of_small_ids():
  ids = np.arange(256).astype(np.uint8)
  draw = jax.jit(
    functools.partial(transitions.sse_se_transition, num_embeddings=256)
  )
  drawn = draw(KEY, ids, rate=1.0)
  assert (np.asarray(drawn) != ids).all()
  assert len(np.unique(drawn)) > 128


@pytest.mark.parametrize(
  ("transition", "eager"), [(_se, _eager_se), (_graph, _eager_graph)]
)
def test_jit_is_eager(transition, eager):
  chex.assert_trees_all_equal(
    transition(KEY, IDS, rate=0.5), eager(KEY, IDS, rate=0.5)
  )


@BOTH
def test_vmap_is_the_loop(transition):
  keys, ids = jax.random.split(KEY, 3), jnp.stack([IDS, IDS - 1, IDS + 1])
  draw = functools.partial(transition, rate=0.5)
  looped = [draw(*pair) for pair in zip(keys, ids, strict=True)]
  np.testing.assert_array_equal(jax.vmap(draw)(keys, ids), np.stack(looped))


@BOTH
def test_the_key_alone_decides(transition):
  first, again, other = (
    np.asarray(transition(jax.random.key(seed), IDS, rate=0.5))
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


def test_schedules_are_traced_once():
  @jax.jit
  @chex.assert_max_traces(n=1)
  def draw(key, ids, graph, rate, neighbor_ratio):
    return transitions.sse_graph_transition(
      key, ids, graph, rate=rate, neighbor_ratio=neighbor_ratio
    )

  for rate, ratio in ((0.0, 1.0), (0.2, 3.0), (1.0, 9.0)):
    drawn = draw(KEY, IDS, GRAPH, rate, ratio)
    np.testing.assert_allclose(
      np.mean(np.asarray(drawn) != np.asarray(IDS)), rate, atol=0.1
    )


def test_gradients_flow_to_the_rows_that_were_drawn():
  def total(table):
    return jnp.sum(table[_se(KEY, IDS, rate=0.5)])

  gradient = jax.jit(jax.grad(total))(jnp.ones(NUM_NODES))
  drawn = _se(KEY, IDS, rate=0.5)
  np.testing.assert_array_equal(
    gradient, np.bincount(drawn, minlength=NUM_NODES)
  )


# --- Errors ---


@pytest.mark.parametrize("transition", [_eager_se, _eager_graph])
@pytest.mark.parametrize("rate", [-0.1, 1.5, np.float32(2), float("nan")])
def test_rates_are_probabilities(transition, rate):
  with pytest.raises(ValueError, match=f"`rate` must be .* got {rate}"):
    transition(KEY, jnp.arange(3), rate=rate)


@pytest.mark.parametrize("ratio", [0, 0.99, float("nan"), float("inf")])
def test_ratios_below_one_or_infinite_are_refused(ratio):
  message = f"`neighbor_ratio` must be at least 1, and finite, got {ratio}"
  with pytest.raises(ValueError, match=message):
    _eager_graph(KEY, jnp.arange(3), rate=0.5, neighbor_ratio=ratio)


@pytest.mark.parametrize("transition", [_eager_se, _eager_graph])
def test_other_arguments_are_checked(transition):
  draw = functools.partial(transition, KEY, rate=0.5)
  with pytest.raises(ValueError, match="ids must be integers, got float32"):
    draw(jnp.ones(3))
  with pytest.raises(ValueError, match="`low` must be at least 0, got -1"):
    draw(jnp.arange(3), low=-1)
  with pytest.raises(AssertionError, match="shape"):
    draw(jnp.arange(3), where=jnp.ones(2, bool))


@pytest.mark.parametrize(
  ("dtype", "low", "size"),
  [(np.int8, 100, 29), (np.uint8, 1, 256), (np.uint32, 1, 2**31)],
)
def test_ids_must_be_able_to_hold_the_largest_one(dtype, low, size):
  # Counted from `low`; and draws are of 32 bits with a sign, whatever the type.
  message = f"cannot hold the largest id {low + size - 1}"
  with pytest.raises(ValueError, match=message):
    transitions.sse_se_transition(
      KEY, np.full(2, low, dtype), num_embeddings=size, rate=0.5, low=low
    )


def test_ids_must_be_able_to_hold_the_table():
  message = "`ids` of type uint8 cannot hold the largest id 299"
  with pytest.raises(ValueError, match=message):
    transitions.sse_se_transition(
      KEY, jnp.zeros(3, jnp.uint8), num_embeddings=300, rate=0.1
    )


@pytest.mark.parametrize("num_embeddings", [0, 2.0])
def test_number_of_embeddings_is_checked(num_embeddings):
  with pytest.raises(ValueError, match="`num_embeddings` must be"):
    transitions.sse_se_transition(
      KEY, jnp.arange(3), num_embeddings=num_embeddings, rate=0.1
    )


@pytest.mark.parametrize(
  ("i", "options", "error", "message"),
  [
    (5, {}, IndexError, "id 5 .* out of range for a table of 5 rows"),
    (-1, {}, IndexError, "id -1 .* out of range"),
    (0, {"rate": 1.5}, ValueError, "`rate` must be between 0 and 1"),
    (0, {"neighbor_ratio": 0.5}, ValueError, "`neighbor_ratio` must be"),
    (0, {"graph": GRAPH}, ValueError, "`graph` must be .* got 7 and 5"),
  ],
)
def test_arguments_of_rows_are_checked(i, options, error, message):
  options = {"num_embeddings": 5, "rate": 0.1} | options
  with pytest.raises(error, match=message):
    transitions.transition_row(i, **options)
