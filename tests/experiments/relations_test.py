"""Tests of the graphs of related words and items."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.datasets import files, language_model, relations

# The format of WordNet's data files, with words and offsets of our own.
NOUNS = """\
  1 This line belongs to the licence.
  2 So does this one.
00000100 03 n 01 animal 0 001 ~ 00000200 n 0000 | a living thing
00000200 05 n 02 Dog 0 domestic_hound 0 003 @ 00000100 n 0000 \
+ 00000100 v 0201 ! 00000300 n 0101 | barks | or so
00000300 05 n 01 cat 0 001 @i 00000100 n 0000
"""
VERBS = """\
00000100 30 v 02 hound 0 chase 1 001 + 00000200 n 0102 01 + 08 00 | follow
"""
ADJECTIVES = """\
00000100 00 a 0a one 0 two 0 three 0 four 0 five 0 six 0 seven 0 eight 0 \
nine 0 ten(ip) 0 000 | ten words
00000200 00 s 01 doggy(p) 0 002 & 00000100 a 0000 + 00000200 n 0101 | so
00000300 00 a 01 lost 0 001 @ 99999999 s 0000 | points at nothing
"""


def words_of(graph, vocabulary):
  """Returns the set of pairs of words that a graph connects."""
  offsets, neighbors = np.asarray(graph.offsets), np.asarray(graph.neighbors)
  return {
    frozenset((vocabulary[i], vocabulary[j]))
    for i, (a, b) in enumerate(itertools.pairwise(offsets))
    for j in neighbors[a:b]
  }


def pairs(*words):
  return {frozenset(pair.split("-")) for pair in words}


@pytest.fixture(name="data_dir")
def fixture_data_dir(tmp_path):
  lexicons, wordnet = tmp_path / "lexicons", tmp_path / "wordnet"
  lexicons.mkdir()
  (lexicons / "framenet.txt").write_text(
    "alone\nrun jog sprint\njog run trot\n"
  )
  (lexicons / "ppdb-xl.txt").write_text("größe size magnitude\n\n")
  wordnet.mkdir()
  (wordnet / "data.noun").write_text(NOUNS)
  (wordnet / "data.verb").write_text(VERBS)
  (wordnet / "data.adj").write_text(ADJECTIVES)
  (wordnet / "data.adv").write_text("")
  return tmp_path


def load(name, vocabulary, data_dir):
  if name == "wordnet":
    return relations.load_relations(
      name, vocabulary=vocabulary, data_dir=data_dir
    )
  with pytest.warns(UserWarning, match="not the published file"):
    return relations.load_relations(
      name, vocabulary=vocabulary, data_dir=data_dir
    )


@pytest.mark.parametrize(
  ("name", "vocabulary", "expected"),
  [
    ("framenet", "run jog trot alone swim", pairs("run-jog", "jog-trot")),
    ("framenet", "Run jog RUN", pairs("Run-jog", "RUN-jog")),
    ("framenet", "alone swim", set()),
    ("ppdb", "size magnitude größe", pairs("größe-size", "größe-magnitude")),
    ("wordnet", "dog animal cat swim", pairs("dog-animal", "cat-animal")),
    ("wordnet", "dog Domestic_Hound", pairs("dog-Domestic_Hound")),
    (
      "wordnet",
      "hound chase domestic_hound dog doggy",
      pairs(
        "hound-chase",
        "hound-domestic_hound",
        "dog-domestic_hound",
        "dog-doggy",
      ),
    ),
    ("wordnet", "one ten lost", pairs("one-ten")),
  ],
)
def test_words_of_the_vocabulary_are_related(
  name, vocabulary, expected, data_dir
):
  vocabulary = vocabulary.split()
  graph = load(name, vocabulary, data_dir)
  assert graph.num_nodes == len(vocabulary)
  assert words_of(graph, vocabulary) == expected


@pytest.mark.parametrize(
  ("name", "num_pairs"), [("framenet", 20_000), ("ppdb", 10_000)]
)
def test_published_lexicons_relate_the_words_of_a_text(name, num_pairs):
  try:
    vocabulary = language_model.load_text("ptb").vocabulary
    graph = relations.load_relations(name, vocabulary=vocabulary)
  except FileNotFoundError as error:
    pytest.skip(str(error))
  found = words_of(graph, vocabulary)
  assert len(found) > num_pairs
  assert not any("<unk>" in pair for pair in found)


def test_the_wordnet_of_the_system_relates_words():
  vocabulary = ["dog", "canine", "cat", "run", "runner", "swim"]
  try:
    graph = relations.load_relations("wordnet", vocabulary=vocabulary)
  except FileNotFoundError as error:
    pytest.skip(str(error))
  found = words_of(graph, vocabulary)
  assert pairs("dog-canine", "run-runner") <= found
  assert not pairs("dog-swim", "cat-swim") & found


def test_relations_of_a_subset_are_a_subset(data_dir):
  vocabulary = ["dog", "animal", "cat", "domestic_hound", "hound"]
  full = words_of(load("wordnet", vocabulary, data_dir), vocabulary)
  part = words_of(load("wordnet", vocabulary[:3], data_dir), vocabulary[:3])
  assert part == {pair for pair in full if pair <= set(vocabulary[:3])}


def test_missing_lexicons_say_what_to_do(tmp_path):
  with pytest.raises(FileNotFoundError) as caught:
    relations.load_relations("ppdb", vocabulary=["a"], data_dir=tmp_path)
  message = str(caught.value)
  path = tmp_path / "lexicons" / "ppdb-xl.txt"
  for part in (str(path), "Faruqui et al. (2015)", "$ANCHOR_CODES_DATA"):
    assert part in message


@pytest.mark.parametrize("has_folder", [True, False])
def test_missing_wordnet_names_the_package(has_folder, tmp_path, monkeypatch):
  monkeypatch.delenv(files.DATA_VARIABLE, raising=False)
  monkeypatch.setattr(files, "_DEFAULT_FOLDER", tmp_path / "missing")
  monkeypatch.setattr(relations, "_SYSTEM_WORDNET", tmp_path / "nowhere")
  with pytest.raises(FileNotFoundError, match="apt install wordnet-base") as e:
    relations.load_relations(
      "wordnet", vocabulary=["a"], data_dir=tmp_path if has_folder else None
    )
  assert str(tmp_path / "nowhere" / "data.noun") in str(e.value)


def test_the_package_of_the_system_is_found(data_dir, tmp_path, monkeypatch):
  monkeypatch.setattr(relations, "_SYSTEM_WORDNET", data_dir / "wordnet")
  vocabulary = ["dog", "animal"]
  graph = load("wordnet", vocabulary, tmp_path / "elsewhere")
  assert words_of(graph, vocabulary) == pairs("dog-animal")


@pytest.mark.parametrize(
  "line",
  [
    "00000100 03 n",
    "00000100 03 n xx dog 0 000 | x",
    "00000100 03 n 01 dog 0 002 @ 00000200 n 0000 | x",
    "00000100 03 n 01 dog 0 001 @ 00000200 n zz00 | x",
    "some words of another file",
  ],
)
def test_damaged_wordnet_names_the_line(line, data_dir):
  (data_dir / "wordnet" / "data.verb").write_text(f"{VERBS}{line}\n")
  text = r"data\.verb must be a data file of WordNet, got .* in line 2\."
  with pytest.raises(ValueError, match=text):
    load("wordnet", ["dog"], data_dir)


@pytest.mark.parametrize("name", ["", "PPDB", "nell"])
def test_unknown_names_list_the_known(name):
  text = "`name` must be one of 'framenet', 'ppdb', 'wordnet', got"
  with pytest.raises(ValueError, match=text):
    relations.load_relations(name, vocabulary=["a"])


def test_an_empty_vocabulary_is_refused(data_dir):
  with pytest.raises(ValueError, match="`num_nodes` must be at least 1"):
    load("wordnet", [], data_dir)


ATTRIBUTES = st.lists(
  st.lists(st.sampled_from("abcde"), max_size=4), min_size=1, max_size=15
)


def shared_by_hand(attributes):
  return {
    frozenset((i, j))
    for i, j in itertools.combinations(range(len(attributes)), 2)
    if set(attributes[i]) & set(attributes[j])
  }


@given(ATTRIBUTES)
def test_what_shares_an_attribute_is_connected(attributes):
  graph = relations.shared_attribute_graph(attributes)
  found = words_of(graph, range(len(attributes)))
  assert found == shared_by_hand(attributes)


@given(ATTRIBUTES, st.integers(1, 6), st.integers(0, 3))
def test_degrees_are_limited(attributes, max_degree, seed):
  graph = relations.shared_attribute_graph(
    attributes, max_degree=max_degree, seed=seed
  )
  assert np.diff(graph.offsets).max(initial=0) <= max_degree
  found = words_of(graph, range(len(attributes)))
  assert found <= shared_by_hand(attributes)


def test_a_limit_that_is_not_reached_changes_nothing():
  attributes = [["a"], ["a", "b"], ["b"], ["a"]]
  graph = relations.shared_attribute_graph(attributes, max_degree=3)
  assert words_of(graph, range(4)) == shared_by_hand(attributes)


def test_a_large_attribute_keeps_most_of_the_degree():
  graph = relations.shared_attribute_graph([["a"]] * 5000, max_degree=10)
  degrees = np.diff(graph.offsets)
  assert degrees.max() == 10
  assert degrees.mean() > 7
  # Neighbours are drawn from everywhere, not from next to each other.
  nodes = np.repeat(np.arange(5000), degrees)
  assert np.abs(np.asarray(graph.neighbors) - nodes).mean() > 1000


def test_the_seed_chooses_the_sample():
  make = lambda seed: words_of(
    relations.shared_attribute_graph([["a"]] * 50, max_degree=4, seed=seed),
    range(50),
  )
  assert make(0) == make(0)
  assert make(0) != make(1)


@pytest.mark.parametrize("max_degree", [0, -1, 2.5])
def test_the_limit_is_checked(max_degree):
  with pytest.raises(ValueError, match="`max_degree` must be"):
    relations.shared_attribute_graph([["a"]], max_degree=max_degree)


def test_symbols_without_attributes_have_no_neighbours():
  graph = relations.shared_attribute_graph([[], ["a"], []], max_degree=2)
  np.testing.assert_array_equal(graph.offsets, np.zeros(4))
