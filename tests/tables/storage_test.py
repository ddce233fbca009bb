"""Files are written whole, and nothing damaged is read."""

import json
import os
import pathlib
import signal
import stat
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from table_cases import CASES, floats

from anchor_codes import tables
from anchor_codes.tables import storage


@pytest.fixture
def path(tmp_path):
  return tmp_path / "table.safetensors"


def split(data):
  """Splits a file into its header and its tensors."""
  (length,) = struct.unpack("<Q", data[:8])
  return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header, data, *, raw=None):
  raw = json.dumps(header).encode() if raw is None else raw
  return struct.pack("<Q", len(raw)) + raw + data


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100])
def test_files_that_are_cut_off(size, path):
  CASES["dense_int8"]().table.save(path)
  path.write_bytes(path.read_bytes()[:size])
  text = "copy or export it again"
  with pytest.raises(tables.ArtifactError, match=text):
    tables.load(path)


def test_every_single_bit_of_the_length_counts(path):
  CASES["dense_int8"]().table.save(path)
  good = path.read_bytes()
  for bit in range(64):
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bad)
    with pytest.raises(tables.ArtifactError):
      tables.load(path)


def hostile(path, header=None, *, data=b"\0" * 8, raw=None):
  path.write_bytes(join(header, data, raw=raw))
  return pytest.raises(tables.ArtifactError)


def entry(begin=0, end=8, *, dtype="F32", shape=(2,)):
  return {"dtype": dtype, "shape": [*shape], "data_offsets": [begin, end]}


HOSTILE_ENTRIES = {
  "overlap": {"a": entry(0, 8), "b": entry(0, 8)},
  "gap": {"a": entry(4, 8, shape=(1,))},
  "trailing bytes": {"a": entry(0, 4, shape=(1,))},
  "past the end": {"a": entry(0, 12, shape=(3,))},
  "negative shape": {"a": entry(shape=(-1, -2))},
  "negative offset": {"a": entry(-8, 0)},
  "end before begin": {"a": entry(8, 0)},
  "overflow": {"a": entry(shape=(2**62, 4))},
  "huge": {"a": entry(0, 2**66, shape=(2**64,))},
  "float shape": {"a": entry(shape=(2.0,))},
  "bool shape": {"a": entry(0, 4, shape=(True,))},
  "string shape": {"a": {**entry(), "shape": "22"}},
  "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
  "null shape": {"a": {**entry(), "shape": None}},
  "three offsets": {"a": {**entry(), "data_offsets": [0, 4, 8]}},
  "unknown dtype": {"a": entry(dtype="F64", shape=(1,))},
  "dtype is a list": {"a": {**entry(), "dtype": ["F32"]}},
  "entry is a list": {"a": [1, 2]},
  "entry is null": {"a": None},
  "no tensors": {},
}


@pytest.mark.parametrize("name", HOSTILE_ENTRIES)
def test_hostile_entries_are_refused_behind_a_valid_checksum(name, path):
  entries = HOSTILE_ENTRIES[name]
  metadata = {"format": "anchor_codes", "format_version": "1"}
  metadata["sha256"] = storage._header_hash(entries, metadata)
  # Not `tables.load`, which would refuse a file without a kind in any case.
  with hostile(path, {**entries, "__metadata__": metadata}) as error:
    storage.read(path, verify=False)
  assert "checksum" not in str(error.value)
  assert str(path) in str(error.value)


def test_an_entry_that_fits_is_read_behind_a_valid_checksum(path):
  entries = {"a": entry(0, 4, shape=(1,)), "b": entry(4, 8, shape=(1,))}
  metadata = {"format": "anchor_codes", "format_version": "1"}
  metadata["sha256"] = storage._header_hash(entries, metadata)
  path.write_bytes(join({**entries, "__metadata__": metadata}, b"\0" * 8))
  tensors, _ = storage.read(path, verify=False)
  assert {n: a.shape for n, a in tensors.items()} == {"a": (1,), "b": (1,)}


