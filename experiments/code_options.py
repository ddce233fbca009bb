"""Options of embeddings by codes."""

import dataclasses
from typing import Any


@dataclasses.dataclass(kw_only=True)
class CodeOptions:
  """Options of the embeddings 'kd', 'dpq' and 'fixed'; each reads its own.

  Attributes:
    code_length: Digits of a code; 0 for 20, or the next smaller number that
      divides `features` where each digit has a part of the vector.
    codebook_size: Values of a digit.
    composition: How the chosen vectors become one, for 'kd' and 'fixed'.
    code_features: Width of the chosen vectors, for the compositions 'linear'
      and 'lstm'; 0 for `features`.
    code_hidden: Hidden units of the compositions 'mlp' and 'lstm'; 0 for
      `features`.
    code_layers: Layers of the composition 'mlp'.
    output_norm: Whether composed vectors are normalised, for 'kd'.
    relaxation: How codes let a gradient through: 'softmax', 'gumbel' for 'kd',
      'nearest' for 'dpq'.
    shared_codebook: Whether all digits choose from one codebook.
    temperature: Temperature of the softmax, at the start if it falls.
    temperature_schedule: 'constant', 'exponential' or 'inverse_time'.
    temperature_decay: Rate of the schedule.
    temperature_steps: Steps between two falls of the temperature.
    lowest_temperature: Where it stops to fall.
    entropy_weight: Weight of the entropy of soft codes in the loss, for 'kd'.
    code_dropout: Probability that a digit is left out in training, for 'kd'.
    keys: Whether keys and values of 'dpq' are 'tied' or 'untied'; 'default'
      unties them for 'softmax' and ties them for 'nearest'.
    commitment_weight: Weight of what draws queries to their values, for 'dpq'
      with 'nearest'.
    revival_chunks: Chunks between two times that codebook entries which no
      symbol uses are given to some of crowded ones, for 'kd' and 'dpq'; 0 for
      never.
    guidance: 'none', 'online' for a full table that is trained alongside,
      'pretrained' for the one in `vectors`, or 'autoencoding' to code that one
      as well.
    guide_rate: Probability that an occurrence is looked up in the full table,
      for 'online'.
    guide_optimizer: Optimiser of the rows of the full table that is trained
      alongside, at the learning rate of the model; see `row_optimizer`.
    guide_weight: Weight of the distance to the full table; 0 for .1 online and
      1000 else.
    codes: For 'fixed': 'random', 'vectors' for those of clusters of the parts
      of `vectors`, or the path of a file.
    recluster_epochs: Epochs between two clusterings of what 'fixed' codes with
      the composition 'sum' have learned; 0 for none.
  """

  code_length: int = 0
  codebook_size: int = 32
  composition: str = "sum"
  code_features: int = 0
  code_hidden: int = 0
  code_layers: int = 1
  output_norm: bool = False
  relaxation: str = "softmax"
  shared_codebook: bool = False
  temperature: float = 1.0
  temperature_schedule: str = "constant"
  temperature_decay: float = 0.9
  temperature_steps: int = 1000
  lowest_temperature: float = 0.01
  entropy_weight: float = 0.0
  code_dropout: float = 0.0
  keys: str = "default"
  commitment_weight: float = 0.0
  revival_chunks: int = 0
  guidance: str = "none"
  guide_rate: float = 0.5
  guide_optimizer: str = "sgd"
  guide_weight: float = 0.0
  codes: str = "random"
  recluster_epochs: int = 0


_LONGEST = 20


def code_length(options: Any) -> int:
  """Returns how many digits a code has.

  Args:
    options: With `embedding` and `features`, and the options of codes.

  >>> import types
  >>> make = lambda **given: types.SimpleNamespace(
  ...     features=64, codes="random", composition="sum", **given
  ... )
  >>> code_length(make(code_length=0, embedding="dpq"))
  16
  >>> code_length(make(code_length=0, embedding="kd"))
  20
  >>> code_length(make(code_length=3, embedding="dpq"))
  3
  """
  if options.code_length:
    return options.code_length
  has_parts = (
    options.embedding == "dpq"
    or options.composition == "concat"
    or options.codes == "vectors"
  )
  if not has_parts:
    return _LONGEST
  lengths = range(_LONGEST, 0, -1)
  return next(length for length in lengths if options.features % length == 0)
