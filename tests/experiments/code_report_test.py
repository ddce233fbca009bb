"""Tests of the report on codes, and of the history of codes in training."""

import collections
import itertools
import json
import math

import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib import image

from anchor_codes import ops, tables
from experiments import reporting
from experiments.analysis import codes as analysis
from experiments.reporting import (
  code_history,
  code_plots,
  code_statistics,
)
from experiments.reporting import codes as code_reports

CODES = np.array([[0, 0, 1], [0, 1, 1], [2, 1, 1], [0, 1, 1], [2, 1, 1]])
SYMBOLS = ["the", "of", "cat", "to", "dog"]

few_codes = hnp.arrays(
  np.int64,
  st.tuples(st.integers(2, 12), st.integers(1, 10)),
  elements=st.integers(0, 2),
)


def report(codes=CODES, **given):
  return code_reports.code_report(codes, **{"codebook_size": 4, **given})


def random_codes(number, length, size, *, seed=0):
  return np.random.default_rng(seed).integers(0, size, (number, length))


def hamming(first, second):
  return sum(a != b for a, b in zip(first, second, strict=True))


@pytest.fixture(name="figures")
def fixture_figures(monkeypatch):
  """Keeps the figures instead of writing files."""
  kept = []
  monkeypatch.setattr(
    matplotlib.figure.Figure,
    "savefig",
    lambda figure, *args, **kwargs: kept.append(figure),
  )
  return kept


def test_sizes_and_collisions():
  found = report(symbols=SYMBOLS)
  sizes = found.num_embeddings, found.code_length, found.codebook_size
  assert sizes == (5, 3, 4)
  assert found.unique_share == 0.6
  assert (found.num_collisions, found.num_colliding) == (2, 4)
  assert [c.symbols for c in found.collisions] == [("of", "to"), ("cat", "dog")]


def test_the_largest_collision_is_first_and_cut():
  codes = np.array([[1], [0], [1], [2], [0], [0], [0]])
  found = report(codes, top=2)
  assert [c.size for c in found.collisions] == [4, 2]
  assert found.collisions[0].symbols == ("1", "4")
  assert "1, 4, and 2 more" in found.to_text()


@given(few_codes)
def test_collisions_are_equal_codes(codes):
  groups = collections.defaultdict(list)
  for row, code in enumerate(codes.tolist()):
    groups[tuple(code)].append(row)
  expected = [rows for rows in groups.values() if len(rows) > 1]
  expected.sort(key=lambda rows: (-len(rows), rows[0]))
  found = code_statistics.collisions(code_statistics.check_codes(codes, 3))
  assert [group.tolist() for group in found] == expected
  share = code_statistics.unique_share(found, len(codes))
  assert share == pytest.approx(ops.unique_fraction(jnp.asarray(codes)))


@pytest.mark.parametrize("size", [2, 256, 257, 65536])
@pytest.mark.parametrize("length", [1, 7, 8, 9])
def test_any_width_of_codes_is_compared_whole(size, length):
  codes = np.zeros((length + 1, length), int)
  codes[np.arange(length), np.arange(length)] = size - 1
  found = report(codes, codebook_size=size)
  assert found.unique_share == 1
  assert found.collisions == ()
  again = report(np.concatenate([codes, codes]), codebook_size=size)
  assert again.num_collisions == length + 1


def test_use_of_digits():
  first, second, third = report().digits
  p, q = 0.6, 0.4
  assert first.entropy == pytest.approx(-p * np.log2(p) - q * np.log2(q))
  assert (first.num_used, first.largest_share) == (2, 0.6)
  assert (second.num_used, second.largest_share) == (2, 0.8)
  assert (third.entropy, third.num_used, third.largest_share) == (0, 1, 1)
  assert [digit.index for digit in report().digits] == [0, 1, 2]


def test_a_digit_without_use_has_no_negative_entropy():
  digit = report(np.zeros((4, 1), int)).digits[0]
  assert str(digit.entropy) == "0.0"


