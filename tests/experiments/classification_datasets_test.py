"""Tests of labelled texts by name, and of their way to token ids."""

import csv
import functools
import gzip
import json
import unicodedata

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from experiments.datasets import (
  classification,
  classification_csv,
  classification_files,
)
from experiments.datasets import classification_words as words

SIZES = {
  "ag_news": (8744, 7600, 4),
  "dbpedia": (12_600, 1400, 14),
  "imdb": (25_000, 25_000, 2),
  "sst2": (6920 + 872, 1821, 2),
  "trec": (5452, 500, 6),
}
SPLITS = ("train", "valid", "test")


@functools.cache
def load_real(name):
  try:
    return classification.load_classification(name)
  except FileNotFoundError as error:
    pytest.skip(str(error))


def write_csv(path, rows, header=("text", "label")):
  with path.open("w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file)
    writer.writerows([header, *rows])
  return f"csv:{path}"


def numbered(count=20, classes=("no", "yes")):
  return [(f"text {i}", classes[i % len(classes)]) for i in range(count)]


# Sets by name.


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[pytest.mark.slow] if name == "imdb" else [])
    for name in SIZES
  ],
)
def test_published_set_has_its_known_size(name):
  data = load_real(name)
  for_training, test, classes = SIZES[name]
  assert len(data.train.texts) + len(data.valid.texts) == for_training
  assert len(data.test.texts) == test
  assert len(data.classes) == classes
  for split in SPLITS:
    examples = getattr(data, split)
    assert examples.labels.dtype == np.int32
    assert len(examples.texts) == len(examples.labels)
    assert set(examples.labels.tolist()) == set(range(classes))


def test_sst2_keeps_its_own_validation_split():
  data = load_real("sst2")
  assert len(data.valid.texts) == 872
  assert data.valid.texts[0] == "one long string of cliches"
  assert data.valid.labels[0] == 0


def test_trec_keeps_odd_bytes_in_their_lines():
  data = load_real("trec")
  assert not any("\n" in text for text in data.train.texts)
  index = data.train.texts.index("What are liver enzymes ?")
  assert data.classes[data.train.labels[index]] == "DESC"


def test_ag_news_training_texts_are_not_in_the_test_set():
  data = load_real("ag_news")
  if len(data.train.texts) + len(data.valid.texts) == 120_000:
    pytest.skip("the official training articles are there")
  start = lambda text: " ".join(words.tokenize(text)[:20])
  test = {start(text) for text in data.test.texts}
  assert not any(start(text) in test for text in data.train.texts)
  assert all(text == text.lower() for text in data.train.texts)


def test_unicode_names_need_no_file(monkeypatch, tmp_path):
  monkeypatch.setenv("ANCHOR_CODES_DATA", str(tmp_path))
  data = classification.load_classification("unicode")
  sizes = [len(getattr(data, split).texts) for split in SPLITS]
  assert 20_000 < sizes[0] < 60_000
  assert sizes[1] == sizes[2] == round(sum(sizes) / 10)
  assert len(data.classes) >= 26
  for text, label in zip(data.test.texts, data.test.labels, strict=True):
    character = unicodedata.lookup(text)
    assert unicodedata.category(character) == data.classes[label]


def test_unicode_names_do_not_count_up():
  data = classification.load_classification("unicode")
  texts = [text for split in SPLITS for text in getattr(data, split).texts]
  assert not any(text.startswith("CJK UNIFIED") for text in texts)
  assert "LATIN SMALL LETTER A" in texts


@pytest.mark.parametrize("name", ["", "ag", "SST2", "csv"])
def test_unknown_name_lists_the_known(name):
  with pytest.raises(ValueError, match="take 'unicode', 'ag_news'") as error:
    classification.load_classification(name)
  assert f"no data set {name!r}: take" in str(error.value)


@pytest.mark.parametrize(
  ("name", "filename"),
  [
    ("ag_news", "ag_news/test.csv"),
    ("dbpedia", "dbpedia/subset_14000_train.csv"),
    ("imdb", "imdb/train.jsonl.gz"),
    ("sst2", "sst2/train.tsv"),
    ("trec", "sentconv/TREC.train.all"),
  ],
)
def test_missing_file_says_what_to_do(tmp_path, name, filename):
  with pytest.raises(FileNotFoundError) as caught:
    classification.load_classification(name, data_dir=tmp_path)
  assert str(tmp_path / filename) in str(caught.value)
  assert "$ANCHOR_CODES_DATA" in str(caught.value)


