"""Codebook entries that no symbol chooses, and how to bring them back.

A dead entry costs bytes and says nothing; with the gradient of a chosen entry
alone it stays dead. Reviving it means to move it to a symbol of an entry that
many share ("random restart"; Dhariwal et al., "Jukebox", 2020).
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from anchor_codes.ops.entries import Entries
from anchor_codes.ops.normalization import Moments
from anchor_codes.ops.quantization import RELAXATIONS, query_moments
from anchor_codes.ops.reductions import wide
from anchor_codes.typing import check_at_least, check_choice

_DRAWS = 8  # Symbols to draw for each entry, of which crowded ones are kept.
_LEAD = 1.1  # How far a revived key outdoes the best score of its symbol.


class Revived(NamedTuple):
  """Entries after a revival.

  Attributes:
    entries: The entries.
    num_revived: How many of them were moved.
  """

  entries: Entries
  num_revived: Int[Array, ""]


def code_usage(
  codes: Int[Array, "num_embeddings code_length"],
  *,
  codebook_size: int,
  weights: Float[Array, " num_embeddings"] | None = None,
) -> Float[Array, "code_length codebook_size"]:
  r"""Counts how often each entry is chosen at each position.

  Definition: :math:`u_{jk} = \sum_i w_i [c_{ij} = k]`. Sum over the positions
  for a codebook that all of them share.

  Args:
    codes: The code of each symbol; a digit out of range does not count.
    codebook_size: Number of values of a digit.
    weights: Non-negative weight of each symbol, such as how often it occurs;
      1 by default.

  Returns:
    The counts, float32.

  >>> print(code_usage(jnp.array([[0, 1], [0, 0]]), codebook_size=2))
  [[2. 0.]
   [1. 1.]]
  """
  num_embeddings, code_length = codes.shape
  if weights is None:
    weights = jnp.ones(num_embeddings, jnp.float32)
  chex.assert_shape(weights, (num_embeddings,))
  digits = codes.astype(jnp.int32)
  # A negative index would count from the end.
  digits = jnp.where(digits < 0, codebook_size, digits)
  counts = jnp.zeros((code_length, codebook_size), jnp.float32)
  positions = jnp.arange(code_length)[None, :]
  amounts = weights.astype(jnp.float32)[:, None]
  return counts.at[positions, digits].add(amounts, mode="drop")


def dead_share(
  usage: Float[Array, "code_length codebook_size"],
) -> Float[Array, ""]:
  """Computes the share of entries that no symbol chooses.

  Args:
    usage: What :func:`code_usage` counted.

  Returns:
    Between 0 and 1.

  >>> print(dead_share(jnp.array([[2.0, 0.0], [1.0, 1.0]])))
  0.25
  """
  return jnp.mean(usage == 0, dtype=jnp.float32)


def revive_entries(
  key: PRNGKeyArray,
  queries: Float[Array, "num_embeddings features"],
  codes: Int[Array, "num_embeddings code_length"],
  entries: Entries,
  *,
  relaxation: str,
  weights: Float[Array, " num_embeddings"] | None = None,
  noise: float = 0.01,
) -> Revived:
  r"""Moves entries that no symbol chooses to symbols of crowded entries.

  For each dead entry a symbol is drawn among those whose entry has more than
  its equal share. The dead key moves to where the part :math:`q` of that symbol
  chooses it:

  * scores that are not normalised: for 'nearest' to :math:`q` itself, for
    'softmax' to its direction, a little longer than the present key;
  * normalised scores, one codebook: to the direction of :math:`q` from the mean
    part, whose standard score no other direction of a round cloud exceeds, as
    long as the present key;
  * normalised scores, codebooks for each position: for 'nearest' to :math:`q`
    itself, for 'softmax' to what of that direction is orthogonal to the mean,
    as long as the keys of this number are, so that no position spoils the
    common moments for another.

  An untied value starts at that of the entry which the symbol leaves, so that
  the embeddings hardly change. Moments become those of the whole table. A
  moved entry may still lose its symbol to another one that moved: a few calls
  revive nearly all.

  Args:
    key: Random key.
    queries: One query for each symbol.
    codes: The codes that they choose now.
    entries: The entries; a single codebook is one that all positions share,
      and dies only if no position uses it.
    relaxation: 'softmax' or 'nearest'.
    weights: How often each symbol occurs, alike by default: training sees
      normalised scores whose moments are weighted so.
    noise: Standard deviation of what is added to the parts, in terms of
      theirs.

  Returns:
    The new entries, of the same types, and how many have moved.

  Raises:
    ValueError: If the relaxation is neither.

  >>> queries = jnp.array([[0.0], [4.0]])
  >>> entries = Entries(jnp.array([[[2.0], [90.0]]]))
  >>> codes = jnp.zeros((2, 1), jnp.uint8)
  >>> options = {"relaxation": "nearest", "noise": 0}
  >>> revived = revive_entries(
  ...   jax.random.key(0), queries, codes, entries, **options
  ... )
  >>> print(revived.num_revived, revived.entries.codebooks.ravel())
  1 [2. 0.]
  """
  check_choice("relaxation", relaxation, RELAXATIONS)
  if weights is None:
    weights = jnp.ones(queries.shape[0], jnp.float32)
  chex.assert_shape(weights, queries.shape[:1])
  # Here, for a compiled function cuts counts of 64 bits down to 32.
  weights = jnp.asarray(weights, wide(queries).dtype)
  return _revive(key, queries, codes, entries, weights, noise, relaxation)


def revive_logits(
  key: PRNGKeyArray,
  logits: Float[Array, "num_embeddings code_length codebook_size"],
  codes: Int[Array, "num_embeddings code_length"],
  *,
  moments: Moments | None = None,
  epsilon: float = 1e-3,
  num_symbols: int = 1,
  margin: float = 0.1,
) -> tuple[
  Float[Array, "num_embeddings code_length codebook_size"], Int[Array, ""]
]:
  """Lets symbols of crowded entries choose those that no symbol chooses.

  For an entry that is dead at a position, some symbols are drawn among those
  whose entry there has more than its equal share, and their logit of the dead
  entry is raised just above their best one.

  Args:
    key: Random key.
    logits: Scores of the entries, as they are trained.
    codes: The codes chosen now, by the logits or by normalised ones.
    moments: Moments by which logits are normalised; None if they are not.
    epsilon: Added to the variance.
    num_symbols: How many symbols to move to each entry, at most.
    margin: How far above the best, in terms of (normalised) logits.

  Returns:
    The new logits, and how many entries have been revived.

  Raises:
    ValueError: If `num_symbols` is not positive.

  >>> logits = jnp.array([[[2.0, 0.0]], [[2.0, 0.0]]])
  >>> codes = jnp.zeros((2, 1), jnp.uint8)
  >>> logits, num_revived = revive_logits(jax.random.key(0), logits, codes)
  >>> print(num_revived, jnp.max(logits))
  1 2.1
  """
  check_at_least("num_symbols", num_symbols, 1)
  _, length, size = logits.shape
  usage = code_usage(codes, codebook_size=size)
  symbols, crowded = _draw_donors(key, codes, usage, size * num_symbols)
  positions = jnp.arange(length)[:, None]
  chosen = codes[symbols, positions].astype(jnp.int32)
  best = wide(logits[symbols, positions, chosen])
  targets = jnp.repeat(jnp.arange(size), num_symbols)[None, :]
  if moments is None:
    raised = best + margin
  else:
    scale = jnp.sqrt(moments.variance + epsilon)
    best = (best - moments.mean[chosen]) / scale[chosen]
    raised = moments.mean[targets] + scale[targets] * (best + margin)
  revived = (usage[positions, targets] == 0) & crowded
  # What is not revived is written outside of the table, that is, not at all.
  rows = jnp.where(revived, symbols, logits.shape[0])
  targets = jnp.broadcast_to(targets, rows.shape)
  logits = logits.at[rows, positions, targets].set(
    raised.astype(logits.dtype), mode="drop"
  )
  by_entry = jnp.any(revived.reshape(length, size, num_symbols), axis=-1)
  return logits, jnp.sum(by_entry)


def _draw_donors(
  key: PRNGKeyArray,
  codes: Int[Array, "num_embeddings code_length"],
  usage: Float[Array, "code_length codebook_size"],
  size: int,
) -> tuple[Int[Array, "code_length size"], Bool[Array, "code_length size"]]:
  """Draws different symbols for each position; tells which are of use.

  As many for each entry; those of use go to dead entries first, to each in
  turn. The cost does not depend on the number of symbols.
  """
  per_entry = size // usage.shape[1]

  def draw(
    key: PRNGKeyArray, digits: Array, usage: Array
  ) -> tuple[Array, Array]:
    draw_key, rank_key = jax.random.split(key)
    draws = jax.random.randint(
      draw_key, (_DRAWS * size,), 0, digits.shape[0], jnp.int32
    )
    # Sorted, so that a symbol that is drawn twice stands next to itself.
    draws = jnp.sort(draws)
    is_new = jnp.concatenate([jnp.array([True]), draws[1:] != draws[:-1]])
    is_crowded = usage[digits[draws].astype(jnp.int32)] > jnp.mean(usage)
    rank = jax.random.uniform(rank_key, draws.shape)
    # Behind all uniform draws: what is of no use is taken last.
    rank = jnp.where(is_new & is_crowded, rank, 2)
    best = jnp.argsort(rank)[:size]
    # Few may be of use: one that is given to an entry in use is lost.
    places = jnp.arange(size)
    turns = jnp.where(usage[places // per_entry] > 0, size, places % per_entry)
    best = best[jnp.argsort(jnp.argsort(turns))]
    return draws[best], rank[best] < 2

  keys = jax.random.split(key, codes.shape[1])
  return jax.vmap(draw, (0, 1, 0))(keys, codes, usage)


@functools.partial(jax.jit, static_argnums=6)
def _revive(
  key: PRNGKeyArray,
  queries: Array,
  codes: Array,
  entries: Entries,
  weights: Array,
  noise: float,
  relaxation: str,
) -> Revived:
  keys = entries.codebooks if entries.keys is None else entries.keys
  books, size, width = keys.shape
  parts = queries.reshape(*codes.shape, width)
  if books == 1:
    # All positions choose from one pool: they are as many more symbols.
    shares = jnp.repeat(weights, parts.shape[1])
    codes, parts = codes.reshape(-1, 1), parts.reshape(-1, 1, width)
  else:
    shares = weights
  usage = code_usage(codes, codebook_size=size)
  draw_key, noise_key = jax.random.split(key)
  symbols, crowded = _draw_donors(draw_key, codes, usage, size)
  is_dead = (usage == 0) & crowded
  positions = jnp.arange(books)[:, None]
  former = codes[symbols, positions].astype(jnp.int32)
  targets = wide(parts[symbols, positions])
  centre = jnp.average(wide(parts), axis=0, weights=shares)[:, None, :]
  spread = jnp.sqrt(
    jnp.mean(jnp.square(targets - centre), (1, 2), keepdims=True)
  )
  draws = jax.random.normal(noise_key, targets.shape, targets.dtype)
  targets = targets + noise * spread * draws
  lengths = _lengths(wide(keys[positions, former]))
  if entries.moments is None:
    if relaxation == "softmax":
      targets = _rescale(targets, _LEAD * lengths)
  elif books == 1:
    targets = _rescale(targets - centre, lengths)
  elif relaxation == "softmax":
    # All positions are normalised together, so they have to be alike.
    squares = jnp.mean(jnp.square(_lengths(wide(keys))), axis=0)
    lengths = jnp.broadcast_to(jnp.sqrt(squares), is_dead.shape)
    targets = _rescale(_without(targets - centre, centre), lengths)
  new_keys = jnp.where(is_dead[:, :, None], targets.astype(keys.dtype), keys)
  entries = _moved(entries, new_keys, is_dead, former)
  if entries.moments is not None:
    moments = query_moments(
      queries, new_keys, relaxation=relaxation, weights=weights
    )
    entries = entries._replace(moments=moments)
  return Revived(entries, jnp.sum(is_dead))


def _rescale(
  vectors: Float[Array, "*batch width"], lengths: Float[Array, "*batch"]
) -> Float[Array, "*batch width"]:
  """Gives vectors other lengths; those that would vanish keep their own."""
  old = _lengths(vectors)
  factors = lengths / jnp.where(old > 0, old, 1)
  factors = jnp.where(lengths > 0, factors, 1)
  return vectors * jnp.expand_dims(factors, -1)


def _without(
  vectors: Float[Array, "books codebook_size width"],
  centre: Float[Array, "books _ width"],
) -> Float[Array, "books codebook_size width"]:
  """Removes the direction of the mean, if others are left."""
  if vectors.shape[-1] == 1:
    return vectors
  squares = jnp.sum(jnp.square(centre), axis=-1, keepdims=True)
  shares = jnp.sum(vectors * centre, axis=-1, keepdims=True)
  return vectors - shares / jnp.where(squares > 0, squares, 1) * centre


def _lengths(vectors: Float[Array, "*batch width"]) -> Float[Array, "*batch"]:
  return jnp.sqrt(jnp.sum(jnp.square(vectors), axis=-1))


def _moved(
  entries: Entries,
  keys: Array,
  is_dead: Bool[Array, "books codebook_size"],
  former: Int[Array, "books codebook_size"],
) -> Entries:
  """Gives moved keys the values of the entries that their symbols leave."""
  if entries.keys is None:
    return entries._replace(codebooks=keys)
  values = entries.codebooks
  taken = jnp.take_along_axis(values, former[:, :, None], axis=1)
  values = jnp.where(is_dead[:, :, None], taken, values)
  return entries._replace(codebooks=values, keys=keys)
