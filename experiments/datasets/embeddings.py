"""Vectors of words that somebody has trained.

====== ================================================= ====== ========
name   vectors                                           words  features
====== ================================================= ====== ========
glove  GloVe (Pennington et al., EMNLP 2014), the most   10,000 100
       frequent words, kept in 8 bits with a scale each
ppmi   positive mutual information in WikiText-2, then   28,911 200
       a truncated singular value decomposition
====== ================================================= ====== ========
"""

import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from anchor_codes import typing
from experiments.datasets import files


class WordVectors(NamedTuple):
  """Vectors, one for each word.

  Attributes:
    name: The name that :func:`load_word_vectors` takes.
    words: The words, the most frequent first.
    vectors: float32 [len(words), features].
  """

  name: str
  words: tuple[str, ...]
  vectors: np.ndarray


class _Known(NamedTuple):
  """A file of vectors."""

  folder: str
  filename: str
  sha256: str
  origin: str
  decode: Callable[[pathlib.Path], tuple[np.ndarray, np.ndarray]]


def _read_scaled(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  with np.load(path, allow_pickle=False) as file:
    scales = file["scale"][:, None] / np.float32(127)
    return file["words"], file["q"] * scales


def _read_plain(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  with np.load(path, allow_pickle=False) as file:
    return file["words"], file["vectors"]


_KNOWN = {
  "glove": _Known(
    "embeddings/glove_10000x100_int8",
    "glove_10k_100d.npz",
    "5aab89260520c8a109fb4da6ab131390b5ca7f65a7c116a993f5311c8856bf92",
    "`words`, int8 `q` and `scale`, of which vectors are `q * scale / 127`",
    _read_scaled,
  ),
  "ppmi": _Known(
    "derived",
    "wt2_ppmi_svd_200d.npz",
    "fdd959254bd3d4d54d6a2f43ad32b9e02db22ab55e30bad2d65bd5c309c07216",
    "`words` and `vectors`",
    _read_plain,
  ),
}

WORD_VECTOR_NAMES = tuple(_KNOWN)
"""What :func:`load_word_vectors` knows."""


def load_word_vectors(
  name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> WordVectors:
  """Loads vectors of words by their name.

  Args:
    name: One of `WORD_VECTOR_NAMES`.
    data_dir: Folder of data sets, see :func:`files.data_folder`.

  Returns:
    The words and their vectors.

  Raises:
    ValueError: If the name is unknown.
    FileNotFoundError: If the file is missing; it names the path.
  """
  typing.check_choice("name", name, WORD_VECTOR_NAMES)
  known = _KNOWN[name]
  path = files.find_file(
    known.filename,
    dataset=known.folder,
    sha256=known.sha256,
    origin=known.origin,
    data_dir=data_dir,
  )
  words, vectors = known.decode(path)
  return WordVectors(name, tuple(words.tolist()), vectors.astype(np.float32))
