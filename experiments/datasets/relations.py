"""Graphs of symbols that are known to be related: words, or items.

======== ======================================================= ============
name     related words                                           licence
======== ======================================================= ============
framenet words of the same frame (Baker et al., 1998)            CC BY
ppdb     paraphrases (Ganitkevitch et al., 2013), size XL        CC BY
wordnet  synonyms, hypernyms, words of the same stem (Fellbaum,  WordNet's own
         1998)
======== ======================================================= ============

The first two are the files of Faruqui et al. (2015), see
:mod:`experiments.datasets.files`; the third is a package of Debian and Ubuntu.
"""

import collections
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from anchor_codes import ops
from anchor_codes import typing as options
from experiments.datasets import files

_LEXICONS = {
  "framenet": (
    "framenet.txt",
    "dd91d857855238c1ee152f19da0fc5dda4af129ef4a77f02eb4e1120e91ad286",
  ),
  "ppdb": (
    "ppdb-xl.txt",
    "5f753c4569ea8adf4b5571f0baa9102d459a9c29438a84e01be78fbd6bd80656",
  ),
}
_SYSTEM_WORDNET = pathlib.Path("/usr/share/wordnet")
_PARTS_OF_SPEECH = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
_HYPERNYMS = frozenset({"@", "@i"})
_DERIVED = "+"

RELATION_NAMES: tuple[str, ...] = (*_LEXICONS, "wordnet")
"""The names that `load_relations` knows."""

Related = tuple[Sequence[str], Sequence[str]]
"""Words, each of which is related to each word of another group."""


class _Pointer(NamedTuple):
  """A relation of a synset of WordNet.

  Attributes:
    symbol: Kind of the relation.
    target: Part of speech and offset of the other synset.
    words: Numbers of the two words that are related, from 1; 0 for all.
  """

  symbol: str
  target: tuple[str, str]
  words: tuple[int, int]


class _Synset(NamedTuple):
  words: list[str]
  pointers: list[_Pointer]


def load_relations(
  name: str,
  *,
  vocabulary: Sequence[str],
  data_dir: str | os.PathLike[str] | None = None,
) -> ops.Graph:
  """Loads the relations between the words of a vocabulary.

  Args:
    name: One of `RELATION_NAMES`.
    vocabulary: The word of each node. Words are compared without regard to
      case; relations to other words are left out.
    data_dir: Folder of data sets, see :func:`files.data_folder`. It holds
      ``lexicons/framenet.txt`` and ``lexicons/ppdb-xl.txt``; WordNet is looked
      for in its ``wordnet``, then in the folder of the system's package.

  Returns:
    A symmetric graph of as many nodes as there are words.

  Raises:
    ValueError: If the name is unknown, the vocabulary is empty or a file is
      damaged.
    FileNotFoundError: If a file is missing; it says where to get it.
  """
  options.check_choice("name", name, RELATION_NAMES)
  if name == "wordnet":
    return relation_graph(read_wordnet(_find_wordnet(data_dir)), vocabulary)
  filename, sha256 = _LEXICONS[name]
  path = files.find_file(
    filename,
    dataset="lexicons",
    sha256=sha256,
    origin="the retrofitting code of Faruqui et al. (2015)",
    data_dir=data_dir,
  )
  return relation_graph(read_lexicon(path), vocabulary)


def relation_graph(
  related: Iterable[Related], vocabulary: Sequence[str]
) -> ops.Graph:
  """Builds a graph of words from groups of related ones.

  Args:
    related: Pairs of groups; each word of one is related to each of the other.
    vocabulary: The word of each node; case does not count.

  Returns:
    A symmetric graph without the words that are in no vocabulary.

  >>> related = [(["dog"], ["hound", "cur"])]
  >>> graph = relation_graph(related, ["a", "Hound", "dog"])
  >>> print(graph.offsets, graph.neighbors)
  [0 0 1 2] [2 1]
  """
  nodes = collections.defaultdict(list)
  for node, word in enumerate(vocabulary):
    nodes[word.lower()].append(node)
  edges = set()
  for groups in related:
    # Most words of a lexicon are in no vocabulary: they go first.
    found = ([n for w in g for n in nodes.get(w.lower(), ())] for g in groups)
    edges.update(itertools.product(*found))
  return ops.graph_from_edges(list(edges), num_nodes=len(vocabulary))


def read_lexicon(path: str | os.PathLike[str]) -> Iterator[Related]:
  """Reads lines of a word and the words that are related to it.

  Args:
    path: A UTF-8 file with spaces between words.

  Yields:
    The first word of each line, and the others.
  """
  for line in files.read_lines(path):
    words = line.split()
    yield words[:1], words[1:]


