"""Published codes and sizes, by their arithmetic and by our own arrays."""

import hashlib

import jax
import numpy as np
import pytest
from flax import nnx

from anchor_codes import accounting, bits, nn
from anchor_codes import typing as options
from experiments.datasets import files
from experiments.datasets import language_model as datasets
from experiments.models import language_model
from experiments.reporting import codes as code_reports

# sha256, mean entropy, largest share of a value, disagreement of all pairs and
# of nearest pairs; measured on the files.
PUBLISHED = {
  "small": (
    "c1834a794ec56cfeec89c22b7a0002bb31dde8517ed676681b59a79c9d20fcc0",
    (4.991, 0.046, 0.969, 0.719),
  ),
  "medium": (
    "7d860f61ad1589643b2dd71274b13c2c4b6c5b87d25498b6311103986c8a485e",
    (4.946, 0.084, 0.966, 0.664),
  ),
  "large": (
    "da1e390645c6625b8a828e3e3324281be0668ff45fce197b9d69aeb2eaab8ef3",
    (4.957, 0.065, 0.967, 0.624),
  ),
}


def find(*names):
  """Returns a file of the folder of data sets, or skips the test."""
  folder = files.data_folder()
  path = None if folder is None else folder.joinpath(*names)
  if path is None or not path.is_file():
    pytest.skip(f"needs <data_dir>/{'/'.join(names)}")
  return path


def published_codes(size):
  """Loads the codes that Chen et al. (2018) have trained on Penn Treebank."""
  name = f"{size}_embs.code.K32D32.npz"
  path = find("embeddings", "kdcode_lm", name)
  assert hashlib.sha256(path.read_bytes()).hexdigest() == PUBLISHED[size][0]
  with np.load(path) as arrays:
    return arrays["codes"]


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_codes_take_20_bytes_each(size):
  codes = published_codes(size)
  packed = bits.pack_codes(codes, codebook_size=32)
  assert packed.shape == (10_000, 20)
  unpacked = bits.unpack_codes(packed, code_length=32, codebook_size=32)
  np.testing.assert_array_equal(unpacked, codes)


@pytest.mark.parametrize("size", PUBLISHED)
def test_report_on_published_codes(size):
  report = code_reports.code_report(published_codes(size), codebook_size=32)
  assert (report.unique_share, report.dead_share) == (1, 0)
  assert report.collisions == ()
  largest = max(digit.largest_share for digit in report.digits)
  found = (
    report.entropy,
    largest,
    report.disagreement,
    report.nearest_disagreement,
  )
  assert found == pytest.approx(PUBLISHED[size][1], abs=6e-4)
  assert report.num_compared == 2000


def test_published_codes_put_days_and_names_together():
  codes = published_codes("small")
  folder = find("ptb", "ptb.train.txt").parents[1]
  report = code_reports.code_report(
    codes,
    codebook_size=32,
    symbols=datasets.load_text("ptb", data_dir=folder).vocabulary,
    chosen=["monday", "john"],
  )
  monday, john = report.neighbors
  assert monday.nearest[0] == ("tuesday", 21)
  assert john.nearest[0] == ("william", 21)
  assert {"wednesday", "thursday", "friday"} < {s for s, _ in monday.nearest}


def bits_by_the_formula(num_embeddings, code_length, codebook_size, floats):
  r"""Returns :math:`V D \log_2 K + 32 F` of the papers."""
  size = options.num_code_bits(codebook_size)
  return num_embeddings * code_length * size + 32 * floats


