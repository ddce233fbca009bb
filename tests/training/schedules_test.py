"""Tests of the schedules of temperatures."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchor_codes import training
from anchor_codes.training import schedules


@given(
  kind=st.sampled_from(schedules.KINDS),
  initial=st.floats(0.5, 4),
  decay_rate=st.floats(0.01, 1),
  decay_steps=st.integers(1, 500),
  lowest=st.floats(1e-5, 0.5),
  count=st.integers(0, 10_000),
)
def test_schedules_are_their_formulas(
  kind, initial, decay_rate, decay_steps, lowest, count
):
  schedule = training.temperature_schedule(
    kind,
    initial=initial,
    decay_rate=decay_rate,
    decay_steps=decay_steps,
    lowest=lowest,
  )
  changes = count // decay_steps
  expected = {
    "constant": initial,
    "exponential": initial * decay_rate**changes,
    "inverse_time": initial / (1 + decay_rate * changes),
  }[kind]
  expected = min(max(expected, lowest), initial)
  np.testing.assert_allclose(schedule(count), expected, rtol=1e-3)


@pytest.mark.parametrize("kind", schedules.KINDS)
def test_counts_may_be_traced(kind):
  schedule = training.temperature_schedule(
    kind, decay_rate=0.5, decay_steps=2, lowest=0.1
  )
  traced = jax.jit(chex.assert_max_traces(schedule, n=1))
  for count in range(6):
    temperature = traced(jnp.int32(count))
    assert temperature.dtype == jnp.float32
    assert temperature.shape == ()
    np.testing.assert_allclose(temperature, schedule(count), rtol=1e-6)


@pytest.mark.parametrize("kind", ["exponential", "inverse_time"])
def test_temperatures_go_down_a_staircase(kind):
  schedule = training.temperature_schedule(
    kind, initial=2.0, decay_rate=0.5, decay_steps=10, lowest=0.3
  )
  values = np.array([schedule(count) for count in range(100)])
  assert values[0] == 2
  assert (np.diff(values) <= 0).all()
  assert set(np.flatnonzero(np.diff(values)) % 10) == {9}
  assert values[-1] >= np.float32(0.3)


@pytest.mark.parametrize("kind", ["exponential", "inverse_time"])
def test_counts_that_float32_cannot_tell_apart(kind):
  schedule = training.temperature_schedule(
    kind, initial=2.0, decay_rate=0.5, decay_steps=2**25
  )
  for count in (2**25 - 1, jnp.int32(2**25 - 1)):
    assert schedule(count) == 2
  assert schedule(2**25) < 2


@pytest.mark.parametrize("options", [{}, {"decay_rate": 1.0}])
def test_a_rate_of_one_does_not_decay(options):
  schedule = training.temperature_schedule(
    "exponential", initial=2.0, **options
  )
  assert [float(schedule(count)) for count in (0, 1000, 10**6)] == [2, 2, 2]


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ({"kind": "linear"}, "`kind` must be one of 'constant', 'exponential', "),
    ({"initial": 0.0}, "`initial` must be finite and at least `lowest`, got 0"),
    ({"initial": -1.0}, "got -1.0 and 1e-05."),
    ({"initial": float("nan")}, "got nan"),
    ({"initial": float("inf")}, "got inf"),
    ({"lowest": 0.0}, "`lowest` must be positive, got 0.0."),
    ({"lowest": 2.0}, "got 1.0 and 2.0."),
    ({"decay_steps": 0}, "`decay_steps` must be at least 1, got 0."),
    ({"decay_rate": 0.0}, "`decay_rate` must be above 0 and at most 1 for 'ex"),
    ({"decay_rate": 1.5}, "at most 1 for 'exponential', got 1.5."),
    (
      {"kind": "inverse_time", "decay_rate": -0.5},
      "`decay_rate` must be finite and at least 0 for 'inverse_time', got -0.5",
    ),
  ],
)
def test_options_out_of_range(options, text):
  options = {"kind": "exponential", **options}
  with pytest.raises(ValueError, match=text):
    training.temperature_schedule(options.pop("kind"), **options)
