"""How Sphinx builds the documentation.

sphinx-build -W --keep-going -b html docs build/docs
"""

import importlib
import inspect
import os
import pathlib
import re
import sys
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.util.inspect import stringify_signature

ROOT = pathlib.Path(__file__).parents[1]
# The sources beside this folder, installed or not.
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "anchor_codes"
author = "The authors of anchor_codes"
project_copyright = author
version = release = importlib.import_module("anchor_codes").__version__

extensions = [
  "myst_parser",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
# In docstrings one backtick marks code, as in Markdown.
default_role = "literal"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
python_maximum_signature_line_length = 72

html_theme = "furo"
html_math_renderer = "mathml"  # Ours, below: formulas need no network.
html_title = f"anchor_codes {version}"
html_static_path: list[str] = []


def setup(app: Any) -> None:
  """Connects what follows to Sphinx."""
  app.add_html_math_renderer(
    "mathml",
    inline_renderers=(write_formula, None),
    block_renderers=(write_formula, None),
  )
  app.connect("missing-reference", resolve_public_name)
  app.connect("autodoc-process-docstring", drop_foreign_text)
  app.connect("autodoc-process-signature", show_signature)


def write_formula(translator: Any, node: nodes.Element) -> None:
  """Writes a formula as MathML, which browsers show by themselves.

  Raises:
    SkipNode: Always: the text of the node has been written.
  """
  is_block = isinstance(node, nodes.math_block)
  # What it reads in another way than LaTeX, or not at all.
  text = re.sub(r"\\frac(\d)(\w)", r"\\frac{\1}{\2}", node.astext())
  text = text.replace(r"\dots", r"\ldots")
  if r"\\" in text:
    text = rf"\begin{{aligned}}{text}\end{{aligned}}"
  formula = latex2mathml.tex2mathml(text, as_block=is_block)
  translator.body.append(f"<p>{formula}</p>" if is_block else formula)
  raise nodes.SkipNode


def resolve_public_name(
  app: Any, env: Any, node: Any, contnode: nodes.Element
) -> nodes.Element | None:
  """Finds `anchor_codes.ops.codes.assign` under its public name.

  Docstrings name the module that defines a function; the pages list it in the
  package that offers it, without that module.
  """
  parts = node.get("reftarget", "").split(".")
  if node.get("refdomain") != "py" or parts[0] != "anchor_codes":
    return None
  for public in ([*parts[:2], *parts[3:]], [parts[0], "nn", *parts[1:]]):
    name = ".".join(public)
    found = env.domains["py"].resolve_xref(
      env, node["refdoc"], app.builder, "obj", name, node, contnode
    )
    if found is not None:
      return found
  return None


def drop_foreign_text(
  app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
  """Drops the text that a class without a docstring has from its base."""
  del app, name, options
  if what == "class" and not vars(obj).get("__doc__"):
    lines.clear()


def show_signature(
  app: Any,
  what: str,
  name: str,
  obj: Any,
  options: Any,
  signature: str | None,
  returned: str | None,
) -> tuple[str | None, str | None]:
  """Shows what a layer is called with, and arrays by their short name."""
  del app, name, options
  # Of a Flax layer autodoc sees the metaclass, which takes anything.
  if what == "class" and signature == "(*args: Any, **kwargs: Any)":
    own = inspect.signature(obj.__init__)
    shown = own.replace(parameters=list(own.parameters.values())[1:])
    signature = stringify_signature(shown, unqualified_typehints=True)
  return _shortened(signature), _shortened(returned)


def _shortened(text: str | None) -> str | None:
  if text is None:
    return None
  text = text.replace("jaxlib._jax.", "").replace("jax.numpy.", "jnp.")
  return re.sub(r"<class '([\w.]+)'>", r"\1", text)
