"""Tests of the graph network against its definition with dense matrices."""

import dataclasses

import chex
import hypothesis
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from flax import nnx
from hypothesis import strategies as st
from jax import numpy as jnp

from anchor_codes import nn
from experiments.models import graph_network
from experiments.models.graph_network import Graph, SparseMatrix

NODES, WORDS, FEATURES, CLASSES = 7, 9, 4, 3
EDGES = np.array([[0, 1], [0, 4], [1, 2], [3, 4]])  # 5 and 6 are isolated.


def dense_of(matrix, num_columns):
  dense = np.zeros((matrix.num_rows, num_columns))
  np.add.at(dense, (matrix.rows, matrix.columns), matrix.values)
  return dense


def propagation(edges, num_nodes):
  """The definition of the paper, with dense matrices."""
  adjacency = np.eye(num_nodes)
  for a, b in edges:
    adjacency[a, b] = adjacency[b, a] = 1
  roots = np.diag(adjacency.sum(axis=1) ** -0.5)
  return roots @ adjacency @ roots


def make_graph():
  rng = np.random.default_rng(0)
  words = rng.random((NODES, WORDS)) * (rng.random((NODES, WORDS)) < 0.4)
  words[5] = 0  # A node without words.
  rows, columns = np.nonzero(words)
  features = SparseMatrix(
    rows=jnp.asarray(rows, jnp.int32),
    columns=jnp.asarray(columns, jnp.int32),
    values=jnp.asarray(words[rows, columns], jnp.float32),
    num_rows=NODES,
  )
  adjacency = graph_network.normalized_adjacency(EDGES, num_nodes=NODES)
  return Graph(features=features, adjacency=adjacency)


def make(**options):
  embed = nnx.Embed(WORDS, FEATURES, rngs=nnx.Rngs(0))
  return graph_network.GraphNetwork(embed, CLASSES, **options, rngs=nnx.Rngs(1))


@jax.jit
def predict(model, graph, key=None):
  return model(model.word_vectors(), graph, key=key)


class SparseMatrixTest(parameterized.TestCase):
  @parameterized.parameters(0, 1, 5)
  def test_product_is_that_of_the_dense_matrix(self, num_entries):
    rng = np.random.default_rng(0)
    matrix = SparseMatrix(
      rows=jnp.sort(jnp.asarray(rng.integers(6, size=num_entries))),
      columns=jnp.asarray(rng.integers(4, size=num_entries)),
      values=jnp.asarray(rng.normal(size=num_entries), jnp.float32),
      num_rows=6,
    )
    right = rng.normal(size=(4, 3)).astype(np.float32)
    expected = dense_of(matrix, 4) @ right
    np.testing.assert_allclose(matrix @ right, expected, rtol=1e-5, atol=1e-6)

  def test_gradient_is_that_of_the_dense_matrix(self):
    matrix = make_graph().features
    right = jnp.ones((WORDS, 2))
    weights = jnp.arange(NODES * 2.0).reshape(NODES, 2)
    loss = lambda right: jnp.sum((matrix @ right) * weights)
    gradient = jax.jit(jax.grad(loss))(right)
    expected = dense_of(matrix, WORDS).T @ weights
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)

  def test_entries_of_one_place_add_up(self):
    matrix = SparseMatrix(
      rows=jnp.array([1, 1]),
      columns=jnp.array([0, 0]),
      values=jnp.array([2.0, 3.0]),
      num_rows=2,
    )
    np.testing.assert_array_equal(matrix @ jnp.ones((1, 1)), [[0], [5]])


@hypothesis.given(
  st.sets(
    st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(
      lambda edge: edge[0] < edge[1]
    )
  )
)
def test_adjacency_is_that_of_the_paper(edges):
  pairs = np.array(sorted(edges), int).reshape(-1, 2)
  matrix = graph_network.normalized_adjacency(pairs, num_nodes=6)
  dense = dense_of(matrix, 6)
  np.testing.assert_allclose(dense, propagation(edges, 6), rtol=1e-6)
  np.testing.assert_allclose(dense, dense.T, rtol=1e-6)
  assert (np.diff(matrix.rows) >= 0).all()
  # The largest eigenvalue is one: layers neither blow up nor vanish.
  largest = np.linalg.eigvalsh(dense).max()
  assert largest == pytest.approx(1, abs=1e-5)


