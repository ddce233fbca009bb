"""Tests of the making of embeddings by codes, and of what is done for them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchor_codes import nn, tables, training
from experiments import (
  code_embeddings,
  embeddings,
  given_vectors,
  knowledge,
  stored_tables,
)

V, F = 40, 8
SIZES = {"features": F, "code_length": 4, "codebook_size": 4}


def options_of(embedding: str, **options) -> embeddings.EmbeddingOptions:
  return embeddings.EmbeddingOptions(embedding=embedding, **SIZES | options)


def make(embedding: str, vectors=None, **options):
  return embeddings.make_embedding(
    V,
    options_of(embedding, **options),
    scale=0.1,
    rngs=nnx.Rngs(0),
    vectors=vectors,
  )


def normal(*shape: int) -> np.ndarray:
  return np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.mark.parametrize(
  ("composition", "more", "shapes"),
  [
    ("sum", {}, {"codebooks": (4, 4, 8)}),
    ("concat", {"shared_codebook": True}, {"codebooks": (1, 4, 2)}),
    (
      "linear",
      {"code_features": 3},
      {"codebooks": (4, 4, 3), "projection": (3, 8)},
    ),
    (
      "mlp",
      {"code_hidden": 5, "code_layers": 2},
      {"codebooks": (4, 4, 5), "kernels": (1, 5, 5), "projection": (5, 8)},
    ),
    (
      "lstm",
      {"code_hidden": 5, "code_features": 3},
      {"codebooks": (4, 4, 3), "projection": (5, 8)},
    ),
  ],
)
@pytest.mark.parametrize("embedding", ["kd", "fixed"])
def test_compositions_get_their_sizes(embedding, composition, more, shapes):
  layer = make(embedding, composition=composition, **more)
  params = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
  assert {name: params[name].shape for name in shapes} == shapes


def test_options_of_kd_reach_the_layer():
  layer = make(
    "kd",
    output_norm=True,
    entropy_weight=0.5,
    code_dropout=0.1,
    relaxation="gumbel",
    temperature=2.0,
    temperature_schedule="inverse_time",
    temperature_decay=1.0,
    temperature_steps=1,
  )
  assert (layer.entropy_weight, layer.code_dropout) == (0.5, 0.1)
  assert layer.outer_norm is not None
  found = [float(layer.tempering(deterministic=False)) for _ in range(3)]
  np.testing.assert_allclose(found, [2, 1, 2 / 3], rtol=1e-6)


@pytest.mark.parametrize(
  ("relaxation", "keys", "has_keys"),
  [
    ("softmax", "default", True),
    ("softmax", "tied", False),
    ("nearest", "default", False),
    ("nearest", "untied", True),
  ],
)
def test_keys_are_tied_as_asked_for(relaxation, keys, has_keys):
  weight = 0.5 if relaxation == "nearest" else 0.0
  layer = make(
    "dpq", relaxation=relaxation, keys=keys, commitment_weight=weight
  )
  assert (layer.keys is not None) == has_keys


def test_codes_are_random_clustered_or_those_of_a_file(tmp_path):
  drawn = np.asarray(make("fixed").codes())
  assert len(np.unique(drawn)) == 4
  groups = normal(4, F)[np.arange(V) % 4]
  clustered = np.asarray(make("fixed", groups, codes="vectors").codes())
  assert len(np.unique(clustered, axis=0)) <= 4
  np.testing.assert_array_equal(clustered[:4], clustered[4:8])
  np.savez(tmp_path / "codes.npz", codes=drawn)
  read = make("fixed", codes=str(tmp_path / "codes.npz"))
  np.testing.assert_array_equal(read.codes(), drawn)


@pytest.mark.parametrize("embedding", ["kd", "dpq"])
def test_guidance_wraps_the_layer(embedding):
  online = make(embedding, guidance="online", guide_rate=0.3, guide_weight=7.0)
  assert isinstance(online, nn.GuidedEmbed)
  assert (online.rate, online.weights.vectors) == (0.3, 7.0)
  assert isinstance(online.guide, nn.RowParam)
  given = make(embedding, normal(V, F), guidance="pretrained")
  assert (given.rate, given.weights.vectors) == (0.0, 1000.0)
  np.testing.assert_array_equal(given.guide[...], normal(V, F))


def test_a_table_alongside_has_an_optimiser_of_its_own():
  options = options_of(
    "kd", guidance="online", row_optimizer="sgd", row_learning_rate=0.01
  )
  layer = make("kd", guidance="online")
  rows = nnx.state(layer, nn.is_trained_row)
  optimizer = embeddings.row_optimizer(options, lambda step: jnp.float32(2))
  ones = jax.tree.map(jnp.ones_like, rows)
  updates, _ = optimizer.update(ones, optimizer.init(rows), rows)
  found = nnx.to_pure_dict(updates)
  np.testing.assert_allclose(found["guide"], np.full((V, F), -2.0))
  np.testing.assert_allclose(
    found["embed"]["logits"], np.full((V, 4, 4), -0.02), rtol=1e-5
  )


@pytest.mark.parametrize(
  ("embedding", "options", "message"),
  [
    ("kd", {"guidance": "offline"}, "`guidance` must be one of 'none', 'onl"),
    ("kd", {"guidance": "pretrained"}, "'pretrained' needs given vectors"),
    ("fixed", {"codes": "vectors"}, "`codes` 'vectors' needs given vectors"),
    ("fixed", {"codes": "codes.txt"}, ".npy or .npz"),
    ("dpq", {"guidance": "autoencoding"}, "needs given vectors"),
    ("dpq", {"keys": "both"}, "`keys` must be one of 'default', 'tied'"),
    ("kd", {"temperature": 0.0}, "`temperature` must be positive, got 0.0"),
    ("kd", {"temperature_schedule": "linear"}, "must be one of 'constant'"),
    ("kd", {"code_dropout": 1.5}, "must be .*, got 1.5"),
  ],
)
def test_bad_options_are_refused(embedding, options, message):
  with pytest.raises(ValueError, match=message):
    make(embedding, **options)


def test_care_measures_codes_and_how_they_change():
  layer = make("kd")
  care = code_embeddings.CodeCare(options_of("kd"))
  first = care.end_epoch(layer, jax.random.key(0), epoch=0, is_last=False)
  assert set(first) == {"unique_codes", "dead_codes"}
  layer.logits[...] = layer.logits[...].at[0].multiply(-1.0)
  second = care.end_epoch(layer, jax.random.key(0), epoch=1, is_last=False)
  assert second["changed_codes"] == pytest.approx(1 / V)


def test_care_revives_after_so_many_chunks():
  care = code_embeddings.CodeCare(options_of("dpq", revival_chunks=3))
  assert care.changes_layers
  assert [care.is_due(chunk) for chunk in range(4)] == [False] * 2 + [True, 0]
  layer = make("dpq", relaxation="nearest")
  # All queries are the same: each digit has one entry in use.
  layer.queries[...] = jnp.ones((V, F)) + 1e-3 * normal(V, F)
  layer.eval()
  before = np.asarray(layer.codebooks[...])
  metrics = care.end_epoch(layer, jax.random.key(0), epoch=0, is_last=False)
  np.testing.assert_array_equal(layer.codebooks[...], before)
  assert metrics["dead_codes"] > 0
  counts = np.arange(1, V + 1)
  revived = care.revive(layer, jax.random.key(0), counts=counts)
  assert revived["revived_codes"] > 0
  after = care.end_epoch(layer, jax.random.key(0), epoch=1, is_last=True)
  assert after["dead_codes"] < metrics["dead_codes"]


def test_care_does_not_revive_broken_or_fixed_codes():
  options = options_of("fixed", revival_chunks=1)
  care = code_embeddings.CodeCare(options)
  assert care.revive(make("fixed"), jax.random.key(0)) == {}
  layer = make("dpq")
  layer.queries[...] = layer.queries[...].at[3, 0].set(jnp.nan)
  assert care.revive(layer, jax.random.key(0)) == {}


def test_care_clusters_fixed_codes_again_when_it_is_time():
  care = code_embeddings.CodeCare(options_of("fixed", recluster_epochs=2))
  layer = make("fixed")
  before = np.asarray(layer.codes())
  for epoch in range(2):
    metrics = care.end_epoch(
      layer, jax.random.key(0), epoch=epoch, is_last=False
    )
    assert ("recluster_error" in metrics) == (epoch == 1)
  assert (np.asarray(layer.codes()) != before).any()


def test_care_counts_rows_that_are_not_finite():
  layer = make("kd", guidance="online")
  layer.embed.logits[...] = layer.embed.logits[...].at[3, 0, 1].set(jnp.nan)
  care = code_embeddings.CodeCare(options_of("kd"))
  metrics = care.end_epoch(layer, jax.random.key(0), epoch=0, is_last=False)
  assert metrics == {"nonfinite_rows": 1.0}


def test_dpq_starts_at_clusters_of_given_vectors():
  groups = normal(4, F)[np.arange(V) % 4]
  options = options_of("dpq", start="clusters", relaxation="nearest")
  known = knowledge.Knowledge(options, np.ones(V, int), vectors=groups)
  layer = make("dpq", relaxation="nearest")
  known.start(layer, jax.random.key(0))
  layer.eval()
  np.testing.assert_allclose(layer(np.arange(V)), groups, atol=1e-5)
  wrong = dataclasses.replace(known, vectors=groups[:, :4])
  with pytest.raises(ValueError, match=r"shape \(40, 8\), got \(40, 4\)"):
    wrong.start(layer, jax.random.key(0))


def test_given_vectors_are_found_by_their_symbols(tmp_path):
  table = tables.DenseTable(normal(3, F), vocabulary=["a", "b", "c"])
  table.save(tmp_path / "table.safetensors")
  load = given_vectors.load_vectors
  found = load(tmp_path / "table.safetensors", vocabulary=("c", "a"))
  np.testing.assert_array_equal(found, normal(3, F)[[2, 0]])
  with pytest.raises(
    ValueError, match=r"none for 2 of 3, such as \['x', 'y'\]"
  ):
    load(tmp_path / "table.safetensors", vocabulary=("x", "a", "y"))
  np.save(tmp_path / "rows.npy", normal(3, F).astype(np.float16))
  assert load(tmp_path / "rows.npy", vocabulary="abc").dtype == np.float32
  with pytest.raises(ValueError, match=r"each of the 2 symbols, .*\(3, 8\)"):
    load(tmp_path / "rows.npy", vocabulary="ab")
  broken = normal(3, F)
  broken[1, 0] = np.inf
  np.save(tmp_path / "rows.npy", broken)
  with pytest.raises(ValueError, match=r"1 rows that are not, .* row 1"):
    load(tmp_path / "rows.npy", vocabulary="abc")


def test_words_of_a_classifier_have_no_neighbours_in_one_text():
  options = options_of("fixed", vectors="cooccurrence")
  with pytest.raises(ValueError, match="needs one long text"):
    knowledge.load_knowledge(options, np.ones(V, int), vocabulary=("a",))


@pytest.mark.parametrize("stored_dtype", ["float32", "float16"])
def test_norms_that_are_folded_into_what_is_stored(stored_dtype, tmp_path):
  layer = make("kd", output_norm=True, composition="linear", code_features=9)
  layer.outer_norm.norm.mean[...] = jnp.linspace(-0.1, 0.1, F)
  layer.outer_norm.scale[...] = jnp.linspace(0.3, 3, F)
  options = embeddings.EmbeddingOptions(stored_dtype=stored_dtype)
  path = tmp_path / "embedding.safetensors"
  table = stored_tables.store_embedding(layer, options, path)
  assert table.codebooks.dtype == stored_dtype
  difference = table.to_dense() - np.asarray(layer(np.arange(V)))
  assert np.abs(difference).max() <= (
    1e-5 if stored_dtype == "float32" else 0.01
  )


@pytest.mark.parametrize("embedding", ["full", "anchors", "kd", "dpq"])
def test_a_table_that_does_not_fit_is_refused(embedding, monkeypatch):
  monkeypatch.setattr(training.memory, "available_memory", lambda: 1000)
  with pytest.raises(ValueError, match=r"^\d+\.\d\d GiB must fit"):
    make(embedding)


@pytest.mark.parametrize("features", [16, 100, 128, 256, 23])
@pytest.mark.parametrize(
  "given",
  [
    {"embedding": "dpq"},
    {"embedding": "fixed", "composition": "concat"},
    {"embedding": "kd"},
  ],
)
def test_codes_fit_any_width_by_default(features, given):
  options = embeddings.EmbeddingOptions(features=features, **given)
  rngs = nnx.Rngs(0)
  layer = embeddings.make_embedding(30, options, scale=0.1, rngs=rngs)
  assert layer(jnp.arange(30)).shape == (30, features)
  has_parts = given != {"embedding": "kd"}
  expected = {16: 16, 100: 20, 128: 16, 256: 16, 23: 1}[features]
  length = nn.to_table(layer).code_length
  assert length == (expected if has_parts else 20)
