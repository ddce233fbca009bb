"""Tests of the public names, and of when they load."""

import inspect
import pathlib
import pkgutil
import re
import subprocess
import sys

import pytest

import anchor_codes
from anchor_codes import nn, ops

ROOT = pathlib.Path(anchor_codes.__file__).parents[1]
LAYERS = [name for name in anchor_codes.__all__ if name[0].isupper()]
PARTS = [name for name in anchor_codes.__all__ if name.islower()]
# What the layers share, reductions, and a bound of ratios: not for users.
INTERNAL_MODULES = {"drawing", "lookups", "reductions"}
INTERNAL = {"limit_ratio", "project"}


def _run(code):
  """Runs code in a fresh Python, and returns what it prints."""
  return subprocess.run(
    [sys.executable, "-W", "error", "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.split()


def _public_names(module):
  """Returns the functions and classes that a module of ops defines."""
  names = set(getattr(module, "__all__", ()))
  for name, value in vars(module).items():
    if callable(value) and value.__module__ == module.__name__:
      names.add(name)
  return {n for n in names if not n.startswith(("_", "check_"))} - INTERNAL


def test_the_short_list():
  assert LAYERS == [
    "AnchorEmbed",
    "DPQEmbed",
    "FixedCodeEmbed",
    "GuidedEmbed",
    "HashEmbed",
    "KDEmbed",
    "LowRankEmbed",
    "QREmbed",
    "StochasticSharing",
  ]
  assert set(PARTS) - {"__version__"} == {
    "accounting",
    "compression",
    "formats",
    "linen",
    "nn",
    "ops",
    "report",
    "serving",
    "steps",
    "tables",
    "training",
  }


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_those_of_nn(name):
  assert getattr(anchor_codes, name) is getattr(nn, name)


@pytest.mark.parametrize("name", [n for n in PARTS if n != "__version__"])
def test_parts_are_modules(name):
  module = getattr(anchor_codes, name)
  assert inspect.ismodule(module)
  assert module.__name__ == f"anchor_codes.{name}"


def test_dir_lists_the_public_names():
  assert set(anchor_codes.__all__) <= set(dir(anchor_codes))


def test_star_import_brings_all():
  namespace = {}
  exec("from anchor_codes import *", namespace)
  assert set(anchor_codes.__all__) <= set(namespace)


def test_unknown_names_are_attribute_errors():
  text = "module 'anchor_codes' has no attribute 'AnkerEmbed'"
  with pytest.raises(AttributeError, match=text):
    _ = anchor_codes.AnkerEmbed
  assert not hasattr(anchor_codes, "experiments")


def test_version_is_a_literal_line():
  source = pathlib.Path(anchor_codes.__file__).read_text(encoding="utf-8")
  match = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
  assert match is not None
  assert match.group(1) == anchor_codes.__version__
  assert re.fullmatch(r"\d+\.\d+\.\d+", anchor_codes.__version__)


def test_tables_load_neither_jax_nor_flax():
  loaded = _run(
    "import sys, anchor_codes\n"
    # Ours, which is not on the list, and not that of Python.
    "from anchor_codes import typing\n"
    "typing.code_dtype\n"
    "import anchor_codes.tables\n"
    "anchor_codes.tables.DenseTable, anchor_codes.accounting\n"
    "dir(anchor_codes), anchor_codes.__version__\n"
    "print(*sys.modules)"
  )
  assert "anchor_codes.tables" in loaded
  assert {"jax", "jaxlib", "flax", "optax", "chex"}.isdisjoint(loaded)


@pytest.mark.parametrize("first", ["AnchorEmbed", "linen"])
def test_flax_loads_on_first_use(first):
  loaded = _run(
    "import sys, anchor_codes\n"
    "print('flax' in sys.modules)\n"
    f"anchor_codes.{first}\n"
    "print('flax' in sys.modules)"
  )
  assert loaded == ["False", "True"]


def test_ops_load_no_flax():
  loaded = _run(
    "import sys\n"
    "from anchor_codes import ops\n"
    "ops.sparse_anchor_lookup\n"
    "print('flax' in sys.modules, 'optax' in sys.modules)"
  )
  assert loaded == ["False", "False"]


def test_ops_export_what_their_modules_define():
  found = {}
  for info in pkgutil.iter_modules(ops.__path__):
    if info.name not in INTERNAL_MODULES:
      module = __import__(f"anchor_codes.ops.{info.name}", fromlist=["_"])
      for name in _public_names(module):
        found[name] = getattr(module, name)
  assert set(ops.__all__) == set(found)
  for name, value in found.items():
    assert getattr(ops, name) is value, name


def test_ops_keep_internal_functions_to_themselves():
  assert not INTERNAL & set(ops.__all__)
  assert not {n for n in ops.__all__ if n.startswith(("_", "check_"))}
  assert {"masked_mean", "wide"}.isdisjoint(ops.__all__)


def test_all_is_sorted():
  for module in (anchor_codes, nn, ops):
    names = list(module.__all__)
    assert len(names) == len(set(names))
    assert names == sorted(names), module.__name__
