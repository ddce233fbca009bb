"""Published sets of labelled texts, read from the user's files.

Each reader returns the splits that were published; none cuts others.
"""

import csv
import functools
import gzip
import html
import json
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

from experiments.datasets import files

Folder = str | os.PathLike[str] | None
Rows = list[tuple[str, int]]
"""Texts with the number of their class."""


class Published(NamedTuple):
  """A published data set.

  Attributes:
    classes: Name of each class.
    source: Origin and licence.
    read: From the folder of data sets to the splits by name: "train", and
      "valid" and "test" where they were published.
  """

  classes: tuple[str, ...]
  source: str
  read: Callable[[Folder], dict[str, Rows]]


_AG_NEWS_ROWS = 120_000
_PREFIX_WORDS = 8
_NUMBERED = re.compile(r"&?#\d+;")
_NAMED = re.compile(r"\b(?:quot|amp|lt|gt|nbsp)\b ?;?", re.IGNORECASE)
_TAG = re.compile(
  r"</?(?:a|b|br|em|font|h\d|hr|i|img|li|p|strong|u|ul)(?:\s[^>]*)?/?>",
  re.IGNORECASE,
)
_WORD = re.compile(r"[a-z0-9]{2,}")


def strip_markup(text: str) -> str:
  r"""Drops what is left of HTML in a text, and puts it into lower case.

  The official files of AG News hold tags, entities, entities that have lost
  their ``&`` and backslashes for line breaks. In the smaller files of the same
  articles the tags and numbered entities are gone, and names of entities are
  left; this makes both alike.

  Args:
    text: The text.

  Returns:
    The text with spaces in their place.

  >>> strip_markup(r"Iraq #39;s &lt;B&gt;oil&lt;/B&gt;\quot;deal quot; <X.N>")
  'iraq  s  oil   deal   <x.n>'
  """
  text = html.unescape(_NUMBERED.sub(" ", text))
  text = _NAMED.sub(" ", _TAG.sub(" ", text))
  return text.replace("\\", " ").lower()


def _read_ag_news(data_dir: Folder) -> dict[str, Rows]:
  find = functools.partial(
    files.find_file, dataset="ag_news", data_dir=data_dir
  )
  path = find(
    "test.csv",
    sha256="521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699",
    origin="the AG News data set of Zhang et al. (2015)",
  )
  articles = [(int(n) - 1, title, body) for n, title, body in _read_csv(path)]
  test = [(strip_markup(f"{t} {body}"), n) for n, t, body in articles]
  official = path.with_name("train.csv")
  if official.is_file():
    return {"train": _read_official(official), "test": test}
  origin = "the subsets of AG News for deep text clustering"
  rows = [
    (strip_markup(body), int(number))
    for filename, sha256 in _AG_NEWS_SUBSETS.items()
    for number, body in _read_csv(find(filename, sha256=sha256, origin=origin))
  ]
  bodies = [strip_markup(body) for _, _, body in articles]
  seen = [text for text, _ in test] + bodies
  return {"train": drop_repeated(rows, seen), "test": test}


_AG_NEWS_SUBSETS = {
  "subset_deeptextclustering/train.csv": (
    "676fa09c80f8e208e740af90c204d8085a54e31596361ffb9d7d5142ace49c16"
  ),
  "subset_deeptextclustering/ub_train.csv": (
    "02d2c58e612f2ca40abc100bae5bd93e210412565bdf6021607a6aa68bdf6283"
  ),
}


def _read_official(path: pathlib.Path) -> Rows:
  rows = [
    (strip_markup(f"{title} {body}"), int(number) - 1)
    for number, title, body in _read_csv(path)
  ]
  if len(rows) != _AG_NEWS_ROWS:
    warnings.warn(
      f"{path} is not the published file: it has {len(rows)} articles, "
      f"expected {_AG_NEWS_ROWS}.",
      stacklevel=2,
    )
  return rows


def drop_repeated(rows: Rows, test_texts: Iterable[str]) -> Rows:
  """Drops training texts that repeat, or that begin like a test text.

  Texts were cut off and tokenised in different ways, so that only words of two
  letters or more count, and of the test texts only the first eight.

  Args:
    rows: The training texts.
    test_texts: Texts that must not be in the training set.

  Returns:
    The first of each group of equal texts, in their order.

  >>> rows = [("One two.", 0), ("one, two", 0), ("three four", 1)]
  >>> drop_repeated(rows, ["Three-four!"])
  [('One two.', 0)]
  """
  words = lambda text: tuple(_WORD.findall(text.lower()))
  taken = {words(text)[:_PREFIX_WORDS] for text in test_texts}
  kept, seen = [], set()
  for text, label in rows:
    key = words(text)
    if key not in seen and key[:_PREFIX_WORDS] not in taken:
      kept.append((text, label))
    seen.add(key)
  return kept


