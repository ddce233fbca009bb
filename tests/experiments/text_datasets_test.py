"""Tests of texts by name, and of the files behind them."""

import hashlib

import numpy as np
import pytest

from experiments.datasets import files, language_model, text

SIZES = {
  "ptb": ((929_589, 73_760, 82_430), 10_000),
  "wikitext-2": ((2_088_628, 217_646, 245_569), 33_278),
}
PTB = {
  "ptb.train.txt": " the cat sat \n the dog \n",
  "ptb.valid.txt": " the cat \n",
  "ptb.test.txt": " a dog \n\n",
}


@pytest.fixture(name="data_dir")
def fixture_data_dir(tmp_path):
  (tmp_path / "ptb").mkdir()
  for name, content in PTB.items():
    (tmp_path / "ptb" / name).write_text(content)
  return tmp_path


def load_real(name):
  try:
    return language_model.load_text(name)
  except FileNotFoundError as error:
    pytest.skip(str(error))


@pytest.mark.parametrize("name", SIZES)
def test_published_text_has_its_known_size(name):
  data = load_real(name)
  sizes, vocab_size = SIZES[name]
  assert tuple(len(getattr(data, split)) for split in text.SPLITS) == sizes
  assert len(data.vocabulary) == vocab_size
  assert data.unknown_counts == {"train": 0, "valid": 0, "test": 0}


def test_ptb_has_the_customary_ids_and_batches():
  data = load_real("ptb")
  first = ("the", "<unk>", "<eos>", "N", "of", "to")
  assert data.vocabulary[:6] == first
  inputs, _ = text.batch_tokens(data.train, batch_size=20, num_steps=20)
  assert inputs.shape == (2323, 20, 20)


def test_wikitext_keeps_case_and_blank_lines():
  data = load_real("wikitext-2")
  words = [data.vocabulary[i] for i in data.train[:8]]
  assert words == [
    "<eos>",
    "=",
    "Valkyria",
    "Chronicles",
    "III",
    "=",
    *["<eos>"] * 2,
  ]


def test_one_end_for_each_line(data_dir):
  with pytest.warns(UserWarning, match="sha256"):
    data = language_model.load_text("ptb", data_dir=data_dir)
  assert data.vocabulary == ("<eos>", "the", "cat", "dog", "sat", "<unk>")
  np.testing.assert_array_equal(data.train, [1, 2, 4, 0, 1, 3, 0])
  np.testing.assert_array_equal(data.test, [5, 3, 0, 0])
  assert data.unknown_counts == {"train": 0, "valid": 0, "test": 1}
  assert "LDC99T42" in data.source


def test_folder_comes_from_the_environment(data_dir, monkeypatch):
  monkeypatch.setenv(files.DATA_VARIABLE, str(data_dir))
  with pytest.warns(UserWarning, match="not the published file"):
    assert language_model.load_text("ptb").name == "ptb"


def test_argument_goes_before_the_environment(tmp_path, monkeypatch):
  monkeypatch.setenv(files.DATA_VARIABLE, "/elsewhere")
  assert files.data_folder(tmp_path) == tmp_path
  assert str(files.data_folder()) == "/elsewhere"


def test_default_folder_counts_only_if_it_exists(tmp_path, monkeypatch):
  monkeypatch.delenv(files.DATA_VARIABLE, raising=False)
  monkeypatch.setattr(files, "_DEFAULT_FOLDER", tmp_path)
  assert files.data_folder() == tmp_path
  monkeypatch.setattr(files, "_DEFAULT_FOLDER", tmp_path / "missing")
  assert files.data_folder() is None


@pytest.mark.parametrize(
  ("name", "filename", "archive"),
  [
    ("ptb", "ptb/ptb.train.txt", "simple-examples.tgz"),
    ("wikitext-2", "wikitext-2/wiki.train.tokens", "wikitext-2-v1.zip"),
  ],
)
def test_missing_file_says_what_to_do(tmp_path, name, filename, archive):
  with pytest.raises(FileNotFoundError) as caught:
    language_model.load_text(name, data_dir=tmp_path)
  message = str(caught.value)
  for part in (str(tmp_path / filename), archive, "$ANCHOR_CODES_DATA"):
    assert part in message


