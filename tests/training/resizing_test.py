"""Tables that change their number of anchors between steps of training."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes import nn, ops, training

SIZES = {"users": 5, "items": 7}
FEATURES, CAPACITY = 3, 4


def make_params(*, capacity=CAPACITY, seed=0):
  """Returns two tables with all places taken, and what else a model has."""
  draw = np.random.default_rng(seed).random

  def array(*shape):
    return jnp.asarray(0.25 + 0.5 * draw(shape), jnp.float32)

  tables = {
    name: {
      "anchors": array(capacity, FEATURES),
      "transform": array(size, capacity),
      "bias": array(size),
    }
    for name, size in SIZES.items()
  }
  return {**tables, "head": {"kernel": array(FEATURES, FEATURES)}}


def labels_of(params):
  """Groups the parameters by names that are also those of arrays."""

  def label(path, _):
    return "transform" if path[-1].key == "transform" else "anchors"

  return jax.tree_util.tree_map_with_path(label, params)


def partition(rows):
  return optax.partition(
    {"anchors": optax.adam(0.1), "transform": rows}, labels_of
  )


OPTIMIZERS = {
  "adam": optax.adam(0.1),
  "chain": optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.1)
  ),
  "proximal_l1": partition(
    optax.chain(optax.sgd(0.01), training.proximal_l1(0.01, l1=0.01))
  ),
  "proximal_yogi": partition(training.proximal_yogi(0.1, l1=0.001)),
}
optimizers = pytest.mark.parametrize("name", OPTIMIZERS)


@jax.jit
def lookup(table, ids):
  return ops.anchor_lookup(table["transform"], table["anchors"], ids)


def loss_of(params):
  """The squared error of all ratings, so that each weight has a gradient."""
  users, items = (lookup(params[t], jnp.arange(n)) for t, n in SIZES.items())
  biases = params["users"]["bias"][:, None] + params["items"]["bias"][None, :]
  scores = users @ params["head"]["kernel"] @ items.T + biases
  targets = jnp.sin(jnp.arange(35.0)).reshape(5, 7)
  return jnp.mean(jnp.square(scores - targets))


def make_step(name):
  @jax.jit
  def step(params, state):
    gradients = jax.grad(loss_of)(params)
    with jax.numpy_dtype_promotion("standard"):  # Optax relies on it.
      updates, state = OPTIMIZERS[name].update(gradients, state, params)
      return optax.apply_updates(params, updates), state

  return step


STEPS = {name: make_step(name) for name in OPTIMIZERS}


def trained(name, num_steps=2):
  """Returns parameters and state whose moments are not zero."""
  params = make_params()
  state = OPTIMIZERS[name].init(params)
  for _ in range(num_steps):
    params, state = STEPS[name](params, state)
  return {"params": params, "state": state}


def named_leaves(tree):
  """Returns the leaves by their paths, as text."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def by_hand(array, axis, keep, capacity):
  """Moves the slices of an array one by one."""
  array = np.asarray(array)
  shape = list(array.shape)
  shape[axis] = capacity
  result = np.zeros(shape, array.dtype)
  for new, old in enumerate(keep):
    source, target = [slice(None)] * 2, [slice(None)] * 2
    source[axis], target[axis] = old, new
    result[tuple(target[: array.ndim])] = array[tuple(source[: array.ndim])]
  return result


# Capacity.


@given(st.integers(1, 2**40))
def test_a_capacity_is_the_next_power_of_two(num_anchors):
  capacity = training.anchor_capacity(num_anchors)
  assert capacity & (capacity - 1) == 0
  assert capacity / 2 < num_anchors <= capacity


@pytest.mark.parametrize(
  ("num_anchors", "text"),
  [
    (0, r"`num_anchors` must be at least 1, got 0\."),
    (-4, r"`num_anchors` must be at least 1, got -4\."),
    (2.0, r"`num_anchors` must be an integer, got 2\.0\."),
  ],
)
def test_numbers_without_a_capacity(num_anchors, text):
  with pytest.raises(ValueError, match=text):
    training.anchor_capacity(num_anchors)


# Resizing.


@optimizers
@pytest.mark.parametrize(
  ("keep", "capacity"), [([0, 1, 2, 3], 8), ([3, 0], 2), ([2], 4), ([], 1)]
)
def test_each_array_of_a_table_against_a_loop(name, keep, capacity):
  before = trained(name)
  after = training.resize_anchors(
    before, table="items", keep=keep, capacity=capacity
  )
  assert jax.tree.structure(after) == jax.tree.structure(before)
  resized, leaves = named_leaves(after), named_leaves(before)
  num_resized = 0
  for path, leaf in leaves.items():
    axis = {"['items']['anchors']": 0, "['items']['transform']": 1}.get(
      "".join(path.rpartition("['items']")[1:])
    )
    if axis is None:
      # Not a copy: the other table, the biases, the counts.
      assert resized[path] is leaf, path
      continue
    num_resized += 1
    assert isinstance(resized[path], np.ndarray)
    np.testing.assert_array_equal(
      resized[path], by_hand(leaf, axis, keep, capacity)
    )
    assert resized[path].dtype == leaf.dtype
  # Parameters, and the moments that the optimiser keeps of them.
  assert num_resized == (4 if name == "proximal_l1" else 6)