# Files that look like the published ones.


def write_ag_news(folder, *, official):
  (folder / "subset_deeptextclustering").mkdir(parents=True)
  write = lambda name, lines: (folder / name).write_text("\n".join(lines))
  body = "One two three four five six seven eight nine."
  write("test.csv", ['"4","A #36;5 deal","Iraq #39;s &lt;B&gt;oil&lt;/B&gt;"'])
  with (folder / "test.csv").open("a") as file:
    file.write(f'\n"1","Numbers","{body}"\n')
  rows = [f"{i % 4},Some News number quot ; n{i}" for i in range(20)]
  write("subset_deeptextclustering/train.csv", rows)
  repeated = ['0,"Some news , number n1 !"', f"2,{body} And more"]
  write("subset_deeptextclustering/ub_train.csv", repeated)
  if official:
    rows = [f'"{i % 4 + 1}","Title {i}","Body\\{i}"' for i in range(40)]
    write("train.csv", rows)


@pytest.mark.filterwarnings("ignore:.*not the published file")
def test_ag_news_is_cleaned_and_cut(tmp_path):
  write_ag_news(tmp_path / "ag_news", official=False)
  data = classification.load_classification("ag_news", data_dir=tmp_path)
  assert words.tokenize(data.test.texts[0]) == [
    *("a", "5", "deal", "iraq", "s", "oil")
  ]
  assert data.test.labels.tolist() == [3, 0]
  texts = data.train.texts + data.valid.texts
  assert sorted(words.tokenize(text)[-1] for text in texts) == sorted(
    f"n{i}" for i in range(20)
  )
  assert (len(data.train.texts), len(data.valid.texts)) == (17, 3)


@pytest.mark.filterwarnings("ignore:.*test.csv is not the published file")
def test_official_articles_come_first(tmp_path):
  write_ag_news(tmp_path / "ag_news", official=True)
  with pytest.warns(UserWarning, match="has 40 articles, expected 120000"):
    data = classification.load_classification("ag_news", data_dir=tmp_path)
  assert len(data.train.texts) + len(data.valid.texts) == 40
  assert data.train.texts[0].startswith("title")
  number = int(data.train.texts[0].split()[-1])
  assert data.train.labels[0] == number % 4


@pytest.mark.filterwarnings("ignore:.*not the published file")
def test_reviews_are_read_whole(tmp_path):
  (tmp_path / "imdb").mkdir()
  reviews = [
    {"id": f"{i}_1", "label": i % 2, "text": f"Film {i}.<br />\u2028Good"}
    for i in range(10)
  ]
  lines = [json.dumps(review, ensure_ascii=False) for review in reviews]
  for split in ("train", "test"):
    path = tmp_path / "imdb" / f"{split}.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
  data = classification.load_classification("imdb", data_dir=tmp_path)
  assert len(data.test.texts) == 10
  assert words.tokenize(data.test.texts[3]) == ["film", "3", "good"]


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("AT&amp;T", "at&t"),
    ("3 &lt; 4", "3 < 4"),
    ("a<br/>b<BR />c", "a b c"),
    ("<a href='x'>link</a> <p>", " link   "),
    ("Inc.&lt;AAPL.O&gt;", "inc.<aapl.o>"),
    ("said quot;no quot;", "said  no  "),
    ("line\\break", "line break"),
  ],
)
def test_markup_goes(text, expected):
  assert classification_files.strip_markup(text) == expected


def test_the_first_of_equal_texts_stays():
  rows = [("A big cat", 0), ("big  CAT .", 1), ("a dog", 1), ("big cat!", 2)]
  kept = classification_files.drop_repeated(rows, [])
  assert kept == [("A big cat", 0), ("a dog", 1)]


# Splits by hash.


