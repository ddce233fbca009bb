"""Tests of what is worth a histogram of an embedding."""

import layers
import numpy as np
import pytest
from flax import nnx

from anchor_codes import nn
from experiments.reporting import MetricsWriter
from experiments.reporting.histograms import histogram_values, write_histograms


@pytest.mark.parametrize(
  "name", ["full", "anchors_sparse", "kd_sum", "dpq_nearest", "hash"]
)
@pytest.mark.parametrize("most", [4, layers.V, 100])
def test_every_layer_has_norms(name, most):
  layer = layers.make_eval(name)
  norms = histogram_values(layer, max_rows=most)["row_norms"]
  number = min(most, layers.V)
  ids = np.linspace(0, layers.V - 1, number).astype(int)
  vectors = np.asarray(layer(ids), np.float32)
  expected = np.linalg.norm(vectors, axis=-1)
  np.testing.assert_allclose(norms, expected, rtol=1e-4, atol=1e-6)


def test_a_guide_does_not_matter():
  layer = nn.KDEmbed(9, 4, code_length=2, codebook_size=4, rngs=nnx.Rngs(0))
  guided = nn.GuidedEmbed(
    layer, guide=np.ones((9, 4), np.float32), rngs=nnx.Rngs(1)
  )
  found, expected = histogram_values(guided), histogram_values(layer)
  assert list(found) == list(expected) == ["row_norms", "digits"]
  np.testing.assert_array_equal(found["digits"], expected["digits"])


def test_anchors_have_weights_and_their_numbers():
  layer = nn.AnchorEmbed(30, 4, num_anchors=5, num_nonzeros=2, rngs=nnx.Rngs(0))
  found = histogram_values(layer)
  assert found["row_nonzeros"].tolist() == [2] * 30
  assert found["weights"].shape == (60,)
  assert np.all(found["weights"] > 0)


def test_codes_have_digits():
  layer = nn.KDEmbed(30, 4, code_length=3, codebook_size=8, rngs=nnx.Rngs(0))
  digits = histogram_values(layer, max_rows=10)["digits"]
  assert digits.shape == (30,)
  ids = np.linspace(0, 29, 10).astype(int)
  np.testing.assert_array_equal(
    digits.reshape(10, 3), np.asarray(layer.codes())[ids]
  )


def test_each_embedding_has_its_own_histograms(tmp_path, monkeypatch):
  written = []
  monkeypatch.setattr(
    MetricsWriter,
    "write_histograms",
    lambda self, step, values: written.append((step, sorted(values))),
  )
  full = nnx.Embed(5, 2, rngs=nnx.Rngs(0))
  with MetricsWriter(tmp_path) as writer:
    write_histograms(writer, 7, {"users": full, "items": full})
  assert written == [(7, ["users/row_norms"]), (7, ["items/row_norms"])]
