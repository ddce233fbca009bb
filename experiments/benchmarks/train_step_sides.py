"""What the benchmark of training steps measures, each in its own process."""

import dataclasses
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app

CODE_LENGTH, CODEBOOK_SIZE = 16, 32
NUM_ANCHORS, NUM_NONZEROS, RANK = 256, 8, 16
RATE = 0.05

Train = Callable[[np.ndarray], None]
"""Takes one step for each of some batches of ids, [steps, batch]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """One line of the table.

  Attributes:
    layer: One of `LAYERS`.
    mode: 'row_sparse', 'dense' or 'torch'.
    optimizer: 'adam', 'adagrad' or 'row_adagrad', of the rows.
    num_embeddings: Number of rows.
    features: Width of a vector.
    batch_size: Ids of a batch.
    steps: Steps of a turn, one compiled chunk.
    turns: Turns that count; one more before them does not.
  """

  layer: str
  mode: str
  optimizer: str
  num_embeddings: int
  features: int = 64
  batch_size: int = 8192
  steps: int = 10
  turns: int = 5


def _full(case: Case, rngs: Any) -> Any:
  from flax import nnx

  return nnx.Embed(case.num_embeddings, case.features, rngs=rngs)


def _anchors(case: Case, rngs: Any) -> Any:
  from anchor_codes import nn

  # Trained as a whole the rows have to be dense, as they are in the paper.
  num_nonzeros = None if case.mode == "dense" else NUM_NONZEROS
  sizes = case.num_embeddings, case.features
  return nn.AnchorEmbed(
    *sizes, num_anchors=NUM_ANCHORS, num_nonzeros=num_nonzeros, rngs=rngs
  )


def _low_rank(case: Case, rngs: Any) -> Any:
  from anchor_codes import nn

  sizes = case.num_embeddings, case.features
  return nn.LowRankEmbed(*sizes, rank=RANK, rngs=rngs)


def _codes(name: str) -> Callable[[Case, Any], Any]:
  def make(case: Case, rngs: Any) -> Any:
    from anchor_codes import nn

    return getattr(nn, name)(
      case.num_embeddings,
      case.features,
      code_length=CODE_LENGTH,
      codebook_size=CODEBOOK_SIZE,
      rngs=rngs,
    )

  return make


LAYERS: dict[str, Callable[[Case, Any], Any]] = {
  "full": _full,
  "anchors": _anchors,
  "low_rank": _low_rank,
  "kd": _codes("KDEmbed"),
  "dpq": _codes("DPQEmbed"),
  "fixed": _codes("FixedCodeEmbed"),
}
"""The embeddings by name."""


def row_optimizer(name: str) -> Any:
  """Returns an optimiser of rows.

  Args:
    name: 'adam', 'adagrad' or 'row_adagrad'.
  """
  import optax

  from anchor_codes import training

  if name == "row_adagrad":
    scale = training.scale_by_row_adagrad()
    return optax.chain(scale, optax.scale_by_learning_rate(RATE))
  return {"adam": optax.adam, "adagrad": optax.adagrad}[name](RATE)


def make_row_sparse(case: Case) -> tuple[Train, int]:
  """Returns the training by row, and the bytes of its state."""
  import optax
  from flax import nnx

  from anchor_codes import steps

  options = steps.RowOptions(
    fields=["id"], optimizer=row_optimizer(case.optimizer)
  )
  step = steps.row_sparse_train_step(
    _loss, optimizer=optax.adam(RATE), tables={"table": options}, lazy=True
  )
  model = nnx.Dict(table=LAYERS[case.layer](case, nnx.Rngs(0)))
  state = step.init(model)
  # The state has the arrays, and gives them up at the first step.
  del model
  return _compiled(lambda state, ids: step(state, {"id": ids}), state)


def make_dense(case: Case) -> tuple[Train, int]:
  """Returns the training of the whole table by optax alone."""
  import jax
  import optax
  from flax import nnx

  optimizer = row_optimizer(case.optimizer)
  model = nnx.Dict(table=LAYERS[case.layer](case, nnx.Rngs(0)))
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  del model

  def step(state: Any, ids: Any) -> tuple[Any, Any]:
    params, rest, opt_state = state

    def loss(params: Any) -> Any:
      model = nnx.merge(graphdef, params, rest, copy=True)
      value = _loss(model, {"id": ids})
      return value, nnx.split(model, nnx.Param, ...)[2]

    (value, rest), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), rest, opt_state), value

  return _compiled(step, (params, rest, optimizer.init(params)))


def make_torch(case: Case) -> tuple[Train, int]:
  """Returns the training of PyTorch's sparse embedding."""
  # By name: it is no dependency of ours, not even of the experiments.
  torch: Any = importlib.import_module("torch")
  torch.set_num_threads(os.cpu_count() or 1)
  table = torch.nn.Embedding(case.num_embeddings, case.features, sparse=True)
  kinds = {"adam": torch.optim.SparseAdam, "adagrad": torch.optim.Adagrad}
  optimizer = kinds[case.optimizer](table.parameters(), lr=RATE)

  def train(ids: np.ndarray) -> None:
    for batch in torch.from_numpy(ids.astype(np.int64)):
      optimizer.zero_grad()
      ((table(batch) - 1) ** 2).mean().backward()
      optimizer.step()

  # Both optimisers keep as much as the parameters, or twice that.
  copies = {"adam": 3, "adagrad": 2}[case.optimizer]
  return train, copies * table.weight.nbytes


MODES = {
  "row_sparse": make_row_sparse,
  "dense": make_dense,
  "torch": make_torch,
}
"""Who trains: from a case to the training and the bytes of its state."""


def measure(case: Case) -> dict[str, float]:
  """Measures one case, in this process.

  Args:
    case: The case.

  Returns:
    The fastest turn in milliseconds for each step, the bytes of the state, and
    the largest memory that the process has taken.
  """
  train, state_bytes = MODES[case.mode](case)
  rng = np.random.default_rng(0)
  shape, seconds = (case.steps, case.batch_size), []
  for _ in range(case.turns + 1):
    # Fresh ids at each step: no cache has their rows.
    ids = rng.integers(0, case.num_embeddings, shape, np.int32)
    start = time.perf_counter()
    train(ids)
    seconds.append(time.perf_counter() - start)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return {
    "milliseconds": 1e3 * min(seconds[1:]) / case.steps,
    "state_bytes": state_bytes,
    # Linux counts kilobytes, macOS bytes.
    "peak_bytes": peak * (1 if sys.platform == "darwin" else 1024),
  }


def _loss(model: Any, batch: Any) -> Any:
  from jax import numpy as jnp

  return jnp.mean((model["table"](batch["id"]) - 1) ** 2)


def _compiled(step: Callable[..., Any], state: Any) -> tuple[Train, int]:
  """Returns steps as one compiled program, with the state in place."""
  import jax

  from anchor_codes import accounting

  chunk = jax.jit(
    lambda state, ids: jax.lax.scan(step, state, ids), donate_argnums=0
  )
  # In a list, for the old state to be given up by everybody.
  held = [state]

  def train(ids: np.ndarray) -> None:
    new, _ = jax.block_until_ready(chunk(held.pop(), ids))
    held.append(new)

  return train, accounting.tree_bytes(state)


def main(argv: list[str]) -> None:
  """Measures the case in the argument, and prints what was found."""
  if len(argv) != 2:
    raise app.UsageError("The only argument must be a case, as JSON.")
  print(json.dumps(measure(Case(**json.loads(argv[1])))))


if __name__ == "__main__":
  app.run(main)
