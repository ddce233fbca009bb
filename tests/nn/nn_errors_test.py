"""Every option that a layer refuses, with the text that says why.

A text names the argument, the rule and the value.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchor_codes import nn
from anchor_codes.ops import graphs

VALID = {
  "AnchorEmbed": {"num_anchors": 5, "num_nonzeros": 2},
  "KDEmbed": {"code_length": 4, "codebook_size": 3},
  "DPQEmbed": {"code_length": 4, "codebook_size": 3},
  "LowRankEmbed": {"rank": 2},
  "HashEmbed": {"num_buckets": 3},
  "QREmbed": {"num_buckets": 3},
}
EMBEDS = [*VALID]
CODES = ["KDEmbed", "DPQEmbed"]


def _make(name, num_embeddings=10, features=8, **options):
  options = {**VALID[name], **options}
  kind = getattr(nn, name)
  return kind(num_embeddings, features, **options, rngs=nnx.Rngs(0))


def _abstract(name, **options):
  """Returns a layer without values: ids are checked before any is read."""
  return nnx.eval_shape(lambda: _make(name, **options))


def _at_least(name, value, minimum=1):
  return f"`{name}` must be at least {minimum}, got {value}."


def _integer(name, value):
  return f"`{name}` must be an integer, got {value!r}."


SIZES = [
  ({"num_embeddings": 0}, _at_least("num_embeddings", 0)),
  ({"num_embeddings": 2.0}, _integer("num_embeddings", 2.0)),
  ({"num_embeddings": True}, _integer("num_embeddings", True)),
  ({"features": 0}, _at_least("features", 0)),
  ({"features": "8"}, _integer("features", "8")),
]
CODE_SIZES = [
  ({"code_length": 0}, _at_least("code_length", 0)),
  ({"code_length": 1.0}, _integer("code_length", 1.0)),
  ({"codebook_size": 0}, _at_least("codebook_size", 0, 2)),
  ({"codebook_size": 1}, _at_least("codebook_size", 1, 2)),
  (
    {"codebook_size": 65537},
    "`codebook_size` must be at most 65536 (two bytes for each digit), got "
    "65537.",
  ),
  ({"codebook_size": True}, _integer("codebook_size", True)),
  ({"temperature": 0}, "`temperature` must be positive, got 0."),
  ({"temperature": -1.5}, "`temperature` must be positive, got -1.5."),
]
OPTIONS = [
  *((name, *case) for name in EMBEDS for case in SIZES),
  *((name, *case) for name in CODES for case in CODE_SIZES),
  ("AnchorEmbed", {"num_anchors": 0}, _at_least("num_anchors", 0)),
  ("AnchorEmbed", {"num_anchors": 2.5}, _integer("num_anchors", 2.5)),
  ("AnchorEmbed", {"num_nonzeros": 0}, _at_least("num_nonzeros", 0)),
  (
    "AnchorEmbed",
    {"num_nonzeros": 6},
    "`num_nonzeros` must be at most `num_anchors`, got 6 and 5.",
  ),
  ("AnchorEmbed", {"num_nonzeros": True}, _integer("num_nonzeros", True)),
  ("LowRankEmbed", {"rank": 0}, _at_least("rank", 0)),
  ("LowRankEmbed", {"rank": None}, _integer("rank", None)),
  ("HashEmbed", {"num_buckets": 0}, _at_least("num_buckets", 0)),
  ("HashEmbed", {"num_hashes": 0}, _at_least("num_hashes", 0)),
  ("HashEmbed", {"seed": -1}, _at_least("seed", -1, 0)),
  ("HashEmbed", {"seed": 0.5}, _integer("seed", 0.5)),
  ("QREmbed", {"num_buckets": 0}, _at_least("num_buckets", 0)),
  (
    "QREmbed",
    {"composition": "concat"},
    "`composition` must be one of 'sum', 'product', got 'concat'.",
  ),
  (
    "KDEmbed",
    {"composition": "mean"},
    "`composition` must be one of 'sum', 'concat', 'linear', 'mlp', 'lstm', "
    "got 'mean'.",
  ),
  (
    "KDEmbed",
    {"relaxation": "nearest"},
    "`relaxation` must be one of 'softmax', 'gumbel', got 'nearest'.",
  ),
  (
    "DPQEmbed",
    {"relaxation": "gumbel"},
    "`relaxation` must be one of 'softmax', 'nearest', got 'gumbel'.",
  ),
  (
    "DPQEmbed",
    {"code_length": 3},
    "`features` must be divisible by `code_length`, got 8 and 3.",
  ),
  (
    "KDEmbed",
    {"composition": "concat", "features": 10},
    "`features` must be divisible by `code_length`, got 10 and 4.",
  ),
  (
    "KDEmbed",
    {"code_features": 5},
    "`code_features` must be 8 for the composition 'sum', got 5; only "
    "'linear' and 'lstm' take another width.",
  ),
  (
    "KDEmbed",
    {"composition": "concat", "code_features": 8},
    "`code_features` must be 2 for the composition 'concat', got 8; only "
    "'linear' and 'lstm' take another width.",
  ),
  (
    "KDEmbed",
    {"composition": "mlp", "hidden": 3, "code_features": 4},
    "`code_features` must be 3 for the composition 'mlp', got 4; only 'linear' "
    "and 'lstm' take another width.",
  ),
  (
    "KDEmbed",
    {"hidden": 3},
    "`hidden` must be None for the composition 'sum', got 3; only 'mlp' and "
    "'lstm' have hidden layers.",
  ),
  ("KDEmbed", {"composition": "mlp", "hidden": 0}, _at_least("hidden", 0)),
  (
    "KDEmbed",
    {"composition": "lstm", "num_layers": 2},
    "`num_layers` must be 1 for the composition 'lstm', got 2; only 'mlp' "
    "takes more.",
  ),
  ("KDEmbed", {"num_layers": 0}, _at_least("num_layers", 0)),
  (
    "KDEmbed",
    {"entropy_weight": -1.0},
    "`entropy_weight` must be finite and at least 0, got -1.0.",
  ),
  (
    "KDEmbed",
    {"code_dropout": 1.0},
    "`code_dropout` must be at least 0 and below 1, got 1.0.",
  ),
  (
    "KDEmbed",
    {"composition": "linear", "code_features": 0},
    _at_least("code_features", 0),
  ),
]


@pytest.mark.parametrize(("name", "options", "text"), OPTIONS)
def test_options_out_of_range(name, options, text):
  with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
    _make(name, **options)


GRAPH = graphs.graph_from_edges([(0, 1)], num_nodes=3)


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"num_embeddings": 0}, _at_least("num_embeddings", 0)),
    ({"rate": 1.5}, "`rate` must be between 0 and 1, got 1.5."),
    ({"rate": -0.1}, "`rate` must be between 0 and 1, got -0.1."),
    ({"rate": float("nan")}, "`rate` must be between 0 and 1, got nan."),
    (
      {"neighbor_ratio": 0.5},
      "`neighbor_ratio` must be at least 1, and finite, got 0.5.",
    ),
    (
      {"graph": GRAPH},
      "`graph` must have one node for each embedding that is not special, got "
      "3 nodes and 10 embeddings.",
    ),
    (
      {"graph": GRAPH, "low": 6, "special_ids": [9, 9, 7]},
      "`graph` must have one node for each embedding that is not special, got "
      "3 nodes and 2 embeddings.",
    ),
    (
      {"counts": [1, 2], "low": 1},
      "`counts` must be one for each embedding that is not special, got 2 "
      "counts and 9 embeddings.",
    ),
    (
      {"graph": GRAPH, "counts": [1, 2, 3], "low": 7},
      "`graph` and counts must not be given together.",
    ),
    (
      {"counts": [-1.0]},
      "`counts` must be finite and not negative, got -1.0 at position 0.",
    ),
    ({"low": -1}, "`low` must be at least 0, got -1."),
    ({"special_ids": [10]}, "`special_ids` must lie in [0, 10), got 10."),
    (
      {"special_ids": [1], "low": 2},
      "`special_ids` must lie in [2, 10), got 1.",
    ),
    (
      {"special_ids": [8, 9], "low": 8},
      "`low` and `special_ids` must leave one of 10 embeddings.",
    ),
  ],
)
def test_options_of_sharing_out_of_range(options, text):
  options = {"num_embeddings": 10, "rngs": nnx.Rngs(0), **options}
  with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
    nn.StochasticSharing(**options)


def test_sharing_needs_a_source_of_randomness():
  sharing = nn.StochasticSharing(10, rate=0.5)
  with pytest.raises(ValueError, match="`rngs` must be given, here or at"):
    sharing([1, 2])
  sharing.eval()
  assert sharing([1, 2]).tolist() == [1, 2]


@pytest.mark.parametrize(
  ("inputs", "error", "text"),
  [
    ([0, 10], IndexError, r"id 10 at position \(1,\) .* of 10 rows"),
    (-1, IndexError, r"id -1 at position \(\) .* of 10 rows"),
    (np.array([2**40]), IndexError, f"id {2**40} at"),
    (np.array([200], np.uint8), IndexError, "id 200 at"),
    ([0.5], ValueError, "ids must be integers, got float64"),
    (jnp.ones(2), ValueError, "ids must be integers, got float32"),
    (np.array([True]), ValueError, "ids must be integers, got bool"),
  ],
)
@pytest.mark.parametrize("name", [*EMBEDS, "StochasticSharing"])
def test_inputs_that_are_no_ids(name, inputs, error, text):
  layer = _abstract(name) if name in VALID else nn.StochasticSharing(10)
  with pytest.raises(error, match=text):
    layer(inputs)


@pytest.mark.parametrize("name", EMBEDS)
def test_traced_ids_must_be_integers(name):
  layer = _abstract(name)
  with pytest.raises(ValueError, match="ids must be integers, got float32"):
    jax.jit(lambda ids: layer(ids))(jnp.ones(2))


def test_a_layer_of_more_symbols_than_ids_can_name():
  layer = _abstract("HashEmbed", num_embeddings=2**40)
  with pytest.raises(ValueError, match="`num_embeddings` must be at most 2147"):
    layer([0])


def test_the_base_leaves_the_calls_to_its_layers():
  base = nn.CompactEmbed(10, 8)
  calls = [base.to_table, lambda: base([1]), lambda: base.attend(jnp.ones(8))]
  for call in calls:
    with pytest.raises(NotImplementedError):
      call()
  assert base.auxiliary_loss([1]) == 0


def test_only_embeddings_become_tables():
  layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match=r"or a `flax\.nnx\.Embed`, got Linear"):
    nn.to_table(layer)
