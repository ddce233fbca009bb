"""What is Linen's own; conformance_test.py has what both APIs share."""

import inspect
import pathlib
import re
import subprocess
import sys

import flax.errors
import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest
from flax import linen as flax_linen
from flax import nnx
from layers import LAYERS, F, V

from anchor_codes import linen, nn
from anchor_codes.ops import graphs, lookups

KINDS = [name for name in linen.__all__ if name != "CompactEmbed"]
COMPACT = layers.names("is_compact")
CODES = layers.names("straight_through")
IDS = np.array([[3, 5, 3], [0, 19, 7]])


def init(twin):
  return jax.jit(twin.init)(layers.QUICK_KEY, IDS)


@pytest.mark.parametrize("kind", KINDS)
def test_options_and_defaults_are_those_of_nnx(kind):
  parameters = inspect.signature(getattr(nn, kind).__init__).parameters.values()
  expected = {p.name: (p.kind, p.default) for p in parameters}
  for name in ("self", "rngs"):
    expected.pop(name, None)
  signature = inspect.signature(getattr(linen, kind)).parameters.values()
  options = {p.name: (p.kind, p.default) for p in signature}
  for name in ("parent", "name"):
    del options[name]
  assert options == expected


@pytest.mark.parametrize("name", COMPACT)
def test_init_gives_the_variables_of_nnx(name):
  options = {"param_dtype": jnp.bfloat16}
  layer = nnx.eval_shape(lambda: layers.construct(name, **options))
  twin = layers.make_twin(name, **options)
  variables = jax.eval_shape(twin.init, layers.QUICK_KEY, IDS)
  describe = lambda leaf: (leaf.shape, leaf.dtype)
  assert jax.tree.map(describe, dict(variables)) == jax.tree.map(
    describe, layers.variables_of(layer)
  )


@pytest.mark.parametrize(
  "name",
  [
    "anchors_sparse",
    "anchors_dense",
    "kd_concat",
    "kd_linear",
    "kd_lstm",
    "dpq_softmax",
    "low_rank",
    "hash",
    "qr_product",
    "qr_sum",
  ],
)
def test_init_draws_from_the_distributions_of_nnx(name):
  row, sizes = LAYERS[name], (2000, 64)
  kind = getattr(nn, row.kind)
  rngs = nnx.Rngs(params=layers.QUICK_KEY)
  layer = kind(*sizes, **row.options, scale=0.3, rngs=rngs)
  twin = getattr(linen, row.kind)(*sizes, **row.options, scale=0.3)

  def assert_alike(array, expected):
    array, expected = np.float64(array), np.float64(expected)
    error = 5 / np.sqrt(array.size)  # Five standard deviations, or more.
    spread = expected.std()
    assert abs(array.mean() - expected.mean()) <= 2 * error * spread
    assert abs(array.std() - spread) <= error * spread

  jax.tree.map(assert_alike, dict(init(twin)), layers.variables_of(layer))