HOSTILE_HEADERS = {
  "not json": b"{hello",
  "not utf-8": b'{"\xff": 1}',
  "deep": b"[" * 100_000,
  "deep objects": b'{"a":' * 100_000,
  "a list": b"[]",
  "a number": b"3",
  "long number": b'{"a":' + b"9" * 10_000 + b"}",
  "duplicate keys": b'{"a":1,"a":2}',
  "duplicate metadata": b'{"__metadata__":{"a":"1","a":"2"}}',
  "metadata is a list": b'{"__metadata__":[]}',
  "metadata of numbers": b'{"__metadata__":{"format":1}}',
  "empty": b"",
  "spaces": b"   ",
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_hostile_headers_are_refused(name, path):
  with hostile(path, raw=HOSTILE_HEADERS[name]) as error:
    tables.load(path)
  assert str(path) in str(error.value)
  assert "copy or export it again" in str(error.value)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**31, 100, 9])
def test_headers_longer_than_the_file(length, path):
  path.write_bytes(struct.pack("<Q", length) + b"{}      ")
  with pytest.raises(tables.ArtifactError, match=f"header of {length} bytes"):
    tables.load(path)


def test_files_of_other_formats(path):
  path.write_text("These are words, and no vectors.\n" * 10)
  with pytest.raises(tables.ArtifactError, match="or not one of ours"):
    tables.load(path)
  with path.open("wb") as file:
    np.save(file, np.zeros((3, 4)))
  with pytest.raises(tables.ArtifactError, match="or not one of ours"):
    tables.load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_of_others_are_told_apart(metadata, path):
  import safetensors.numpy

  arrays = {"wte": np.zeros((3, 4), np.float64)}
  safetensors.numpy.save_file(arrays, path, metadata)
  text = "A safetensors file, but not one of ours: write it with"
  with pytest.raises(tables.ArtifactError, match=text):
    tables.load(path)


@pytest.mark.parametrize("version", ["2", "10", "", "1.0", "one"])
def test_other_versions_ask_for_an_update(version, path):
  CASES["dense_int8"]().table.save(path)
  header, data = split(path.read_bytes())
  header["__metadata__"]["format_version"] = version
  path.write_bytes(join(header, data))
  text = f"has format version {version}, .* reads version 1: update anchor_code"
  with pytest.raises(tables.ArtifactError, match=text):
    tables.load(path)


def test_a_changed_tensor_is_named(path):
  CASES["sparse_anchors"]().table.save(path)
  header, data = split(path.read_bytes())
  begin, _ = header["weights"]["data_offsets"]
  damaged = bytearray(data)
  damaged[begin] ^= 1
  path.write_bytes(join(header, bytes(damaged)))
  text = "'weights' does not match its checksum.* damaged.* export it again"
  with pytest.raises(tables.ArtifactError, match=text):
    tables.load(path)
  assert tables.load(path, verify=False).num_embeddings == 11


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", ["more", "sha256:weights"])
def test_the_header_is_always_checked(name, verify, path):
  # Nothing else could tell that these were changed.
  CASES["sparse_anchors"]().table.save(path)
  header, data = split(path.read_bytes())
  header["__metadata__"][name] = "0" * 64
  path.write_bytes(join(header, data))
  text = "The header does not match its checksum"
  with pytest.raises(tables.ArtifactError, match=text):
    tables.load(path, verify=verify)


def test_missing_checksums_are_refused(path):
  rows = np.zeros((2, 2), np.float32)
  tables.DenseTable(rows).save(path)
  header, data = split(path.read_bytes())
  metadata = header["__metadata__"]
  del metadata["sha256:rows"]
  metadata["sha256"] = storage._header_hash({"rows": header["rows"]}, metadata)
  path.write_bytes(join(header, data))
  with pytest.raises(tables.ArtifactError, match="'rows' does not match"):
    tables.load(path)
  del metadata["sha256"]
  path.write_bytes(join(header, data))
  with pytest.raises(tables.ArtifactError, match="The header does not match"):
    tables.load(path, verify=False)


