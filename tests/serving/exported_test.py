"""Tests of lookups as programs of JAX."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from serving_cases import CASES, V, dense

from anchor_codes import serving, tables


def write(table, folder, **options):
  path = folder / "table.jax"
  serving.export_jax(table, path, **options)
  return path


@pytest.mark.parametrize("name", ["concat", "tiered"])
def test_the_program_looks_up_the_same_vectors(name, tmp_path):
  table = CASES[name]()
  lookup = serving.load_exported(write(table, tmp_path, platforms=["cpu"]))
  assert lookup.features == table.features
  for ids in ([[0, V - 1], [3, 4]], 5, []):
    vectors = lookup(ids)
    expected = table.lookup(ids)
    assert vectors.shape == expected.shape
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-5)


def test_ids_outside_give_what_was_asked_for(tmp_path):
  table, ids = dense("int8"), [-1, V, 2**32]
  lookup = serving.load_exported(write(table, tmp_path))
  assert np.isnan(lookup(ids)).all()
  lookup = serving.load_exported(write(table, tmp_path, outside="clip"))
  np.testing.assert_array_equal(lookup(ids), table.lookup([0, V - 1, V - 1]))
  with pytest.raises(ValueError, match="ids must be integers"):
    lookup([0.5])


def test_ids_of_any_width_stay_outside(tmp_path):
  table, large = dense("int8"), [1, 2**31, 2**32 - 1]
  path = write(table, tmp_path, outside="clip", platforms=["cpu"])
  lookup = serving.load_exported(path)
  expected = table.lookup([1, V - 1, V - 1])
  for ids in (np.uint32(large), np.uint64(large), jnp.array(large, jnp.uint32)):
    np.testing.assert_array_equal(lookup(ids), expected)
  with jax.enable_x64(True):
    for ids in (jnp.array([1, 2**32, 2**40]), jnp.array(large, jnp.uint64)):
      np.testing.assert_array_equal(lookup(ids), expected)
    below = jnp.array([-(2**32) + 5, 3])
    np.testing.assert_array_equal(lookup(below), table.lookup([0, 3]))


def test_more_rows_than_int32_has_ids_are_refused(tmp_path):
  table = tables.HashTable(
    [np.ones((3, 1), np.float32)],
    num_embeddings=2**31,
    addressing="hash",
    composition="sum",
  )
  with pytest.raises(ValueError, match="have at most 2147483647 rows, whose"):
    write(table, tmp_path)


def test_jax_alone_reads_the_program(tmp_path):
  table = dense("float16")
  content = bytearray(write(table, tmp_path).read_bytes())
  program = jax.export.deserialize(content)
  assert program.platforms == ("cpu", "cuda", "tpu")
  ids = jnp.array([3, 1, 3], jnp.int32)
  np.testing.assert_array_equal(program.call(ids), table.lookup(ids))


def test_programs_are_called_under_jit(tmp_path):
  table = dense("int8")
  lookup = serving.load_exported(write(table, tmp_path))
  total = jax.jit(lambda ids: lookup(ids).sum())(jnp.array([[1, 2]]))
  np.testing.assert_allclose(total, table.lookup([1, 2]).sum(), rtol=1e-5)


def test_damaged_files_are_refused(tmp_path):
  path = write(dense("int8"), tmp_path)
  content = path.read_bytes()
  for place in range(0, len(content), len(content) // 40):
    damaged = bytearray(content)
    damaged[place] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(tables.ArtifactError, match=r"checksum|not a program"):
      serving.load_exported(path)
  for damaged in (b"", content[:-1], content[:40], content + b"x"):
    path.write_bytes(damaged)
    with pytest.raises(tables.ArtifactError, match=r"checksum|not a program"):
      serving.load_exported(path)


def test_bad_options_are_named(tmp_path):
  with pytest.raises(ValueError, match="`platforms` must be some of"):
    write(dense("int8"), tmp_path, platforms=["gpu"])
  with pytest.raises(ValueError, match="`outside` must be one of"):
    write(dense("int8"), tmp_path, outside="zero")

  class Large(tables.DenseTable):
    nbytes = 2**31

  with pytest.raises(ValueError, match="at most 2146435072 bytes"):
    write(Large(np.ones((1, 1), np.float32)), tmp_path)
  assert not list(tmp_path.iterdir())
