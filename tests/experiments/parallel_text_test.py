"""Tests of sentences in two languages, of subwords and of buckets."""

import gzip
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from experiments.datasets import buckets, subwords, translation
from experiments.datasets.buckets import Bucket, EncodedPairs

LINES = {
  "en": ["A dog runs.", "Two dogs run.", "A man sits."],
  "de": ["Ein Hund rennt.", "Zwei Hunde rennen.", "Ein Mann sitzt."],
}


def write(folder, split, language, lines, *, compressed=False):
  content = "".join(f"{line}\n" for line in lines).encode()
  name = f"text.{split}.{language}"
  if compressed:
    (folder / f"{name}.gz").write_bytes(gzip.compress(content))
  else:
    (folder / name).write_bytes(content)


@pytest.fixture(name="folder")
def fixture_folder(tmp_path):
  for split in ("train", "valid", "test"):
    for language, lines in LINES.items():
      write(tmp_path, split, language, lines)
  return tmp_path


def load(folder, **options):
  return translation.load_parallel(f"files:{folder}/text", **options)


def test_own_files(folder):
  data = load(folder)
  assert data.train == data.test == tuple(map(tuple, LINES.values()))
  assert data.num_dropped == {"train": 0, "valid": 0, "test": 0}
  swapped = load(folder, source="de", target="en")
  assert swapped.train.sources == data.train.targets


def test_compressed_files_take_the_place_of_plain_ones(folder):
  expected = load(folder)
  (folder / "text.train.de").unlink()
  write(folder, "train", "de", LINES["de"], compressed=True)
  assert load(folder) == expected


def test_pairs_with_an_empty_side_are_dropped_and_counted(folder):
  write(folder, "train", "de", ["Ein Hund rennt.", " ", "Ein Mann sitzt."])
  data = load(folder)
  assert data.train.sources == ("A dog runs.", "A man sits.")
  assert data.train.targets == ("Ein Hund rennt.", "Ein Mann sitzt.")
  assert data.num_dropped["train"] == 1


def test_missing_splits_are_held_out(tmp_path, caplog):
  numbers = [str(number) for number in range(100)]
  for language in ("en", "de"):
    lines = [f"{language} {number}" for number in numbers]
    write(tmp_path, "train", language, lines)
  data = load(tmp_path)
  sizes = [len(part.sources) for part in (data.train, data.valid, data.test)]
  assert sizes == [91, 5, 4]
  parts = [[s.split()[1] for s in side] for side in (
    *data.train, *data.valid, *data.test)]  # fmt: skip
  # Translations stay together, and no pair is lost.
  assert parts[::2] == parts[1::2]
  assert sorted(itertools.chain(*parts[::2]), key=int) == numbers
  assert load(tmp_path) == data
  assert load(tmp_path, seed=1).test != data.test
  write(tmp_path, "test", "en", ["en 1"])
  with pytest.raises(FileNotFoundError, match=r"text\.test\.de"):
    load(tmp_path)
  write(tmp_path, "test", "de", ["de 1"])
  assert load(tmp_path).test == (("en 1",), ("de 1",))


def test_errors_of_files(folder, tmp_path_factory):
  write(folder, "valid", "de", LINES["de"][:2])
  with pytest.raises(ValueError, match=r"got 3 in .*valid\.en and 2 in .*de"):
    load(folder)
  (folder / "text.valid.de").write_bytes(b"gut\nnicht \xff gut\n\n")
  with pytest.raises(
    ValueError, match=r"valid\.de must be UTF-8 .*0xff in li.* 2"
  ):
    load(folder)
  broken = gzip.compress(b"eins\nzwei\ndrei\n" * 99)[:40]
  (folder / "text.valid.de.gz").write_bytes(broken)
  (folder / "text.valid.de").unlink()
  with pytest.raises(ValueError, match="must be a whole compressed file"):
    load(folder)
  for language in LINES:
    write(folder, "valid", language, [""])
  with pytest.raises(ValueError, match="must have pairs in its valid text"):
    load(folder)
  empty = tmp_path_factory.mktemp("empty")
  with pytest.raises(FileNotFoundError, match=r"text\.train\.en"):
    load(empty)
  for language, lines in LINES.items():
    write(empty, "train", language, lines)
  with pytest.raises(ValueError, match=r"At least 20 .* got 3"):
    load(empty)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"name": "wmt"}, "take 'synthetic', 'multi30k' or 'files:PREFIX'"),
    ({"source": "cs"}, "`source` must be one of 'en', 'de', 'fr', got 'cs'"),
    ({"target": "cs"}, "`target` must be one of"),
    ({"target": "en"}, "must be two languages, got 'en' twice"),
    ({"test_set": "test_2019"}, "`test_set` must be one of 'test_2016_flickr'"),
  ],
)
def test_bad_options(options, message):
  with pytest.raises(ValueError, match=message):
    translation.load_parallel(**{"name": "multi30k", **options})


