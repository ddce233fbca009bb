"""Holds the arrows between the parts: who may import whom.

The rules are read from the sources, so a forbidden import counts wherever it
stands: at the top of a file, in a function or under `TYPE_CHECKING`.
"""

import ast
import dataclasses
import graphlib
import importlib
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "anchor_codes"
BASE = "typing accounting bits"


@dataclasses.dataclass(frozen=True)
class Layer:
  """What the modules of a layer may import besides the standard library.

  Attributes:
    parts: Modules and packages of the layer, inside `anchor_codes`.
    libraries: Libraries that it may import.
    ours: Parts of `anchor_codes` that it may import.
    lazily: Libraries that it may import inside of functions only.
  """

  parts: str
  libraries: str = ""
  ours: str = ""
  lazily: str = ""


LAYERS = (
  Layer("typing bits", "numpy", BASE),
  Layer("accounting", "numpy", BASE, lazily="jax"),
  Layer("ops", "numpy jax chex jaxtyping", f"ops {BASE}"),
  Layer("tables", "numpy", f"tables {BASE}"),
  Layer(
    "formats",
    "numpy",
    f"formats tables {BASE}",
    lazily="pyarrow ml_dtypes",
  ),
  Layer(
    "report",
    "numpy altair jinja2 markupsafe vl_convert",
    f"report formats tables {BASE}",
  ),
  Layer("compression", "numpy threadpoolctl", f"compression tables {BASE}"),
  Layer(
    "cli commands",
    "numpy absl",
    f"commands formats compression report serving tables {BASE}",
    lazily="faiss",
  ),
  Layer(
    "training",
    "numpy jax chex jaxtyping optax",
    f"training ops {BASE}",
    lazily="orbax",
  ),
  Layer(
    "steps",
    "numpy jax chex jaxtyping optax flax",
    f"steps nn training ops {BASE}",
  ),
  Layer(
    "nn linen",
    "numpy jax chex jaxtyping flax",
    f"nn linen ops tables {BASE}",
  ),
  Layer(
    "serving",
    "numpy jax jaxtyping",
    f"serving ops tables {BASE}",
    lazily="onnx faiss",
  ),
  # The root only names the parts and loads them when they are used.
  Layer(
    "__init__",
    "",
    "compression linen nn ops formats report serving steps tables training "
    f"cli {BASE}",
  ),
)

# What importing a module must not load: users of a table need no JAX.
NOT_LOADED = {
  "anchor_codes": "jax flax optax orbax chex tensorflow",
  "anchor_codes.tables": "jax flax optax orbax chex tensorflow",
  "anchor_codes.formats": "jax flax optax orbax chex tensorflow pyarrow",
  "anchor_codes.report": "jax flax optax orbax chex altair jinja2 vl_convert",
  "anchor_codes.cli": "jax flax optax orbax chex tensorflow pyarrow onnx faiss "
  "altair jinja2 vl_convert",
  "anchor_codes.ops": "flax optax orbax tensorflow",
  "anchor_codes.training": "flax orbax tensorflow",
}


@dataclasses.dataclass(frozen=True)
class Import:
  """An import statement.

  Attributes:
    target: The module in full, or the name in a module: "anchor_codes.ops.x".
    line: Where it stands.
    lazy: Whether it stands in a function.
    type_checking: Whether it stands under `if TYPE_CHECKING`.
  """

  target: str
  line: int
  lazy: bool
  type_checking: bool

  @property
  def library(self) -> str:
    return self.target.split(".")[0]

  @property
  def part(self) -> str:
    return [*self.target.split("."), "__init__"][1]


def find_imports(
  node: ast.AST, *, lazy: bool = False, type_checking: bool = False
) -> Iterator[Import]:
  """Yields the imports in a tree, absolute ones only."""
  for child in ast.iter_child_nodes(node):
    if isinstance(child, ast.Import):
      targets = [alias.name for alias in child.names]
    elif isinstance(child, ast.ImportFrom):
      assert child.level == 0, f"relative import in line {child.lineno}"
      targets = [f"{child.module}.{alias.name}" for alias in child.names]
    else:
      targets = []
      yield from find_imports(
        child,
        lazy=lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef),
        type_checking=type_checking or is_type_checking(child),
      )
    for target in targets:
      yield Import(target, child.lineno, lazy, type_checking)


