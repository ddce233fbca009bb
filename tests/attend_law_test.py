"""The law of queries: integers and lists count as the floats that they are."""

from typing import Any

import jax
import jax.numpy as jnp
import layers
import numpy as np
import pytest
from layers import F

compact_layers = pytest.mark.parametrize("name", layers.names("is_compact"))
QUERY = np.random.default_rng(0).integers(-3, 4, (2, F), np.int32)


@compact_layers
def test_integers_score_as_floats(name):
  layer = layers.make_eval(name)
  expected = layers.attend(layer, QUERY.astype(np.float32))
  assert np.abs(expected).max() > 0
  for dtype in (np.int32, np.int8):
    scores = layers.attend(layer, QUERY.astype(dtype))
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
  flags = layers.attend(layer, QUERY > 0)
  expected = layers.attend(layer, (QUERY > 0).astype(np.float32))
  np.testing.assert_allclose(flags, expected, rtol=1e-5, atol=1e-6)


@compact_layers
def test_nested_lists_are_queries(name):
  layer = layers.make_eval(name)
  expected = layers.attend(layer, QUERY.astype(np.float32))
  for query in (QUERY.tolist(), QUERY.astype(float).tolist()):
    scores = layer.attend(query)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


@compact_layers
def test_integers_take_the_type_of_the_parameters(name):
  layer = layers.make(name, param_dtype=jnp.bfloat16)
  scores = jax.eval_shape(lambda e, q: e.attend(q), layer, QUERY)
  twin = layers.make_twin(name, param_dtype=jnp.bfloat16)
  twin_scores = jax.eval_shape(
    lambda v, q: twin.apply(v, q, method="attend"),
    layers.variables_of(layer),
    QUERY,
  )
  assert scores.dtype == jnp.bfloat16
  assert twin_scores == scores


@pytest.mark.parametrize("name", ["anchors_sparse", "low_rank", "hash"])
def test_linen_scores_integers_and_lists(name):
  layer, twin = layers.make(name), layers.make_twin(name)
  variables = layers.variables_of(layer)
  expected = layers.attend(layer, QUERY.astype(np.float32))
  for query in (QUERY, QUERY.tolist()):
    scores: Any = twin.apply(variables, query, method="attend")
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["anchors_sparse", "kd_sum", "hash"])
def test_lists_of_another_width_are_refused(name):
  with pytest.raises(ValueError, match=rf"must be \[..., {F}\], .* got \(3,\)"):
    layers.make(name).attend([1, 2, 3])