@hypothesis.given(
  st.lists(st.tuples(st.text(max_size=3), st.integers(0, 2)), max_size=60),
  st.randoms(),
)
def test_splits_by_hash_are_disjoint_and_do_not_know_the_order(rows, random):
  hypothesis.assume(len({text for text, _ in rows}) > 3)
  cut = classification.cut_by_hash(rows, {"test": 0.2, "valid": 0.1})
  found = [row for split in cut.values() for row in split]
  assert sorted(found) == sorted(rows)
  texts = [{text for text, _ in split} for split in cut.values()]
  assert all(texts)
  assert sum(map(len, texts)) == len(set.union(*texts))
  shuffled = random.sample(rows, len(rows))
  again = classification.cut_by_hash(shuffled, {"test": 0.2, "valid": 0.1})
  assert {k: sorted(v) for k, v in again.items()} == {
    k: sorted(v) for k, v in cut.items()
  }


def test_given_splits_stay():
  rows = {split: [(split, 0)] for split in SPLITS}
  data = classification.make_dataset("toy", rows, ("a", "b"), source="ours")
  assert [getattr(data, split).texts for split in SPLITS] == [
    (split,) for split in SPLITS
  ]


def test_validation_is_a_part_of_training():
  rows = {"train": [(str(i), 0) for i in range(100)], "test": [("1", 1)]}
  data = classification.make_dataset("toy", rows, ("a", "b"), source="ours")
  assert (len(data.train.texts), len(data.valid.texts)) == (85, 15)
  assert data.test.texts == ("1",)


# The user's own files.


@pytest.mark.parametrize(
  "header", [("text", "label"), (" label ", "x", "text")]
)
def test_own_file_has_columns_in_any_order(tmp_path, header):
  order = [name.strip() for name in header]
  rows = [
    [{"text": text, "label": label, "x": "no"}[name] for name in order]
    for text, label in numbered(100)
  ]
  name = write_csv(tmp_path / "own.csv", rows, header)
  data = classification.load_classification(name)
  sizes = [len(getattr(data, split).texts) for split in SPLITS]
  assert sizes == [80, 10, 10]
  assert data.classes == ("no", "yes")
  for split in SPLITS:
    for text, label in zip(*getattr(data, split), strict=True):
      assert int(text.split()[1]) % 2 == label
  assert str(tmp_path / "own.csv") in data.source


def test_own_file_may_have_quotes_lines_and_a_mark(tmp_path):
  path = tmp_path / "own.csv"
  lines = [f'"a ""{i}"",\nb",x{i % 2}' for i in range(10)]
  path.write_text("\ufefftext,label\r\n" + "\r\n".join(lines) + "\r\n\r\n")
  rows, classes, _ = classification_csv.load_rows(f"csv:{path}")
  assert rows[3] == ('a "3",\nb', 1)
  assert classes == ("x0", "x1")


def test_own_file_may_have_numbers_as_labels(tmp_path):
  rows = numbered(30, classes=("10", "-1", "9"))
  name = write_csv(tmp_path / "own.csv", rows)
  assert classification_csv.load_rows(name)[1] == ("-1", "9", "10")


def test_own_file_splits_are_the_same_each_time(tmp_path):
  first = write_csv(tmp_path / "a.csv", numbered(50))
  second = write_csv(tmp_path / "b.csv", numbered(50)[::-1])
  splits = [
    sorted(classification.load_classification(name).test.texts)
    for name in (first, second)
  ]
  assert splits[0] == splits[1]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("", r"column 'text' once in its first line, got it 0 times in \[\]"),
    ("text\na\n", "column 'label' once in its first line, got it 0 times"),
    ("words,label\na,b\n", "column 'text' once .* 0 times in .*'words'"),
    ("text,label,text\n", "column 'text' once .* got it 2 times"),
    ("text,label\na,b\nc\n", "line 3: must have 2 fields .* got 1"),
    ("text,label\na, b,c\n", "line 2: must have 2 fields .* got 3; a text"),
    ("text,label\na,b\nc, \n", "line 3: the label must not be empty"),
    ("text,label\n", "at least 10 different texts, got 0"),
    ("text,label\n" + "a,b\nc,d\n" * 20, "10 different texts, got 2"),
    ('text,label\n"a,b\n', "line 2: unexpected end of data"),
    ('text,label\n"a"b,c\n', "line 2: .*expected after"),
  ],
)
def test_own_file_that_is_wrong_is_explained(tmp_path, content, message):
  path = tmp_path / "own.csv"
  path.write_text(content)
  with pytest.raises(ValueError, match=message) as error:
    classification.load_classification(f"csv:{path}")
  assert str(path) in str(error.value)


