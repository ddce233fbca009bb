"""Strict settings for all tests: four CPU devices, no silent promotion."""

import os

# Before JAX starts: the tests of data parallelism use four devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Compiling takes tests longer than running what is compiled. Programs that the
# tests start compile alike, so that they compute the same bits.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import hypothesis
import jax

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile(
  "tests", deadline=None, derandomize=True, max_examples=20
)
hypothesis.settings.load_profile("tests")