class GraphNetworkTest(parameterized.TestCase):
  def test_logits_are_those_of_the_definition(self):
    model, graph = make(), make_graph()
    spread = propagation(EDGES, NODES)
    words = dense_of(graph.features, WORDS)
    first, second = model.embed.embedding[...], model.kernel[...]
    hidden = np.maximum(spread @ words @ np.asarray(first), 0)
    expected = spread @ hidden @ np.asarray(second)
    np.testing.assert_allclose(predict(model, graph), expected, atol=1e-6)
    with jax.disable_jit():
      np.testing.assert_allclose(predict(model, graph), expected, atol=1e-6)

  def test_graph_is_traced_once(self):
    chex.clear_trace_counter()
    run = jax.jit(chex.assert_max_traces(predict.__wrapped__, n=1))
    model, graph = make(), make_graph()
    for scale in (1.0, 2.0):
      features = dataclasses.replace(
        graph.features, values=graph.features.values * scale
      )
      run(model, dataclasses.replace(graph, features=features))

  def test_nothing_dense_is_made(self):
    # Of so many nodes and words that a dense matrix would not fit anywhere.
    num_nodes = num_words = 10**7
    entry = lambda value: jax.ShapeDtypeStruct((3,), value)
    matrix = SparseMatrix(
      rows=entry(jnp.int32),
      columns=entry(jnp.int32),
      values=entry(jnp.float32),
      num_rows=num_nodes,
    )
    vectors = jax.ShapeDtypeStruct((num_words, FEATURES), jnp.float32)
    graph = Graph(features=matrix, adjacency=matrix)
    jaxpr = jax.make_jaxpr(lambda v, g: make()(v, g, key=jax.random.key(0)))(
      vectors, graph
    )
    sizes = [v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars]
    self.assertLessEqual(max(sizes), num_nodes * FEATURES)

  def test_dropout_is_for_training_alone(self):
    model, graph = make(), make_graph()
    plain, noisy = (
      predict(model, graph),
      predict(model, graph, jax.random.key(0)),
    )
    self.assertGreater(jnp.abs(plain - noisy).max(), 1e-3)
    again = predict(model, graph, jax.random.key(0))
    np.testing.assert_array_equal(noisy, again)
    model.eval()
    evaluated = predict(model, graph, jax.random.key(0))
    np.testing.assert_allclose(plain, evaluated, rtol=1e-6)

  def test_dropout_keeps_the_mean_of_the_words(self):
    model, graph = make(dropout=0.5), make_graph()
    keys = jax.random.split(jax.random.key(0), 2000)
    drop = lambda key: model._drop_words(graph.features, key).values
    values = jax.jit(jax.vmap(drop))(keys)
    kept = np.mean(np.asarray(values) > 0)
    self.assertAlmostEqual(kept, 0.5, delta=0.02)
    np.testing.assert_allclose(
      values.mean(axis=0), graph.features.values, rtol=0.15
    )

  def test_without_dropout_a_key_changes_nothing(self):
    model, graph = make(dropout=0.0), make_graph()
    noisy = predict(model, graph, jax.random.key(0))
    np.testing.assert_allclose(noisy, predict(model, graph), rtol=1e-6)

  def test_sharing_exchanges_words(self):
    sharing = nn.StochasticSharing(WORDS, rate=1.0)
    model, graph = make(sharing=sharing, dropout=0.0), make_graph()
    shared = model._share(graph.features, jax.random.key(0))
    changed = np.mean(np.asarray(shared.columns != graph.features.columns))
    self.assertGreater(changed, 0.5)
    np.testing.assert_array_equal(shared.rows, graph.features.rows)
    plain, noisy = (
      predict(model, graph),
      predict(model, graph, jax.random.key(0)),
    )
    self.assertGreater(jnp.abs(plain - noisy).max(), 1e-3)

  def test_gradient_is_finite_for_nodes_without_anything(self):
    graphdef, params = nnx.split(make())
    graph, labels = make_graph(), jnp.zeros(NODES, jnp.int32)

    @jax.jit
    def loss(params, where):
      logits = predict(nnx.merge(graphdef, params), graph)
      return graph_network.masked_loss(logits, labels, where)

    for node in (5, 6):  # Without words and edges, and without edges.
      where = jnp.arange(NODES) == node
      value, gradient = jax.value_and_grad(loss)(params, where)
      chex.assert_tree_all_finite((value, gradient))
    # A node that nothing is known of is as likely in each class.
    where = jnp.arange(NODES) == 5
    self.assertAlmostEqual(loss(params, where), np.log(CLASSES), places=5)

  def test_loss_is_the_mean_over_some_nodes(self):
    logits = jnp.array([[0.0, np.log(3.0)], [2.0, 2.0], [9.0, 0.0]])
    labels = jnp.array([1, 0, -1])
    where = jnp.array([True, True, False])
    both = jax.jit(jax.value_and_grad(graph_network.masked_loss))
    loss, slope = both(logits, labels, where)
    expected = (np.log(4 / 3) + np.log(2)) / 2
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_array_equal(slope[2], [0, 0])

  @parameterized.parameters(-0.1, 1.1, 1.0)
  def test_bad_rates_are_refused(self, rate):
    with self.assertRaisesRegex(ValueError, "`dropout` must be .* got"):
      make(dropout=rate)


if __name__ == "__main__":
  absltest.main()
