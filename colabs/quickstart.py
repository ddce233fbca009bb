# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A smaller embedding in five minutes
#
# Swap a layer, train, freeze, save, look up with NumPy. The text is the
# documentation that comes with Python, so nothing is downloaded.

# %%
import sys

if "google.colab" in sys.modules:
  # %pip install -q anchor-codes matplotlib
  pass

# %%
import dataclasses
import re
import tempfile
from collections import Counter
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import anchor_codes
from anchor_codes import tables

plt.style.use("tableau-colorblind10")

# %% [markdown]
# ## Text
#
# Four words go in, the next one is to be predicted.

# %%
words = re.findall(
  r"\w+|[^\w\s]", " ".join(topics[name] for name in sorted(topics))
)
counts = Counter(words)
vocabulary = [
  "<unk>",
  *(word for word, count in counts.most_common() if count > 1),
]
index = {word: number for number, word in enumerate(vocabulary)}
ids = np.array([index.get(word, 0) for word in words], np.int32)
windows = np.lib.stride_tricks.sliding_window_view(ids, 5)
split = int(0.9 * len(windows))
train, valid = windows[:split], windows[split:]
print(f"{len(ids):,} words, a vocabulary of {len(vocabulary):,}")

# %% [markdown]
# ## Swap the layer
#
# One line changes: `nnx.Embed(...)` becomes a compact embedding. What each will
# store is known before any training.

# %%
size, features = len(vocabulary), 64
embeddings = {
  "full": nnx.Embed(size, features, rngs=nnx.Rngs(0)),
  "anchors": anchor_codes.AnchorEmbed(
    size, features, num_anchors=64, num_nonzeros=4, rngs=nnx.Rngs(0)
  ),
  "codes": anchor_codes.DPQEmbed(
    size, features, code_length=16, codebook_size=32, rngs=nnx.Rngs(0)
  ),
}
nbytes = {
  name: anchor_codes.nn.to_table(embed).nbytes
  for name, embed in embeddings.items()
}
figure, axes = plt.subplots(figsize=(7, 2), layout="constrained")
bars = axes.barh(list(nbytes), list(nbytes.values()))
axes.bar_label(bars, [f"{value:,}" for value in nbytes.values()], padding=4)
axes.set(xlabel="bytes of the table", xlim=(0, 1.2 * nbytes["full"]))
axes.invert_yaxis()
plt.show()

# %% [markdown]
# ## A model with any embedding


# %%
class NextWord(nnx.Module):
  """Predicts a word from the four before it."""

  def __init__(self, embed, rngs):
    self.embed = embed
    self.hidden = nnx.Linear(4 * embed.features, 64, rngs=rngs)
    self.output = nnx.Linear(64, len(vocabulary), rngs=rngs)

  def __call__(self, inputs):
    vectors = self.embed(inputs).reshape(len(inputs), -1)
    return self.output(nnx.relu(self.hidden(vectors)))


def loss_of(model, batch):
  logits = model(batch[:, :4])
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 4])
  return losses.mean()


def fit(embed, *, num_steps=300):
  """Trains a model around an embedding; returns it and its validation loss."""
  model = NextWord(embed, nnx.Rngs(1))
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  optimizer = optax.adam(3e-3)

  @jax.jit
  def step(params, rest, state, batch):
    def loss_fn(params):
      model = nnx.merge(graphdef, params, rest, copy=True)
      loss = loss_of(model, batch)
      return loss, nnx.split(model, nnx.Param, ...)[2]

    (_, rest_), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), rest_, state

  state = optimizer.init(params)
  rng = np.random.default_rng(0)
  for _ in range(num_steps):
    batch = train[rng.integers(len(train), size=256)]
    params, rest, state = step(params, rest, state, batch)
  model = nnx.merge(graphdef, params, rest)
  model.eval()
  return model, float(loss_of(model, valid[:2000]))


# %% [markdown]
# ## Train

# %%
trained, losses = {}, {}
for name, embed in embeddings.items():
  trained[name], losses[name] = fit(embed)
  print(f"{name:8} validation loss {losses[name]:.3f}")

# %%
figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
for name, loss in losses.items():
  axes.scatter(nbytes[name], loss, s=80)
  axes.annotate(
    name, (nbytes[name], loss), xytext=(8, -4), textcoords="offset points"
  )
axes.set(xscale="log", xlabel="bytes of the table", ylabel="validation loss")
axes.set_title("Size against loss, lower is better", loc="left")
axes.margins(0.2)
axes.grid(alpha=0.3)
plt.show()

# %% [markdown]
# Ten times smaller with anchors and twenty times with codes, each about .06
# worse in loss. That is one seed and a minute of work:
# `experiments.benchmarks` has the comparisons.

# %% [markdown]
# ## Freeze, save, and look up with NumPy
#
# A table is one file; reading it needs NumPy alone.

# %%
path = tempfile.mkdtemp() + "/words.safetensors"
table = trained["codes"].embed.to_table()
dataclasses.replace(table, vocabulary=vocabulary).save(path)

served = tables.load(path)
print(served)
vector = served.lookup(served.ids_of(["function"]))
difference = vector - np.asarray(
  trained["codes"].embed(jnp.array([index["function"]]))
)
print("largest difference to the trained layer:", np.abs(difference).max())

# %%
scores = served.attend(vector[0])
print([served.vocabulary[number] for number in np.argsort(-scores)[:8]])
