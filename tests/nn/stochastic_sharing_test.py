"""Tests of stochastic sharing as a layer; its laws are those of the ops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchor_codes import nn
from anchor_codes.ops import frequencies, graphs, transitions

NUM_EMBEDDINGS = 12
# Node 0 with four neighbours, node 5 with one, node 11 with none.
GRAPH = graphs.graph_from_edges(
  [(0, 1), (0, 2), (0, 3), (0, 4), (5, 6)], num_nodes=NUM_EMBEDDINGS
)
# An id is replaced independently at each place: enough for a small error.
MANY = 40_000


class Model(nnx.Module):
  """What a user builds: sharing in front of an embedding, nested."""

  def __init__(self, **options):
    self.sharing = nn.StochasticSharing(
      NUM_EMBEDDINGS, rngs=nnx.Rngs(sse=0), **options
    )
    self.embeds = nnx.List([nnx.Embed(NUM_EMBEDDINGS, 3, rngs=nnx.Rngs(1))])

  def __call__(self, ids):
    return self.embeds[0](self.sharing(ids))


def _sharing(seed=0, **options):
  return nn.StochasticSharing(
    NUM_EMBEDDINGS, rngs=nnx.Rngs(sse=seed), **options
  )


@jax.jit
def _call(layer, ids, key):
  return layer(ids, rngs=nnx.Rngs(sse=key))


@pytest.mark.parametrize("graph", [None, GRAPH])
def test_identity_out_of_training(graph):
  sharing = _sharing(rate=1.0, graph=graph, deterministic=True)
  ids = np.random.default_rng(0).integers(0, NUM_EMBEDDINGS, (3, 5))
  np.testing.assert_array_equal(sharing(ids), ids)


def test_identity_at_rate_zero_needs_no_randomness():
  sharing = nn.StochasticSharing(NUM_EMBEDDINGS, rate=0.0)
  assert sharing([[3, 1], [4, 1]]).tolist() == [[3, 1], [4, 1]]


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_the_rate_in_training_is_exact(rate):
  ids = jnp.zeros(MANY, jnp.int32)
  shared = np.asarray(_sharing(rate=rate)(ids))
  # A replaced id is never the old one, so what changed is what was replaced.
  deviation = np.sqrt(rate * (1 - rate) / MANY)
  assert abs(np.mean(shared != 0) - rate) <= 5 * deviation
  counts = np.bincount(shared, minlength=NUM_EMBEDDINGS)[1:]
  expected = MANY * rate / (NUM_EMBEDDINGS - 1)
  np.testing.assert_allclose(counts, expected, atol=5 * np.sqrt(expected))


@pytest.mark.parametrize("node", [0, 5, 11])
def test_neighbours_in_a_graph_are_likelier(node):
  sharing = _sharing(rate=0.5, graph=GRAPH, neighbor_ratio=6.0)
  shared = np.asarray(sharing(jnp.full(MANY, node, jnp.int32)))
  frequencies = np.bincount(shared, minlength=NUM_EMBEDDINGS) / MANY
  expected = transitions.transition_row(
    node,
    num_embeddings=NUM_EMBEDDINGS,
    rate=0.5,
    graph=GRAPH,
    neighbor_ratio=6.0,
  )
  deviation = np.sqrt(expected * (1 - expected) / MANY)
  assert (np.abs(frequencies - expected) <= 5 * deviation).all()


def test_train_and_eval_reach_it_inside_of_a_model():
  model, ids = Model(rate=1.0), jnp.arange(NUM_EMBEDDINGS)
  table = model.embeds[0].embedding[...]

  def is_shared():
    return not np.array_equal(model(ids), table)

  assert is_shared()
  model.eval()
  assert not is_shared()
  model.train()
  assert is_shared()


def test_each_call_draws_anew_and_seeds_repeat():
  ids = jnp.arange(NUM_EMBEDDINGS)
  first, same, other = (_sharing(seed, rate=0.9) for seed in (0, 0, 1))
  draws = [np.asarray(layer(ids)) for layer in (first, same, other, first)]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert not np.array_equal(draws[0], draws[2])
  assert not np.array_equal(draws[0], draws[3])


def test_the_stream_is_sse_and_that_of_the_caller_stays_put():
  rngs = nnx.Rngs(0, sse=5)
  sharing = nn.StochasticSharing(NUM_EMBEDDINGS, rate=0.9, rngs=rngs)
  ids = jnp.arange(NUM_EMBEDDINGS)
  expected = transitions.sse_se_transition(
    nnx.Rngs(sse=5).fork().sse(),
    ids,
    num_embeddings=NUM_EMBEDDINGS,
    rate=0.9,
  )
  np.testing.assert_array_equal(sharing(ids), expected)
  sharing(ids)
  counts = [int(stream.count[...]) for stream in (rngs.sse, rngs.default)]
  fresh = nnx.Rngs(0, sse=5)
  fresh.fork()
  assert counts == [
    int(stream.count[...]) for stream in (fresh.sse, fresh.default)
  ]


@pytest.mark.parametrize("graph", [None, GRAPH])
def test_randomness_may_come_with_the_call_under_jit(graph):
  sharing = nn.StochasticSharing(
    NUM_EMBEDDINGS, rate=0.5, graph=graph, neighbor_ratio=2.0
  )
  ids = jnp.arange(NUM_EMBEDDINGS)
  draws = [_call(sharing, ids, jax.random.key(seed)) for seed in (0, 0, 1)]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert not np.array_equal(draws[0], draws[2])
  eager = sharing(ids, rngs=nnx.Rngs(sse=jax.random.key(0)))
  np.testing.assert_array_equal(eager, draws[0])


def test_randomness_of_the_call_comes_first():
  sharing = _sharing(seed=0, rate=0.9)
  ids = jnp.arange(NUM_EMBEDDINGS)
  other = sharing(ids, rngs=nnx.Rngs(sse=7))
  np.testing.assert_array_equal(_sharing(rate=0.9)(ids), sharing(ids))
  expected = nn.StochasticSharing(NUM_EMBEDDINGS, rate=0.9)(
    ids, rngs=nnx.Rngs(sse=7)
  )
  np.testing.assert_array_equal(other, expected)


def test_a_compiled_step_keeps_drawing():
  model, ids = Model(rate=0.9), jnp.arange(NUM_EMBEDDINGS)
  graphdef, state = nnx.split(model)

  @jax.jit
  def step(state):
    model = nnx.merge(graphdef, state)
    return model.sharing(ids), nnx.state(model)

  first, state = step(state)
  second, _ = step(state)
  assert not np.array_equal(first, second)


def test_ids_are_checked_and_those_outside_stay_outside():
  model = Model(rate=1.0)
  with pytest.raises(IndexError, match=r"id 12 at position \(1,\)"):
    model.sharing([0, NUM_EMBEDDINGS])
  ids = jnp.array([NUM_EMBEDDINGS, -1, 2])
  for graph in (None, GRAPH):
    sharing = _sharing(rate=1.0, graph=graph, neighbor_ratio=3.0)
    shared = _call(sharing, ids, jax.random.key(0))
    assert shared[:2].tolist() == [NUM_EMBEDDINGS, -1]
    assert 0 <= shared[2] < NUM_EMBEDDINGS
    assert shared[2] != 2


@pytest.mark.parametrize("shape", [(), (2, 3), (0,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_ids_of_any_shape_and_type(shape, dtype):
  shared = _sharing(rate=1.0)(np.zeros(shape, dtype))
  assert shared.shape == shape
  assert shared.dtype == jnp.int32
  assert (np.asarray(shared) != 0).all()


def test_one_symbol_has_no_other():
  sharing = nn.StochasticSharing(1, rate=1.0, rngs=nnx.Rngs(0))
  assert sharing([0, 0]).tolist() == [0, 0]


def test_there_is_nothing_to_train():
  model = Model(rate=0.5, graph=GRAPH, neighbor_ratio=2.0)
  params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  assert list(params) == ["embeds"]


def test_gradients_reach_the_row_that_was_looked_up():
  model, ids = Model(rate=1.0), jnp.array([3])
  shared = int(nnx.clone(model).sharing(ids)[0])
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  @jax.grad
  def gradient(params):
    return jnp.sum(nnx.merge(graphdef, params, rest, copy=True)(ids))

  gradients = gradient(params)["embeds"][0]["embedding"][...]
  touched = np.flatnonzero(np.asarray(gradients).any(axis=1))
  assert touched.tolist() == [shared]
  assert shared != 3


# --- Variants ---

SPECIAL = (3, 7)
ORDINARY = np.setdiff1d(np.arange(1, NUM_EMBEDDINGS), SPECIAL)
# Of the nine ordinary ids, in their order.
SMALL = graphs.graph_from_edges([(0, 1), (0, 2), (4, 8)], num_nodes=9)
VARIANTS = {
  "uniform": {},
  "graph": {"graph": SMALL, "neighbor_ratio": 6.0},
  "counts": {"counts": np.arange(1, 10)},
}


@jax.jit
def _draw_many(layer, rate, ids):
  return layer(ids, rate=rate, rngs=nnx.Rngs(sse=jax.random.key(4)))


@pytest.mark.parametrize("kind", VARIANTS)
def test_special_ids_leave_the_law_of_the_others(kind):
  options = VARIANTS[kind]
  layer = nn.StochasticSharing(
    NUM_EMBEDDINGS, low=1, special_ids=SPECIAL, **options
  )
  ids = np.tile(np.arange(NUM_EMBEDDINGS), (20_000, 1))
  drawn = np.asarray(_draw_many(layer, 0.5, ids))
  special = np.setdiff1d(np.arange(NUM_EMBEDDINGS), ORDINARY)
  np.testing.assert_array_equal(drawn[:, special], ids[:, special])
  found = np.stack([np.mean(drawn == k, axis=0) for k in range(12)], axis=1)
  counts = options.get("counts")
  law = {
    "graph": options.get("graph"),
    "neighbor_ratio": options.get("neighbor_ratio", 1.0),
    "frequencies": None
    if counts is None
    else frequencies.frequencies_from_counts(counts),
  }
  for place, own in enumerate(ORDINARY):
    expected = np.zeros(NUM_EMBEDDINGS)
    expected[ORDINARY] = transitions.transition_row(
      place, num_embeddings=9, rate=0.5, **law
    )
    deviation = np.sqrt(expected * (1 - expected) / 20_000)
    assert (np.abs(found[own] - expected) <= 5 * deviation).all()


def test_a_schedule_of_rates_is_traced_once():
  layer, traces = nn.StochasticSharing(NUM_EMBEDDINGS, rate=0.0), []

  @jax.jit
  def draw(layer, rate, where):
    traces.append(rate)
    rngs = nnx.Rngs(sse=jax.random.key(0))
    return layer(jnp.arange(NUM_EMBEDDINGS), rate=rate, where=where, rngs=rngs)

  where = np.arange(NUM_EMBEDDINGS) % 3 > 0
  for rate in (0.0, 0.5, 1.0):
    changed = np.asarray(draw(layer, rate, where)) != np.arange(NUM_EMBEDDINGS)
    assert not changed[~where].any()
    assert rate == 0.5 or (changed[where] == bool(rate)).all()
  assert len(traces) == 1


def test_the_rate_of_a_call_is_checked_and_evaluation_comes_first():
  sharing = _sharing(rate=0.0)
  with pytest.raises(ValueError, match="`rate` must be between 0 and 1"):
    sharing([1], rate=1.5)
  sharing.eval()
  assert sharing([1, 2], rate=1.0).tolist() == [1, 2]


def test_rows_are_shared_as_a_whole_on_demand():
  ids = np.tile(np.arange(NUM_EMBEDDINGS), (30, 1))
  by_row = np.asarray(_sharing(rate=0.9, per_row=True)(ids))
  assert (by_row == by_row[0]).all()
  assert (by_row != ids).any()
  by_place = np.asarray(_sharing(rate=0.9)(ids))
  assert (by_place != by_place[0]).any()


def test_the_released_code_may_draw_the_id_itself():
  sharing = nn.StochasticSharing(
    2, rate=1.0, exclude_self=False, rngs=nnx.Rngs(0)
  )
  changed = np.mean(np.asarray(sharing(np.zeros(MANY, int))))
  assert abs(changed - 0.5) < 5 * 0.5 / np.sqrt(MANY)
