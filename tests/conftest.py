"""Strict settings for all tests: four CPU devices, no silent promotion."""

import gc
import os
from importlib import metadata

# Before JAX starts: the tests of data parallelism use four devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Compiling takes tests longer than running what is compiled. Programs that the
# tests start compile alike, so that they compute the same bits.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Newer ways of generating code take three times as long. A flag that XLA does
# not know would end the process, so that other releases do without.
if metadata.version("jaxlib").startswith("0.10."):
  os.environ["XLA_FLAGS"] = " ".join(
    [
      os.environ.get("XLA_FLAGS", ""),
      "--xla_cpu_use_fusion_emitters=false",
      "--xla_cpu_parallel_codegen_split_count=1",
    ]
  ).strip()

import hypothesis
import jax

# Programs that are kept for later tests are a million objects, none of them
# garbage, and are looked through again and again.
gc.set_threshold(100_000, 50, 100)

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile(
  "tests", deadline=None, derandomize=True, max_examples=20
)
hypothesis.settings.load_profile("tests")
