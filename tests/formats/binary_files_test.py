"""Files of NumPy and word2vec."""

import io
import re
import zipfile

import numpy as np
import pytest
from refusals import refused

from anchor_codes import formats
from anchor_codes.formats import matrix, word2vec

VECTORS = np.float32([[1, -2.5, 0], [0.25, 4, 7]])
WORDS = ("cat", "žluť")


def word2vec_bytes(end=b"\n", header=b"2 3\n"):
  rows = zip(WORDS, VECTORS, strict=True)
  return header + b"".join(
    word.encode() + b" " + vector.tobytes() + end for word, vector in rows
  )


# NumPy: one array.


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_npy_is_mapped_in_its_own_type(dtype, tmp_path):
  path = tmp_path / "vectors.npy"
  np.save(path, VECTORS.astype(dtype))
  vectors, vocabulary = formats.read(path)
  assert vocabulary is None
  assert isinstance(vectors, np.memmap)
  assert vectors.dtype == dtype
  assert not vectors.flags.writeable
  np.testing.assert_array_equal(vectors, VECTORS)


@pytest.mark.parametrize(
  ("array", "message"),
  [
    (np.zeros((2, 3), np.int8), "It holds int8 [2, 3], not floats of two axes"),
    (np.zeros(3), "It holds float64 [3], not floats of two axes."),
    (np.zeros((0, 3)), "It has no vectors: its shape is (0, 3)."),
    (np.array([["a"]]), "It holds <U1 [1, 1], not floats of two axes."),
    (np.float32([[1], [np.nan]]), "Row 1 has nan or infinite values."),
    (np.float32([[1], [np.inf]]), "Row 1 has nan or infinite values."),
  ],
)
def test_npy_of_other_things(array, message, tmp_path):
  path = tmp_path / "vectors.npy"
  np.save(path, array)
  assert refused(path).startswith(message)


@pytest.mark.parametrize("row", [0, 2, 6])
def test_values_are_looked_at_block_by_block(row, tmp_path, monkeypatch):
  monkeypatch.setattr(matrix, "_BLOCK", 3)
  path, vectors = tmp_path / "vectors.npy", np.ones((7, 2), np.float32)
  vectors[row, 1] = np.nan
  np.save(path, vectors)
  assert refused(path) == f"Row {row} has nan or infinite values."


def test_verification_is_an_option(tmp_path):
  path = tmp_path / "vectors.npy"
  np.save(path, np.float32([[1], [np.nan]]))
  assert formats.read(path, verify=False).vectors.shape == (2, 1)


def test_npy_runs_no_code(tmp_path):
  path = tmp_path / "vectors.npy"
  np.save(path, np.array([[print]], object), allow_pickle=True)
  assert "Python objects" in refused(path)


@pytest.mark.parametrize("size", [6, 20, 100, 130])
def test_npy_that_is_cut_off(size, tmp_path):
  path = tmp_path / "vectors.npy"
  np.save(path, VECTORS)
  path.write_bytes(path.read_bytes()[:size])
  assert refused(path)


# NumPy: an archive.


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_words(save, tmp_path):
  path = tmp_path / "vectors.npz"
  save(path, words=np.array(WORDS), vectors=VECTORS)
  found = formats.read(path)
  assert found.vocabulary == WORDS
  np.testing.assert_array_equal(found.vectors, VECTORS)
  path = tmp_path / "bytes.npz"
  encoded = np.array([word.encode() for word in WORDS])
  save(path, words=encoded, vectors=VECTORS)
  assert formats.read(path).vocabulary == WORDS


def test_npz_by_name(tmp_path):
  path = tmp_path / "vectors.npz"
  np.savez(path, a=VECTORS, b=VECTORS[:1], names=np.array(["x"]), n=np.int64(3))
  found = formats.read(path, tensor="b")
  assert found.vocabulary == ("x",)
  np.testing.assert_array_equal(found.vectors, VECTORS[:1])
  assert formats.read(path, tensor="a").vocabulary is None
  assert refused(path) == (
    "Name the tensor, one of 'a' float32 [2, 3], 'b' float32 [1, 3]."
  )
  assert refused(path, tensor="name").startswith(
    "It has no tensor 'name'; near: 'names'"
  )
  assert refused(path, tensor="n") == (
    "It holds int64 [], not floats of two axes."
  )


def test_npz_of_vectors_beside_arrays_of_more_axes(tmp_path):
  path = tmp_path / "vectors.npz"
  np.savez(path, kernel=np.zeros((2, 3, 4), np.float32), v=VECTORS)
  np.testing.assert_array_equal(formats.read(path).vectors, VECTORS)


def test_npz_of_words_beside_other_things(tmp_path):
  """Where the words are found, no other string can be meant."""
  path = tmp_path / "vectors.npz"
  other = {"name": np.array("model"), "config": np.array({"seed": 0})}
  np.savez(path, v=VECTORS, w=np.array(WORDS), **other)
  assert formats.read(path).vocabulary == WORDS


