"""Sentences in two languages, by name.

============ ============================================= ======== ===========
name         text                                          pairs    languages
============ ============================================= ======== ===========
synthetic    digits, and their names from the last to the  3,400    none
             first
multi30k     captions of pictures, Elliott et al. (2016)   31,014   en, de, fr
files:PREFIX the user's own files, a sentence on each line any      any
============ ============================================= ======== ===========

Only the first needs no file, see :mod:`experiments.datasets.files`.
"""

import gzip
import os
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from anchor_codes import typing as options
from experiments.datasets import files, text

_OWN_FILES = "files:"
_MIN_PAIRS = 20

Folder = str | os.PathLike[str] | None


class Pairs(NamedTuple):
  """Sentences and their translations, in the same order.

  Attributes:
    sources: Sentences of one language.
    targets: The same in the other.
  """

  sources: tuple[str, ...]
  targets: tuple[str, ...]


class ParallelText(NamedTuple):
  """Pairs of sentences to train on, to select with and to measure on.

  Attributes:
    name: The name that `load_parallel` takes.
    train: Pairs to learn from.
    valid: Pairs that may select a model.
    test: Pairs that only measure it.
    origin: Where the text comes from, and its licence.
    num_dropped: For each split, how many pairs were left out since one side
      was empty.
  """

  name: str
  train: Pairs
  valid: Pairs
  test: Pairs
  origin: str
  num_dropped: Mapping[str, int]


MULTI30K_LANGUAGES = ("en", "de", "fr")
MULTI30K_TESTS = (
  "test_2016_flickr",
  "test_2017_flickr",
  "test_2017_mscoco",
  "test_2018_flickr",
)

# By the name of the file without the language, in the order of the languages.
_MULTI30K_SHA256 = {
  "train": (
    "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
  ),
  "val": (
    "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
  ),
  "test_2016_flickr": (
    "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
  ),
  "test_2017_flickr": (
    "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074",
    "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee",
    "3ba671ceb2299f3304ffafefea7a833d08632fbaf0ba18546f8a2ec2391af496",
  ),
  "test_2017_mscoco": (
    "aab300bfb4427697987e02cd0aacd44bfe8aa50456231b6474c08038bbed2b58",
    "799e4854c25d601cb6cb6be29eabe5667734c61ace2f495e03e429031a0bc338",
    "754f3072ba9f124569ba5258b32730fc1d214bbf8e0c6dfb2b74401676220db0",
  ),
  "test_2018_flickr": (
    "ef4f4844037d4c5dea75c9a8ed5fd78905967a26f67c255e230cc9780032654d",
    "ddd0130c7d97482dc5197a02141dae8dd79f20f03586c480d675c09a32daf608",
    "fb2b83fcceb937a4f7e3e93c1c51c22aba92f1e342391e6b5ba392b16a920501",
  ),
}

TRANSLATION_NAMES = ("synthetic", "multi30k")
"""The names that `load_parallel` knows, besides ``files:PREFIX``."""


def load_parallel(
  name: str,
  *,
  source: str = "en",
  target: str = "de",
  test_set: str = MULTI30K_TESTS[0],
  seed: int = 0,
  data_dir: Folder = None,
) -> ParallelText:
  """Loads sentences and their translations by name.

  Args:
    name: One of `TRANSLATION_NAMES`, or ``files:`` and the path that the names
      of the user's files begin with: ``PREFIX.train.en``, ``PREFIX.valid.en``
      and ``PREFIX.test.en`` for the language "en", in UTF-8, compressed if the
      name ends in ``.gz``. Without files of a split, 5 % of the training pairs
      are held out for it.
    source: Language to translate from; ends the names of its files.
    target: Language to translate into.
    test_set: One of `MULTI30K_TESTS`, for 'multi30k'.
    seed: Seed of what is held out.
    data_dir: Folder of data sets, by default ``$ANCHOR_CODES_DATA``, else
      ``../shared/data`` beside the project if there is one. It holds
      ``multi30k/raw/train.en.gz``.

  Returns:
    The pairs.

  Raises:
    ValueError: If an option is unknown, or a file is not UTF-8 or has another
      number of lines than its translation.
    FileNotFoundError: If a file is missing; it names the path.

  >>> data = load_parallel("synthetic")
  >>> data.train.sources[0], data.train.targets[0]
  ('6 5 2 3 0 0 0 1', 'one zero zero zero three two five six')
  """
  if name == "synthetic":
    return make_synthetic()
  own = name.startswith(_OWN_FILES)
  if not own and name not in TRANSLATION_NAMES:
    known = ", ".join(repr(known) for known in TRANSLATION_NAMES)
    raise ValueError(
      f"There is no data set {name!r}: take {known} or 'files:PREFIX'."
    )
  if source == target:
    raise ValueError(
      f"`source` and `target` must be two languages, got {source!r} twice."
    )
  if own:
    return _load_own(name, (source, target), seed=seed)
  return _load_multi30k((source, target), test_set, data_dir)


_DIGITS = (
  "zero",
  "one",
  "two",
  "three",
  "four",
  "five",
  "six",
  "seven",
  "eight",
  "nine",
)


def make_synthetic(
  sizes: Sequence[int] = (3000, 200, 200), *, longest: int = 8
) -> ParallelText:
  """Makes digits, and their names from the last to the first.

  Args:
    sizes: Pairs of the training, validation and test split.
    longest: Digits of the longest sentence; the shortest have three.

  Returns:
    The pairs, always the same.

  >>> make_synthetic((1, 1, 1), longest=3).test
  Pairs(sources=('0 0 1',), targets=('one zero zero',))
  """
  rng = np.random.default_rng(0)

  def make_pair() -> tuple[str, str]:
    digits = rng.integers(10, size=rng.integers(3, longest + 1))
    names = [_DIGITS[digit] for digit in digits[::-1]]
    return " ".join(map(str, digits)), " ".join(names)

  splits = {
    split: Pairs(*zip(*(make_pair() for _ in range(size)), strict=True))
    for split, size in zip(text.SPLITS, sizes, strict=True)
  }
  return _make_text("synthetic", splits, origin="made up")