def test_missing_files_and_folders_stay_what_they_are(path):
  with pytest.raises(FileNotFoundError):
    tables.load(path)
  with pytest.raises(IsADirectoryError):
    tables.load(path.parent)
  with pytest.raises(FileNotFoundError):
    CASES["dense_int8"]().table.save(path.parent / "nowhere" / "table")


def test_tensors_are_aligned(path):
  arrays = {
    "a": np.zeros(3, np.uint8),
    "b": np.zeros(5, np.float32),
    "c": np.zeros(1, np.float16),
  }
  storage.write(path, arrays, {"format": "anchor_codes", "format_version": "1"})
  loaded, _ = storage.read(path)
  assert loaded.keys() == arrays.keys()
  assert all(array.flags.aligned for array in loaded.values())


def test_big_endian_and_strided_arrays_are_stored_in_order(path):
  rows = floats(6, 4)[::2].astype(">f4")
  tables.DenseTable(rows).save(path)
  np.testing.assert_array_equal(tables.load(path).to_dense(), rows)


@pytest.fixture
def old(path):
  """A file that a failed write must leave alone."""
  tables.DenseTable(np.ones((2, 2), np.float32)).save(path)
  return path.read_bytes()


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(function, old, path, monkeypatch):
  def full(*args):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, function, full)
  with pytest.raises(OSError, match="No space left"):
    CASES["sparse_anchors"]().table.save(path)
  assert path.read_bytes() == old
  assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file(old, path, monkeypatch):
  def interrupt(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "fsync", interrupt)
  with pytest.raises(KeyboardInterrupt):
    CASES["sparse_anchors"]().table.save(path)
  assert path.read_bytes() == old
  assert list(path.parent.iterdir()) == [path]


SAVER = """
import sys
import numpy as np
from anchor_codes import tables
table = tables.DenseTable(np.ones((1 << 17, 16), np.float32))
print("ready", flush=True)
while True:
  table.save(sys.argv[1])
"""


def test_a_killed_process_leaves_a_whole_file(old, path):
  """Either file will do, the old one or the new one; half of one never."""
  for attempt in range(4):
    process = subprocess.Popen(
      [sys.executable, "-c", SAVER, path],
      cwd=pathlib.Path(tables.__file__).parents[2],
      stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.003 + 0.005 * attempt)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    table = tables.load(path)
    assert table.num_embeddings in (2, 1 << 17)
    np.testing.assert_array_equal(table.lookup(1), 1)


def test_the_file_and_then_its_folder_are_flushed(old, path, monkeypatch):
  modes, fsync = [], os.fsync

  def record(handle):
    modes.append(stat.S_ISDIR(os.fstat(handle).st_mode))
    fsync(handle)

  monkeypatch.setattr(os, "fsync", record)
  CASES["sparse_anchors"]().table.save(path)
  assert modes == [False, True]


def test_a_write_replaces_the_old_file(old, path):
  CASES["sparse_anchors"]().table.save(path)
  assert isinstance(tables.load(path), tables.AnchorTable)
  assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_not_replaced(path):
  """As root a device would be replaced by a file, for all programs."""
  os.mkfifo(path)
  for write in (CASES["dense_int8"]().table.save, storage.check_target):
    with pytest.raises(OSError, match="It is no regular file: ") as error:
      write(path)
    assert error.value.filename == str(path)
  assert stat.S_ISFIFO(path.stat().st_mode)
  assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_honours_the_umask(umask, path):
  before = os.umask(umask)
  try:
    CASES["dense_int8"]().table.save(path)
  finally:
    os.umask(before)
  assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_symbolic_links_are_followed(path, tmp_path):
  folder = tmp_path / "models"
  folder.mkdir()
  path.symlink_to(folder / "table.safetensors")
  CASES["dense_int8"]().table.save(path)
  assert path.is_symlink()
  assert tables.load(folder / "table.safetensors").num_embeddings == 11


def test_relative_paths_are_written_where_they_point(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  CASES["dense_int8"]().table.save("table.safetensors")
  assert tables.load(pathlib.Path("table.safetensors")).features == 6