def test_own_file_must_have_two_classes(tmp_path):
  name = write_csv(tmp_path / "own.csv", numbered(classes=("one",)))
  with pytest.raises(ValueError, match=r"at least 2 classes .* only 'one'"):
    classification.load_classification(name)


def test_own_file_must_be_utf8(tmp_path):
  path = tmp_path / "own.csv"
  path.write_bytes(b"text,label\ncaf\xe9,a\n")
  with pytest.raises(ValueError, match=r"must be UTF-8 .* \(line 2\)"):
    classification.load_classification(f"csv:{path}")


@pytest.mark.parametrize("name", ["csv:", "csv:missing.csv"])
def test_own_file_must_exist(name):
  with pytest.raises(FileNotFoundError, match="which does not exist"):
    classification.load_classification(name)


# Token ids.


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("", []),
    ("U.S. $5-million", ["u", "s", "5", "million"]),
    ("They'll won't we're", ["they", "'ll", "wo", "n't", "we", "'re"]),
    ("they 'll wo n't", ["they", "'ll", "wo", "n't"]),
    ("rock'n'roll", ["rock", "'", "n", "'", "roll"]),
    ('"Why?!" (he) @home', ['"', "why", "?", "!", '"', "(", "he", ")"]),
    ("Ça va, Ελλάδα", ["ça", "va", ",", "ελλάδα"]),
  ],
)
def test_tokens(text, expected):
  assert words.tokenize(text)[: len(expected) or None] == expected


@hypothesis.given(st.text(), st.integers(0, 5))
def test_tokens_are_words_or_marks_and_stable(text, length):
  tokens = words.tokenize(text)
  assert not any(token.isspace() or not token for token in tokens)
  assert words.tokenize(text, max_length=length) == tokens[:length]
  assert not {"<pad>", "<unk>"} & set(tokens)


def make_data(*texts):
  examples = classification.Examples(texts, np.zeros(len(texts), np.int32))
  other = classification.Examples(
    ("a new word", "a b b b b"), np.ones(2, np.int32)
  )
  return classification.ClassificationDataset(
    "toy", examples, other, other, ("x", "y"), "ours"
  )


def test_words_are_numbered_by_their_count_in_training():
  data = make_data("b a", "c b", "b")
  encoded = words.encode_dataset(data, max_length=4)
  assert encoded.vocabulary == ("<pad>", "<unk>", "b", "a", "c")
  np.testing.assert_array_equal(encoded.train.tokens, [[2, 3], [4, 2], [2, 0]])
  np.testing.assert_array_equal(
    encoded.test.tokens, [[3, 1, 1, 0], [3, 2, 2, 2]]
  )
  assert encoded.train.tokens.dtype == np.int32
  assert encoded.test.labels.tolist() == [1, 1]


def test_rare_words_and_words_too_many_are_unknown():
  data = make_data("b a", "c b", "b a d")
  encode = lambda **options: words.encode_dataset(data, max_length=9, **options)
  assert encode(min_count=2).vocabulary == ("<pad>", "<unk>", "b", "a")
  assert encode(max_words=3).vocabulary == ("<pad>", "<unk>", "b")
  np.testing.assert_array_equal(
    encode(max_words=3).train.tokens, [[2, 1, 0], [1, 2, 0], [2, 1, 1]]
  )


def test_words_beyond_the_largest_length_do_not_count():
  encoded = words.encode_dataset(make_data("a b c", "a"), max_length=2)
  assert encoded.vocabulary == ("<pad>", "<unk>", "a", "b")
  assert encoded.test.tokens.shape == (2, 2)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"max_length": 0}, "`max_length` must be at least 1"),
    ({"max_length": 5, "min_count": 0}, "`min_count` must be at least 1"),
    ({"max_length": 5, "max_words": -1}, "`max_words` must be at least 0"),
    ({"max_length": 5, "max_words": 2}, "must leave a word .* 2 and 1"),
    ({"max_length": 5, "min_count": 9}, "must leave a word .* 0 and 9"),
  ],
)
def test_bad_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    words.encode_dataset(make_data("a b c"), **options)


def test_texts_without_words_are_refused_together():
  with pytest.raises(ValueError, match="training texts of 0 different words"):
    words.encode_dataset(make_data("...", "-"), max_length=5)