def read_lines(path: pathlib.Path) -> list[str]:
  """Reads the lines of a UTF-8 file, compressed if its name ends in ``.gz``.

  Args:
    path: The file.

  Returns:
    The lines without white space around them.

  Raises:
    ValueError: If the file is not UTF-8, or ends too early.
  """
  lines = []
  open_bytes = gzip.open if path.suffix == ".gz" else open
  with open_bytes(path, "rb") as file:
    try:
      for line in file:
        lines.append(line.decode("utf-8-sig").strip())
    except UnicodeDecodeError as error:
      raise ValueError(
        f"{path} must be UTF-8 text, got byte "
        f"0x{error.object[error.start]:02x} in line {len(lines) + 1}."
      ) from error
    except (EOFError, zlib.error) as error:
      raise ValueError(
        f"{path} must be a whole compressed file: {error}."
      ) from error
  return lines


def _read_pairs(paths: Sequence[pathlib.Path]) -> Pairs:
  """Reads the two sides of a text, which have to have as many lines."""
  sources, targets = (tuple(read_lines(path)) for path in paths)
  if len(sources) != len(targets):
    raise ValueError(
      "Both sides of a text must have as many lines, got "
      f"{len(sources)} in {paths[0]} and {len(targets)} in {paths[1]}."
    )
  return Pairs(sources, targets)


def _make_text(
  name: str, splits: Mapping[str, Pairs], *, origin: str
) -> ParallelText:
  """Leaves out pairs of which one side is empty, and counts them."""
  kept, dropped = {}, {}
  for split, pairs in splits.items():
    whole = [pair for pair in zip(*pairs, strict=True) if all(pair)]
    dropped[split] = len(pairs.sources) - len(whole)
    if dropped[split]:
      logging.warning(
        "%s: %d pairs of the %s text have an empty side, and are left out.",
        name,
        dropped[split],
        split,
      )
    if not whole:
      raise ValueError(f"{name} must have pairs in its {split} text, got none.")
    kept[split] = Pairs(*zip(*whole, strict=True))
  return ParallelText(name, **kept, origin=origin, num_dropped=dropped)


def _load_multi30k(
  languages: tuple[str, str], test_set: str, data_dir: Folder
) -> ParallelText:
  options.check_choice("test_set", test_set, MULTI30K_TESTS)
  for option, language in zip(("source", "target"), languages, strict=True):
    options.check_choice(option, language, MULTI30K_LANGUAGES)

  def find(stem: str, language: str) -> pathlib.Path:
    return files.find_file(
      f"raw/{stem}.{language}.gz",
      dataset="multi30k",
      sha256=_MULTI30K_SHA256[stem][MULTI30K_LANGUAGES.index(language)],
      origin="task 1 of the Multi30k data set of Elliott et al. (2016)",
      data_dir=data_dir,
    )

  stems = zip(text.SPLITS, ("train", "val", test_set), strict=True)
  splits = {
    split: _read_pairs([find(stem, language) for language in languages])
    for split, stem in stems
  }
  origin = "Multi30k, Elliott et al. (2016), for research"
  return _make_text("multi30k", splits, origin=origin)


def _load_own(
  name: str, languages: tuple[str, str], *, seed: int
) -> ParallelText:
  prefix = name.removeprefix(_OWN_FILES)
  paths = {
    split: [_own_path(f"{prefix}.{split}.{language}") for language in languages]
    for split in text.SPLITS
  }
  splits = {}
  for split, sides in paths.items():
    there = [path.is_file() for path in sides]
    if any(there) != all(there) or (split == "train" and not any(there)):
      missing = sides[there.index(False)]
      raise FileNotFoundError(
        f"`{name}` needs the file {missing.absolute()}, which does not exist."
      )
    if all(there):
      splits[split] = _read_pairs(sides)
  for split in text.SPLITS[1:]:
    if split not in splits:
      splits["train"], splits[split] = _hold_out(splits["train"], seed=seed)
      logging.warning(
        "%s has no %s text: %d training pairs are held out for it.",
        name,
        split,
        len(splits[split].sources),
      )
  ordered = {split: splits[split] for split in text.SPLITS}
  return _make_text(name, ordered, origin=f"the user's files {prefix}.*")


def _own_path(path: str) -> pathlib.Path:
  """Returns the path of a file, compressed if there is no plain one."""
  plain = pathlib.Path(path).expanduser()
  compressed = plain.with_name(f"{plain.name}.gz")
  return compressed if compressed.is_file() and not plain.exists() else plain


def _hold_out(pairs: Pairs, *, seed: int) -> tuple[Pairs, Pairs]:
  """Takes 5 % of the pairs out; both parts keep their order."""
  number = len(pairs.sources)
  if number < _MIN_PAIRS:
    raise ValueError(
      f"At least {_MIN_PAIRS} training pairs must be there to hold some out, "
      f"got {number}."
    )
  out = np.zeros(number, bool)
  rng = np.random.default_rng(seed)
  out[rng.permutation(number)[: number // _MIN_PAIRS]] = True
  kept, held = (
    Pairs(*(tuple(np.array(side, object)[chosen]) for side in pairs))
    for chosen in (~out, out)
  )
  return kept, held