def _read_dbpedia(data_dir: Folder) -> dict[str, Rows]:
  path = files.find_file(
    "subset_14000_train.csv",
    dataset="dbpedia",
    sha256="57b652af792e41d5f84638892fec592ed55021c586f1fe7b087b6d8e208d8599",
    origin="the subset of DBpedia for deep text clustering",
    data_dir=data_dir,
  )
  return {"train": [(text, int(number)) for number, text in _read_csv(path)]}


def _read_csv(path: pathlib.Path) -> list[list[str]]:
  with path.open(encoding="utf-8", newline="") as file:
    return list(csv.reader(file))


def _read_sst2(data_dir: Folder) -> dict[str, Rows]:
  splits = {}
  for split, (name, sha256) in _SST2_FILES.items():
    path = files.find_file(
      name,
      dataset="sst2",
      sha256=sha256,
      origin="the sentences of SST-2, as three files of sentence and label",
      data_dir=data_dir,
    )
    lines = [line.rpartition("\t") for line in files.read_lines(path)]
    splits[split] = [(text, int(number)) for text, _, number in lines]
  return splits


_SST2_FILES = {
  "train": (
    "train.tsv",
    "ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920",
  ),
  "valid": (
    "dev.tsv",
    "eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359",
  ),
  "test": (
    "test.tsv",
    "831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7",
  ),
}


def _read_trec(data_dir: Folder) -> dict[str, Rows]:
  splits = {}
  for split, sha256 in _TREC_FILES.items():
    path = files.find_file(
      f"TREC.{split}.all",
      dataset="sentconv",
      sha256=sha256,
      origin="the data sets of Kim (2014)",
      data_dir=data_dir,
    )
    # Not `splitlines`: the file has the byte 0x85, a line end to Unicode.
    lines = path.read_bytes().decode("latin-1").removesuffix("\n").split("\n")
    splits[split] = [(line[2:], int(line[0])) for line in lines]
  return splits


_TREC_FILES = {
  "train": "c8183fd8c2a5cc4a9a1c56548d7c6410a8b71ed7843df9ef1f0a05cd7cf2fb3e",
  "test": "92a6a3cede5678b447ef5f1d7ec474134fcda211e6590e6fa627b4a2c68e4566",
}


def _read_imdb(data_dir: Folder) -> dict[str, Rows]:
  splits = {}
  for split, sha256 in _IMDB_FILES.items():
    path = files.find_file(
      f"{split}.jsonl.gz",
      dataset="imdb",
      sha256=sha256,
      origin="the Large Movie Review Dataset, Maas et al. (2011)",
      data_dir=data_dir,
    )
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
      reviews = [json.loads(line) for line in lines]
    splits[split] = [(strip_markup(r["text"]), r["label"]) for r in reviews]
  return splits


_IMDB_FILES = {
  "train": "053219add3b8204485c035852a3a721765a56ddcd577d93bd406718ce70858e1",
  "test": "784267d1c8231ef6bb80ff029b83a1e493535d69699dd9e46ef737e9f22b6a13",
}

PUBLISHED = {
  "ag_news": Published(
    ("World", "Sports", "Business", "Sci/Tech"),
    "AG's corpus of news articles as prepared by Zhang et al. (2015), not "
    "for commercial use",
    _read_ag_news,
  ),
  "dbpedia": Published(
    (
      *("company", "school", "artist", "athlete", "office holder"),
      *("transport", "building", "natural place", "village", "animal"),
      *("plant", "album", "film", "written work"),
    ),
    "14,000 abstracts of DBpedia, CC BY-SA",
    _read_dbpedia,
  ),
  "imdb": Published(
    ("negative", "positive"),
    "Large Movie Review Dataset, Maas et al. (2011)",
    _read_imdb,
  ),
  "sst2": Published(
    ("negative", "positive"),
    "Stanford Sentiment Treebank, Socher et al. (2013), whole sentences",
    _read_sst2,
  ),
  "trec": Published(
    ("DESC", "ENTY", "ABBR", "HUM", "LOC", "NUM"),
    "TREC questions, Li and Roth (2002), as prepared by Kim (2014)",
    _read_trec,
  ),
}