def test_sparse_rows_start_with_distinct_anchors():
  variables = init(layers.make_twin("anchors_sparse"))
  indices = np.sort(variables["codes"]["indices"], axis=1)
  assert indices.dtype == np.int32
  assert (np.diff(indices, axis=1) > 0).all()


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("anchors_sparse", {"num_embeddings": 0}),
    ("anchors_sparse", {"features": 0}),
    ("anchors_sparse", {"num_anchors": 0}),
    ("anchors_sparse", {"num_nonzeros": 7}),
    ("anchors_sparse", {"num_nonzeros": 0}),
    ("kd_sum", {"code_length": 0}),
    ("kd_sum", {"codebook_size": 1}),
    ("kd_sum", {"temperature": 0.0}),
    ("kd_sum", {"relaxation": "nearest"}),
    ("kd_sum", {"composition": "mean"}),
    ("kd_sum", {"code_features": 3}),
    ("kd_concat", {"features": 9}),
    ("kd_sum", {"hidden": 3}),
    ("kd_sum", {"num_layers": 2}),
    ("kd_sum", {"entropy_weight": -1.0}),
    ("kd_sum", {"code_dropout": 1.0}),
    ("kd_lstm", {"hidden": 0}),
    ("dpq_softmax", {"codebook_size": 70_000}),
    ("dpq_softmax", {"relaxation": "gumbel"}),
    ("dpq_softmax", {"features": 9}),
    ("dpq_softmax", {"temperature": -1.0}),
    ("low_rank", {"rank": 0}),
    ("hash", {"num_buckets": 0}),
    ("hash", {"num_hashes": 0}),
    ("hash", {"seed": -1}),
    ("qr_sum", {"num_buckets": 0}),
    ("qr_sum", {"composition": "concat"}),
  ],
)
def test_wrong_options_get_the_errors_of_nnx(name, options):
  row = LAYERS[name]
  options = {"num_embeddings": V, "features": F, **row.options, **options}
  with pytest.raises(ValueError, match="must be") as expected:
    getattr(nn, row.kind)(**options, rngs=nnx.Rngs(0))
  text = re.escape(str(expected.value).splitlines()[0])
  with pytest.raises(ValueError, match=f"^{text}"):
    getattr(linen, row.kind)(**options).init(layers.QUICK_KEY, IDS)


@pytest.mark.parametrize(
  ("name", "method"),
  [
    *((name, "__call__") for name in COMPACT),
    ("dpq_nearest", "auxiliary_loss"),
  ],
)
def test_ids_are_checked(name, method):
  twin = layers.make_twin(name)
  variables = layers.variables_of(layers.make(name))
  with pytest.raises(IndexError, match=rf"id {V} at .* of {V} rows"):
    twin.apply(variables, [[0, V]], method=method)
  with pytest.raises(ValueError, match="ids must be integers, got float"):
    twin.apply(variables, [0.5], method=method)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", ["anchors_sparse", "anchors_dense"])
def test_tables_store_the_types_that_those_of_nnx_do(name, dtype):
  options = {"param_dtype": dtype}
  layer = layers.make(name, **options)
  twin = layers.make_twin(name, **options)
  table = twin.apply(layers.variables_of(layer), method="to_table")
  assert table.nbytes == layer.to_table().nbytes


@pytest.mark.parametrize("name", ["anchors_sparse", "kd_sum", "dpq_nearest"])
def test_ids_outside_the_table_are_nan_under_jit(name):
  variables = layers.variables_of(layers.make(name))
  vectors = jax.jit(layers.make_twin(name).apply)(
    variables, np.array([-1, 3, V])
  )
  np.testing.assert_array_equal(np.isnan(vectors[:, 0]), [True, False, True])


@pytest.mark.parametrize("name", ["kd_sum", "dpq_softmax"])
def test_moments_move_in_training_where_they_may(name):
  twin = layers.make_twin(name)
  variables = init(twin)
  # Initialising is not training.
  assert not variables["batch_stats"]["norm"]["mean"].any()

  def moved(twin, **options):
    _, state = twin.apply(variables, IDS, mutable=["batch_stats"], **options)
    return bool(state["batch_stats"]["norm"]["mean"].any())

  assert moved(twin)
  assert not moved(twin.clone(deterministic=True))
  assert not moved(twin, method="auxiliary_loss")
  # In training without moving them the moments of the batch still count.
  frozen = twin.apply(variables, IDS)
  vectors, _ = twin.apply(variables, IDS, mutable=["batch_stats"])
  np.testing.assert_array_equal(frozen, vectors)


def test_gumbel_noise_comes_from_its_stream():
  twin = layers.make_twin("kd_gumbel")
  variables = layers.variables_of(layers.make("kd_gumbel"))

  @jax.jit
  def run(seed):
    rngs = {"codes": jax.random.key(seed)}
    return twin.apply(variables, np.arange(V), rngs=rngs)

  np.testing.assert_array_equal(run(0), run(0))
  assert not np.array_equal(run(0), run(1))
  with pytest.raises(flax.errors.InvalidRngError, match='"codes"'):
    twin.apply(variables, IDS)
  twin.clone(deterministic=True).apply(variables, IDS)


