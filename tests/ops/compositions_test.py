"""Tests of compositions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from anchor_codes.ops import codes, compositions, folding, relaxations


def _normal(seed, *shape):
  return jnp.asarray(reference.normal(seed, *shape))


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)])
def test_definitions(batch):
  vectors, projection = _normal(0, *batch, 3, 4), _normal(1, 4, 5)
  exact = np.asarray(vectors, np.float64)
  total = sum(exact[..., j, :] for j in range(3))
  np.testing.assert_allclose(
    compositions.compose(vectors, "sum"), total, rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(
    compositions.compose(vectors, "linear", projection=projection),
    total @ np.asarray(projection, np.float64),
    rtol=1e-4,
    atol=1e-5,
  )
  np.testing.assert_array_equal(
    compositions.compose(vectors, "concat"),
    np.concatenate([vectors[..., j, :] for j in range(3)], axis=-1),
  )


@pytest.mark.parametrize(
  ("composition", "width"), [("sum", 4), ("concat", 12), ("linear", 5)]
)
def test_bias_is_added_to_every_composition(composition, width):
  vectors, bias = _normal(0, 2, 3, 4), _normal(1, width)
  projection = _normal(2, 4, 5) if composition == "linear" else None

  def compose(bias):
    return compositions.compose(
      vectors, composition, projection=projection, bias=bias
    )

  np.testing.assert_allclose(
    compose(bias), compose(None) + bias[None, :], rtol=1e-6
  )


def test_bias_of_the_wrong_width_is_refused():
  with pytest.raises(AssertionError, match="shape"):
    compositions.compose(jnp.ones((2, 3)), "sum", bias=jnp.ones(1))


def test_unknown_composition_is_refused():
  message = "`composition` must be one of 'sum', 'concat', .* got 'mean'"
  with pytest.raises(ValueError, match=message):
    compositions.compose(jnp.ones((2, 3)), "mean")


def test_unknown_composition_is_not_taken_for_another_one():
  # The vectors of all others stood side by side, with the gradient of a sum.
  for combine in (
    lambda: compositions.combine(jnp.ones((2, 3)), "mean"),
    lambda: codes.combine_codes(jnp.array([0]), jnp.ones((1, 2, 3)), "mean"),
    lambda: relaxations.straight_through_combine(
      jnp.ones((1, 2)), jnp.ones((1, 2, 3)), 1.0, "mean"
    ),
  ):
    with pytest.raises(ValueError, match="`composition` must be one of"):
      combine()


@pytest.mark.parametrize("composition", ["sum", "concat"])
def test_projection_is_for_linear_alone(composition):
  message = f"`projection` must be given for .* a projection for '{composition}"
  with pytest.raises(ValueError, match=message):
    compositions.compose(
      jnp.ones((2, 3)), composition, projection=jnp.ones((3, 3))
    )


def test_linear_needs_a_projection():
  with pytest.raises(ValueError, match="got no projection for 'linear'"):
    compositions.compose(jnp.ones((2, 3)), "linear")


def test_folding_the_projection_changes_nothing():
  codebooks, projection = _normal(0, 3, 4, 64), _normal(1, 64, 20)
  bias = _normal(2, 20)
  digits = jax.random.randint(jax.random.key(3), (50, 3), 0, 4)
  position = jnp.arange(3)[None, :]
  folded = folding.fold_linear(codebooks, projection)
  before = compositions.compose(
    codebooks[position, digits], "linear", projection=projection, bias=bias
  )
  after = compositions.compose(folded[position, digits], "sum", bias=bias)
  np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4)
  # Rows of a block of one-hot codes sum to one: KD - D + 1 = 10 dimensions.
  rank = np.linalg.matrix_rank(np.asarray(after - bias[None, :]), tol=1e-3)
  assert rank <= 10


def test_folding_a_shared_codebook_keeps_it_shared():
  folded = folding.fold_linear(_normal(0, 1, 4, 3), _normal(1, 3, 7))
  assert folded.shape == (1, 4, 7)
