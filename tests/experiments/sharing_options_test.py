"""Tests of exchanged ids as an option of the binaries for text and graphs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from flax import nnx

from anchor_codes import ops
from experiments import (
  embeddings,
  knowledge,
  language_modeling,
  node_classification,
  sharing_graphs,
  text_classification,
)
from experiments.datasets import classification_words as words
from experiments.datasets import edge_lists

VOCABULARY = ("<pad>", "<unk>", "cat", "dog", "lion", "car")
SPECIAL = (0, 1)
EDGES = "source,target,weight\ncat,dog,2\ndog,lion,3\ncat,unicorn,1\n"


@pytest.fixture
def edges(tmp_path):
  path = tmp_path / "edges.csv"
  path.write_text(EDGES, encoding="utf-8")
  return str(path)


def _options(**options):
  return embeddings.EmbeddingOptions(**options)


def _load(name, **options):
  options = {"vocabulary": VOCABULARY, "special_ids": SPECIAL} | options
  return sharing_graphs.load_sharing_graph(name, **options)


def _neighbors(graph):
  return [graph.row(node)[0].tolist() for node in range(graph.num_nodes)]


# --- Lists of edges ---


def test_edges_are_read_with_their_weights(edges):
  found = edge_lists.read_edges(edges, VOCABULARY)
  np.testing.assert_array_equal(found.edges, [[2, 3], [3, 4]])
  np.testing.assert_array_equal(found.weights, [2, 3])
  assert (found.num_unknown, found.example) == (1, "unicorn")


def test_columns_may_stand_anywhere_and_weights_be_left_out(tmp_path):
  path = tmp_path / "edges.csv"
  path.write_text('\ufefftarget,kind, source\n"dog",x,cat\n\ncar,y,lion\n')
  found = edge_lists.read_edges(path, VOCABULARY)
  np.testing.assert_array_equal(found.edges, [[2, 3], [4, 5]])
  assert found.weights is None


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("", "columns 'source' and 'target' once, .* got nothing"),
    ("source,weight\ncat,1\n", "'target' once, .* got 'source', 'weight'"),
    ("source,target,source\n", "'source' and 'target' once"),
    ('source,target\n"the"x,cat\n', "a CSV file, got a wrong line 2"),
    ("source,target\ncat\n", "must have 2 cells in each row, got 1 in line 2"),
    ("source,target,weight\na,b,-1\n", "weights, got '-1' in line 2"),
    ("source,target,weight\na,b,nan\n", "weights, got 'nan' in line 2"),
    ("source,target,weight\na,b,many\n", "weights, got 'many' in line 2"),
    ("source,target\n", "edge between symbols of the vocabulary, got 0 edges."),
    ("source,target\nunicorn,cat\n", "got 1 edges with unknown .* 'unicorn'"),
  ],
)
def test_other_files_are_refused(content, message, tmp_path):
  path = tmp_path / "edges.csv"
  path.write_text(content)
  with pytest.raises(ValueError, match=message):
    edge_lists.read_edges(path, VOCABULARY)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"nothing\.csv"):
    _load(str(tmp_path / "nothing.csv"))


# --- Graphs ---


def test_a_file_gives_a_graph_and_tells_what_is_unknown(edges, monkeypatch):
  lines = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *values: lines.append(text % values)
  )
  graph = _load(edges)
  # Of the four words that are not special.
  assert _neighbors(graph) == [[1], [0, 2], [1], []]
  np.testing.assert_array_equal(graph.weights.values, [2, 2, 3, 3])
  assert "1 of 3 edges name symbols" in lines[0]
  assert "'unicorn'" in lines[0]


def test_bigrams_leave_padding_out():
  texts = np.array([[2, 3, 2, 1, 5], [4, 5, 0, 0, 0]])
  graph = _load("bigrams", sequences=texts)
  assert _neighbors(graph) == [[1], [0], [3], [2]]
  np.testing.assert_array_equal(graph.weights.values, [2, 2, 1, 1])


def test_lexicons_are_of_the_words_that_are_not_special(tmp_path, monkeypatch):
  monkeypatch.setattr(
    sharing_graphs.relations,
    "load_relations",
    lambda name, vocabulary, data_dir: ops.graph_from_edges(
      [(vocabulary.index("cat"), vocabulary.index("lion"))],
      num_nodes=len(vocabulary),
    ),
  )
  assert _neighbors(_load("ppdb")) == [[2], [], [0], []]


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("", {}, "one of 'framenet', 'ppdb', 'wordnet', 'bigrams' or .* got ''"),
    ("roget", {}, "or the path of a .csv file, got 'roget'"),
    ("bigrams", {}, "'bigrams' needs symbols in an order"),
    ("bigrams", {"sequences": np.array([2, 0, 3])}, "got no pair of them"),
  ],
)
def test_other_graphs_are_refused(name, options, message):
  with pytest.raises(ValueError, match=message):
    _load(name, **options)


# --- The layer ---


def test_the_options_make_a_layer():
  graph = ops.graph_from_edges([(0, 1)], num_nodes=4)
  make = lambda **kw: embeddings.make_sharing(6, _options(**kw), graph=graph)
  assert make() is None
  uniform = make(sharing="se", sharing_rate=0.2)
  assert (uniform.graph, uniform.rate) == (None, 0.2)
  layer = embeddings.make_sharing(
    6,
    _options(sharing="graph", neighbor_ratio=1e6, sharing_rate=1.0),
    graph=graph,
    low=1,
    special_ids=(5,),
  )
  ids = layer([[0, 1, 2, 5]], rngs=nnx.Rngs(sse=0))
  np.testing.assert_array_equal(ids, [[0, 2, 1, 5]])


def test_a_graph_is_needed_where_it_is_asked_for():
  with pytest.raises(ValueError, match="'graph' needs a graph: set `sharing_g"):
    embeddings.make_sharing(6, _options(sharing="graph"))
  with pytest.raises(ValueError, match="one of 'none', 'se', 'graph', got 'x'"):
    embeddings.make_sharing(6, _options(sharing="x"))


@pytest.mark.parametrize("sharing", ["se", "graph"])
def test_what_is_known_keeps_special_ids(sharing, edges):
  options = _options(sharing=sharing, sharing_graph=edges, sharing_rate=1.0)
  known = knowledge.load_knowledge(
    options, np.ones(6, int), vocabulary=VOCABULARY, special_ids=SPECIAL
  )
  assert (known.sharing_graph is not None) == (sharing == "graph")
  ids = jnp.arange(600) % 6
  drawn = np.asarray(known.sharing()(ids, rngs=nnx.Rngs(sse=0)))
  np.testing.assert_array_equal(drawn != ids, ids > 1)
  assert (drawn[ids > 1] > 1).all()


# --- The binaries ---


def _text(tmp_path):
  path = tmp_path / "text.txt"
  rng = np.random.default_rng(0)
  lines = rng.integers(0, 8, (100, 8))
  path.write_text(
    "\n".join(" ".join(f"w{i}" for i in line) for line in lines) + "\n"
  )
  return path


def test_a_language_model_trains_along_a_graph_and_resumes(tmp_path):
  config = language_modeling.LanguageModelConfig(
    dataset=f"text:{_text(tmp_path)}",
    features=4,
    hidden=4,
    num_layers=1,
    batch_size=4,
    num_steps=8,
    epochs=1,
    chunk_steps=10,
    checkpoint_chunks=1,
    validate_epochs=False,
    sharing="graph",
    sharing_graph="bigrams",
    sharing_rate=0.1,
  )
  with jax.numpy_rank_promotion("allow"):
    run = language_modeling.Run(config, tmp_path / "run")
    # The training text alone, and no marks of its lines.
    words_of = run.data.vocabulary
    symbols = [i for i, w in enumerate(words_of) if not w.startswith("<")]
    graph = run.trainer.known.sharing_graph
    assert graph.num_nodes == len(symbols) == len(words_of) - 2
    pairs = np.stack([run.data.train[:-1], run.data.train[1:]])
    both = np.isin(pairs, symbols).all(axis=0) & (pairs[0] != pairs[1])
    assert float(graph.weights.values.sum()) == 2 * both.sum()
    state = run.train()
    metrics = run.finish(state, seconds=0.0).metrics
    again = language_modeling.train_and_evaluate(
      config, tmp_path / "run", resume=True
    )
  assert np.isfinite(metrics["test_perplexity"])
  assert again.metrics == metrics
  record = json.loads((tmp_path / "run" / "result.json").read_text())
  assert record["config"]["sharing_graph"] == "bigrams"


def test_a_text_classifier_exchanges_words_but_no_padding(tmp_path):
  rows = "\n".join(f'"red {c} blue {c}",{c}' for c in "abcdefghijkl" * 4)
  path = tmp_path / "texts.csv"
  path.write_text("text,label\n" + rows + "\n")
  config = text_classification.TextClassificationConfig(
    dataset=f"csv:{path}",
    features=4,
    sharing="graph",
    sharing_graph="bigrams",
    sharing_rate=1.0,
  )
  run = text_classification.Run(config, tmp_path / "run")
  model = run.trainer.make_model()
  tokens = run.data.train.tokens
  where = tokens != words.PADDING_ID
  shared = np.asarray(model.share(tokens, where, jax.random.key(0)))
  ordinary = tokens > words.UNKNOWN_ID
  np.testing.assert_array_equal(shared != tokens, ordinary)
  assert (shared[ordinary] > words.UNKNOWN_ID).all()


def test_words_of_nodes_have_no_order_but_may_have_a_graph(tmp_path):
  path = tmp_path / "words.csv"
  path.write_text("source,target\n0,2\n")
  known = lambda name: knowledge.load_knowledge(
    node_classification.NodeClassificationConfig(
      sharing="graph", sharing_graph=name
    ),
    np.ones(3, int),
    vocabulary=("0", "1", "2"),
  )
  assert _neighbors(known(str(path)).sharing_graph) == [[2], [], [0]]
  with pytest.raises(ValueError, match="'bigrams' needs symbols in an order"):
    known("bigrams")
