"""Text for word-level language models, by name.

========== ============================================= ========= ==========
name       text                                          tokens    vocabulary
========== ============================================= ========= ==========
stdlib     documentation inside Python's own library     ~ 600,000 ~ 12,000
ptb        Penn Treebank, as in Mikolov et al. (2010)    1,085,779 10,000
wikitext-2 Wikipedia articles, Merity et al. (2016)      2,551,843 33,278
text:PATH  the user's own file, one paragraph per line   any       any
========== ============================================= ========= ==========

Only the first needs no file, see :mod:`experiments.datasets.files`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping

from experiments.datasets import files, stdlib, text

_OWN_TEXT = "text:"
_MIN_LINES = 20


@dataclasses.dataclass(frozen=True)
class _Corpus:
  """A published text: three tokenised files, and what they are known by.

  Attributes:
    filename: Name of the files with the split in braces.
    sha256: Digest of the file of each split.
    origin: The archive that holds the files.
    source: Origin and licence.
  """

  filename: str
  sha256: Mapping[str, str]
  origin: str
  source: str


_CORPORA = {
  "ptb": _Corpus(
    filename="ptb.{}.txt",
    sha256={
      "train": (
        "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"
      ),
      "valid": (
        "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"
      ),
      "test": (
        "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"
      ),
    },
    origin="simple-examples.tgz of Mikolov's RNNLM toolkit (in its `data`)",
    source=(
      "Penn Treebank (LDC99T42) as prepared by Mikolov et al. (2010), "
      "for research only"
    ),
  ),
  "wikitext-2": _Corpus(
    filename="wiki.{}.tokens",
    sha256={
      "train": (
        "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f"
      ),
      "valid": (
        "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"
      ),
      "test": (
        "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"
      ),
    },
    origin="wikitext-2-v1.zip of Merity et al. (2016)",
    source="WikiText-2, Merity et al. (2016), CC BY-SA",
  ),
}

TEXT_NAMES = ("stdlib", *_CORPORA)
"""The names that `load_text` knows, besides ``text:PATH``."""


def load_text(
  name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> text.TextDataset:
  """Loads a text by its name.

  Args:
    name: One of `TEXT_NAMES`, or ``text:`` and the path of a UTF-8 file with
      one sentence or paragraph per line and white space between words. Such a
      file is cut into 90, 5 and 5 % of its lines, and words seen only once in
      training become ``<unk>``.
    data_dir: Folder of data sets, by default ``$ANCHOR_CODES_DATA``, else
      ``../shared/data`` beside the project if there is one. It holds
      ``ptb/ptb.train.txt`` and ``wikitext-2/wiki.train.tokens``.

  Returns:
    The text as token ids.

  Raises:
    ValueError: If the name is unknown, or the user's file is not UTF-8 or has
      fewer than 20 lines.
    FileNotFoundError: If a file is missing; it names the path and the archive.
  """
  if name.startswith(_OWN_TEXT):
    return _load_own(name)
  if name == "stdlib":
    return stdlib.load_stdlib()
  if name not in _CORPORA:
    known = ", ".join(repr(known) for known in TEXT_NAMES)
    raise ValueError(
      f"There is no data set {name!r}: take {known} or 'text:PATH'."
    )
  return _load_corpus(name, data_dir)


def _load_corpus(
  name: str, data_dir: str | os.PathLike[str] | None
) -> text.TextDataset:
  corpus = _CORPORA[name]
  splits = {}
  for split in text.SPLITS:
    path = files.find_file(
      corpus.filename.format(split),
      dataset=name,
      sha256=corpus.sha256[split],
      origin=corpus.origin,
      data_dir=data_dir,
    )
    splits[split] = _words(files.read_lines(path))
  return text.make_text_dataset(name, splits, source=corpus.source)


def _load_own(name: str) -> text.TextDataset:
  path = pathlib.Path(name.removeprefix(_OWN_TEXT)).expanduser()
  if not path.is_file():
    raise FileNotFoundError(
      f"`{name}` needs the file {path.absolute()}, which does not exist."
    )
  lines = [line for line in files.read_lines(path) if line.strip()]
  if len(lines) < _MIN_LINES:
    raise ValueError(
      f"{path} must have at least {_MIN_LINES} lines of text, got {len(lines)}."
    )
  held_out = len(lines) // _MIN_LINES
  first, second = len(lines) - 2 * held_out, len(lines) - held_out
  blocks = lines[:first], lines[first:second], lines[second:]
  splits = dict(zip(text.SPLITS, map(_words, blocks), strict=True))
  return text.make_text_dataset(
    name, splits, source=f"the user's file {path}", min_count=2
  )


def _words(lines: Iterable[str]) -> list[str]:
  return [word for line in lines for word in (*line.split(), text.END_OF_LINE)]
