"""Tests of the variants of transitions: each against its exact law."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchor_codes.ops import frequencies, graphs, transitions

NUM_NODES = 7
# Node 5 has one neighbour, node 6 has none; 0 is tied to all of 1 to 4.
EDGES = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (3, 4), (4, 5)]
GRAPH = graphs.graph_from_edges(EDGES, num_nodes=NUM_NODES)
WEIGHTS = [1.0, 2.0, 7.0, 0.1, 3.0, 3.0, 50.0]
WEIGHTED = graphs.graph_from_edges(EDGES, num_nodes=NUM_NODES, weights=WEIGHTS)
# A class of four, one of two, and a node without any.
CLASSES = graphs.graph_from_classes([0, 1, 0, 0, 1, 0, -1])
COUNTS = frequencies.frequencies_from_counts([5, 0, 1, 100, 20, 1, 3])
EMPTY = graphs.graph_from_edges([], num_nodes=NUM_NODES)
LONELY = graphs.graph_from_classes([-1] * NUM_NODES)
NODES = jnp.arange(NUM_NODES, dtype=jnp.int32)


def _draw(key, ids, graph=None, counts=None, neighbor_ratio=1.0, **options):
  if graph is None:
    return transitions.sse_se_transition(
      key, ids, num_embeddings=NUM_NODES, frequencies=counts, **options
    )
  return transitions.sse_graph_transition(
    key, ids, graph, neighbor_ratio=neighbor_ratio, **options
  )


_jitted = jax.jit(_draw)


def _law(graph=None, counts=None, neighbor_ratio=1.0, rate=0.3, **options):
  return np.stack(
    [
      transitions.transition_row(
        i,
        num_embeddings=NUM_NODES,
        rate=rate,
        graph=graph,
        frequencies=counts,
        neighbor_ratio=neighbor_ratio,
        **options,
      )
      for i in range(NUM_NODES)
    ]
  )


@functools.partial(jax.jit, static_argnames=("exclude_self", "per_row"))
def _counts(**options):
  """How often each node becomes each other one, in 30,000 draws."""
  keys = jax.random.split(jax.random.key(3), 30)
  ids = jnp.broadcast_to(NODES[None], (1_000, NUM_NODES))
  if options.get("per_row"):
    keys, ids = jax.random.split(jax.random.key(3), 30_000), NODES
  drawn = jax.vmap(lambda key: _draw(key, ids, rate=0.3, **options))(keys)
  places = NUM_NODES * NODES[None] + drawn.reshape(-1, NUM_NODES)
  counts = jnp.bincount(places.ravel(), length=NUM_NODES**2)
  return counts.reshape(NUM_NODES, NUM_NODES)


KINDS = {
  "uniform": {},
  "graph": {"graph": GRAPH, "neighbor_ratio": 5.0},
  "weighted": {"graph": WEIGHTED, "neighbor_ratio": 5.0},
  "classes": {"graph": CLASSES, "neighbor_ratio": 5.0},
  "counts": {"counts": COUNTS},
}


@pytest.mark.parametrize(
  ("kind", "options"),
  [
    ("weighted", {}),
    ("classes", {}),
    ("counts", {}),
    ("uniform", {"exclude_self": False}),
    ("graph", {"exclude_self": False}),
    ("counts", {"exclude_self": False, "per_row": True}),
    ("graph", {"per_row": True}),
  ],
)
def test_draws_follow_the_exact_row(kind, options):
  counts = np.asarray(_counts(**KINDS[kind], **options))
  options.pop("per_row", None)
  expected = _law(**KINDS[kind], **options)
  np.testing.assert_allclose(expected.sum(axis=1), 1)
  deviation = np.sqrt(expected * (1 - expected) / 30_000)
  assert (np.abs(counts / 30_000 - expected) <= 5 * deviation + 1e-12).all()


# --- The exact rows ---


def test_weights_share_what_neighbours_have_without_them():
  plain = _law(graph=GRAPH, neighbor_ratio=5.0)
  weighted = _law(graph=WEIGHTED, neighbor_ratio=5.0)
  adjacent = np.zeros((NUM_NODES, NUM_NODES), bool)
  for i, j in EDGES:
    adjacent[i, j] = adjacent[j, i] = True
  np.testing.assert_allclose(
    np.where(adjacent, plain, 0).sum(axis=1),
    np.where(adjacent, weighted, 0).sum(axis=1),
  )
  # Node 0: weights 1, 2, 7, 0.1 of mean 2.525 to the nodes 1 to 4.
  likelihood = 1 + 4 * np.array([1, 2, 7, 0.1]) / 2.525
  np.testing.assert_allclose(
    weighted[0, 1:5] / weighted[0, 5], likelihood, rtol=1e-6
  )


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_equal_weights_are_none(scale):
  equal = graphs.graph_from_edges(
    EDGES, num_nodes=NUM_NODES, weights=[scale] * len(EDGES)
  )
  options = {"neighbor_ratio": 5.0}
  np.testing.assert_allclose(
    _law(graph=equal, **options), _law(graph=GRAPH, **options)
  )
  assert (np.asarray(equal.weights.acceptance) == 1).all()


def test_classes_are_the_graph_of_all_pairs_in_a_class():
  pairs = [(0, 2), (0, 3), (0, 5), (2, 3), (2, 5), (3, 5), (1, 4)]
  linked = graphs.graph_from_edges(pairs, num_nodes=NUM_NODES)
  np.testing.assert_array_equal(CLASSES.degrees(NODES), linked.degrees(NODES))
  for options in ({"neighbor_ratio": 9.0}, {"exclude_self": False}):
    np.testing.assert_allclose(
      _law(graph=CLASSES, **options), _law(graph=linked, **options)
    )


def test_the_released_code_may_draw_the_id_itself():
  law = _law(exclude_self=False)
  np.testing.assert_allclose(1 - np.diag(law), 0.3 * 6 / 7)
  np.testing.assert_allclose(law[0, 1:], 0.3 / 7)


def test_counts_give_proportions():
  law = _law(counts=COUNTS)
  np.testing.assert_allclose(
    law[1],
    np.where(NODES == 1, 0.7, 0.3 * np.array([5, 0, 1, 100, 20, 1, 3]) / 130),
  )
  np.testing.assert_allclose(law[3, 0] / law[3, 4], 5 / 20)
  assert law[0, 1] == 0


@pytest.mark.parametrize("graph", [GRAPH, WEIGHTED, CLASSES])
def test_a_ratio_of_one_is_uniform(graph):
  np.testing.assert_allclose(_law(graph=graph), _law())


@pytest.mark.parametrize("graph", [EMPTY, LONELY])
def test_without_neighbours_a_graph_is_uniform(graph):
  np.testing.assert_allclose(_law(graph=graph, neighbor_ratio=9.0), _law())
  drawn = np.asarray(
    _jitted(jax.random.key(0), NODES, graph, neighbor_ratio=9.0, rate=1.0)
  )
  assert ((drawn != NODES) & (drawn >= 0) & (drawn < NUM_NODES)).all()


def test_an_id_with_all_counts_stays():
  counts = frequencies.frequencies_from_counts([0, 0, 8, 0, 0, 0, 0])
  drawn = _jitted(jax.random.key(0), NODES, counts=counts, rate=1.0)
  np.testing.assert_array_equal(drawn, np.full(NUM_NODES, 2))
  np.testing.assert_array_equal(_law(counts=counts)[2], NODES == 2)


@pytest.mark.parametrize(
  ("exclude_self", "per_row"), [(True, False), (False, True)]
)
def test_a_table_of_one_row_stays(exclude_self, per_row):
  ids, key = jnp.zeros((2, 3), jnp.int32), jax.random.key(0)
  options = {"rate": 1.0, "exclude_self": exclude_self, "per_row": per_row}
  drawn = transitions.sse_se_transition(key, ids, num_embeddings=1, **options)
  chex.assert_trees_all_equal(drawn, ids)
  alone = graphs.graph_from_classes([0])
  drawn = transitions.sse_graph_transition(
    key, ids, alone, neighbor_ratio=3.0, **options
  )
  chex.assert_trees_all_equal(drawn, ids)
  row = transitions.transition_row(
    0, num_embeddings=1, rate=0.3, graph=alone, exclude_self=exclude_self
  )
  np.testing.assert_array_equal(row, [1])


# --- What stays ---


@functools.partial(jax.jit, static_argnames=("exclude_self", "per_row"))
def _some(ids, where, rate, **options):
  key = jax.random.key(5)
  return _draw(key, ids, rate=rate, low=3, where=where, **options)


@pytest.mark.parametrize(
  ("kind", "per_row"),
  [
    ("uniform", True),
    ("weighted", False),
    ("classes", True),
    ("counts", False),
  ],
)
def test_special_ids_and_masked_positions_stay(kind, per_row):
  # Padding and specials below 3, ordinary ones, and ids past the end.
  ids = np.tile(np.arange(-1, NUM_NODES + 5), 40).reshape(8, -1)
  where = np.arange(ids.size).reshape(ids.shape) % 5 != 0
  options = {**KINDS[kind], "per_row": per_row}
  drawn = np.asarray(_some(ids, where, 1.0, **options))
  ordinary = (ids >= 3) & (ids < NUM_NODES + 3)
  np.testing.assert_array_equal(drawn != ids, where & ordinary)
  assert (drawn[ordinary] >= 3).all()
  assert (drawn[ordinary] < NUM_NODES + 3).all()
  # The rate is traced: the same program serves all of a schedule.
  still = _some(ids, where, 0.0, **options)
  np.testing.assert_array_equal(still, ids)


def test_rows_are_replaced_as_a_whole():
  ids = jnp.asarray(np.arange(700) % NUM_NODES)
  draw = jax.jit(functools.partial(_draw, per_row=True))
  drawn = draw(jax.random.key(1), ids, rate=0.5)
  by_node = np.asarray(drawn).reshape(100, NUM_NODES)
  np.testing.assert_array_equal(by_node, np.tile(by_node[0], (100, 1)))
  assert 0 < np.sum(by_node[0] != NODES) < NUM_NODES


@pytest.mark.parametrize("kind", ["weighted", "counts"])
def test_vmap_and_shapes_agree(kind):
  keys = jax.random.split(jax.random.key(2), 2)
  ids = np.tile(NODES, (2, 1))
  draw = functools.partial(_jitted, rate=0.7, **KINDS[kind])
  looped = [draw(key, own) for key, own in zip(keys, ids, strict=True)]
  np.testing.assert_array_equal(jax.vmap(draw)(keys, ids), np.stack(looped))
  for shape in ((), (0,), (2, 3)):
    ids = jax.ShapeDtypeStruct(shape, jnp.int8)
    chex.assert_trees_all_equal_shapes_and_dtypes(
      jax.eval_shape(draw, keys[0], ids), ids
    )


def test_changing_rates_and_graphs_are_traced_once():
  @jax.jit
  @chex.assert_max_traces(n=1)
  def draw(graph, rate, ratio):
    return _draw(
      jax.random.key(0), NODES, graph, neighbor_ratio=ratio, rate=rate
    )

  other = graphs.graph_from_classes([1, 1, 0, 0, 1, 0, -1])
  for graph, rate in ((CLASSES, 0.0), (other, 0.5), (CLASSES, 1.0)):
    changed = np.asarray(draw(graph, rate, 2.0 + rate)) != NODES
    assert rate == 0.5 or (changed == bool(rate)).all()


@pytest.mark.parametrize("rate", [-1.0, np.nan, 2.0])
def test_traced_rates_outside_act_like_the_bounds(rate):
  drawn = np.asarray(_jitted(jax.random.key(0), NODES, rate=rate))
  assert ((drawn != NODES) == (rate > 1)).all()


# --- Errors ---


def test_sizes_and_laws_must_fit():
  with pytest.raises(ValueError, match=r"`frequencies` must be .* got 7 and 9"):
    transitions.sse_se_transition(
      jax.random.key(0),
      NODES,
      num_embeddings=9,
      rate=0.1,
      frequencies=COUNTS,
    )
  with pytest.raises(ValueError, match="`graph` and counts must not be given"):
    _law(graph=GRAPH, counts=COUNTS)
  with pytest.raises(ValueError, match=r"`frequencies` must be .* got 7 and 5"):
    transitions.transition_row(
      0, num_embeddings=5, rate=0.1, frequencies=COUNTS
    )