def is_type_checking(node: ast.AST) -> bool:
  return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def module_name(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
  module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}
PACKAGES = [name for name in MODULES if MODULES[name].stem == "__init__"]


def imports_of(name: str) -> list[Import]:
  return list(find_imports(ast.parse(MODULES[name].read_text("utf-8"))))


def layer_of(name: str) -> Layer:
  part = Import(name, 0, False, False).part
  found = [layer for layer in LAYERS if part in layer.parts.split()]
  assert found, f"{name} belongs to no layer: say in LAYERS what it may import"
  return found[0]


def offences(layer: Layer, imports: list[Import]) -> Iterator[str]:
  """Yields what a module of a layer imports against the rules."""
  for entry in imports:
    if entry.library in sys.stdlib_module_names:
      continue
    if entry.library == PACKAGE:
      # `from anchor_codes import __version__` is the root, not a part.
      part = "__init__" if entry.part.startswith("__") else entry.part
      allowed = part in [*layer.ours.split(), "__init__"]
    else:
      lazily = layer.lazily.split() if entry.lazy else []
      allowed = entry.library in [*layer.libraries.split(), *lazily]
    if not allowed:
      yield f"line {entry.line} imports {entry.target}"


def depends_on(name: str) -> set[str]:
  """Returns our modules that a module loads as soon as it is imported."""
  loaded = [e for e in imports_of(name) if not (e.lazy or e.type_checking)]
  targets = (entry.target for entry in loaded if entry.library == PACKAGE)
  return {t if t in MODULES else t.rpartition(".")[0] for t in targets}


@pytest.mark.parametrize("name", MODULES)
def test_imports_keep_to_the_layers(name):
  found = list(offences(layer_of(name), imports_of(name)))
  assert not found, f"{name}: {'; '.join(found)}"


def test_nothing_imports_the_experiments():
  found = [
    name
    for name in MODULES
    if any(entry.library == "experiments" for entry in imports_of(name))
  ]
  assert found == []


def test_no_import_cycles():
  graph = {name: depends_on(name) - {name} for name in MODULES}
  try:
    list(graphlib.TopologicalSorter(graph).static_order())
  except graphlib.CycleError as error:
    pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_say_what_is_public(name):
  package = importlib.import_module(name)
  names = list(package.__all__)
  assert len(names) == len(set(names))
  assert [n for n in names if not hasattr(package, n)] == []


@pytest.mark.parametrize("name", NOT_LOADED)
def test_imports_load_no_more_than_they_need(name):
  if name not in MODULES:
    pytest.skip(f"{name} does not exist")
  code = f"import sys, {name}; print(*sys.modules)"
  run = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  loaded = set(NOT_LOADED[name].split()) & set(run.stdout.split())
  assert loaded == set()


@pytest.mark.parametrize(
  ("part", "code", "expected"),
  [
    ("ops", "import jax.numpy as jnp\nimport os, re", []),
    ("ops", "import flax", ["line 1 imports flax"]),
    ("ops", "def f():\n  from flax import nnx", ["line 2 imports flax.nnx"]),
    ("ops", f"from {PACKAGE} import bits, typing", []),
    ("ops", f"from {PACKAGE} import nn", [f"line 1 imports {PACKAGE}.nn"]),
    ("tables", f"import {PACKAGE}.ops.x", [f"line 1 imports {PACKAGE}.ops.x"]),
    ("tables", f"from {PACKAGE} import __version__", []),
    ("accounting", "import jax", ["line 1 imports jax"]),
    ("accounting", "def f():\n  import jax", []),
    ("accounting", "async def f():\n  import jax", []),
    ("bits", "def f():\n  import jax", ["line 2 imports jax"]),
    ("training", "if TYPE_CHECKING:\n  import flax", ["line 2 imports flax"]),
  ],
)
def test_the_rules_themselves(part, code, expected):
  layer = layer_of(f"{PACKAGE}.{part}.module")
  assert list(offences(layer, list(find_imports(ast.parse(code))))) == expected


def test_relative_imports_are_refused():
  with pytest.raises(AssertionError, match="relative import in line 1"):
    list(find_imports(ast.parse("from . import bits")))


def test_every_part_is_in_one_layer():
  parts = [part for layer in LAYERS for part in layer.parts.split()]
  assert len(parts) == len(set(parts))
