"""What does not fit is refused before it is allocated."""

import os

import jax
import pytest

from anchor_codes import training
from anchor_codes.training import memory


def test_names_both_sizes_in_gib():
  message = r"74.51 GiB must fit .* got 24.00 GiB; .* or hash the vocabulary"
  with pytest.raises(ValueError, match=message):
    training.check_fits(10**7 * 2000 * 4, available=24 * 2**30)


def test_sizes_do_not_overflow():
  with pytest.raises(ValueError, match=r"\d{10}\.00 GiB must fit"):
    training.check_fits(2**62)


def test_what_fits_is_left_alone():
  training.check_fits(8, available=8)
  training.check_fits(2**20)
  with pytest.raises(ValueError, match=r"must fit"):
    training.check_fits(9, available=8)


def test_no_more_than_the_host_has():
  assert 0 < training.available_memory() < 2**50


def test_free_pages_are_available(monkeypatch):
  monkeypatch.setattr(memory, "_CGROUP_LIMITS", ())
  free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  assert training.available_memory() > free / 2


class Device:
  """An accelerator that tells its memory."""

  def __init__(self, limit, used):
    self.statistics = {"bytes_limit": limit, "bytes_in_use": used}

  def memory_stats(self):
    return self.statistics


def test_accelerators_count_together(monkeypatch):
  monkeypatch.setattr(jax, "local_devices", lambda: [Device(100, 30)] * 2)
  assert training.available_memory() == 140


def test_a_container_may_allow_less(monkeypatch, tmp_path):
  limit, unlimited = tmp_path / "limit", tmp_path / "unlimited"
  limit.write_text("12345\n")
  unlimited.write_text("max\n")
  paths = (str(limit), str(unlimited), str(tmp_path / "missing"))
  monkeypatch.setattr(memory, "_CGROUP_LIMITS", paths)
  assert training.available_memory() == 12345