def read_wordnet(folder: str | os.PathLike[str]) -> Iterator[Related]:
  """Reads the database of WordNet.

  Args:
    folder: Folder of the files ``data.noun``, ``data.verb``, ``data.adj`` and
      ``data.adv``, in the format of the manual page ``wndb(5WN)``.

  Yields:
    The words of each synset and these words again; the words of a synset and
    those of a hypernym; pairs of words that are derived from each other.

  Raises:
    ValueError: If a line is not a synset; it names the file and the line.
  """
  synsets = {}
  for tag, part in _PARTS_OF_SPEECH.items():
    synsets.update(_read_synsets(pathlib.Path(folder) / f"data.{part}", tag))
  for synset in synsets.values():
    yield synset.words, synset.words
    for pointer in synset.pointers:
      # A folder may hold a part of the database.
      target = synsets.get(pointer.target, _Synset([], []))
      first, second = pointer.words
      yield _pick(synset.words, first), _pick(target.words, second)


def _pick(words: list[str], number: int) -> list[str]:
  return words[number - 1 : number] if number else words


def _find_wordnet(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  folder = files.data_folder(data_dir)
  candidates = [_SYSTEM_WORDNET]
  if folder is not None:
    candidates.insert(0, folder / "wordnet")
  for candidate in candidates:
    if (candidate / "data.noun").is_file():
      return candidate
  raise FileNotFoundError(
    f"`wordnet` needs the file {candidates[-1] / 'data.noun'}, which does not "
    "exist. On Debian and Ubuntu `apt install wordnet-base` brings it; else "
    "put the `dict` folder of WordNet 3 at <data_dir>/wordnet, and set "
    f"<data_dir> by `data_dir` or by ${files.DATA_VARIABLE}."
  )


def _read_synsets(
  path: pathlib.Path, tag: str
) -> Iterator[tuple[tuple[str, str], _Synset]]:
  # A single strange byte in a gloss must not keep anyone from the words.
  lines = path.read_text(encoding="latin-1").split("\n")
  for number, line in enumerate(lines, start=1):
    if not line or line.startswith("  "):  # The licence is indented.
      continue
    try:
      synset = _parse_synset(line.partition("|")[0].split())
    except (ValueError, IndexError) as error:
      raise ValueError(
        f"{path} must be a data file of WordNet, got {line[:40]!r} in line "
        f"{number}."
      ) from error
    yield (tag, line.split(" ", 1)[0]), synset


def _parse_synset(fields: list[str]) -> _Synset:
  """Parses ``offset file type n (word id)*n m (symbol offset tag words)*m``."""
  num_words = int(fields[3], 16)
  end = 4 + 2 * num_words
  # An adjective may be marked by its place: "galore(ip)".
  words = [word.partition("(")[0] for word in fields[4:end:2]]
  pointers = []
  for i in range(int(fields[end])):
    symbol, offset, tag, pair = fields[end + 1 + 4 * i : end + 5 + 4 * i]
    if symbol in _HYPERNYMS or symbol == _DERIVED:
      target = ("a" if tag == "s" else tag, offset)  # Satellites of adjectives.
      numbers = int(pair[:2], 16), int(pair[2:], 16)
      pointers.append(_Pointer(symbol, target, numbers))
  return _Synset(words, pointers)


def shared_attribute_graph(
  attributes: Sequence[Sequence[str]],
  *,
  max_degree: int | None = None,
  seed: int = 0,
) -> ops.Graph:
  """Connects symbols that have an attribute in common, such as a genre.

  Args:
    attributes: The attributes of each symbol, any number of them.
    max_degree: Most neighbours of a symbol, at least 1; None for all, whose
      number grows with the square of the symbols of an attribute. A symbol that
      has more in common with others keeps a random part.
    seed: Chooses that part.

  Returns:
    A graph of as many nodes as there are symbols, with sorted rows; symmetric
    unless it was cut.

  Raises:
    ValueError: If `max_degree` is less than 1, or there are no symbols.

  >>> genres = [["war", "drama"], ["drama"], [], ["war"]]
  >>> graph = shared_attribute_graph(genres)
  >>> print(graph.offsets, graph.neighbors)
  [0 2 3 3 4] [1 3 0 0]
  """
  return ops.graph_from_attributes(
    ops.attribute_pairs(attributes),
    num_nodes=len(attributes),
    max_degree=max_degree,
    seed=seed,
  )