def test_multi30k_names_the_missing_file(tmp_path):
  path = str(tmp_path / "multi30k" / "raw" / "train.fr.gz")
  with pytest.raises(FileNotFoundError, match=path):
    translation.load_parallel("multi30k", source="fr", data_dir=tmp_path)


def test_multi30k_has_its_known_size():
  try:
    data = translation.load_parallel("multi30k", test_set="test_2018_flickr")
  except FileNotFoundError as error:
    pytest.skip(str(error))
  parts = data.train, data.valid, data.test
  assert [len(part.sources) for part in parts] == [29_000, 1014, 1071]
  assert data.train.targets[2] == (
    "Ein kleines Mädchen klettert in ein Spielhaus aus Holz."
  )


def test_synthetic_targets_follow_from_their_sources():
  data = translation.make_synthetic((50, 5, 5))
  names = {}
  for source, target in zip(*data.train, strict=True):
    digits, words = source.split(), target.split()[::-1]
    assert 3 <= len(digits) == len(words) <= 8
    for digit, word in zip(digits, words, strict=True):
      assert names.setdefault(digit, word) == word
  assert len(names) == len(set(names.values())) == 10
  assert translation.make_synthetic((50, 5, 5)) == data


@pytest.fixture(name="model", scope="module")
def fixture_model():
  lines = [*LINES["en"], *LINES["de"]] * 5
  return subwords.Subwords.train(lines, vocab_size=40)


def test_subwords_give_the_text_back(model, tmp_path):
  lines = [*LINES["en"], *LINES["de"], "A dogs runs rennt"]
  ids = model.encode(lines)
  assert min(itertools.chain(*ids)) >= subwords.NUM_SPECIAL
  assert max(itertools.chain(*ids)) < len(model.vocabulary) <= 40
  assert model.decode(ids) == lines
  model.save(tmp_path / "model")
  again = subwords.Subwords.load(tmp_path / "model")
  assert (again.model, again.vocabulary) == (model.model, model.vocabulary)
  assert [path.name for path in tmp_path.iterdir()] == ["model"]
  # Special symbols are not text.
  assert (
    model.decode([[subwords.BEGIN_ID, *ids[0], subwords.END_ID]]) == (lines[:1])
  )
  assert model.encode(["ж"])[0][-1] == subwords.UNKNOWN_ID


def test_bad_models_of_subwords(tmp_path):
  with pytest.raises(ValueError, match="`subword_kind` must be one of"):
    subwords.Subwords.train(["a"], vocab_size=9, kind="words")
  with pytest.raises(ValueError, match="`vocab_size` must be at least 5"):
    subwords.Subwords.train(["a"], vocab_size=4)
  with pytest.raises(ValueError, match="must fit the training text, got 9: "):
    subwords.Subwords.train(LINES["de"], vocab_size=9, kind="bpe")
  with pytest.raises(FileNotFoundError):
    subwords.Subwords.load(tmp_path / "none")
  (tmp_path / "other").write_bytes(b"no model")
  with pytest.raises(ValueError, match="other: It must be a model"):
    subwords.Subwords.load(tmp_path / "other")


def test_pairs_are_cut_to_their_room(model):
  pairs = translation.Pairs(("A dog runs.",), ("Ein Hund rennt.",))
  encoded = buckets.encode_pairs(pairs, model, max_length=99)
  assert encoded.sources == [[*model.encode(pairs.sources)[0], subwords.END_ID]]
  assert encoded.targets[0][0] == subwords.BEGIN_ID
  cut = buckets.encode_pairs(pairs, model, max_length=3)
  assert [len(cut.sources[0]), len(cut.targets[0])] == [3, 4]
  assert cut.targets[0][-1] == cut.sources[0][-1] == subwords.END_ID
  assert cut.lengths.tolist() == [3]
  with pytest.raises(ValueError, match="`max_length` must be at least 2"):
    buckets.encode_pairs(pairs, model, max_length=1)


