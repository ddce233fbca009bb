"""Tests of scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from anchor_codes.ops import codes, scores


def _normal(seed, *shape, dtype=jnp.float32):
  return jnp.asarray(reference.normal(seed, *shape), dtype)


def test_dot_scores_of_a_hand_computed_case():
  queries = jnp.array([[0.5, -0.25]])
  keys = jnp.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
  np.testing.assert_array_equal(
    scores.dot_scores(queries, keys), [[0.5, -0.25, 0.25]]
  )


def test_squared_distance_scores_of_a_hand_computed_case():
  queries = jnp.array([[0.2, 0.9]])
  codebooks = jnp.array([[[0.0, 0.0], [1.0, 1.0]]])
  np.testing.assert_allclose(
    scores.squared_distance_scores(queries, codebooks),
    [[-0.85, -0.65]],
    atol=1e-6,
  )


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)])
def test_distances_agree_with_the_differences(batch, positions):
  queries = _normal(0, *batch, 3, 5)
  codebooks = _normal(1, positions, 7, 5)
  result = jax.jit(scores.squared_distance_scores)(queries, codebooks)
  assert result.shape == (*batch, 3, 7)
  flat = np.asarray(queries).reshape(-1, 3, 5)
  for j in range(3):
    expected = reference.squared_distances(
      flat[:, j], np.asarray(codebooks[j % positions])
    )
    np.testing.assert_allclose(
      -result.reshape(-1, 3, 7)[:, j], expected.reshape(-1, 7), rtol=1e-4
    )


@pytest.mark.parametrize(
  "score", [scores.dot_scores, scores.squared_distance_scores]
)
def test_a_shared_codebook_is_one_for_every_position(score):
  queries, codebook = _normal(0, 4, 3, 5), _normal(1, 1, 7, 5)
  shared = score(queries, codebook)
  tiled = score(queries, jnp.tile(codebook, (3, 1, 1)))
  np.testing.assert_allclose(shared, tiled, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  "score", [scores.dot_scores, scores.squared_distance_scores]
)
def test_gradients_are_right(score):
  jax.test_util.check_grads(
    score,
    (_normal(0, 2, 3, 5), _normal(1, 3, 4, 5)),
    1,
    modes=["rev"],
    atol=1e-2,
    rtol=1e-2,
  )


@pytest.mark.parametrize(
  "score", [scores.dot_scores, scores.squared_distance_scores]
)
def test_bfloat16_is_scored_in_float32(score):
  queries = _normal(0, 4, 3, 5, dtype=jnp.bfloat16)
  codebooks = _normal(1, 3, 7, 5, dtype=jnp.bfloat16)
  narrow = score(queries, codebooks)
  exact = score(queries.astype(jnp.float32), codebooks.astype(jnp.float32))
  assert narrow.dtype == jnp.float32
  np.testing.assert_allclose(narrow, exact, rtol=1e-5, atol=1e-5)
  gradient = jax.grad(lambda q: jnp.sum(score(q, codebooks)))(queries)
  assert gradient.dtype == jnp.bfloat16


def test_wrong_shapes_are_refused():
  with pytest.raises(AssertionError, match="shape"):
    scores.dot_scores(jnp.ones((2, 5)), jnp.ones((3, 4, 5)))
  with pytest.raises(AssertionError, match="shape"):
    scores.squared_distance_scores(jnp.ones((2, 5)), jnp.ones((2, 4, 6)))
  with pytest.raises(AssertionError, match="6"):
    scores.position_scores(
      jnp.ones(5), jnp.ones((3, 4, 2)), "concat", code_length=3
    )


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("composition", ["sum", "concat", "linear"])
def test_position_scores_are_gradients_of_the_one_hot_codes(
  composition, positions
):
  codebooks = _normal(0, positions, 4, 2)
  projection = _normal(1, 2, 5) if composition == "linear" else None
  width = {"sum": 2, "concat": 6, "linear": 5}[composition]
  vector = _normal(2, width)
  tables = scores.position_scores(
    vector, codebooks, composition, code_length=3, projection=projection
  )
  tables = jnp.broadcast_to(tables, (3, 4))
  for code in np.ndindex(4, 4, 4):
    embedding = codes.decode_codes(
      jnp.array(code), codebooks, composition, projection=projection
    )
    total = sum(tables[j, digit] for j, digit in enumerate(code))
    np.testing.assert_allclose(total, vector @ embedding, atol=1e-4)
