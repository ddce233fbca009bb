"""Settings for tests that train: compiling takes them longer than training."""

from collections.abc import Iterator
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from anchor_codes import training
from experiments import stored_tables


def configure(options: dict[str, Any]) -> None:
  """Sets options of the place where compiled programs are kept."""
  for name, value in options.items():
    jax.config.update(name, value)
  # Whether there is such a place is looked up once, for the first program.
  compilation_cache.reset_cache()


@pytest.fixture(autouse=True, scope="module")
def _compile_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
  """Keeps compiled programs, which many tests share, for all processes."""
  # The folder of each process lies in one that all of them share.
  folder = tmp_path_factory.getbasetemp().parent / "compiled"
  options = {
    "jax_compilation_cache_dir": str(folder),
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  before = {name: getattr(jax.config, name) for name in options}
  configure(options)
  yield
  # Programs that were kept may differ in the last bit from those that other
  # processes compile, with which some other tests compare.
  configure(before)


@pytest.fixture(autouse=True, scope="module")
def _one_device() -> Iterator[None]:
  """Trains on one device where a test names no others: it compiles faster."""
  data_mesh = training.data_mesh
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      training,
      "data_mesh",
      lambda devices=None: data_mesh(devices or jax.devices()[:1]),
    )
    yield


@pytest.fixture(autouse=True, scope="module")
def _no_pages() -> Iterator[None]:
  """Leaves out the pages of runs, which a test of their own is for."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stored_tables, "write_page", lambda workdir: None)
    yield
