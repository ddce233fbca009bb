"""Beam search on the device: fixed shapes, and a cache that stays put."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anchor_codes import typing

Step = Callable[[Array, Array, Array, Any], tuple[Array, Any]]
"""``step(tokens, position, visible, cache) -> (logits, cache)``.

The tokens [batch, beam] stand at a position; the logits [batch, beam,
vocab_size] are of the tokens after them. What a step computes for slot `i` of
the beam it writes to place ``position * beam + i`` of the cache, and of the
cache it sees the places where `visible` [batch, beam, max_length * beam] is
true."""


class Found(NamedTuple):
  """The best sequence of each beam.

  Attributes:
    tokens: The sequence with its end, padding after it.
    scores: Its log probability over the length penalty.
  """

  tokens: Int[Array, "batch max_length"]
  scores: Float[Array, " batch"]


class _Beam(NamedTuple):
  """Hypotheses, the best first.

  Attributes:
    tokens: Their tokens so far, padding after them.
    last: The last token of each.
    log_probs: Their log probabilities; minus infinity for an empty slot.
    lengths: How many tokens each has.
    is_over: Which of them have an end.
    slots: The slot that each hypothesis had when a position was computed, for
      it may have had others since.
  """

  tokens: Int[Array, "batch beam max_length"]
  last: Int[Array, "batch beam"]
  log_probs: Float[Array, "batch beam"]
  lengths: Int[Array, "batch beam"]
  is_over: Bool[Array, "batch beam"]
  slots: Int[Array, "batch beam max_length"]


def beam_search(
  step: Step,
  cache: Any,
  *,
  batch_size: int,
  beam_size: int,
  max_length: int,
  length_penalty: float,
  begin_id: int,
  end_id: int,
  padding_id: int,
) -> Found:
  r"""Searches for the sequences with the highest scores.

  Definition (Wu et al., 2016): the score of a sequence of :math:`n` tokens, its
  end included, is :math:`\log p / ((5 + n) / 6)^\alpha`. One pool of
  `beam_size` hypotheses, finished or not, is kept by their scores, so that a
  beam of one is the greedy search. A sentence is done once no hypothesis can
  overtake the best finished one. Nothing is moved when hypotheses change their
  places: a mask tells each of them which parts of the cache are its own.

  Args:
    step: Scores the next tokens; impossible ones have minus infinity.
    cache: What the steps hand on.
    batch_size: Number of sentences.
    beam_size: Hypotheses of a sentence.
    max_length: Tokens of a sequence with its end: there it has to end.
    length_penalty: The :math:`\alpha`, at least 0: the larger, the longer are
      the sequences.
    begin_id: The token before the first.
    end_id: The token that ends a sequence.
    padding_id: The token after that.

  Returns:
    The best sequences and their scores.

  Raises:
    ValueError: If an option is outside its range.
  """
  check_search(beam_size, length_penalty)
  typing.check_at_least("max_length", max_length, 1)
  options = _Options(max_length, length_penalty, end_id, padding_id)
  beam = _first_beam(batch_size, beam_size, max_length, begin_id, padding_id)
  _, beam, _ = jax.lax.while_loop(
    lambda state: _goes_on(state[0], state[1], options),
    lambda state: _advance(step, *state, options),
    (jnp.int32(0), beam, cache),
  )
  scores = jnp.where(beam.is_over, _scores(beam, options), -jnp.inf)
  take = jax.vmap(lambda rows, i: rows[i])
  best = jnp.argmax(scores, axis=-1)
  return Found(take(beam.tokens, best), take(scores, best))


def check_search(beam_size: int, length_penalty: float) -> None:
  """Raises `ValueError` if an option of the search is outside its range."""
  typing.check_at_least("beam_size", beam_size, 1)
  if not length_penalty >= 0:
    raise ValueError(
      f"`length_penalty` must be non-negative, got {length_penalty}."
    )


class _Options(NamedTuple):
  """What a search is told, see :func:`beam_search`."""

  max_length: int
  length_penalty: float
  end_id: int
  padding_id: int

  def penalty(self, lengths: Any) -> Any:
    """Returns what log probabilities are divided by."""
    return ((5 + lengths) / 6) ** self.length_penalty


def _scores(beam: _Beam, options: _Options) -> Float[Array, "batch beam"]:
  return beam.log_probs / options.penalty(beam.lengths.astype(jnp.float32))


def _goes_on(position: Array, beam: _Beam, options: _Options) -> Array:
  """Tells whether some hypothesis can overtake the best finished one."""
  done = jnp.where(beam.is_over, _scores(beam, options), -jnp.inf)
  # At best, what is missing has probability one.
  bounds = beam.log_probs / options.penalty(options.max_length)
  bounds = jnp.where(beam.is_over, -jnp.inf, bounds)
  ahead = jnp.max(done, axis=-1) < jnp.max(bounds, axis=-1)
  return (position < options.max_length) & jnp.any(ahead)


def _advance(
  step: Step, position: Array, beam: _Beam, cache: Any, options: _Options
) -> tuple[Array, _Beam, Any]:
  """Extends all hypotheses by one token, and keeps the best."""
  batch_size, beam_size = beam.last.shape
  places = jnp.arange(beam_size, dtype=jnp.int32)
  slots = beam.slots.at[:, :, position].set(places[None])
  visible = slots[..., None] == places[None, None, None]
  past = jnp.arange(options.max_length) <= position
  visible &= past[None, None, :, None]
  logits, cache = step(
    beam.last, position, visible.reshape(batch_size, beam_size, -1), cache
  )
  gains = _gains(logits, beam.is_over, position, options)
  # The candidates of a hypothesis are of one length: none but its own best can
  # be among the best of all.
  gains, tokens = jax.lax.top_k(gains, min(beam_size, gains.shape[-1]))
  log_probs = beam.log_probs[..., None] + gains
  lengths = jnp.where(beam.is_over, beam.lengths, position + 1)
  penalties = options.penalty(lengths.astype(jnp.float32))
  scores = (log_probs / penalties[..., None]).reshape(batch_size, -1)
  _, chosen = jax.lax.top_k(scores, beam_size)
  beam = beam._replace(lengths=lengths, slots=slots)
  beam = _extend(beam, chosen, tokens, log_probs, position, options.end_id)
  return position + 1, beam, cache


def _gains(
  logits: Float[Array, "batch beam vocab_size"],
  is_over: Bool[Array, "batch beam"],
  position: Array,
  options: _Options,
) -> Float[Array, "batch beam vocab_size"]:
  """Returns the log probability of each next token."""
  tokens = jnp.arange(logits.shape[-1])
  gains = jax.nn.log_softmax(logits, axis=-1)
  # At the end of the room for it, a sequence ends.
  last = position == options.max_length - 1
  must_end = last & (tokens != options.end_id)
  gains = jnp.where(must_end[None, None], -jnp.inf, gains)
  # What is over goes on as it is: with padding, of probability one.
  rest = jnp.where(tokens == options.padding_id, 0.0, -jnp.inf)
  return jnp.where(is_over[..., None], rest[None, None], gains)


def _first_beam(
  batch_size: int,
  beam_size: int,
  max_length: int,
  begin_id: int,
  padding_id: int,
) -> _Beam:
  """Returns beams with one empty hypothesis."""
  shape = (batch_size, beam_size)
  empty = jnp.arange(beam_size) > 0
  return _Beam(
    tokens=jnp.full((*shape, max_length), padding_id, jnp.int32),
    last=jnp.full(shape, begin_id, jnp.int32),
    log_probs=jnp.broadcast_to(jnp.where(empty, -jnp.inf, 0.0)[None], shape),
    lengths=jnp.zeros(shape, jnp.int32),
    is_over=jnp.zeros(shape, bool),
    slots=jnp.zeros((*shape, max_length), jnp.int32),
  )


def _extend(
  beam: _Beam,
  chosen: Int[Array, "batch beam"],
  tokens: Int[Array, "batch beam candidates"],
  log_probs: Float[Array, "batch beam candidates"],
  position: Array,
  end_id: int,
) -> _Beam:
  """Puts the chosen candidates in the place of the hypotheses."""
  batch_size = len(chosen)
  parents = chosen // tokens.shape[-1]

  def inherit(values: Array) -> Array:
    index = parents.reshape(*parents.shape, *(1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, index, axis=1)

  def pick(candidates: Array) -> Array:
    flat = candidates.reshape(batch_size, -1)
    return jnp.take_along_axis(flat, chosen, axis=1)

  beam = jax.tree.map(inherit, beam)
  last = pick(tokens)
  return beam._replace(
    tokens=beam.tokens.at[:, :, position].set(last),
    last=last,
    log_probs=pick(log_probs),
    is_over=beam.is_over | (last == end_id),
  )
