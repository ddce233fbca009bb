"""Takes the weights out of tables of anchors that matter least."""

from collections.abc import Mapping

import numpy as np
from jax import numpy as jnp

from anchor_codes import ops, steps
from experiments import recommender_trainer


def prune_anchors(
  trainer: recommender_trainer.Trainer,
  state: steps.TrainState,
  counts: Mapping[str, np.ndarray],
  *,
  rounds: int,
) -> steps.TrainState:
  """Takes out weights in one of several rounds.

  Args:
    trainer: The trainer, whose options say how many weights are to be kept.
    state: Its state.
    counts: How often each user, and each item, occurs in training.
    rounds: Number of rounds left, this one included; each shares out the same
      factor.

  Returns:
    The state with fewer weights.
  """
  counts = {
    name: count
    for name, count in counts.items()
    if trainer.options[name].embedding == "anchors"
  }
  saliencies = trainer.saliencies(state, counts)
  model = trainer.model_of(state)
  weights = {n: getattr(model, n).transform for n in saliencies}
  left = sum(int(jnp.count_nonzero(w[...])) for w in weights.values())
  budget = ops.pruning_budget(
    1, num_steps=rounds, start=left, end=trainer.config.max_nonzeros
  )
  kept = ops.most_salient(list(saliencies.values()), num_nonzeros=budget)
  for name, keep in zip(saliencies, kept, strict=True):
    weights[name][...] = jnp.where(keep, weights[name][...], 0)
  return trainer.replace_model(state, model)
