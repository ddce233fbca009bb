"""Labelled texts for classification, by name.

========== ============================================== ======= =======
name       text                                           texts   classes
========== ============================================== ======= =======
unicode    names of the characters of Unicode             ~32,000 26-29
ag_news    news, Zhang et al. (2015)                      ~16,000 4
dbpedia    encyclopedia, a part of Zhang et al.'s         14,000  14
imdb       film reviews, Maas et al. (2011)               50,000  2
sst2       sentences of film reviews, Socher et al.       9,613   2
trec       questions, Li and Roth (2002)                  5,952   6
csv:PATH   the user's own file with a text and a label    any     any
========== ============================================== ======= =======

Only the first needs no file, see :mod:`experiments.datasets.files`. For
`ag_news` the official 120,000 articles of training are used where
``ag_news/train.csv`` is there; otherwise the articles of the two subsets for
deep text clustering, without those that repeat or are in the official test set.
Those have no headlines, while all texts of the test set begin with theirs.
"""

import hashlib
import os
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.datasets import classification_csv, classification_files
from experiments.datasets.classification_files import Rows

CLASSIFICATION_NAMES = ("unicode", *classification_files.PUBLISHED)
"""The names that `load_classification` knows, besides ``csv:PATH``."""

# Characters whose names count up: nothing to learn from.
_NUMBERED = re.compile(
  r"CJK (UNIFIED|COMPATIBILITY) IDEOGRAPH|HANGUL SYLLABLE|TANGUT IDEOGRAPH"
  r"|NUSHU CHARACTER|KHITAN SMALL SCRIPT CHARACTER"
)


class Examples(NamedTuple):
  """One split.

  Attributes:
    texts: The texts.
    labels: int32 [num_texts], the number of the class of each.
  """

  texts: tuple[str, ...]
  labels: np.ndarray


class ClassificationDataset(NamedTuple):
  """Labelled texts.

  Attributes:
    name: The name that `load_classification` takes.
    train: What a model learns from.
    valid: What may select a model.
    test: What only measures it.
    classes: Name of each class.
    source: Where the texts come from, and their licence.
  """

  name: str
  train: Examples
  valid: Examples
  test: Examples
  classes: tuple[str, ...]
  source: str


def load_classification(
  name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> ClassificationDataset:
  """Loads labelled texts by their name.

  A set without a published test split gives a tenth of its texts for it and a
  tenth for validation; one that lacks a validation split, 15 % of its training
  texts. The hash of a text decides, so that equal texts are never in two of the
  splits cut.

  Args:
    name: One of `CLASSIFICATION_NAMES`, or ``csv:`` and the path of a UTF-8
      file in CSV with the columns ``text`` and ``label``.
    data_dir: Folder of data sets, by default ``$ANCHOR_CODES_DATA``, else
      ``../shared/data`` beside the project if there is one.

  Returns:
    The texts.

  Raises:
    ValueError: If the name is unknown, or the user's file is not as it must be.
    FileNotFoundError: If a file is missing; it names the path and the origin.
  """
  if name.startswith(classification_csv.PREFIX):
    rows, classes, source = classification_csv.load_rows(name)
    return make_dataset(name, {"train": rows}, classes, source=source)
  if name == "unicode":
    return _load_unicode()
  if name not in classification_files.PUBLISHED:
    known = ", ".join(repr(known) for known in CLASSIFICATION_NAMES)
    raise ValueError(
      f"There is no data set {name!r}: take {known} or 'csv:PATH'."
    )
  published = classification_files.PUBLISHED[name]
  splits = published.read(data_dir)
  return make_dataset(name, splits, published.classes, source=published.source)


def make_dataset(
  name: str, splits: Mapping[str, Rows], classes: Sequence[str], *, source: str
) -> ClassificationDataset:
  """Cuts the splits that are missing from the training split.

  Args:
    name: Name of the data set.
    splits: Texts and labels of "train", and of "valid" and "test" where they
      are given.
    classes: Name of each class.
    source: Origin and licence.

  Returns:
    The data set.

  >>> rows = [(f"text {i}", i % 2) for i in range(50)]
  >>> data = make_dataset("toy", {"train": rows}, ("a", "b"), source="ours")
  >>> [len(split.texts) for split in (data.train, data.valid, data.test)]
  [40, 5, 5]
  """
  if "test" not in splits:
    splits = cut_by_hash(splits["train"], {"test": 0.1, "valid": 0.1})
  elif "valid" not in splits:
    cut = cut_by_hash(splits["train"], {"valid": 0.15})
    splits = {**splits, **cut}
  return ClassificationDataset(
    name=name,
    train=_examples(splits["train"]),
    valid=_examples(splits["valid"]),
    test=_examples(splits["test"]),
    classes=tuple(classes),
    source=source,
  )


def _examples(rows: Rows) -> Examples:
  texts, labels = zip(*rows, strict=True)
  return Examples(texts, np.asarray(labels, np.int32))


def cut_by_hash(rows: Rows, shares: Mapping[str, float]) -> dict[str, Rows]:
  """Cuts splits by the SHA-256 of the texts.

  Args:
    rows: Texts and labels; there must be more different texts than splits.
    shares: Part of the different texts for each split, at least one text; what
      is left becomes "train".

  Returns:
    The splits, each in the order of `rows`.

  >>> rows = [("a", 0), ("b", 0), ("c", 1), ("a", 1)]
  >>> cut_by_hash(rows, {"valid": 0.1})
  {'valid': [('c', 1)], 'train': [('a', 0), ('b', 0), ('a', 1)]}
  """
  texts = sorted({text for text, _ in rows}, key=_digest)
  splits, first, chosen = {}, 0, {}
  for split, share in shares.items():
    last = first + max(round(share * len(texts)), 1)
    chosen.update(dict.fromkeys(texts[first:last], split))
    first = last
  for split in (*shares, "train"):
    splits[split] = [
      row for row in rows if chosen.get(row[0], "train") == split
    ]
  return splits


def _digest(text: str) -> bytes:
  return hashlib.sha256(text.encode()).digest()


def _load_unicode() -> ClassificationDataset:
  """The names of characters, to be sorted into their general categories."""
  characters = map(chr, range(sys.maxunicode + 1))
  found = [
    (unicodedata.name(c, ""), unicodedata.category(c)) for c in characters
  ]
  named = [row for row in found if row[0] and not _NUMBERED.match(row[0])]
  classes = sorted({category for _, category in named})
  number = {category: i for i, category in enumerate(classes)}
  rows = [(name, number[category]) for name, category in named]
  source = f"Unicode {unicodedata.unidata_version}, as Python has it, PSF-2.0"
  return make_dataset("unicode", {"train": rows}, classes, source=source)