@given(few_codes)
def test_use_is_that_of_the_definition(codes):
  found = report(codes, codebook_size=3)
  for digit, values in zip(found.digits, codes.T.tolist(), strict=True):
    shares = [n / len(values) for n in collections.Counter(values).values()]
    entropy = -sum(share * math.log2(share) for share in shares)
    assert digit.entropy == pytest.approx(entropy)
    assert (digit.num_used, digit.largest_share) == (len(shares), max(shares))
  entropies = [digit.entropy for digit in found.digits]
  assert found.entropy == pytest.approx(np.mean(entropies))


def test_entropy_is_the_logarithm_of_the_perplexity():
  codes = random_codes(100, 3, 5)
  perplexity = ops.code_perplexity(jnp.asarray(codes), codebook_size=5)
  entropies = [digit.entropy for digit in report(codes, codebook_size=5).digits]
  np.testing.assert_allclose(np.exp2(entropies), perplexity, rtol=1e-5)


def test_dead_entries():
  assert report().dead_share == pytest.approx(1 - 5 / 12)
  # Of the values 0 to 3 only one is used by no digit.
  assert report(shared_codebook=True).dead_share == 0.25
  whole = np.tile(np.arange(4)[:, None], (1, 3))
  assert report(whole).dead_share == 0


@given(few_codes)
def test_disagreement_is_the_mean_over_all_pairs(codes):
  pairs = itertools.combinations(codes.tolist(), 2)
  distances = [hamming(*pair) / codes.shape[1] for pair in pairs]
  found = report(codes, codebook_size=3)
  assert found.disagreement == pytest.approx(np.mean(distances))


@given(few_codes)
def test_nearest_disagreement_is_the_mean_of_the_nearest(codes):
  rows = codes.tolist()
  nearest = [
    min(hamming(rows[i], rows[j]) for j in range(len(rows)) if j != i)
    for i in range(len(rows))
  ]
  found = code_statistics.nearest_disagreement(codes)
  assert found == pytest.approx(np.mean(nearest) / codes.shape[1])


@given(few_codes, st.integers(1, 15))
def test_neighbours_are_sorted_by_distance_then_row(codes, top):
  rows = codes.tolist()
  found = code_statistics.nearest_codes(codes, range(len(rows)), top=top)
  for i, near in enumerate(found):
    others = [(hamming(rows[i], rows[j]), j) for j in range(len(rows))]
    expected = sorted(pair for pair in others if pair[1] != i)[:top]
    assert near == [(j, distance) for distance, j in expected]


def test_the_most_frequent_neighbour_is_first():
  counts = [100, 5, 7, 9, 8]
  found = code_statistics.nearest_codes(CODES, [0], counts=counts, top=3)
  assert found == [[(3, 1), (1, 1), (4, 2)]]


def test_blocks_do_not_change_distances(monkeypatch):
  codes = random_codes(50, 300, 3)
  expected = (
    code_statistics.nearest_codes(codes, range(50)),
    code_statistics.nearest_disagreement(codes),
  )
  monkeypatch.setattr(code_statistics, "_BLOCK", 120)
  assert code_statistics.nearest_codes(codes, range(50)) == expected[0]
  assert code_statistics.nearest_disagreement(codes) == expected[1]


def test_neighbours_of_the_most_frequent_or_of_chosen_symbols():
  counts = [1, 2, 5, 4, 3]
  named = lambda **given: [
    near.symbol for near in report(symbols=SYMBOLS, top=2, **given).neighbors
  ]
  assert named() == ["the", "of"]
  assert named(counts=counts) == ["cat", "to"]
  assert named(counts=counts, chosen=["dog", "the"]) == ["dog", "the"]


def test_only_the_first_symbols_are_compared():
  codes = np.array([[0, 0], [1, 1], [0, 0]])
  assert report(codes).nearest_disagreement == pytest.approx(1 / 3)
  first = report(codes, num_compared=2)
  assert (first.num_compared, first.nearest_disagreement) == (2, 1)