@given(
  st.permutations(range(CAPACITY)),
  st.integers(0, CAPACITY),
  st.permutations(range(CAPACITY)),
  st.integers(0, CAPACITY),
)
def test_resizing_composes(first, num_first, second, num_second):
  first = first[:num_first]
  second = [k for k in second if k < num_first][:num_second]
  params, both = make_params(), [first[k] for k in second]
  resize = lambda tree, keep, capacity: training.resize_anchors(
    tree, table="users", keep=keep, capacity=capacity
  )
  twice = resize(resize(params, first, 8), second, 16)
  chex.assert_trees_all_equal(twice, resize(params, both, 16))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
@pytest.mark.parametrize("capacity", [4, 8, 32])
def test_a_table_with_all_its_anchors_looks_up_the_same(order, capacity):
  params = make_params()
  resized = training.resize_anchors(
    params, table="users", keep=order, capacity=capacity
  )
  ids = jnp.array([4, 0, 2])
  np.testing.assert_allclose(
    lookup(resized["users"], ids), lookup(params["users"], ids), rtol=1e-6
  )


def test_an_anchor_that_goes_is_one_without_weight():
  table = make_params()["items"]
  resized = training.resize_anchors(
    {"items": table}, table="items", keep=[0, 3], capacity=2
  )
  without = {**table, "transform": table["transform"].at[:, 1:3].set(0.0)}
  ids = jnp.arange(7)
  np.testing.assert_allclose(
    lookup(resized["items"], ids), lookup(without, ids), rtol=1e-6
  )


@optimizers
def test_places_without_an_anchor_stay_empty(name):
  kept = [3, 1, 0]
  tree = training.resize_anchors(
    trained(name), table="items", keep=kept, capacity=8
  )
  params, state = tree["params"], tree["state"]
  for _ in range(5):
    params, state = STEPS[name](params, state)
  for array in ("anchors", "transform"):
    before, after = (
      np.asarray(p["items"][array]) for p in (tree["params"], params)
    )
    if array == "transform":
      before, after = before.T, after.T
    assert not after[3:].any()
    assert (after[:3] != before[:3]).any(axis=1).all()


@optimizers
def test_a_step_with_empty_places_is_that_without(name):
  tree, kept = trained(name), [0, 2, 3]
  tight, roomy = (
    training.resize_anchors(tree, table="items", keep=kept, capacity=capacity)
    for capacity in (3, 8)
  )
  tight, roomy = (STEPS[name](t["params"], t["state"]) for t in (tight, roomy))
  cut = training.resize_anchors(roomy, table="items", keep=range(3), capacity=3)
  chex.assert_trees_all_close(cut, tight, rtol=1e-4, atol=1e-6)


def test_a_step_is_compiled_once_for_each_power_of_two():
  optimizer = optax.sgd(0.1, momentum=0.9)
  num_traces = []

  @jax.jit
  def step(params, state):
    num_traces.append(1)
    gradients = jax.grad(lambda p: lookup(p["items"], jnp.arange(7)).sum())(
      params
    )
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(params, updates), state

  params = {"items": make_params(capacity=64)["items"]}
  tree = {"params": params, "state": optimizer.init(params)}
  for num_anchors in range(40, 0, -1):
    tree = training.resize_anchors(
      tree,
      table="items",
      keep=range(num_anchors),
      capacity=training.anchor_capacity(num_anchors),
    )
    params, state = step(tree["params"], tree["state"])
    tree = {"params": params, "state": state}
  assert params["items"]["anchors"].shape == (1, FEATURES)
  assert len(num_traces) == 7 <= np.log2(40) + 2


# The ways to an array of a table.


class Model(nnx.Module):
  def __init__(self):
    for seed, (name, size) in enumerate(SIZES.items()):
      layer = nn.AnchorEmbed(
        size,
        FEATURES,
        num_anchors=CAPACITY,
        num_nonzeros=None,
        rngs=nnx.Rngs(params=jax.random.key(seed, impl="unsafe_rbg")),
      )
      setattr(self, name, layer)


