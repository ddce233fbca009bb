"""Random damage: each file is refused, or is the one that was written."""

import json
import pathlib
import struct
import tempfile
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_cases import CASES, KINDS

from anchor_codes import tables
from anchor_codes.tables import storage

NUM_MUTATIONS = 1000

NAMES = (
  *("num_embeddings", "features", "code_length", "codebook_size"),
  *("composition", "addressing", "seed", "dtype"),
  *("rows", "packed", "inner.rows", "buckets_0"),
  *("dense", "codes", "anchors", "hash", "projected", "scaled", "tiered"),
)
JSON = (
  st.none()
  | st.booleans()
  | st.integers(-(2**70), 2**70)
  | st.floats(allow_nan=False, allow_infinity=False)
  | st.sampled_from(["F32", "I8", "dtype", "shape", "data_offsets", "", "é"])
)


def as_bytes(value):
  return json.dumps(value).encode()


def json_parts(parts):
  keys = st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__"])
  entries = st.fixed_dictionaries(
    {"dtype": parts, "shape": parts, "data_offsets": parts}
  )
  return st.lists(parts, max_size=3) | st.dictionaries(keys, parts) | entries


@pytest.fixture
def path(tmp_path):
  return tmp_path / "table.safetensors"


def rewrite(path, data):
  # A new file: to cut an old one off makes some file systems wait for the disk.
  path.unlink(missing_ok=True)
  path.write_bytes(data)


def content(path):
  """Everything that a loaded table holds."""
  table = tables.load(path)
  arrays = [
    (n, str(a.dtype), a.shape, a.tobytes())
    for n, a in sorted(table.tensors.items())
  ]
  return type(table), arrays, table.metadata, table.vocabulary


def join(header, data, *, raw=None):
  raw = json.dumps(header).encode() if raw is None else raw
  return struct.pack("<Q", len(raw)) + raw + data


def mutate(rng, good, number):
  """Flips a bit, cuts, inserts, or swaps two bytes; half in the header."""
  (length,) = struct.unpack("<Q", good[:8])
  end = 8 + length if number % 2 else len(good)
  at, other = (int(i) for i in rng.integers(0, end, 2))
  bad = bytearray(good)
  match number // 2 % 5:
    case 0 | 1:
      bad[at] ^= 1 << int(rng.integers(8))
    case 2:
      bad[at], bad[other] = bad[other], bad[at]
    case 3:
      del bad[at : at + int(rng.integers(1, 9)) if number % 3 else None]
    case 4:
      bad[at:at] = rng.bytes(int(rng.integers(1, 9)))
  return bytes(bad)


@pytest.mark.parametrize("name", KINDS)
def test_no_mutation_is_read_silently(name, path):
  CASES[name]().table.save(path)
  good, want = path.read_bytes(), content(path)
  assert len(good) < 4096  # Few bytes, so that mutations hit each part.
  rng, errors = np.random.default_rng(0), []
  for number in range(NUM_MUTATIONS):
    rewrite(path, mutate(rng, good, number))
    try:
      assert content(path) == want, number
    except tables.ArtifactError as error:
      errors.append(str(error))
  assert len(errors) > 0.9 * NUM_MUTATIONS
  assert all(error.startswith(f"{path}: ") for error in errors)


@pytest.mark.parametrize("name", KINDS)
def test_no_mutation_of_the_header_passes_without_verification(name, path):
  table = CASES[name]().table
  table.save(path)
  good = path.read_bytes()
  rng = np.random.default_rng(1)
  for number in range(1, NUM_MUTATIONS // 3, 2):
    rewrite(path, mutate(rng, good, number))
    try:
      loaded = tables.load(path, verify=False)
    except tables.ArtifactError:
      continue
    assert loaded.metadata == table.metadata
    shapes = {n: a.shape for n, a in loaded.tensors.items()}
    assert shapes == {n: a.shape for n, a in table.tensors.items()}


@given(st.binary(max_size=200) | st.recursive(JSON, json_parts).map(as_bytes))
def test_any_header_is_an_artifact_error(raw):
  """Foreign bytes give one kind of error, and never ask for much memory."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "table")
    for content in (raw, join(None, b"", raw=raw), join(None, raw, raw=raw)):
      path.write_bytes(content)
      tracemalloc.start()
      try:
        with pytest.raises(tables.ArtifactError):
          tables.load(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
      finally:
        tracemalloc.stop()


@given(st.recursive(JSON, json_parts), st.sampled_from(NAMES))
def test_any_entry_behind_a_valid_checksum_is_an_artifact_error(entry, name):
  entries = {name: entry}
  metadata = {
    **dict.fromkeys(NAMES[:8], "2"),
    "format": "anchor_codes",
    "format_version": "1",
    "kind": name,
  }
  metadata["sha256"] = storage._header_hash(entries, metadata)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "table")
    header = {**entries, "__metadata__": metadata}
    path.write_bytes(join(header, b"\0" * 8))
    with pytest.raises(tables.ArtifactError):
      tables.load(path, verify=False)