def test_a_single_symbol_has_no_neighbour():
  found = report(CODES[:1])
  assert (found.disagreement, found.nearest_disagreement) == (None, None)
  assert found.neighbors[0].nearest == ()
  assert found.unique_share == 1
  assert "differ in" not in found.to_text()


def test_random_codes_have_the_expected_statistics():
  found = report(random_codes(5000, 8, 16), codebook_size=16)
  assert found.unique_share == 1
  assert found.disagreement == pytest.approx(15 / 16, abs=1e-3)
  assert found.entropy == pytest.approx(4, abs=0.01)
  assert found.dead_share == 0


def test_report_is_json_and_markdown(tmp_path):
  found = report(symbols=SYMBOLS)
  usage = code_statistics.count_values(CODES, codebook_size=4)
  path = code_reports.write_report(found, usage, tmp_path / "new")
  assert path.read_text() == found.to_text()
  record = json.loads(path.with_suffix(".json").read_text())
  assert record == json.loads(json.dumps(found.to_dict()))
  assert record["collisions"][0]["symbols"] == ["of", "to"]
  assert record["neighbors"][0]["nearest"][0] == ["of", 1]
  assert image.imread(path.with_suffix(".png")).shape == (750, 1200, 4)
  lines = found.to_text().split("\n")
  assert lines[0] == (
    "5 symbols with codes of 3 digits of 4 values, 6 bits each."
  )
  assert lines[1] == (
    "60.00% as many codes as symbols: 4 symbols share 2 codes."
  )
  assert any("of, to" in line for line in lines)
  assert any("of (1), to (1), cat (2), dog (2)" in line for line in lines)
  assert lines[-1] == ""


def test_tables_of_nothing_are_left_out():
  assert "Symbols of one code" not in report(CODES[:3]).to_text()


@pytest.mark.parametrize(
  ("codes", "message"),
  [
    (np.zeros((2, 3)), "must be integers .* got float64 of shape"),
    (np.zeros(3, int), r"got int64 of shape \(3,\)"),
    (np.zeros((0, 3), int), "at least one, got"),
    (np.zeros((3, 0), int), "at least one, got"),
    (np.array([[0, 1], [3, 4]]), r"in \[0, 4\), got 4 at row 1, digit 1"),
    (np.array([[0, -1]]), r"got -1 at row 0, digit 1"),
  ],
)
def test_codes_are_checked(codes, message):
  with pytest.raises(ValueError, match=message):
    report(codes)


@pytest.mark.parametrize(
  ("given_options", "message"),
  [
    ({"symbols": ["a"]}, "`symbols` must have 5 entries, .* got 1"),
    ({"counts": [1, 2]}, "`counts` must have 5 entries, .* got 2"),
    ({"chosen": ["emu"]}, "`chosen` must name symbols .* got 'emu'"),
    ({"top": 0}, "`top` must be at least 1"),
    ({"num_compared": 0}, "`num_compared` must be at least 1"),
    ({"codebook_size": 1}, "`codebook_size` must be at least 2"),
  ],
)
def test_options_are_checked(given_options, message):
  with pytest.raises(ValueError, match=message):
    report(**given_options)


def test_changes():
  after = CODES.copy()
  after[0] = [1, 1, 1]
  after[2, 2] = 3
  changes = code_history.code_changes(CODES, after)
  assert changes.changed_codes == pytest.approx(0.4)
  assert changes.changed_digits == pytest.approx(0.5)  # Of 2 and of 1 of 3.
  assert changes.by_digit == pytest.approx((0.2, 0.2, 0.2))


def test_nothing_has_changed():
  changes = code_history.code_changes(CODES, CODES)
  assert (changes.changed_codes, changes.changed_digits) == (0, 0)


@pytest.mark.parametrize(
  "shapes", [((2, 3), (3, 3)), ((2, 3), (2, 2)), ((3,), (3,)), ((0, 3), (0, 3))]
)
def test_changes_are_of_the_same_symbols(shapes):
  before, after = (np.zeros(shape, int) for shape in shapes)
  with pytest.raises(ValueError, match="codes of the same symbols"):
    code_history.code_changes(before, after)


