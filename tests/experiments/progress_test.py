"""Tests of the progress bar."""

import io
import sys

import pytest

from experiments.reporting import progress


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_items_pass_through(capsys):
  assert list(progress(iter("abc"), total=3)) == ["a", "b", "c"]
  assert capsys.readouterr().err == ""


def test_bar_on_a_terminal(monkeypatch):
  stream = Terminal()
  monkeypatch.setattr(sys, "stderr", stream)
  assert sum(progress(range(4), description="epoch 1", unit="batch")) == 6
  assert "epoch 1" in stream.getvalue()
  assert "/4" in stream.getvalue()


def test_errors_pass_through():
  def broken():
    yield 1
    raise KeyError("broken")

  items = iter(progress(broken()))
  assert next(items) == 1
  with pytest.raises(KeyError, match="broken"):
    next(items)
