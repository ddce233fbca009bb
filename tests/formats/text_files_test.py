"""Text files of vectors: what is read, and what is refused, line by line."""

import gzip

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from anchor_codes import formats
from anchor_codes.formats import text

ROWS = b"cat 1 -2.5\ndog 3e-1 4\n"
VECTORS = np.float32([[1, -2.5], [0.3, 4]])


def read(tmp_path, content, name="vectors.txt"):
  path = tmp_path / name
  path.write_bytes(content)
  return formats.read(path)


def refused(tmp_path, content):
  """Returns what is wrong with a file, without its name."""
  with pytest.raises(formats.FormatError) as error:
    read(tmp_path, content)
  message = str(error.value)
  assert message.startswith(f"{tmp_path / 'vectors.txt'}: ")
  assert "\n" not in message
  return message.removeprefix(f"{tmp_path / 'vectors.txt'}: ")


@pytest.mark.parametrize("name", ["v.txt", "v.vec", "v.TXT"])
@pytest.mark.parametrize("header", [b"", b"2 2\n", b"\xef\xbb\xbf2 2\n"])
def test_all_forms_give_the_same(header, name, tmp_path):
  for ending in (b"\n", b" \n", b"\r\n"):
    content = header + ROWS.replace(b"\n", ending)
    for compressed in (False, True):
      data = gzip.compress(content) if compressed else content
      suffix = ".gz" if compressed else ""
      matrix = read(tmp_path, data, name + suffix)
      assert matrix.vocabulary == ("cat", "dog")
      assert matrix.vectors.dtype == np.float32
      np.testing.assert_array_equal(matrix.vectors, VECTORS)


@pytest.mark.parametrize("content", [ROWS.strip(), ROWS + b"\n\n \n"])
def test_the_end_may_have_no_new_line_or_some(content, tmp_path):
  assert read(tmp_path, content).vectors.shape == (2, 2)


def test_many_rows_grow(tmp_path):
  vectors = np.arange(3000, dtype=np.float32).reshape(1000, 3)
  lines = [f"w{i} {a} {b} {c}" for i, (a, b, c) in enumerate(vectors)]
  matrix = read(tmp_path, "\n".join(lines).encode())
  np.testing.assert_array_equal(matrix.vectors, vectors)
  assert matrix.vocabulary[-1] == "w999"
  assert matrix.vectors.base is None or matrix.vectors.base.size == 3000


@pytest.mark.parametrize(
  "word", ["ice cream", ". . .", "\u00a0", "a\u3000b", "1 2/3", "17", "\u2028"]
)
def test_words_of_any_kind(word, tmp_path):
  for content in (f"{word} 1 2\nx 3 4\n", f"x 3 4\n{word} 1 2\n"):
    for header in ("", "2 2\n"):
      matrix = read(tmp_path, (header + content).encode())
      row = matrix.vocabulary.index(word)
      np.testing.assert_array_equal(matrix.vectors[row], [1, 2])


def test_tabs_separate_too(tmp_path):
  np.testing.assert_array_equal(
    read(tmp_path, ROWS.replace(b" ", b"\t")).vectors, VECTORS
  )


