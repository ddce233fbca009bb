r"""Compares the training speed of the language model with that of PyTorch.

  pip install torch==2.13.0
  python -m experiments.benchmarks.lstm_throughput --data_dir=/path/to/data

trains the small model of Zaremba et al. (2014) with a full table and the full
softmax: 10,000 words, two layers of 200 units, 20 texts of 20 words in a batch,
SGD with the norm of the gradient clipped to 5. Ours is the training step of
`train_language_model` as it is; PyTorch's model is made of `nn.Embedding`,
`nn.LSTM`, `nn.Linear`, `SGD` and `clip_grad_norm_`.

Both run on the same number of threads, each in a process of its own, and take
turns: each turn of both gives one ratio, of which the median counts, since a
machine with other work to do slows both. More than 1 is in our favour. Without
Penn Treebank, words are drawn by a power of their rank; the speed is the same.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from experiments import language_modeling, reporting
from experiments.datasets import language_model as datasets
from experiments.datasets import text
from experiments.reporting import files

NAME = "lstm_throughput"
VOCAB_SIZE = 10_000
COLUMNS = {
  "name": "Training step",
  "tokens": "Tokens/s",
  "milliseconds": "ms/step",
  "cpu": "CPU ms/step",
  "loss": "Loss",
}
"""Headings of the columns of the table by their names."""
PICTURE = reporting.Picture(
  title="Training an LSTM",
  value="tokens",
  caption="Tokens per second (higher is better)",
  label=("name",),
  from_zero=True,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """What both sides train.

  Attributes:
    config: Sizes and options; those of the data and the embedding are unused.
    inputs: Ids of words, [turns, steps, batch, time].
    targets: Ids of the next words.
    vocab_size: Number of words.
    threads: Number of threads.
  """

  config: language_modeling.LanguageModelConfig
  inputs: np.ndarray
  targets: np.ndarray
  vocab_size: int = VOCAB_SIZE
  threads: int = 1


class Turn(NamedTuple):
  """What a turn of one side has taken.

  Attributes:
    seconds: Time on the clock.
    cpu_seconds: Time of all processors.
    loss: Mean loss of its steps.
  """

  seconds: float
  cpu_seconds: float
  loss: float


Train = Callable[[int], float]
"""Takes the steps of a turn, given its number; returns their mean loss."""


def make_ours(task: Task) -> Train:
  """Returns the training of our model, the compiled chunks of a run."""
  # Imported here, in the process that needs them.
  import jax

  from anchor_codes import steps, training
  from experiments import language_model_trainer

  counts = np.bincount(task.inputs.ravel(), minlength=task.vocab_size)
  trainer = language_model_trainer.Trainer(task.config, counts, 10**6)
  chunk = training.compile_chunk(
    trainer.step,
    training.data_mesh(jax.devices()[:1]),
    state_specs=steps.STATE_SPECS,
  )
  state: Any = trainer.init()

  def train(turn: int) -> float:
    nonlocal state
    state, metrics = chunk(state, (task.inputs[turn], task.targets[turn]))
    return float(np.mean(metrics["loss"]))

  return train


def make_torch(task: Task) -> Train:
  """Returns the training of the same model in PyTorch."""
  # By name: it is no dependency of ours, not even of the experiments.
  torch: Any = importlib.import_module("torch")
  config, size = task.config, task.vocab_size
  torch.set_num_threads(task.threads)
  torch.manual_seed(config.seed)
  embed = torch.nn.Embedding(size, config.features)
  lstm = torch.nn.LSTM(config.features, config.hidden, config.num_layers)
  output = torch.nn.Linear(config.hidden, size)
  parameters = [*embed.parameters(), *lstm.parameters(), *output.parameters()]
  for parameter in parameters:
    torch.nn.init.uniform_(parameter, -config.init_scale, config.init_scale)
  optimizer = torch.optim.SGD(parameters, lr=config.learning_rate)
  loss_fn = torch.nn.CrossEntropyLoss()
  carry: Any = None

  def step(inputs: Any, targets: Any) -> float:
    nonlocal carry
    hidden, new_carry = lstm(embed(inputs.T), carry)
    carry = tuple(part.detach() for part in new_carry)
    logits = output(hidden.flatten(0, 1))
    loss = loss_fn(logits, targets.T.flatten())
    optimizer.zero_grad()
    (loss * config.num_steps).backward()
    torch.nn.utils.clip_grad_norm_(parameters, config.clip)
    optimizer.step()
    return loss.item()

  def train(turn: int) -> float:
    inputs, targets = (
      torch.from_numpy(ids[turn].astype(np.int64))
      for ids in (task.inputs, task.targets)
    )
    batches = zip(inputs, targets, strict=True)
    return float(np.mean([step(*batch) for batch in batches]))

  return train


SIDES = {"ours": make_ours, "PyTorch": make_torch}
"""Who is compared: from a task to the training."""


def measure(
  task: Task, sides: Sequence[str] = tuple(SIDES)
) -> dict[str, list[Turn]]:
  """Lets the sides take turns, each in a process of its own.

  Args:
    task: What they train. The first turn compiles, and does not count.
    sides: Names of the sides, of `SIDES`.

  Returns:
    The turns of each side.

  Raises:
    ValueError: If PyTorch is to be measured, but is not installed.
    RuntimeError: If a side fails; it has printed why.
  """
  if "PyTorch" in sides and importlib.util.find_spec("torch") is None:
    raise ValueError(
      "PyTorch is not installed: `pip install torch==2.13.0`, into an "
      "environment of its own if need be, or use `--noagainst_torch`."
    )
  turns: dict[str, list[Turn]] = {name: [] for name in sides}
  with contextlib.ExitStack() as stack:
    stack.enter_context(_limited(task.threads))
    workers = {n: stack.enter_context(_worker(n, task)) for n in sides}
    numbers = range(len(task.inputs))
    for number in reporting.progress(numbers, description=NAME, unit="turn"):
      # Who goes first alternates: a turn may warm or slow the machine.
      for name in sides if number % 2 else reversed(sides):
        workers[name].send(number)
        try:
          turns[name].append(workers[name].recv())
        except EOFError:
          raise RuntimeError(f"The process of {name} has failed.") from None
  return {name: found[1:] for name, found in turns.items()}


@contextlib.contextmanager
def _limited(threads: int) -> Iterator[None]:
  """Lets new processes use so many processors: XLA has no option for it."""
  if not hasattr(os, "sched_setaffinity"):  # It is Linux that has it.
    yield
    return
  allowed = os.sched_getaffinity(0)
  os.sched_setaffinity(0, sorted(allowed)[:threads])
  try:
    yield
  finally:
    os.sched_setaffinity(0, allowed)


@contextlib.contextmanager
def _worker(
  name: str, task: Task
) -> Iterator[multiprocessing.connection.Connection]:
  """Starts a process that trains when it is told the number of a turn."""
  context = multiprocessing.get_context("spawn")
  ours, other = context.Pipe()
  process = context.Process(target=_serve, args=(name, task, other))
  process.start()
  other.close()  # Else the end of the process would go unnoticed.
  try:
    yield ours
  finally:
    ours.close()
    process.join()


def _serve(
  name: str, task: Task, connection: multiprocessing.connection.Connection
) -> None:
  train = SIDES[name](task)
  with contextlib.suppress(EOFError):  # The end of the benchmark.
    while True:
      number = connection.recv()
      start, cpu_start = time.perf_counter(), time.process_time()
      loss = train(number)
      seconds = time.perf_counter() - start
      connection.send(Turn(seconds, time.process_time() - cpu_start, loss))


def summarize(
  turns: dict[str, list[Turn]], task: Task
) -> tuple[list[dict[str, Any]], dict[str, float]]:
  """Returns the cells of each side, and the ratio of the tokens per second.

  Args:
    turns: What :func:`measure` has found.
    task: What was trained.

  Returns:
    The cells by the names of their columns, from the median turn; and of the
    paired turns the median `ratio` of ours to PyTorch's, and its quartiles
    `low` and `high`; nothing if there is one side only.
  """
  steps, tokens = task.inputs.shape[1], task.inputs[0].size
  cells = []
  for name, found in turns.items():
    seconds = float(np.median([turn.seconds for turn in found]))
    cpu = float(np.median([turn.cpu_seconds for turn in found]))
    cells.append(
      {
        "name": name,
        "tokens": round(tokens / seconds),
        "milliseconds": 1e3 * seconds / steps,
        "cpu": 1e3 * cpu / steps,
        "loss": found[-1].loss,
      }
    )
  if len(turns) < 2:
    return cells, {}
  ours, theirs = (
    np.array([turn.seconds for turn in turns[name]]) for name in SIDES
  )
  low, ratio, high = np.quantile(theirs / ours, [0.25, 0.5, 0.75]).tolist()
  return cells, {"ratio": ratio, "low": low, "high": high}


def make_task(
  config: language_modeling.LanguageModelConfig,
  *,
  steps: int,
  turns: int,
  threads: int,
  vocab_size: int = VOCAB_SIZE,
) -> Task:
  """Returns the batches that both sides train on.

  Args:
    config: Sizes and options, `data_dir` among them.
    steps: Steps of a turn.
    turns: Turns that count; one more is added to compile.
    threads: Number of threads.
    vocab_size: Number of words, if there is no Penn Treebank.

  Returns:
    The task.
  """
  try:
    data = datasets.load_text("ptb", data_dir=config.data_dir or None)
    tokens, vocab_size = data.train, len(data.vocabulary)
  except FileNotFoundError:
    tokens = draw_tokens(930_000, vocab_size)
  batches = text.batch_tokens(
    tokens, batch_size=config.batch_size, num_steps=config.num_steps
  )
  shape = turns + 1, steps, config.batch_size, config.num_steps
  inputs, targets = (np.resize(ids, shape) for ids in batches)
  return Task(
    config=config,
    inputs=inputs,
    targets=targets,
    vocab_size=vocab_size,
    threads=threads,
  )


def draw_tokens(number: int, vocab_size: int) -> np.ndarray:
  """Draws words with the probabilities of Zipf and Mandelbrot.

  Args:
    number: Number of words.
    vocab_size: Number of different words; the first are the most frequent.
  """
  weights = 1 / (np.arange(vocab_size) + 2.7)
  words = np.random.default_rng(0).choice(
    vocab_size, number, p=weights / weights.sum()
  )
  return words.astype(np.int32)


def run_benchmark(
  task: Task, workdir: str | pathlib.Path, *, against_torch: bool = True
) -> dict[str, float]:
  """Measures, prints a table, and writes `lstm_throughput.json` and `.png`.

  Args:
    task: What is trained.
    workdir: Folder for the files.
    against_torch: Whether PyTorch is measured, too.

  Returns:
    The ratio with its quartiles.
  """
  turns = measure(task, tuple(SIDES) if against_torch else ("ours",))
  cells, ratio = summarize(turns, task)
  record = {"rows": cells, **ratio, "threads": task.threads, "turns": turns}
  content = json.dumps(record, indent=2) + "\n"
  workdir = pathlib.Path(workdir)
  files.write_atomically(workdir / f"{NAME}.json", content)
  reporting.plot_table(cells, workdir / f"{NAME}.png", PICTURE)
  print(reporting.format_table(cells, COLUMNS))
  if ratio:
    print(
      f"\nTokens per second, ours to PyTorch's: {ratio['ratio']:.2f} (median "
      f"of {len(turns['ours'])} pairs; quartiles {ratio['low']:.2f} and "
      f"{ratio['high']:.2f}; {task.threads} threads)."
    )
  return ratio


def main(argv: list[str]) -> None:
  """Runs the benchmark that the flags describe."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
  options = flags.FLAGS
  config = language_modeling.LanguageModelConfig(
    embedding="full", data_dir=options.data_dir or ""
  )
  task = make_task(
    config,
    steps=options.steps,
    turns=options.turns,
    threads=options.threads or os.cpu_count() or 1,
  )
  try:
    run_benchmark(task, options.workdir, against_torch=options.against_torch)
  except (ValueError, OSError) as error:
    raise app.UsageError(str(error)) from error


if __name__ == "__main__":
  flags.DEFINE_integer("steps", 20, "Steps of a turn.", lower_bound=1)
  flags.DEFINE_integer("turns", 15, "Turns that count.", lower_bound=1)
  flags.DEFINE_integer("threads", 0, "Number of threads; 0 for all there are.")
  flags.DEFINE_bool("against_torch", True, "Whether PyTorch is measured, too.")
  flags.DEFINE_string("data_dir", None, "Folder with a folder `ptb`.")
  flags.DEFINE_string("workdir", f"workdir/{NAME}", "Folder for the numbers.")
  app.run(main)