def test_history_compares_with_the_last_codes():
  history = code_history.CodeHistory(codebook_size=4)
  first = history.update(jnp.asarray(CODES))
  assert first == {
    "unique_codes": 0.6,
    "dead_codes": pytest.approx(1 - 5 / 12),
  }
  second = history.update(np.roll(CODES, 1, axis=0))
  assert second == first | {
    "changed_codes": 1,
    "changed_digits": pytest.approx(6 / 15),
  }
  assert history.update(history.codes)["changed_codes"] == 0


def test_history_goes_on_with_the_codes_of_a_checkpoint():
  history = code_history.CodeHistory(codebook_size=4)
  history.update(CODES)
  resumed = code_history.CodeHistory(codebook_size=4, codes=history.codes)
  later = np.roll(CODES, 2, axis=0)
  assert resumed.update(later) == history.update(later)


def test_history_keeps_its_own_codes():
  codes = CODES.astype(np.uint8)
  history = code_history.CodeHistory(codebook_size=4, codes=codes)
  codes[:] = 0
  assert history.codes is not None
  np.testing.assert_array_equal(history.codes, CODES)
  assert history.codes.dtype == np.uint8


def test_history_knows_shared_codebooks_and_bad_codes():
  history = code_history.CodeHistory(codebook_size=4, shared_codebook=True)
  assert history.update(CODES)["dead_codes"] == 0.25
  with pytest.raises(ValueError, match="codes of the same symbols"):
    history.update(CODES[1:])
  with pytest.raises(ValueError, match=r"in \[0, 4\)"):
    history.update(CODES + 2)


def test_picture_of_the_use(figures, tmp_path):
  usage = code_statistics.count_values(CODES, codebook_size=4)
  code_plots.plot_use(usage, tmp_path / "use.png", entropies=[1.0, 0.7, 0.0])
  upper, lower = figures[0].axes[:2]
  shares = upper.images[0].get_array()
  assert shares.shape == (4, 3)
  np.testing.assert_allclose(shares[:, 0].filled(0), [0.6, 0, 0.4, 0])
  assert shares.mask.sum() == 7  # The dead entries have no colour.
  assert [bar.get_height() for bar in lower.patches] == [1.0, 0.7, 0.0]
  assert lower.lines[0].get_ydata()[0] == 2


@pytest.mark.parametrize(
  ("shape", "number"), [((3, 4), 2), ((0, 4), 0), ((4,), 4)]
)
def test_pictures_need_an_entropy_for_each_digit(shape, number, tmp_path):
  with pytest.raises(ValueError, match="an entry for each digit of `usage`"):
    code_plots.plot_use(
      np.ones(shape), tmp_path / "use.png", entropies=[1.0] * number
    )


def write_run(folder):
  history = code_history.CodeHistory(codebook_size=4)
  with reporting.MetricsWriter(folder) as writer:
    for epoch in range(3):
      writer.write(10 * epoch + 5, {"train_loss": 1.0})
      metrics = history.update(np.roll(CODES, epoch, axis=0))
      writer.write(10 * epoch + 10, {"train_loss": 1.0, **metrics})


def test_picture_of_the_changes(figures, tmp_path):
  write_run(tmp_path)
  course = analysis.read_changes(tmp_path)
  assert [row["step"] for row in course] == [10, 20, 30]
  code_plots.plot_changes(course, tmp_path / "changes.png")
  panels = figures[0].axes
  assert [len(panel.lines) for panel in panels] == [2, 1, 1]
  np.testing.assert_array_equal(panels[0].lines[0].get_xdata(), [20, 30])
  np.testing.assert_array_equal(panels[1].lines[0].get_ydata(), [0.6] * 3)
  with pytest.raises(ValueError, match="must hold the metrics of an epoch"):
    code_plots.plot_changes([], tmp_path / "changes.png")


