"""Settings for tests that train: compiling takes them longer than training."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def _compile_once(tmp_path_factory: pytest.TempPathFactory) -> None:
  """Keeps compiled programs, which many tests share, for all processes."""
  # The folder of each process lies in one that all of them share.
  folder = tmp_path_factory.getbasetemp().parent / "compiled"
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
