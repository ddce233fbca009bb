"""The weights of a BERT that somebody else has trained.

A folder with the files that the library `transformers` writes and reads:
``config.json``, ``model.safetensors`` and ``vocab.txt``. Only this library's
names are known, no code of it is needed.
"""

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from anchor_codes.tables import storage
from experiments.datasets import tokenizers
from experiments.models import text_transformer

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

_ACTIVATIONS = {
  "gelu": "gelu_erf",
  "gelu_new": "gelu",
  "gelu_pytorch_tanh": "gelu",
  "relu": "relu",
}
_DTYPES = {
  "F64": np.dtype("<f8"),
  "F32": np.dtype("<f4"),
  "F16": np.dtype("<f2"),
  "BF16": np.dtype(jax.numpy.bfloat16),
}
_LAYER = r"encoder\.layer\.(\d+)\."
_BLOCK = r"encoder.layers.blocks.\1."
_MODULES = (
  (r"embeddings\.LayerNorm", "encoder.norm"),
  (rf"{_LAYER}attention\.self\.(query|key|value)", rf"{_BLOCK}attention.\2"),
  (rf"{_LAYER}attention\.output\.dense", f"{_BLOCK}attention.output"),
  (
    rf"{_LAYER}attention\.output\.LayerNorm",
    f"{_BLOCK}around_attention.norm",
  ),
  (rf"{_LAYER}intermediate\.dense", f"{_BLOCK}feed_forward.inner"),
  (rf"{_LAYER}output\.dense", f"{_BLOCK}feed_forward.output"),
  (rf"{_LAYER}output\.LayerNorm", f"{_BLOCK}around_feed_forward.norm"),
  (r"pooler\.dense", "encoder.pooler"),
  (r"cls\.predictions\.transform\.dense", "transform"),
  (r"cls\.predictions\.transform\.LayerNorm", "norm"),
)
"""Names of modules with a weight and a bias, and ours."""

_TENSORS = {
  "embeddings.word_embeddings.weight": "embed.embedding",
  "embeddings.position_embeddings.weight": "encoder.positions",
  "embeddings.token_type_embeddings.weight": "encoder.segments",
  "cls.predictions.bias": "output.bias",
}
"""Names of single tensors, and ours."""


class Bert(NamedTuple):
  """What a folder holds; see :class:`experiments.pretrained.Pretrained`.

  Attributes:
    architecture: The form of the encoder.
    form: Options that runs with these weights share.
    tokenizer: The vocabulary.
    tensors: The weights by our names, in float32.
  """

  architecture: text_transformer.Architecture
  form: dict[str, Any]
  tokenizer: tokenizers.WordPieceTokenizer
  tensors: dict[str, np.ndarray]


def load_bert(folder: str | os.PathLike[str]) -> Bert:
  """Reads the weights of a BERT.

  Args:
    folder: Folder with ``config.json``, ``model.safetensors`` and
      ``vocab.txt``.

  Returns:
    The weights. Rows of the embedding beyond the vocabulary, which some have to
    fill up, are cut off.

  Raises:
    FileNotFoundError: If a file is missing.
    ValueError: If it is another model, or the files are not as they must be.
  """
  folder = pathlib.Path(folder)
  config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
  architecture = read_architecture(config)
  tokenizer = tokenizers.WordPieceTokenizer.load(folder)
  tensors = our_tensors(read_safetensors(folder / WEIGHTS))
  size = len(tokenizer.vocabulary)
  for name in ("embed.embedding", "output.bias"):
    if name in tensors:
      if len(tensors[name]) < size:
        raise ValueError(
          f"{folder / WEIGHTS} must have a row for each of the {size} pieces "
          f"of the vocabulary, got {len(tensors[name])} in `{name}`."
        )
      tensors[name] = tensors[name][:size]
  shared = ("features", "num_layers", "num_heads", "feedforward")
  form: dict[str, Any] = {
    name: getattr(architecture, name)
    for name in (*shared, "norm_first", "activation")
  }
  form |= {"embedding": "full", "subwords": 0}
  return Bert(architecture, form, tokenizer, tensors)


def read_architecture(
  config: Mapping[str, Any],
) -> text_transformer.Architecture:
  """Returns the form of a BERT from what its ``config.json`` says.

  Raises:
    ValueError: If it is another kind of model, or a size is missing.
  """
  kind = config.get("model_type", "bert")
  positions = config.get("position_embedding_type", "absolute")
  activation = config.get("hidden_act", "gelu")
  if kind != "bert" or positions != "absolute":
    raise ValueError(
      f"{CONFIG} must describe a 'bert' with 'absolute' positions, got "
      f"{kind!r} with {positions!r} ones."
    )
  if activation not in _ACTIVATIONS:
    raise ValueError(
      f"`hidden_act` must be one of {tuple(_ACTIVATIONS)}, got {activation!r}."
    )
  try:
    return text_transformer.Architecture(
      features=config["hidden_size"],
      num_layers=config["num_hidden_layers"],
      num_heads=config["num_attention_heads"],
      feedforward=config["intermediate_size"],
      num_positions=config["max_position_embeddings"],
      norm_first=False,
      activation=_ACTIVATIONS[activation],
      epsilon=config.get("layer_norm_eps", 1e-12),
      num_segments=config.get("type_vocab_size", 2),
    )
  except KeyError as error:
    raise ValueError(f"{CONFIG} must have the entry {error}.") from error


def our_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Gives the weights of a BERT our names, and kernels our order of axes.

  Args:
    tensors: The weights by their names, with the prefix ``bert.`` or without.

  Returns:
    Those that we have a use for, in float32.

  >>> found = our_tensors({"bert.pooler.dense.weight": np.zeros((3, 2))})
  >>> print({name: tensor.shape for name, tensor in found.items()})
  {'encoder.pooler.kernel': (2, 3)}
  """
  found = {}
  for name, tensor in tensors.items():
    plain, tensor = name.removeprefix("bert."), tensor.astype(np.float32)
    if plain in _TENSORS:
      found[_TENSORS[plain]] = tensor
      continue
    module, _, leaf = plain.rpartition(".")
    for pattern, ours in _MODULES:
      match = re.fullmatch(pattern, module)
      if match and leaf in ("bias", "beta"):
        found[f"{match.expand(ours)}.bias"] = tensor
      elif match and module.endswith("LayerNorm"):
        found[f"{match.expand(ours)}.scale"] = tensor
      elif match:
        found[f"{match.expand(ours)}.kernel"] = tensor.T
  return found


def read_safetensors(
  path: str | os.PathLike[str],
) -> dict[str, np.ndarray]:
  """Reads the tensors of real numbers in anybody's .safetensors file.

  Args:
    path: The file.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it is damaged.
  """
  try:
    data = np.memmap(path, np.uint8, "r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    header = storage.parse_json("header", data[8 : 8 + length])
    return {
      name: _slice(data[8 + length :], entry)
      for name, entry in header.items()
      if name != "__metadata__" and entry["dtype"] in _DTYPES
    }
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f"{path} is no .safetensors file: {error}.") from error


def _slice(data: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
  begin, end = entry["data_offsets"]
  if not 0 <= begin <= end <= len(data):
    raise ValueError("it has been cut off")
  tensor = np.asarray(data[begin:end]).view(_DTYPES[entry["dtype"]])
  return tensor.reshape(entry["shape"])
