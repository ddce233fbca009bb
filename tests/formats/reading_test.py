"""The choice of a reader, and that damaged files of any format are refused."""

import contextlib
import subprocess
import sys

import numpy as np
import pytest

from anchor_codes import formats, tables

VECTORS = np.float32([[1, -2.5, 0], [0.25, 4, 7]])
WORDS = ["cat", "dog"]


def _write_npz(path):
  np.savez_compressed(path, words=np.array(WORDS), vectors=VECTORS)


def _write_word2vec(path):
  rows = zip(WORDS, VECTORS, strict=True)
  body = b"".join(f"{w} ".encode() + v.tobytes() + b"\n" for w, v in rows)
  path.write_bytes(b"2 3\n" + body)


def _write_parquet(path):
  import pyarrow as pa
  import pyarrow.parquet

  columns = {"word": WORDS, "vector": VECTORS.tolist()}
  pyarrow.parquet.write_table(pa.table(columns), path)


def _write_raw_tensors(path):
  import safetensors.numpy as saved

  saved.save_file({"embed.weight": VECTORS}, path)


FILES = {
  "v.npy": lambda path: np.save(path, VECTORS),
  "v.npz": _write_npz,
  "v.bin": _write_word2vec,
  "v.parquet": _write_parquet,
  "v.safetensors": _write_raw_tensors,
  "v.vec": lambda path: formats.write(path, VECTORS, WORDS),
  "v.txt": lambda path: path.write_text("cat 1 -2.5 0\ndog .25 4 7\n"),
}
HAVE_MAGIC = ["v.npy", "v.npz", "v.parquet"]


@pytest.mark.parametrize("name", FILES)
def test_all_formats_agree(name, tmp_path):
  path = tmp_path / name
  FILES[name](path)
  vectors, vocabulary = formats.read(str(path))
  np.testing.assert_array_equal(vectors, VECTORS)
  assert vocabulary in (None, ("cat", "dog"))
  assert (vocabulary is None) == (name in ("v.npy", "v.safetensors"))


@pytest.mark.parametrize("name", HAVE_MAGIC)
def test_content_goes_before_the_suffix(name, tmp_path):
  path = tmp_path / name
  FILES[name](path)
  path = path.rename(tmp_path / "v.txt")
  np.testing.assert_array_equal(formats.read(path).vectors, VECTORS)


@pytest.mark.parametrize("word", ["PK", "PKI"])
def test_words_may_begin_as_archives_do(word, tmp_path):
  path = tmp_path / "v.txt"
  path.write_text(f"{word} 1 2\ncat 3 4\n")
  assert formats.read(path).vocabulary == (word, "cat")


@pytest.mark.parametrize("name", HAVE_MAGIC)
def test_a_suffix_without_its_content(name, tmp_path):
  path = tmp_path / name
  path.write_text("cat 1 2\n")
  message = f"It does not begin as a {path.suffix} file does"
  with pytest.raises(formats.FormatError, match=message):
    formats.read(path)


def test_unknown_suffixes_list_the_known(tmp_path):
  path = tmp_path / "vectors.pt"
  path.write_text("cat 1 2\n")
  with pytest.raises(
    formats.FormatError, match=r"'\.pt' is none of \.npy, \.npz"
  ):
    formats.read(path)


@pytest.mark.parametrize("name", ["v.npy", "v.bin", "v.vec", "v.txt"])
def test_names_are_for_files_with_several_arrays(name, tmp_path):
  path = tmp_path / name
  FILES[name](path)
  with pytest.raises(formats.FormatError, match="one matrix only"):
    formats.read(path, tensor="vectors")


def test_missing_files_are_errors_of_the_system(tmp_path):
  with pytest.raises(FileNotFoundError):
    formats.read(tmp_path / "vectors.npy")
  with pytest.raises(IsADirectoryError):
    formats.read(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_empty_files(name, tmp_path):
  path = tmp_path / name
  path.touch()
  with pytest.raises(formats.FormatError, match=f"{name}: It is empty"):
    formats.read(path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore")  # NumPy's, on what seems of Python 2.
def test_damaged_files_raise_nothing_else(name, tmp_path):
  """Bytes changed, cut off or added: an error of ours, or a valid matrix."""
  path = tmp_path / name
  FILES[name](path)
  data = path.read_bytes()
  generator = np.random.default_rng(0)
  for trial in range(150):
    damaged = bytearray(data)
    place = int(generator.integers(len(data)))
    if trial % 3 == 0:
      damaged[place] ^= 1 << int(generator.integers(8))
    elif trial % 3 == 1:
      damaged[place:] = generator.bytes(trial % 2 * (len(data) - place))
    else:
      damaged[place:place] = generator.bytes(8)
    path.write_bytes(damaged)
    with contextlib.suppress(formats.FormatError):
      vectors, vocabulary = formats.read(path)
      assert np.isfinite(vectors).all()
      assert vocabulary is None or len(set(vocabulary)) == len(vectors)


def test_reading_needs_numpy_alone():
  names = {"jax", "pyarrow", "ml_dtypes", "safetensors", "pandas"}
  code = "import sys; from anchor_codes import formats; print(*sys.modules)"
  run = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert names.isdisjoint(run.stdout.split())


def test_the_matrix_unpacks(tmp_path):
  path = tmp_path / "v.safetensors"
  tables.DenseTable(VECTORS, vocabulary=WORDS).save(path)
  matrix = formats.read(path)
  assert matrix == (matrix.vectors, ("cat", "dog"))