@pytest.mark.parametrize(
  ("content", "shape"),
  [
    (b"5 7.0\n3 4\n", (2, 1)),  # Words that are numbers, vectors of one.
    (b"1 1\nx 4\n", (1, 1)),
    (b"1 2\n5 3 4\n", (1, 2)),
  ],
)
def test_counts_are_told_from_a_word(content, shape, tmp_path):
  assert read(tmp_path, content).vectors.shape == shape


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "It is empty."),
    (b"\n", "Line 1 has no numbers: not a text file of vectors."),
    (b"some words\nand more\n", "Line 1 has no numbers: not a text file"),
    (b"a 1 2\nb 1\n", "Line 2 has 1 numbers, not 2."),
    (b"a 1 2\nb 1 2 3\n", "Line 2 has 3 numbers, not 2."),
    (b"a 1 2\nb c 1 2 3\n", "Line 2 has 4 numbers, not 2."),
    (b"a 1 2\n 3 4\n", "Line 2 has 1 numbers, not 2."),
    (b"a 1 2\nb x 2\n", "Line 2 has 'x' for a number."),
    (b"a 1 2\nb 1_0 2\n", "Line 2 has '1_0' for a number."),
    (b"a 1 2\nb 0x1 2\n", "Line 2 has '0x1' for a number."),
    (b"a 1 2\nb \xff 2\n", r"Line 2 has '\\xff' for a number."),
    (b"a 1 2\nb nan 2\n", "Line 2 has nan or infinite values."),
    (b"a 1 2\nb 2 1e99\n", "Line 2 has nan or infinite values."),
    (b"a 1 2\nb 3 4\na 5 6\n", "Line 3 repeats the word 'a' of line 1."),
    (b"a 1 2\n\nb 3 4\n", "Line 2 is empty."),
    (b"a 1 2\n\xff\xfe 3 4\n", "Line 2 is not UTF-8: invalid start byte."),
    (b"3 2\na 1 2\nb 3 4\n", "Line 1 promises 3 vectors, but 2 are there."),
    (b"1 2\na 1 2\nb 3 4\n", "Line 1 promises 1 vectors, but 2 are there."),
    (b"2 3\na 1 2\nb 3 4\n", "Line 2 has 2 numbers, not 3."),
    (b"2 1\na 1 2\nb 3 4\n", "Line 2 has 2 numbers, not 1."),
    (b"2 2\na 1 2\nb 3 inf\n", "Line 3 has nan or infinite values."),
    (b"a 1 2\rb 3 4\rc 5 6\r", "Line 1 has a carriage return within it"),
    (b"2 2\ra 1 2\rb 3 4\r", "Line 1 has a carriage return within it"),
    (b"a 1 2\nb 3 4\rc 5 6\n", "Line 2 has a carriage return within it"),
    (b"2 2\na 1 2\na 3 4\n", "Line 3 repeats the word 'a' of line 2."),
    (b"0 2\n", "It has no vectors after the counts of line 1."),
    (b"9 2\n", "It has no vectors after the counts of line 1."),
    (b"5 7\n3 4\n", "Line 2 has 1 numbers, not 7."),
    (b"9 999999999999\na 1 2\n", "Line 2 has 2 numbers, not 999999999999."),
  ],
)
def test_what_is_wrong_is_said_with_the_line(content, message, tmp_path):
  assert refused(tmp_path, content).startswith(message)


@pytest.mark.parametrize("place", [4, 20, -4])
def test_damaged_archives_are_refused(place, tmp_path):
  data = bytearray(gzip.compress(ROWS * 9))
  for cut in (data[: len(data) // 2], data[:place]):
    assert refused(tmp_path, bytes(cut))
  data[place] ^= 255
  with pytest.raises(formats.FormatError):
    read(tmp_path, bytes(data) + b"tail")


def test_packed_text_may_have_any_name(tmp_path):
  matrix = read(tmp_path, gzip.compress(ROWS), "vectors.txt")
  np.testing.assert_array_equal(matrix.vectors, VECTORS)


def test_other_things_are_not_unpacked(tmp_path):
  path = tmp_path / "vectors.bin.gz"
  path.write_bytes(gzip.compress(ROWS))
  with pytest.raises(formats.FormatError, match="unpack it first"):
    formats.read(path)


def test_progress_tells_the_bytes(tmp_path, monkeypatch):
  monkeypatch.setattr(text, "_OFTEN", 10)
  path = tmp_path / "vectors.txt"
  path.write_text("".join(f"w{i} 1 2\n" for i in range(5000)))
  reports = []
  formats.read(path, progress=lambda *report: reports.append(report))
  size = path.stat().st_size
  assert len(reports) == 500
  assert {total for _, total in reports} == {size}
  done = [done for done, _ in reports]
  assert done == sorted(done)
  assert 0 < done[0] < done[-1] <= size


@hypothesis.given(
  st.lists(st.integers(1, 5), min_size=1, max_size=30),
  st.integers(1, 4),
)
def test_one_field_too_few_or_many_never_passes(tmp_path_factory, rows, width):
  """Of random rows only those of one width are read; nothing is dropped."""
  path = tmp_path_factory.mktemp("text") / "vectors.txt"
  lines = [" ".join([f"w{i}", *["1"] * size]) for i, size in enumerate(rows)]
  path.write_text(f"{len(rows)} {width}\n" + "\n".join(lines))
  if set(rows) == {width}:
    assert formats.read(path).vectors.shape == (len(rows), width)
  else:
    wrong = next(i for i, size in enumerate(rows) if size != width)
    message = f"Line {wrong + 2} has {rows[wrong]} numbers, not {width}."
    with pytest.raises(formats.FormatError, match=message):
      formats.read(path)
