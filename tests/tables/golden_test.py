"""Old files stay readable, and today's writer writes them to the byte."""

import json

import golden_tables
import numpy as np
import pytest

from anchor_codes import tables

NAMES = sorted(golden_tables.BUILDERS)


def test_every_table_has_its_file():
  files = sorted(path.stem for path in golden_tables.FOLDER.glob("*.safe*"))
  assert files == NAMES
  assert sorted(json.loads(golden_tables.VECTORS.read_text())) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_old_files_give_the_old_vectors(name):
  vectors = json.loads(golden_tables.VECTORS.read_text())[name]
  for verify in (True, False):
    table = tables.load(golden_tables.path_of(name), verify=verify)
    np.testing.assert_allclose(table.to_dense(), vectors, rtol=1e-5, atol=1e-6)
    if table.vocabulary is not None:
      assert table.vocabulary == golden_tables.WORDS


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_those_of_the_tables(name, tmp_path):
  """Shows what is in them; a new format needs a version, and new files."""
  old = golden_tables.path_of(name).read_bytes()
  path = tmp_path / "table.safetensors"
  golden_tables.BUILDERS[name]().save(path)
  assert path.read_bytes() == old
  tables.load(golden_tables.path_of(name)).save(path)
  assert path.read_bytes() == old


def test_the_quality_of_an_old_file():
  table = tables.load(golden_tables.path_of("nested"))
  assert json.loads(table.quality) == {"cosine": 0.875}