@hypothesis.given(
  st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 4)
)
def test_no_other_lengths_have_less_padding(lengths, number):
  found = buckets.bucket_lengths(np.array(lengths), number)
  assert len(found) <= number
  assert found[-1] == max(lengths)

  def size(ends):
    return sum(min(e for e in ends if e >= length) for length in lengths)

  others = itertools.combinations_with_replacement(range(1, 10), number - 1)
  assert size(found) == min(size((*ends, max(lengths))) for ends in others)


def test_buckets_hold_all_pairs():
  rng = np.random.default_rng(0)
  sizes = rng.integers(1, 9, size=(30, 2))
  pairs = EncodedPairs(
    [[*range(4, 3 + a), 3] for a, _ in sizes],
    [[2, *range(4, 3 + b), 3] for _, b in sizes],
  )
  lengths = buckets.bucket_lengths(pairs.lengths, 3)
  filled, positions = buckets.fill_buckets(pairs, lengths)
  assert sorted(np.concatenate(positions)) == list(range(30))
  for bucket, chosen, length in zip(filled, positions, lengths, strict=True):
    assert bucket.sources.shape == (len(chosen), length)
    assert bucket.targets.shape == (len(chosen), length + 1)
    for row, i in enumerate(chosen):
      assert (
        bucket.targets[row][bucket.targets[row] > 0].tolist()
        == (pairs.targets[i])
      )
  # What is longer than the last bucket is left out.
  assert sum(map(len, buckets.fill_buckets(pairs, lengths[:1])[1])) < 30


def make_plan(numbers=(50, 9), lengths=(4, 10), **options):
  made = []
  for number, length in zip(numbers, lengths, strict=True):
    ids = np.arange(number, dtype=np.int32)[:, None] + 100 * length
    made.append(Bucket(ids.repeat(length, 1), ids.repeat(length + 1, 1)))
  options = {"batch_tokens": 64, "chunk_steps": 2, "seed": 0, **options}
  return buckets.EpochPlan(made, **options)


def test_an_epoch_has_all_pairs_in_few_shapes():
  plan = make_plan()
  assert plan.batch_sizes == [16, 8]
  batches = [plan.batches(0, begin) for begin, _ in plan.bounds]
  steps = [len(part.sources) for part in batches]
  assert steps == [end - begin for begin, end in plan.bounds]
  assert plan.num_steps == sum(steps) == 6
  shapes = {part.sources.shape for part in batches}
  assert shapes == {(2, 16, 4), (2, 8, 10)}
  seen = [np.unique(part.sources) for part in batches]
  assert set(np.concatenate(seen)) == {*range(400, 450), *range(1000, 1009)}
  assert all(
    (part.sources[..., 0] == part.targets[..., 0]).all() for part in batches
  )


def test_orders_of_epochs():
  first, again, second = (
    make_plan().batches(epoch, 0).sources for epoch in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, second)
  other = make_plan(seed=1).batches(0, 0).sources
  assert not np.array_equal(first, other)
  with pytest.raises(ValueError, match="`batch_tokens` must be at least 1"):
    make_plan(batch_tokens=0)


def test_long_and_short_pairs_are_mixed():
  plan = make_plan(numbers=(64, 64), lengths=(4, 8), chunk_steps=1)
  widths = [
    plan.batches(0, begin).sources.shape[-1] for begin, _ in plan.bounds
  ]
  # 4 batches of 16 and 8 of 8, evenly spread.
  assert widths == [8, 4, 8] * 4


def test_the_last_batch_of_an_evaluation_is_filled_up():
  bucket = Bucket(np.ones((5, 2), np.int32), np.ones((5, 3), np.int32))
  batches = buckets.evaluation_batches(bucket, batch_size=4)
  assert [part.targets.shape for part in batches] == [(4, 3)] * 2
  assert sum(part.sources.sum() for part in batches) == 10