def test_missing_folder_says_what_to_do(tmp_path, monkeypatch):
  monkeypatch.delenv(files.DATA_VARIABLE, raising=False)
  monkeypatch.setattr(files, "_DEFAULT_FOLDER", tmp_path / "missing")
  with pytest.raises(FileNotFoundError, match="<data_dir>/ptb/ptb"):
    language_model.load_text("ptb")


def test_known_hash_gives_no_warning(tmp_path):
  path = tmp_path / "set" / "file"
  path.parent.mkdir()
  path.write_bytes(b"content")
  found = files.find_file(
    "file",
    dataset="set",
    sha256=hashlib.sha256(b"content").hexdigest(),
    origin="nowhere",
    data_dir=tmp_path,
  )
  assert found == path


def test_lines_are_cut_at_newlines_only(tmp_path):
  path = tmp_path / "text"
  path.write_bytes("\ufeffa\u2028b\x85c\n\r\nlast".encode())
  assert files.read_lines(path) == ["a\u2028b\x85c", "\r", "last"]


def test_a_final_newline_is_no_line(tmp_path):
  path = tmp_path / "text"
  path.write_bytes(b"a\n\n")
  assert files.read_lines(path) == ["a", ""]


def test_bytes_that_are_not_utf8_are_located(tmp_path):
  path = tmp_path / "text"
  path.write_bytes(b"ok\ncaf\xe9\n")
  expected = r"must be UTF-8 text, got byte 0xe9 at position 6 \(line 2\)"
  with pytest.raises(ValueError, match=expected):
    files.read_lines(path)


def test_own_text_is_cut_by_lines(tmp_path):
  path = tmp_path / "own.txt"
  lines = [f"word{i // 2}  end" for i in range(40)]
  path.write_text("\n\n".join(lines))
  data = language_model.load_text(f"text:{path}")
  sizes = [len(getattr(data, split)) for split in text.SPLITS]
  assert sizes == [36 * 3, 2 * 3, 2 * 3]
  assert data.vocabulary[:3] == ("<eos>", "end", "word0")
  assert len(data.vocabulary) == 18 + 3
  assert data.unknown_counts == {"train": 0, "valid": 2, "test": 2}
  assert data.name == f"text:{path}"


def test_own_text_replaces_words_seen_once(tmp_path):
  path = tmp_path / "own.txt"
  path.write_text("once\n" + "often\n" * 19)
  data = language_model.load_text(f"text:{path}")
  assert set(data.vocabulary) == {"<eos>", "often", "<unk>"}
  assert data.unknown_counts["train"] == 1


def test_own_text_may_be_in_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "own.txt").write_text("word\n" * 20)
  assert len(language_model.load_text("text:~/own.txt").train) == 36


@pytest.mark.parametrize("name", ["text:", "text:missing.txt"])
def test_own_text_must_exist(name):
  with pytest.raises(FileNotFoundError, match="which does not exist"):
    language_model.load_text(name)


def test_own_text_must_be_long_enough(tmp_path):
  path = tmp_path / "own.txt"
  path.write_text("word\n\n" * 19)
  with pytest.raises(ValueError, match="at least 20 lines of text, got 19"):
    language_model.load_text(f"text:{path}")


def test_own_text_must_be_utf8(tmp_path):
  path = tmp_path / "own.txt"
  path.write_bytes(b"\xff")
  with pytest.raises(ValueError, match="position 0"):
    language_model.load_text(f"text:{path}")


@pytest.mark.parametrize("name", ["", "penn", "PTB", "stdlib "])
def test_unknown_name_lists_the_known(name):
  with pytest.raises(ValueError, match=r"take 'stdlib', 'ptb'") as e:
    language_model.load_text(name)
  assert f"no data set {name!r}: take" in str(e.value)


def test_names_are_loadable_by_a_flag():
  assert language_model.TEXT_NAMES == ("stdlib", "ptb", "wikitext-2")
