r"""Chunks of training steps, compiled over a mesh, with the host in between.

A chunk is a scan of steps that runs as one program on all devices. Between two
chunks the host may look at the metrics, write a checkpoint, or replace the
state by another one: more anchors, say.

The step is written for the global batch, as if there were one device. The batch
lies split over the mesh, so that a mean over it becomes a sum over devices, and
the same code gives the same losses (up to the order of the sums) on one device,
on several, and on several processes.

>>> def step(state, batch):
...   loss, gradient = jax.value_and_grad(
...       lambda w: jnp.mean((batch["x"] * w - batch["y"]) ** 2)
...   )(state["w"])
...   return {"w": state["w"] - 0.5 * gradient}, {"loss": loss}
>>> mesh = data_mesh()
>>> chunk = compile_chunk(step, mesh)
>>> batch = {"x": np.ones((5, 8), np.float32), "y": np.ones((5, 8), np.float32)}
>>> def report(number, state, metrics):
...   print(number, metrics["loss"][0], state["w"])
>>> state = {"w": np.float32(3)}
>>> state = run_chunks(chunk, state, [batch, batch], callbacks=[report])
0 4.0 1.0
1 0.0 1.0
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

REPLICATED = PartitionSpec()
SPLIT_BATCHES = PartitionSpec(None, "data")

Step = Callable[[Any, Any], tuple[Any, Any]]
"""``step(state, batch) -> (state, metrics)``, for the global batch."""

Callback = Callable[[int, Any, Any], Any]
"""``callback(chunk_number, state, metrics) -> state``, or None to keep it."""


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
  """Returns a mesh of one axis, "data", over which batches are split.

  Args:
    devices: The devices to use, all of all processes by default.

  >>> dict(data_mesh(jax.devices()[:1]).shape)
  {'data': 1}
  """
  devices = jax.devices() if devices is None else devices
  # Auto: over explicit axes every gather of a step would have to name the
  # sharding of its result.
  return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


class Program(Protocol):
  """What :func:`run_chunks` runs; a :class:`Chunk` is one."""

  def __call__(self, state: Any, batches: Any, /) -> tuple[Any, Any]:
    """Takes the steps: returns the new state, and the metrics of each."""
    ...

  def put_state(self, state: Any, /) -> Any:
    """Puts a state where the steps need it."""
    ...


@dataclasses.dataclass(frozen=True)
class Chunk:
  """A compiled chunk; :func:`compile_chunk` makes one.

  Attributes:
    program: The jitted scan, from a state and batches on the mesh to a state
      and metrics.
    mesh: The devices on which it runs.
    state_specs: How the state lies on them.
    batch_specs: How the batches lie on them.
  """

  program: Callable[[Any, Any], tuple[Any, Any]]
  mesh: Mesh
  state_specs: PyTree
  batch_specs: PyTree

  def __call__(self, state: Any, batches: Any) -> tuple[Any, Any]:
    """Takes the steps.

    Args:
      state: The state, on the mesh or on the host. Its buffers are donated: it
        must not be used again.
      batches: One batch for each step, [num_steps, batch, ...], on the mesh or
        on the host.

    Returns:
      The new state, and the metrics stacked along the steps, on all devices.
    """
    return self.program(self.put_state(state), self.put_batches(batches))

  def put_state(self, state: Any) -> Any:
    """Puts a state on the mesh.

    Args:
      state: A pytree of arrays, with the same values in all processes. What is
        there already stays there; an array that stands in it several times is
        copied.

    Raises:
      ValueError: If an axis cannot be split evenly over the devices, or an
        array of NumPy holds integers of 64 bits that JAX would cut down to 32.
    """
    seen: set[int] = set()

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
      _check_width("state", leaf)
      _check_divisible("state axis", leaf, sharding.spec, self.mesh)
      placed = _put_on_devices(leaf, sharding)
      # A buffer can be donated once: given twice, it may end the process.
      repeated = isinstance(leaf, jax.Array) and id(leaf) in seen
      seen.add(id(leaf))
      return jnp.copy(placed) if repeated else placed

    return self._put(put, self.state_specs, state)

  def put_batches(self, batches: Any) -> Any:
    """Puts batches on the mesh.

    Args:
      batches: A pytree of NumPy arrays [num_steps, batch, ...]. With several
        processes each one gives its own part of the global batch.

    Raises:
      ValueError: If the batch cannot be split evenly over the devices, or holds
        integers of 64 bits that JAX would cut down to 32.
    """

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
      if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
        return leaf
      # A process has only its own part, for its own devices to split.
      _check_width("batch", leaf)
      mesh = self.mesh.local_mesh or self.mesh
      _check_divisible("batch", leaf, sharding.spec, mesh)
      return jax.make_array_from_process_local_data(sharding, leaf)

    return self._put(put, self.batch_specs, batches)

  def _put(self, put: Callable, specs: PyTree, tree: Any) -> Any:
    def put_part(spec: PartitionSpec, part: Any) -> Any:
      sharding = NamedSharding(self.mesh, spec)
      return jax.tree.map(lambda leaf: put(leaf, sharding), part)

    return _map_specs(put_part, specs, tree)


def compile_chunk(
  step: Step,
  mesh: Mesh,
  *,
  prepare: Callable[[Any, Any], Any] | None = None,
  state_specs: PyTree = REPLICATED,
  batch_specs: PyTree = SPLIT_BATCHES,
) -> Chunk:
  """Compiles a scan of training steps over a mesh.

  Args:
    step: One step, ``step(state, batch) -> (state, metrics)``, written for the
      global batch; the state keeps its shapes and types. It is compiled at the
      first call, and again whenever shapes change between chunks.
    mesh: The devices, see :func:`data_mesh`.
    prepare: From the state before the first step and all batches to the batches
      that the steps get. What takes many small operations, such as random
      changes of ids, costs less for all steps at once.
    state_specs: How the state is split: a pytree of partition specs that is a
      prefix of the state. By default every device has all of it. The state of
      a recurrent network, say, goes with the batch:
      ``{"params": PartitionSpec(), "carry": PartitionSpec("data")}``.
    batch_specs: How batches [num_steps, batch, ...] are split, a prefix of
      them.

  Returns:
    The compiled chunk, to call or to give to :func:`run_chunks`.

  >>> def step(total, batch):
  ...   total = total + batch.sum()
  ...   return total, {"total": total}
  >>> chunk = compile_chunk(step, data_mesh())
  >>> total, metrics = chunk(np.float32(0), np.ones((3, 4), np.float32))
  >>> print(total, metrics["total"])
  12.0 [ 4.  8. 12.]
  """

  def place(specs: PyTree) -> PyTree:
    return _map_specs(lambda spec: NamedSharding(mesh, spec), specs)

  def run(state: Any, batches: Any) -> tuple[Any, Any]:
    prepared = batches if prepare is None else prepare(state, batches)
    return jax.lax.scan(step, state, prepared)

  program = jax.jit(
    run,
    # The new state takes the memory of the old one, which is not read again.
    donate_argnums=0,
    in_shardings=(place(state_specs), place(batch_specs)),
    # Said for the results as well: left alone, the compiler may give a split
    # table back whole, after a sum of all of it over the devices.
    out_shardings=(place(state_specs), place(REPLICATED)),
  )
  return Chunk(program, mesh, state_specs, batch_specs)


def run_chunks(
  chunk: Program,
  state: Any,
  batches: Iterable[Any],
  *,
  callbacks: Sequence[Callback] = (),
  first_chunk: int = 0,
) -> Any:
  """Trains chunk by chunk, and calls back between them.

  Args:
    chunk: What :func:`compile_chunk` returned, or what chooses among several
      such chunks.
    state: The state to begin with, donated: it must not be used again.
    batches: For each chunk a pytree of arrays [num_steps, batch, ...]. The next
      one is drawn only when the callbacks have returned, so that these may
      write the position of the iterator into a checkpoint.
    callbacks: Each is called after each chunk, as ``callback(chunk_number,
      state, metrics)`` with the metrics on the host, stacked along the steps.
      It may return a state to go on with, on the host or of other shapes if
      need be; the next callback sees it on the mesh. With several processes
      all of them must come to the same state.
    first_chunk: Number of the first chunk, for a run that is resumed.

  Returns:
    The state in the end.

  Raises:
    FloatingPointError: If the metrics are a mapping with a "loss" that is not
      finite; no callback sees that chunk.
    ValueError: If a batch cannot be split evenly over the devices.

  >>> def step(total, batch):
  ...   return total + batch.sum(), {"loss": batch.mean()}
  >>> chunk = compile_chunk(step, data_mesh())
  >>> batches = [np.ones((3, 4), np.float32)] * 2
  >>> def restart(number, total, metrics):
  ...   return np.float32(0) if number == 0 else None
  >>> print(run_chunks(chunk, np.float32(9), batches, callbacks=[restart]))
  12.0
  """
  for number, batch in enumerate(batches, first_chunk):
    state, metrics = chunk(state, batch)
    # One transfer for a chunk; one for each step would stall the devices.
    metrics = jax.device_get(metrics)
    _check_loss(metrics, number)
    for callback in callbacks:
      replaced = callback(number, state, metrics)
      if replaced is not None:
        state = chunk.put_state(replaced)
  return state


def _check_loss(metrics: Any, number: int) -> None:
  if not isinstance(metrics, Mapping) or "loss" not in metrics:
    return
  loss = np.asarray(metrics["loss"])
  bad = np.argwhere(~np.isfinite(loss))
  if bad.size:
    step = int(bad[0][0])
    raise FloatingPointError(
      f"the loss is {loss[tuple(bad[0])]} at step {step} of chunk {number}; "
      "start anew with a smaller learning rate, or clip the gradient."
    )


def _map_specs(function: Callable, specs: PyTree, *rest: PyTree) -> PyTree:
  def is_spec(node: Any) -> bool:
    return isinstance(node, PartitionSpec)

  return jax.tree.map(function, specs, *rest, is_leaf=is_spec)


def _put_on_devices(leaf: Any, sharding: NamedSharding) -> jax.Array:
  """Does ``jax.device_put`` for what it refuses with several processes, too."""
  if getattr(leaf, "weak_type", False):
    # Steps return strong types: the second chunk would be compiled again.
    leaf = jnp.asarray(leaf, leaf.dtype)
  is_local = isinstance(leaf, jax.Array) and leaf.is_fully_addressable
  if is_local and not sharding.is_fully_addressable:
    # Typed keys have no form in NumPy: their data go in their place.
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      data = _put_on_devices(jax.random.key_data(leaf), sharding)
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    leaf = np.asarray(leaf)
  return jax.device_put(leaf, sharding)


def _check_width(name: str, leaf: Any) -> None:
  """Checks that JAX has integers as wide as those of an array on the host."""
  if not isinstance(leaf, np.ndarray | np.generic):
    return
  if leaf.dtype.kind not in "iu":
    return
  limits = np.iinfo(jax.dtypes.canonicalize_dtype(leaf.dtype))
  if leaf.dtype.itemsize <= limits.dtype.itemsize or not leaf.size:
    return
  for value in (leaf.min(), leaf.max()):
    if not limits.min <= value <= limits.max:
      raise ValueError(
        f"a {name} must hold integers that {limits.dtype} can hold, got "
        f"{value} in an array of {leaf.dtype} {leaf.shape}, which JAX would "
        "cut down to another number: renumber or hash ids, or set "
        "`jax_enable_x64`."
      )


def _check_divisible(
  name: str, leaf: Any, spec: PartitionSpec, mesh: Mesh
) -> None:
  """Checks that the devices of a mesh split the axes of an array evenly."""
  # A spec may be shorter than the shape: the other axes are not split.
  for size, axes in zip(np.shape(leaf), spec, strict=False):
    names = (axes,) if isinstance(axes, str) else axes or ()
    devices = math.prod(mesh.shape[axis] for axis in names)
    if size % devices:
      raise ValueError(
        f"a {name} of {size} cannot be split evenly over the {devices} "
        f"devices of mesh axis {axes!r}."
      )
