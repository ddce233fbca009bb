"""Compact and regularised embedding layers for JAX and Flax.

The layers of :mod:`anchor_codes.nn` and the parts below load when they are
first used, so that a program that only reads tables needs neither JAX nor Flax.

* :mod:`anchor_codes.nn`: layers for Flax NNX; :mod:`anchor_codes.linen`: the
  same for Flax Linen.
* :mod:`anchor_codes.ops`: the functions behind them.
* :mod:`anchor_codes.training`: gradient transformations, rows, checkpoints;
  :mod:`anchor_codes.steps`: training steps of a model of one's own.
* :mod:`anchor_codes.tables`: trained tables as files, for NumPy alone;
  :mod:`anchor_codes.accounting`: their sizes.
* :mod:`anchor_codes.compression`: makes a compact table of a given matrix.
* :mod:`anchor_codes.serving`: tables in JAX, ONNX, exported programs, faiss.
* :mod:`anchor_codes.formats`: tables as others keep them, read and written.
* :mod:`anchor_codes.report`: a table or a run as a page to explore.
"""

import importlib
from typing import TYPE_CHECKING, Any

# For type checkers and editors; at run time `__getattr__` imports them.
if TYPE_CHECKING:
  from anchor_codes import (
    accounting,
    compression,
    formats,
    linen,
    nn,
    ops,
    report,
    serving,
    steps,
    tables,
    training,
  )
  from anchor_codes.nn import (
    AnchorEmbed,
    DPQEmbed,
    FixedCodeEmbed,
    GuidedEmbed,
    HashEmbed,
    KDEmbed,
    LowRankEmbed,
    QREmbed,
    StochasticSharing,
  )

__version__ = "0.1.0"

__all__ = [
  "AnchorEmbed",
  "DPQEmbed",
  "FixedCodeEmbed",
  "GuidedEmbed",
  "HashEmbed",
  "KDEmbed",
  "LowRankEmbed",
  "QREmbed",
  "StochasticSharing",
  "__version__",
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
]


def __getattr__(name: str) -> Any:
  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  if name.islower():  # A part; the layers are classes.
    return importlib.import_module(f"{__name__}.{name}")
  return getattr(importlib.import_module(f"{__name__}.nn"), name)


def __dir__() -> list[str]:
  # Completion would not offer a part before it has been loaded.
  return sorted({*globals(), *__all__})