def test_a_layer_inside_of_a_model():
  class Model(flax_linen.Module):
    @flax_linen.compact
    def __call__(self, ids, *, train):
      ids = linen.StochasticSharing(V, rate=0.5, deterministic=not train)(ids)
      embed = linen.KDEmbed(
        V,
        F,
        code_length=4,
        codebook_size=4,
        deterministic=not train,
        name="embed",
      )
      return embed.attend(flax_linen.Dense(F)(embed(ids)))

  model = Model()
  variables = model.init(jax.random.key(0), IDS, train=False)
  assert {*variables["params"]} == {"Dense_0", "embed"}
  scores, moved = model.apply(
    variables,
    IDS,
    train=True,
    rngs={"sse": jax.random.key(1)},
    mutable=["batch_stats"],
  )
  assert scores.shape == (*IDS.shape, V)
  assert moved["batch_stats"]["embed"]["norm"]["mean"].any()


GRAPH = graphs.graph_from_edges([(0, 1), (2, 5)], num_nodes=V)


@pytest.mark.parametrize(
  "options",
  [
    {"rate": 0.5},
    {"rate": 1.0, "graph": GRAPH, "neighbor_ratio": 9.0},
    {
      "rate": 1.0,
      "graph": graphs.graph_from_classes(np.arange(V - 3) % 4),
      "low": 1,
      "special_ids": (7, 9),
      "per_row": True,
    },
    {"rate": 0.5, "counts": np.arange(V), "exclude_self": False},
  ],
)
def test_sharing_agrees(options, monkeypatch):
  # The same draws for both, whose keys come from different streams.
  exchange, key = lookups.exchange_ids, jax.random.key(3)
  monkeypatch.setattr(
    lookups, "exchange_ids", lambda _, ids, **kw: exchange(key, ids, **kw)
  )
  expected = nn.StochasticSharing(V, **options, rngs=nnx.Rngs(0))(IDS)
  twin = linen.StochasticSharing(V, **options)
  ids = twin.apply({}, IDS, rngs={"sse": jax.random.key(0)})
  np.testing.assert_array_equal(ids, expected)
  assert not np.array_equal(ids, IDS)


def test_sharing_out_of_training_needs_no_randomness():
  for options in ({"deterministic": True}, {"rate": 0.0}):
    twin = linen.StochasticSharing(V, **options)
    np.testing.assert_array_equal(twin.apply({}, IDS), IDS)
  with pytest.raises(flax.errors.InvalidRngError, match='"sse"'):
    linen.StochasticSharing(V).apply({}, IDS)


def test_the_rate_and_the_mask_of_a_call_come_first():
  where = IDS != 3
  twin = linen.StochasticSharing(V, rate=0.0)
  rngs = {"sse": jax.random.key(0)}
  ids = twin.apply({}, IDS, rate=jnp.float32(1), where=where, rngs=rngs)
  np.testing.assert_array_equal(np.asarray(ids) != IDS, where)


def test_sharing_checks_options_and_ids():
  with pytest.raises(ValueError, match="`rate` must be between 0 and 1"):
    linen.StochasticSharing(V, rate=2.0).apply({}, IDS)
  with pytest.raises(ValueError, match="`graph` must have one node for each"):
    linen.StochasticSharing(V + 1, graph=GRAPH).apply({}, IDS)
  with pytest.raises(IndexError, match=f"id {V} at"):
    linen.StochasticSharing(V).apply({}, [V])


def test_importing_does_not_load_nnx():
  code = "import sys, anchor_codes.linen; print('flax.nnx' in sys.modules)"
  root = pathlib.Path(linen.__file__).parents[2]
  result = subprocess.run(
    [sys.executable, "-c", code],
    cwd=root,
    capture_output=True,
    text=True,
    check=True,
  )
  assert result.stdout.strip() == "False"