def save_table(path, *, positions=3):
  path.parent.mkdir(exist_ok=True)
  table = tables.CodeTable.from_codes(
    CODES,
    np.ones((positions, 4, 2), np.float32),
    composition="sum",
    vocabulary=SYMBOLS,
  )
  table.save(path)
  return path


def test_analysis_of_a_table(tmp_path):
  path = save_table(tmp_path / "run" / "embedding.safetensors")
  write_run(tmp_path / "run")
  found = analysis.describe_codes(path, tmp_path / "out", chosen=["cat"])
  assert found == report(symbols=SYMBOLS, chosen=["cat"])
  assert {file.name for file in (tmp_path / "out").iterdir()} == {
    "codes.md",
    "codes.json",
    "codes.png",
    "code_changes.png",
  }


def test_analysis_of_a_shared_codebook(figures, tmp_path):
  path = save_table(tmp_path / "embedding.safetensors", positions=1)
  assert analysis.describe_codes(path, tmp_path).dead_share == 0.25
  assert len(figures) == 1


def test_analysis_of_arrays(figures, tmp_path):
  path = tmp_path / "codes.npz"
  np.savez(path, codes=CODES, vocabulary=SYMBOLS)
  found = analysis.describe_codes(path, tmp_path)
  assert found == report(symbols=SYMBOLS)  # 4 is the next power of two.
  wide = analysis.describe_codes(path, tmp_path, codebook_size=9)
  assert wide.codebook_size == 9
  assert len(figures) == 2


def test_analysis_names_symbols_by_the_words_of_a_text(figures, tmp_path):
  path = tmp_path / "codes.npz"
  np.savez(path, codes=CODES)
  counts = dict(zip(SYMBOLS, [9, 1, 8, 2, 3], strict=True))
  found = analysis.describe_codes(path, tmp_path, counts=counts, top=2)
  assert [near.symbol for near in found.neighbors] == ["the", "cat"]
  del counts["dog"]
  with pytest.raises(ValueError, match="`symbols` must have 5 entries"):
    analysis.describe_codes(path, tmp_path, counts=counts)
  # A vocabulary of its own goes first; the others count as never seen.
  np.savez(path, codes=CODES, vocabulary=SYMBOLS)
  found = analysis.describe_codes(path, tmp_path, counts=counts)
  assert [near.symbol for near in found.neighbors][-1] == "dog"


def test_words_of_a_text_are_counted(tmp_path):
  path = tmp_path / "text.txt"
  path.write_text("the cat\nthe dog the cat\n" * 30, encoding="utf-8")
  counts = analysis.count_words(f"text:{path}")
  assert next(iter(counts)) == "the"
  assert list(counts.values()) == sorted(counts.values(), reverse=True)


def test_analysis_needs_codes(tmp_path):
  path = tmp_path / "table.safetensors"
  tables.DenseTable(np.ones((3, 2), np.float32)).save(path)
  with pytest.raises(ValueError, match="must hold codes, got DenseTable"):
    analysis.load_codes(path)
  path = tmp_path / "codes.npz"
  with pytest.raises(FileNotFoundError):
    analysis.load_codes(path)
  np.savez(path, other=CODES)
  with pytest.raises(ValueError, match=r"an array `codes`, got \['other'\]"):
    analysis.load_codes(path)
  np.savez(path, codes=np.ones((2, 2)))
  with pytest.raises(ValueError, match="must be integers"):
    analysis.load_codes(path)
  np.savez(path, codes=np.array([["a"]], object))
  with pytest.raises(ValueError, match="allow_pickle"):
    analysis.load_codes(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"text"])
def test_analysis_needs_an_archive(content, tmp_path):
  path = tmp_path / "codes.npz"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"codes.npz must be an `.npz` file"):
    analysis.load_codes(path)


def test_made_up_codes_are_a_file(tmp_path):
  path = analysis.make_up_codes(tmp_path / "new" / "random.npz")
  stored = analysis.load_codes(path)
  assert (stored.codes.shape, stored.codebook_size) == ((300, 4), 8)
  assert stored.vocabulary is not None
  assert stored.vocabulary[299] == "word299"