# KD codes of Chen et al. (ICML 2018) on Penn Treebank: D = K = 32, code vectors
# of 300, their mean through a norm, a projection with a bias and a norm.
@pytest.mark.parametrize(
  ("features", "params", "megabits", "ratio"),
  [
    (200, 368_400, 13.389, 4.780),
    (650, 504_750, 17.752, 11.717),
    (1500, 762_300, 25.994, 18.466),
  ],
)
def test_sizes_of_kd_codes(features, params, megabits, ratio):
  norms = 2 * 300 + 2 * features
  floats = 32 * 32 * 300 + 300 * features + features + norms
  assert floats == params
  nbytes = accounting.table_bytes(
    10_000,
    row_bits=accounting.code_row_bits(32, 32),
    shared_bytes=4 * floats,
  )
  assert 8 * nbytes == bits_by_the_formula(10_000, 32, 32, floats)
  assert 8e-6 * nbytes == pytest.approx(megabits, abs=5e-4)
  found = accounting.compression_ratio(
    nbytes, num_embeddings=10_000, features=features
  )
  assert found == pytest.approx(ratio, abs=5e-4)


# DPQ of Chen, Li and Sun (ICML 2020) on Penn Treebank; the last column is the
# width of a code in our file, where each starts at a byte of its own.
@pytest.mark.parametrize(
  ("size", "length", "features", "shared", "nbytes", "ratio", "row_bytes"),
  [
    (16, 50, 1500, True, 251_920, 238.17, 25),
    (32, 25, 650, True, 159_578, 162.93, 16),
    (8, 25, 200, True, 94_006, 85.10, 10),
    (128, 50, 650, False, 770_300, 33.75, 44),
  ],
)
def test_sizes_of_dpq(size, length, features, shared, nbytes, ratio, row_bytes):
  floats = size * features // (length if shared else 1)
  assert bits_by_the_formula(10_000, length, size, floats) == 8 * nbytes
  found = accounting.compression_ratio(
    nbytes, num_embeddings=10_000, features=features
  )
  assert found == pytest.approx(ratio, abs=5e-3)
  row_bits = accounting.code_row_bits(length, size)
  assert row_bits == 8 * row_bytes
  stored = accounting.table_bytes(
    10_000, row_bits=row_bits, shared_bytes=4 * floats
  )
  padding = 10_000 * (row_bytes - length * options.num_code_bits(size) / 8)
  assert stored - nbytes == padding < 10_000


def num_floats(make):
  """Counts the numbers in the variables of a layer or model, unmade."""
  state = nnx.state(nnx.eval_shape(make))
  return (
    accounting.tree_bytes(
      [
        leaf
        for leaf in jax.tree.leaves(state)
        if np.issubdtype(leaf.dtype, np.floating)
      ]
    )
    // 4
  )


def test_checkpoint_of_the_medium_language_model():
  """A user's checkpoint of the DPQ authors' code had 79,100,812 bytes."""

  def make(**given):
    rngs = nnx.Rngs(0)
    embed = (
      nn.DPQEmbed(10_000, 650, rngs=rngs, **given)
      if given
      else nnx.Embed(10_000, 650, rngs=rngs)
    )
    return language_model.LanguageModel(embed, 10_000, hidden=650, rngs=rngs)

  full = num_floats(make)
  assert full == 19_775_200
  assert 4 * (full + 3) == 79_100_812  # And three numbers of bookkeeping.
  dpq = num_floats(
    lambda: make(code_length=50, codebook_size=128, relaxation="softmax")
  )
  # Keys and values, and the moments of the norm of each entry.
  assert dpq - full == 2 * 128 * 650 + 2 * 128 == 166_656


@pytest.mark.parametrize(
  ("codebook_size", "code_length", "expected"),
  [(2, 10, 0.1024), (8, 4, 0.3740), (2, 16, 0.9274), (16, 4, 0.9274)],
)
def test_random_codes_collide_as_expected(codebook_size, code_length, expected):
  number = codebook_size**code_length
  theory = number * -np.expm1(10_000 * np.log1p(-1 / number)) / 10_000
  assert theory == pytest.approx(expected, abs=1e-3)
  codes = np.random.default_rng(0).integers(
    0, codebook_size, (10_000, code_length)
  )
  report = code_reports.code_report(
    codes, codebook_size=codebook_size, num_compared=1
  )
  assert report.unique_share == pytest.approx(expected, abs=0.01)
  different = len(np.unique(codes, axis=0))
  spare = report.num_colliding - report.num_collisions
  assert different == 10_000 - spare
