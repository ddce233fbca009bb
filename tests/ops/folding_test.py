"""Tests of what is folded into the arrays of a composition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from anchor_codes.ops import codes, folding, normalization

L, K, W, F = 3, 4, 6, 5


def _normal(seed, *shape):
  return jnp.asarray(reference.normal(seed, *shape))


def _digits(rows, length=L):
  return jax.random.randint(jax.random.key(0), (rows, length), 0, K)


def _affine(seed, width):
  return normalization.Affine(_normal(seed, width), _normal(seed + 1, width))


def _decode(folded, digits):
  return codes.decode_codes(
    digits,
    folded.codebooks,
    folded.composition,
    projection=folded.projection,
    bias=folded.bias,
  )


@pytest.mark.parametrize("positions", [1, L])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("composition", ["sum", "concat", "linear"])
def test_folding_changes_no_vector(composition, has_bias, positions):
  width = {"sum": W, "concat": L * W, "linear": F}[composition]
  parts = folding.Folded(
    composition,
    _normal(0, positions, K, W),
    _normal(1, W, F) if composition == "linear" else None,
    _normal(2, width) if has_bias else None,
  )
  inner = _affine(3, W) if composition == "linear" else None
  outer, digits = _affine(5, width), _digits(20)
  folded = folding.fold_norms(parts, code_length=L, inner=inner, outer=outer)
  # By the definition: inner, projection and bias, outer.
  vectors = codes.combine_codes(digits, parts.codebooks, composition)
  if inner is not None:
    vectors = vectors * inner.scale[None] + inner.offset[None]
    vectors = vectors @ parts.projection
  if parts.bias is not None:
    vectors = vectors + parts.bias[None]
  vectors = vectors * outer.scale[None] + outer.offset[None]
  for form in (folded, folding.fold_smaller(folded)):
    np.testing.assert_allclose(
      _decode(form, digits), vectors, rtol=1e-4, atol=1e-4
    )


def test_without_norms_nothing_changes():
  parts = folding.Folded("sum", _normal(0, L, K, W), None, None)
  assert folding.fold_norms(parts, code_length=L) == parts


@pytest.mark.parametrize(
  ("composition", "expected"), [("sum", 1), ("concat", L)]
)
def test_a_shared_codebook_stays_shared_if_it_can(composition, expected):
  width = W if composition == "sum" else L * W
  parts = folding.Folded(composition, _normal(0, 1, K, W), None, None)
  folded = folding.fold_norms(parts, code_length=L, outer=_affine(1, width))
  assert folded.codebooks.shape == (expected, K, W)


@pytest.mark.parametrize(
  ("positions", "width", "composition"),
  [
    (L, 3, "linear"),  # 3 * 4 * 3 + 3 * 5 = 51 numbers against 3 * 4 * 5.
    (L, 4, "sum"),  # 68 against 60.
    (1, 2, "linear"),  # 18 against 20.
    (1, 3, "sum"),  # 27 against 20.
  ],
)
def test_the_smaller_form_is_kept(positions, width, composition):
  parts = folding.Folded(
    "linear", _normal(0, positions, K, width), _normal(1, width, F), None
  )
  folded = folding.fold_smaller(parts)
  assert folded.composition == composition
  sizes = [
    sum(a.size for a in (p.codebooks, p.projection) if a is not None)
    for p in (parts, folded)
  ]
  assert sizes[1] <= sizes[0]


@pytest.mark.parametrize("composition", ["sum", "concat", "mlp", "lstm"])
def test_only_a_linear_composition_becomes_a_sum(composition):
  projection = _normal(1, W, 1) if composition in ("mlp", "lstm") else None
  parts = folding.Folded(composition, _normal(0, L, K, W), projection, None)
  assert folding.fold_smaller(parts) == parts


def test_half_precision_is_folded_in_full():
  half = jnp.bfloat16
  books = _normal(0, L, K, W).astype(half)
  projection = _normal(1, W, 2).astype(half)
  folded = folding.fold_smaller(
    folding.Folded("linear", books, projection, None)
  )
  exact = np.float64(books) @ np.float64(projection)
  np.testing.assert_allclose(folded.codebooks, exact, rtol=1e-5, atol=1e-5)


def test_a_normalised_linear_table_is_of_low_rank():
  # Chen et al., ICML 2018: the one-hot codes of a position add up to ones, so
  # that the rank is at most K D - D + 1 = 10 beside the bias.
  parts = folding.Folded(
    "linear", _normal(0, 3, 4, 64), _normal(1, 64, 20), None
  )
  folded = folding.fold_smaller(
    folding.fold_norms(
      parts, code_length=3, inner=_affine(2, 64), outer=_affine(4, 20)
    )
  )
  assert folded.composition == "sum"
  table = np.asarray(_decode(folded, _digits(60)) - folded.bias[None])
  assert np.linalg.matrix_rank(table, tol=1e-3) == 3 * 4 - 3 + 1