def test_states_of_nnx():
  model = Model()
  state = nnx.state(model)
  resized = training.resize_anchors(
    state, table="users", keep=[2, 1], capacity=2
  )
  assert isinstance(resized, nnx.State)
  expected = nnx.to_pure_dict(state)
  pure = nnx.to_pure_dict(resized)
  chex.assert_trees_all_equal(pure["items"], expected["items"])
  np.testing.assert_array_equal(
    pure["users"]["anchors"], expected["users"]["anchors"][jnp.array([2, 1])]
  )
  # As an attribute and a pure dict, too.
  for tree in (model, expected):
    other = training.resize_anchors(
      tree, table="users", keep=[2, 1], capacity=2
    )
    if isinstance(other, nnx.Module):
      other = nnx.to_pure_dict(nnx.state(other))
    chex.assert_trees_all_equal(other, pure)
  merged = nnx.merge(nnx.graphdef(model), resized)
  assert merged.users.num_anchors == 2
  vectors = jax.jit(lambda model: model.users(jnp.array([4])))(merged)
  assert vectors.shape == (1, FEATURES)


def test_the_optimizer_of_nnx():
  model = Model()
  optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)
  resized = training.resize_anchors(
    nnx.state(optimizer), table="items", keep=[0], capacity=1
  )
  shapes = {path: leaf.shape for path, leaf in named_leaves(resized).items()}
  for moment in ("mu", "nu"):
    of_moment = [shape for path, shape in shapes.items() if moment in path]
    assert sorted(of_moment) == [(1, 3), (4, 3), (5, 4), (7, 1)]


def test_a_name_counts_only_at_the_end():
  # Moments of rows lie under the name of their table, which comes first.
  arrays = {"transform": np.ones((5, 4)), "bias": np.ones((4, 4))}
  tree = {
    "items": {
      "mu": arrays,
      "anchors": {"bias": np.ones((4, 4))},
      "transform": {"inner_state": {"bias": np.ones((4, 4))}},
    },
    "anchors": {"items": np.ones((4, 4))},
    "transform": np.ones((5, 4)),
  }
  resized = training.resize_anchors(tree, table="items", keep=[1], capacity=1)
  shapes = {path: leaf.shape for path, leaf in named_leaves(resized).items()}
  moved = {path for path, shape in shapes.items() if 1 in shape}
  assert moved == {"['items']['mu']['transform']"}
  assert shapes["['items']['mu']['transform']"] == (5, 1)


def test_numbers_of_rows_are_no_numbers_of_anchors():
  rows = {"anchors": jnp.ones((4, 3)), "transform": jnp.ones((5, 4))}
  optimizer = training.scale_by_row_adagrad()
  state = optimizer.init({"items": rows})
  resized = training.resize_anchors(
    state, table="items", keep=[0, 1], capacity=2
  )
  sums = resized.sum_of_squares["items"]
  assert sums["anchors"].shape == (2,)
  assert sums["transform"].shape == (5,)


def test_a_mask_goes_with_its_table():
  tree = {"items": {"support": np.eye(4, dtype=bool)}}
  support = training.resize_anchors(
    tree, table="items", keep=[3, 1], capacity=4
  )["items"]["support"]
  assert support.dtype == bool
  np.testing.assert_array_equal(np.argwhere(support), [[1, 1], [3, 0]])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int8])
def test_types_are_kept(dtype):
  tree = {"items": {"anchors": jnp.arange(4).astype(dtype)[:, None]}}
  resized = training.resize_anchors(
    tree, table="items", keep=[3, 1], capacity=4
  )["items"]["anchors"]
  assert resized.dtype == dtype
  assert resized[:, 0].astype(int).tolist() == [3, 1, 0, 0]


def test_keep_takes_what_a_plan_has_after_json():
  keep = tuple(json.loads(json.dumps([1, 2])))
  for some in (keep, list(keep), np.array(keep), range(1, 3)):
    resized = training.resize_anchors(
      make_params(), table="users", keep=some, capacity=2
    )
    np.testing.assert_array_equal(
      resized["users"]["anchors"], make_params()["users"]["anchors"][1:3]
    )


@pytest.mark.parametrize(
  ("options", "text"),
  [
    (
      {"keep": [1, 2, 1]},
      r"`keep` must not repeat an anchor, got \[1, 2, 1\]\.",
    ),
    ({"keep": [4]}, r"`keep` must lie in \[0, 4\), got 4\."),
    ({"keep": [0, -1]}, r"`keep` must lie in \[0, 4\), got -1\."),
    (
      {"keep": [0, 1, 2], "capacity": 2},
      r"`capacity` must have room for the 3 anchors that stay, got 2\.",
    ),
    ({"table": "words"}, "the tree has no anchors of a table 'words'"),
    ({"table": "head"}, "the tree has no anchors of a table 'head'"),
  ],
)
def test_what_cannot_be_resized(options, text):
  options = {"table": "items", "keep": [0], "capacity": 4, **options}
  with pytest.raises(ValueError, match=text):
    training.resize_anchors(make_params(), **options)