def test_npz_does_not_guess_codes_and_scales(tmp_path):
  path = tmp_path / "vectors.npz"
  arrays = {"words": np.array(WORDS), "q": np.zeros((2, 3), np.int8)}
  np.savez(path, scale=np.zeros(2, np.float32), **arrays)
  assert refused(path).startswith("It has no floats of two axes: 'scale' float")


def test_npz_with_words_twice(tmp_path):
  path = tmp_path / "vectors.npz"
  np.savez(path, v=VECTORS, a=np.array(WORDS), b=np.array(WORDS))
  assert "several arrays of words: ['a', 'b']" in refused(path)
  np.savez(path, v=VECTORS, a=np.array(["cat", "cat"]))
  assert refused(path) == "Row 1 repeats the word 'cat' of row 0."


@pytest.mark.parametrize("shape", [(2**40, 2**20), (2**40, 2**40)])
def test_npz_shapes_are_not_trusted(shape, tmp_path):
  """A header may ask for any memory; the archive says how much there is."""
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, {"descr": "<f4", "fortran_order": False, "shape": shape}
  )
  path = tmp_path / "vectors.npz"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("v.npy", header.getvalue() + bytes(24))
    archive.writestr("readme.txt", "no array")
  assert refused(path) == "It has no floats of two axes: nothing at all."


def test_checkpoints_of_pytorch_are_archives_of_other_things(tmp_path):
  path = tmp_path / "pytorch_model.bin"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", b"\x80\x02}.")
    archive.writestr("archive/data/0", bytes(24))
  assert refused(path) == (
    "It is an archive, but none of NumPy: save a PyTorch checkpoint as "
    ".safetensors."
  )


@pytest.mark.parametrize(
  ("words", "text"),
  [
    (np.array(WORDS, object), "'w' of type object"),
    (np.array(["a", "b", "c"]), r"'w' of type str32 and shape \[3\]"),
  ],
)
def test_npz_with_words_that_cannot_be_read(words, text, tmp_path):
  path = tmp_path / "v.npz"
  np.savez(path, v=VECTORS, w=words)
  assert re.search(text, refused(path))


def test_npz_with_words_that_cannot_be_read_beside_other_vectors(tmp_path):
  path, words = tmp_path / "v.npz", np.array(WORDS, object)
  np.savez(path, v=VECTORS, other=VECTORS[:1], w=words)
  assert "'w' of type object" in refused(path, tensor="v")
  # Of another length they belong to other vectors.
  assert formats.read(path, tensor="other").vocabulary is None


# word2vec.


@pytest.mark.parametrize("end", [b"\n", b""])
def test_word2vec(end, tmp_path):
  path = tmp_path / "vectors.bin"
  path.write_bytes(word2vec_bytes(end))
  found = formats.read(path)
  assert found.vocabulary == WORDS
  assert found.vectors.dtype == np.float32
  np.testing.assert_array_equal(found.vectors, VECTORS)


def test_word2vec_of_the_shortest_words(tmp_path):
  """No file of so many vectors could be smaller."""
  path = tmp_path / "vectors.bin"
  path.write_bytes(b"2 1\na \0\0\x80\x3fb \0\0\0\xbf")
  found = formats.read(path)
  assert found.vocabulary == ("a", "b")
  np.testing.assert_array_equal(found.vectors, [[1], [-0.5]])


@pytest.mark.parametrize("end", [b"\n", b""])
def test_word2vec_cut_off_anywhere(end, tmp_path):
  path = tmp_path / "vectors.bin"
  data = word2vec_bytes(end)
  for size in range(len(data) - len(end)):
    path.write_bytes(data[:size])
    assert refused(path)


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"no counts\n", "Its first line is not two counts"),
    (b"\xba\x16O/\x0c\x00\x00\x00", "Its first line is not two counts"),
    (b"0 3\n", "It has no vectors."),
    (b"9999999999 300\n", "It is cut off: 9999999999 vectors of 300 do not"),
    (word2vec_bytes(b"") + b"m", "It goes on after the 2 rows"),
    (word2vec_bytes() + b"more", "It goes on after the 2 rows"),
    (word2vec_bytes().replace(b"cat", b"c\xfft"), "Row 0 is not UTF-8"),
    (word2vec_bytes().replace(b"cat", b""), "Row 0 has no word"),
    (b"1 1\n" + b"x" * 20, "Row 0 has no word"),
    (b"2 1\na \0\0\0\0\na \0\0\0\0\n", "Row 1 repeats the word 'a' of row 0"),
    (b"1 1\na \0\0\xc0\x7f\n", "Row 0 has nan or infinite values."),
  ],
)
def test_word2vec_of_other_things(data, message, tmp_path):
  path = tmp_path / "vectors.bin"
  path.write_bytes(data)
  assert refused(path).startswith(message)


def test_word2vec_tells_its_progress(tmp_path, monkeypatch):
  monkeypatch.setattr(word2vec, "_OFTEN", 1)
  path = tmp_path / "vectors.bin"
  path.write_bytes(word2vec_bytes(b""))
  reports = []
  formats.read(path, progress=lambda *report: reports.append(report))
  size = path.stat().st_size
  assert reports == [(4 + 4 + 12, size), (size, size)]
