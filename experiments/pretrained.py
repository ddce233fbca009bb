"""Weights that one training leaves for another one to start from.

One .safetensors file with all weights of a model by plain names, such as
``encoder.layers.blocks.0.attention.query.kernel``, beside its vocabulary.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import nnx
from jax import numpy as jnp

from anchor_codes.tables import storage
from experiments import bert_weights, transformer_options
from experiments.datasets import tokenizers
from experiments.models import text_transformer

FILENAME = "encoder.safetensors"
_KIND = "text_transformer"

# Weights that not all who pre-train have: they start at random without.
_OPTIONAL = ("encoder.pooler.",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
  """Weights, what they fit, and the vocabulary they stand for.

  Attributes:
    folder: Where they were found.
    architecture: The form of the encoder.
    form: Options that runs with these weights share.
    tokenizer: The vocabulary.
    tensors: The weights by name.
  """

  folder: pathlib.Path
  architecture: text_transformer.Architecture
  form: Mapping[str, Any]
  tokenizer: tokenizers.Tokenizer
  tensors: Mapping[str, np.ndarray]

  def follow(
    self, options: transformer_options.Options
  ) -> transformer_options.Options:
    """Takes over the options that the weights decide.

    Raises:
      ValueError: If an option does not agree, or texts are longer than there
        are positions.
    """
    if options.max_length > self.architecture.num_positions:
      raise ValueError(
        f"`max_length` must be at most {self.architecture.num_positions}, the "
        f"positions in {self.folder}, got {options.max_length}."
      )
    return transformer_options.follow(options, self.form, source=self.folder)

  def start(
    self, model: Any, *, parts: Sequence[str] = ("embed", "encoder")
  ) -> None:
    """Starts some parts of a model from these weights.

    Args:
      model: The model, changed in place.
      parts: Attributes that hold the parts.

    Raises:
      ValueError: If a weight is missing, or of another shape.
    """
    weights = _weights_of(model)
    for path, variable in weights.items():
      name = _name(path)
      if path[0] not in parts:
        continue
      if name in self.tensors:
        value = self._fitting(name, variable.get_value())
        weights[path] = variable.replace(value)
      elif name.startswith(_OPTIONAL):
        logging.warning("%s has no %s: it starts at random.", self.folder, name)
      else:
        raise ValueError(f"{self.folder} must hold `{name}`, got no such one.")
    nnx.update(model, nnx.from_flat_state(list(weights.items())))

  def has(self, part: str) -> bool:
    """Tells whether there are weights of a part of a model."""
    return any(name.startswith(f"{part}.") for name in self.tensors)

  def _fitting(self, name: str, value: jax.Array) -> jax.Array:
    tensor = self.tensors[name]
    if value.ndim == 0 and tensor.size == 1:
      tensor = tensor.reshape(())  # Files have no numbers by themselves.
    if tensor.shape != value.shape:
      raise ValueError(
        f"`{name}` must have the shape {value.shape}, got {tensor.shape} in "
        f"{self.folder}."
      )
    return jnp.asarray(tensor.astype(value.dtype))


def save_weights(
  folder: pathlib.Path,
  model: Any,
  *,
  form: Mapping[str, Any],
  tokenizer: tokenizers.Tokenizer,
) -> None:
  """Writes the weights of a model, and its vocabulary.

  Args:
    folder: Where to write.
    model: A model with an `encoder`.
    form: Options that runs with these weights share.
    tokenizer: The vocabulary.
  """
  tensors = {
    _name(path): _storable(np.asarray(variable.get_value()))
    for path, variable in _weights_of(model).items()
  }
  architecture = dataclasses.asdict(model.encoder.architecture)
  tokenizer.save(folder)
  metadata = {
    "format": storage.FORMAT,
    "format_version": str(storage.FORMAT_VERSION),
    "kind": _KIND,
    "architecture": json.dumps(architecture),
    "form": json.dumps(dict(form)),
    "vocabulary": _digest(tokenizer.vocabulary),
  }
  storage.write(folder / FILENAME, tensors, metadata)


def load_pretrained(folder: str | os.PathLike[str]) -> Pretrained:
  """Reads the weights in a folder.

  Args:
    folder: What :func:`save_weights` has written, or the weights of a BERT, see
      :mod:`experiments.bert_weights`.

  Raises:
    FileNotFoundError: If a file is missing.
    ValueError: If the files are damaged, or do not belong to each other.
  """
  folder = pathlib.Path(folder).expanduser()
  if (folder / FILENAME).is_file():
    return _load_own(folder)
  if (folder / bert_weights.WEIGHTS).is_file():
    found = bert_weights.load_bert(folder)
    return Pretrained(folder=folder, **found._asdict())
  raise FileNotFoundError(
    f"{folder} must hold {FILENAME}, which the pre-training leaves, or "
    f"{bert_weights.WEIGHTS} of a BERT."
  )


def _load_own(folder: pathlib.Path) -> Pretrained:
  path = folder / FILENAME
  tensors, metadata = storage.read(path)
  if metadata.get("kind") != _KIND:
    raise ValueError(
      f"{path} must hold the weights of a {_KIND}, got a table of the kind "
      f"{metadata.get('kind')!r}."
    )
  tokenizer = tokenizers.load_tokenizer(folder)
  if metadata["vocabulary"] != _digest(tokenizer.vocabulary):
    raise ValueError(
      f"{folder / tokenizer.filename} must be the vocabulary that the weights "
      "were trained with, got another one."
    )
  architecture = json.loads(metadata["architecture"])
  return Pretrained(
    folder=folder,
    architecture=text_transformer.Architecture(**architecture),
    form=json.loads(metadata["form"]),
    tokenizer=tokenizer,
    tensors=tensors,
  )


def _weights_of(model: Any) -> dict[tuple[Any, ...], Any]:
  """Returns the variables of a model by their path; no randomness."""
  state = nnx.state(model, nnx.Not(nnx.RngState))
  exchanges = ("sharing", "label_sharing")
  # Graphs of exchanges are no weights, and not arrays either.
  return {
    path: variable
    for path, variable in nnx.to_flat_state(state)
    if path[0] not in exchanges
  }


def _name(path: tuple[Any, ...]) -> str:
  return ".".join(map(str, path))


def _storable(array: np.ndarray) -> np.ndarray:
  # The format knows no other integers; none of ours is negative.
  return array.astype(np.uint32) if array.dtype == np.int32 else array


def _digest(vocabulary: Sequence[str]) -> str:
  return hashlib.sha256("\n".join(vocabulary).encode()).hexdigest()
