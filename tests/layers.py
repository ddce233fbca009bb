"""The rows of the conformance test, and what its laws share.

A new embedding is one more entry of `LAYERS`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from anchor_codes import linen, nn

V, F = 20, 8  # Symbols and features of all rows.
ALL = np.arange(V)
QUICK_KEY = jax.random.key(7, impl="unsafe_rbg")  # Its draws compile fast.


@dataclasses.dataclass(frozen=True)
class Layer:
  """An embedding in one of its variants.

  Attributes:
    kind: Name of the class in `nn` and in `linen`; "Embed" is Flax's own.
    options: Its options.
    edge: Options at the end of their range.
    row_bits: Bits of a row in the file.
    num_shared: Numbers that the rows share in the file.
    straight_through: Whether its gradient is that of an estimator.
  """

  kind: str
  options: Mapping[str, Any]
  edge: Mapping[str, Any]
  row_bits: int
  num_shared: int
  straight_through: bool = False

  @property
  def is_compact(self) -> bool:
    return self.kind != "Embed"

  @property
  def has_rows(self) -> bool:
    return self.kind not in ("FixedCodeEmbed", "HashEmbed", "QREmbed")

  @property
  def has_norm(self) -> bool:
    return self.straight_through and not {
      "logit_norm",
      "score_norm",
    }.intersection(self.options)


def _anchors(row_bits, **options):
  options = {"num_anchors": 6, **options}
  nonzeros = options["num_nonzeros"] and 1
  edge = {"num_anchors": 1, "num_nonzeros": nonzeros}
  return Layer("AnchorEmbed", options, edge, row_bits, num_shared=6 * F)


def _cooling(count):
  return 0.5 / (1 + jnp.asarray(count).astype(jnp.float32))


def _codes(kind, num_shared, row_bits=8, **options):
  options = {"code_length": 4, "codebook_size": 4, **options}
  edge = {"code_length": 1, "codebook_size": 2, "temperature": 1e-3}
  return Layer(kind, options, edge, row_bits, num_shared, straight_through=True)


_kd = functools.partial(_codes, "KDEmbed")
_dpq = functools.partial(_codes, "DPQEmbed")


def _fixed(num_shared, row_bits=8, **options):
  options = {"code_length": 4, "codebook_size": 4, **options}
  edge = {"code_length": 1, "codebook_size": 2}
  return Layer("FixedCodeEmbed", options, edge, row_bits, num_shared)


def _buckets(kind, num_shared, **options):
  return Layer(kind, options, {"num_buckets": 1}, 0, num_shared)


LAYERS = {
  "full": Layer("Embed", {}, {}, 32 * F, num_shared=0),
  "anchors_sparse": _anchors(3 * (8 + 32), num_nonzeros=3),
  "anchors_dense": _anchors(6 * 32, num_nonzeros=None),
  # Half of each row is zero, which a mask of one byte tells.
  "anchors_antipodal": _anchors(
    8 + 3 * 32, num_nonzeros=None, start="antipodal"
  ),
  "kd_sum": _kd(4 * 4 * F),
  "kd_concat": _kd(4 * F, composition="concat"),
  "kd_linear": _kd(4 * 4 * 5 + 5 * F, composition="linear", code_features=5),
  "kd_gumbel": _kd(4 * 4 * F, relaxation="gumbel", temperature=0.5),
  "kd_shared": _kd(4 * F, shared_codebook=True),
  "kd_no_norm": _kd(4 * 5 * F, 16, codebook_size=5, logit_norm=False),
  "kd_mlp": _kd(
    4 * 4 * 6 + (6 * 6 + 2 * 6) + 7 * F,
    composition="mlp",
    hidden=6,
    num_layers=2,
    entropy_weight=0.3,
  ),
  "kd_lstm": _kd(
    4 * 4 * 3 + (8 * 20 + 20 + 2 * 5) + 6 * F,
    composition="lstm",
    code_features=3,
    hidden=5,
    temperature=_cooling,
  ),
  # Wider code vectors than embeddings are folded to the latter in a table.
  "kd_output_norm_linear": _kd(
    4 * 4 * F + F, output_norm=True, composition="linear", code_features=9
  ),
  "dpq_softmax": _dpq(4 * F),
  "dpq_nearest": _dpq(4 * F, relaxation="nearest"),
  "dpq_shared": _dpq(F, shared_codebook=True, temperature=0.3),
  "dpq_no_norm": _dpq(4 * F, relaxation="nearest", score_norm=False),
  "dpq_tied": _dpq(4 * F, tied=True, temperature=_cooling),
  "dpq_untied_nearest": _dpq(
    4 * F,
    relaxation="nearest",
    tied=False,
    codebook_weight=0.7,
    commitment_weight=0.3,
  ),
  # Random digits share more than learned ones: more values, to fit as well.
  "fixed_concat": _fixed(8 * F, 16, codebook_size=8, composition="concat"),
  "fixed_linear": _fixed(
    4 * 4 * 5 + 5 * F, composition="linear", code_features=5
  ),
  "low_rank": Layer("LowRankEmbed", {"rank": 3}, {"rank": 1}, 3 * 32, 3 * F),
  "hash": _buckets("HashEmbed", 2 * 7 * F, num_buckets=7),
  "qr_product": _buckets("QREmbed", (4 + 6) * F, num_buckets=6),
  "qr_sum": _buckets("QREmbed", 10 * F, num_buckets=6, composition="sum"),
}


def names(keep: str | None = None, *, but: str | None = None) -> list[str]:
  """Names the rows that have one attribute and do not have another."""
  return [
    name
    for name, row in LAYERS.items()
    if (keep is None or getattr(row, keep)) and not (but and getattr(row, but))
  ]


def make(name: str, **options: Any) -> Any:
  """Makes the NNX layer of a row, always with the same parameters."""
  return nnx.clone(_made(name, **options))


def make_eval(name: str, **options: Any) -> Any:
  """Makes the layer as it is out of training, its moments moved."""
  layer = make(name, **options)
  if LAYERS[name].has_norm:
    layer.norm.mean[...] += 0.01 * normal(4)
    layer.norm.variance[...] *= 0.02
  if LAYERS[name].options.get("output_norm"):
    layer.outer_norm.norm.mean[...] += 0.01 * normal(F)
    layer.outer_norm.norm.variance[...] *= 0.02
  if getattr(layer, "inner_norm", None) is not None:
    layer.inner_norm.mean[...] += 0.01
    layer.inner_norm.variance[...] *= 0.03
  layer.eval()
  return layer


def construct(name: str, **options: Any) -> Any:
  """Constructs the NNX layer of a row."""
  row = LAYERS[name]
  kind = getattr(nn, row.kind) if row.is_compact else nnx.Embed
  rngs = nnx.Rngs(params=QUICK_KEY, codes=7)
  return kind(V, F, **{**row.options, **options}, rngs=rngs)


_made = functools.cache(construct)


def make_twin(name: str, **options: Any) -> linen.CompactEmbed:
  """Makes the Linen layer of a row."""
  row = LAYERS[name]
  return getattr(linen, row.kind)(V, F, **{**row.options, **options})


def variables_of(layer: nnx.Module) -> dict[str, Any]:
  """Returns the variables of an NNX layer, as Linen has them."""
  collections = {
    "params": nnx.Param,
    "codes": (nn.Code, nn.FixedCode),
    "batch_stats": nnx.BatchStat,
  }
  dicts = {
    name: nnx.to_pure_dict(nnx.state(layer, kind))
    for name, kind in collections.items()
  }
  return {name: values for name, values in dicts.items() if values}


def random_ids(*shape: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, V, shape, np.int32)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _loss(vectors, targets, auxiliary):
  # Not linear in the vectors, so that a wrong scale shows in the gradient.
  return jnp.mean(jnp.square(vectors - targets)) + auxiliary


def train_loss(layer: Any, ids: Any, targets: Any) -> tuple[Any, Any]:
  """Computes loss and gradients of one step of an NNX layer.

  Returns:
    Loss, vectors and the variables that are not parameters, after the step;
    and the gradients of the parameters.
  """
  graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

  def loss_fn(params):
    model = nnx.merge(graphdef, params, rest, copy=True)
    vectors = model(ids)
    loss = _loss(vectors, targets, nn.auxiliary_loss(model, ids))
    return loss, (vectors, nnx.state(model, nnx.Not(nnx.Param)))

  (loss, aux), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
  return (loss, *aux), gradients


def twin_loss(twin: Any, variables: Any, ids: Any, targets: Any) -> Any:
  """Computes the same for a Linen layer, in the same form."""
  others = {name: variables[name] for name in variables if name != "params"}

  def loss_fn(params):
    state = {"params": params, **others}
    options = {"rngs": {"codes": jax.random.key(0)}, "mutable": "batch_stats"}
    vectors, moved = twin.apply(state, ids, **options)
    auxiliary = twin.apply(state, ids, method="auxiliary_loss")
    return _loss(vectors, targets, auxiliary), (vectors, moved)

  (loss, aux), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
    variables["params"]
  )
  return (loss, *aux), gradients


# Compiled once for all laws, as long as these use the same few shapes.
num_traces = itertools.count()


@jax.jit
def lookup(layer: Any, ids: Any) -> Any:
  next(num_traces)
  return layer(ids)


attend = jax.jit(lambda layer, query: layer.attend(query))
jitted_train_loss = jax.jit(train_loss)


@functools.cache
def dense(name: str) -> np.ndarray:
  """Returns the full table of a row, out of training."""
  return np.asarray(lookup(make_eval(name), ALL))


def estimated_vectors(
  name: str, params: Mapping[str, Any], ids: Any, noise: Any
) -> tuple[jax.Array, jax.Array]:
  """Computes vectors and auxiliary loss of learned codes, the slow way.

  The value is that of the hard codes; automatic differentiation sees the soft
  form of the estimator that the layer names. Written from Chen et al. (ICML
  2018 and ICML 2020), with one-hot codes and all differences.
  """
  options = LAYERS[name].options
  length, size = options["code_length"], options["codebook_size"]
  books = jnp.broadcast_to(
    params["codebooks"], (length, *params["codebooks"].shape[1:])
  )
  queries = jnp.zeros(())
  if "logits" in params:
    scores = params["logits"][ids]
  else:
    queries = params["queries"][ids].reshape(len(ids), length, -1)
    keys = jnp.broadcast_to(params.get("keys", books), books.shape)
    scores = _query_scores(queries, keys, options.get("relaxation"))
  if LAYERS[name].has_norm:
    mean = jnp.mean(scores, axis=(0, 1), keepdims=True)
    variance = jnp.mean(jnp.square(scores - mean), axis=(0, 1), keepdims=True)
    scores = (scores - mean) / jnp.sqrt(variance + 1e-3)
  scores += noise
  hard = jax.nn.one_hot(jnp.argmax(scores, -1), size)
  if options.get("relaxation") == "nearest":
    parts, auxiliary = _nearest_estimate(queries, hard, books, params, options)
  else:
    temperature = options.get("temperature", 1.0)
    temperature = temperature(0) if callable(temperature) else temperature
    soft = jax.nn.softmax(scores / temperature)
    choice = soft + jax.lax.stop_gradient(hard - soft)
    entropy = -jnp.mean(jnp.sum(soft * jnp.log(soft), axis=-1))
    auxiliary = options.get("entropy_weight", 0.0) * entropy
    parts = jnp.einsum("njk,jkw->njw", choice, books)
  if "queries" in params:
    return parts.reshape(len(ids), -1), auxiliary
  return compose_slowly(parts, params, options), auxiliary


def compose_slowly(
  parts: jax.Array, params: Mapping[str, Any], options: Mapping[str, Any]
) -> jax.Array:
  """Composes code vectors [size, code_length, width] by the definitions."""
  composition = options.get("composition", "sum")
  vectors = parts.sum(axis=1)
  if composition == "concat":
    vectors = parts.reshape(len(parts), -1)
  if composition == "mlp":
    vectors = _residual_layers(vectors, params)
  if composition == "lstm":
    vectors = _mean_lstm(parts, params)
  if options.get("output_norm") and composition == "linear":
    vectors = _batch_normalized(vectors)
  if "projection" in params:
    vectors = vectors @ params["projection"]
  if "bias" in params:
    vectors = vectors + params["bias"][None]
  if options.get("output_norm"):
    norm = params["outer_norm"]
    normalized = _batch_normalized(vectors)
    vectors = norm["scale"][None] * normalized + norm["bias"][None]
  return vectors


def _batch_normalized(vectors):
  deviations = vectors - jnp.mean(vectors, axis=0, keepdims=True)
  variance = jnp.mean(jnp.square(deviations), axis=0, keepdims=True)
  return deviations / jnp.sqrt(variance + 1e-3)


def _residual_layers(sums, params):
  hidden = jnp.maximum(sums + params["biases"][:1], 0)
  for i, kernel in enumerate(params.get("kernels", ())):
    inner = hidden @ kernel + params["biases"][i + 1][None]
    hidden = hidden + jnp.maximum(inner, 0)
  return hidden


def _mean_lstm(parts, params):
  hidden, cell = (
    jnp.tile(state[None], (len(parts), 1)) for state in params["states"]
  )
  outputs = []
  for j in range(parts.shape[1]):
    inputs = jnp.concatenate([parts[:, j], hidden], axis=1)
    gates = inputs @ params["kernels"] + params["biases"][None]
    enter, forget, new, leave = jnp.split(gates, 4, axis=1)
    sigmoid = lambda x: 1 / (1 + jnp.exp(-x))
    cell = sigmoid(forget) * cell + sigmoid(enter) * jnp.tanh(new)
    hidden = sigmoid(leave) * jnp.tanh(cell)
    outputs.append(hidden)
  return sum(outputs) / len(outputs)


def _query_scores(queries, keys, relaxation):
  if relaxation != "nearest":
    return jnp.einsum("njw,jkw->njk", queries, keys)
  differences = queries[:, :, None] - keys[None]
  return -jnp.sum(jnp.square(differences), axis=-1)


def _nearest_estimate(queries, hard, books, params, options):
  """Returns the parts of DPQ-VQ, and the losses of its keys and queries."""
  stop = jax.lax.stop_gradient
  keys = jnp.broadcast_to(params.get("keys", books), books.shape)
  key = jnp.einsum("njk,jkw->njw", hard, keys)
  codebook_loss = jnp.mean(jnp.square(key - stop(queries)))
  commitment_loss = jnp.mean(jnp.square(queries - stop(key)))
  auxiliary = (
    options.get("codebook_weight", 1.0) * codebook_loss
    + options.get("commitment_weight", 0.0) * commitment_loss
  )
  chosen = jnp.einsum("njk,jkw->njw", hard, books)
  if "keys" not in params:  # Tied values learn from this loss alone.
    chosen = stop(chosen)
  return chosen + queries - stop(queries), auxiliary
