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
# # Anchors: how many, and what for
#
# A recommender whose users and items are mixtures of a few anchors: how small
# it gets, how it finds the number of anchors, and what these stand for.
#
# In Colab, upload the project's folder `experiments` first: the package does
# not hold it.

# %%
import sys

if "google.colab" in sys.modules:
  # %pip install -q "anchor-codes[experiments]"
  pass

# %%
import pathlib
import tempfile

import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, Markdown

sys.path.insert(0, str(pathlib.Path("..").resolve()))  # Where the project is.

from anchor_codes import tables
from experiments import nonparametric, recommending
from experiments.analysis import neighbors, runs, trajectory
from experiments.datasets import movies, ratings, synthetic_ratings
from experiments.reporting import anchors

workdir = pathlib.Path(tempfile.mkdtemp())
plt.style.use("tableau-colorblind10")
# The models are so small that compiling them takes longer than training.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_compilation_cache_dir", str(workdir / "compiled"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# %% [markdown]
# ## Ratings
#
# Drawn ones, of mixtures of 8 anchors that an Indian buffet process hands out:
# a few serve nearly all, the others few. For MovieLens write "ml-100k" or
# "ml-latest-small" and the folder that holds it; anchors then stand for genres.

# %%
name, data_dir = "drawn", None
if name == "drawn":
  data = synthetic_ratings.buffet_ratings(
    num_users=600, num_items=400, num_ratings=60_000
  )
else:
  data = ratings.load_ratings(name, data_dir=data_dir)
matrix = np.full((len(data.user_names), len(data.item_names)), np.nan)
matrix[data.users, data.items] = data.values
known = ~np.isnan(matrix)
print(f"{data.name}: {known.mean():.0%} of {matrix.shape} ratings are known")

# %%
part = matrix[np.argsort(-known.sum(1))[:200]]
part = part[:, np.argsort(-known[:200].sum(0))[:300]]
for axis in (0, 1):
  order = np.argsort(np.nanmean(part, axis=1 - axis))
  part = np.take(part, order, axis=axis)
figure, axes = plt.subplots(figsize=(7, 4))
low, high = np.percentile(data.values, (2, 98))
image = axes.imshow(part, vmin=low, vmax=high, aspect="auto")
axes.set(
  xlabel="items, by mean rating",
  ylabel="users, by mean rating",
  title="Those with most ratings",
)
figure.colorbar(image, label="rating")
plt.show()

# %% [markdown]
# ## Fewer numbers
#
# A row of the full table has 16 numbers of its own. With anchors it has up to
# 8 weights, of which `max_nonzeros` keeps those that matter most.

# %%
settings = {
  "batch_size": 1024,
  "learning_rate": 0.02,
  "l2": 0.03,
  "epochs": 16,
  "decay_epochs": 8,
  "prune_from": 5,
  "prune_epochs": 4,
}


def train(name, *, run_type=recommending.Run, **options):
  """Trains a recommender; returns its record."""
  config = runs.make_config(data.name, **{**settings, **options})
  return recommending.train_and_evaluate(
    config, workdir / name, data=data, run_type=run_type
  )


full = train("full", embedding="full")
weights = 8 * sum(matrix.shape)
pruned = {
  kept: train(f"kept_{kept}", num_anchors=8, max_nonzeros=weights // kept)
  for kept in (1, 3, 8)
}

# %%
figure, axes = plt.subplots(figsize=(7, 4))
points = [
  (result.embedding_bytes / 1000, result.metrics["test_mse"])
  for result in (*pruned.values(), full)
]
axes.plot(*zip(*points[:-1], strict=True), "o-", label="8 anchors")
for kept, point in zip(pruned, points, strict=False):
  text = f"1/{kept} of the weights" if kept > 1 else "all weights"
  axes.annotate(text, point, xytext=(8, 8), textcoords="offset points")
axes.plot(*points[-1], "D", color="C1", label="full table")
axes.axhline(points[-1][1], color="C1", linestyle="--", linewidth=1)
axes.set(xlabel="stored kB", ylabel="test error (mean square)")
axes.set_title("Size against error")
axes.margins(0.15)
axes.legend()
plt.show()

# %% [markdown]
# ## How many anchors?
#
# Each anchor and each weight has a price: the *objective* is the error and all
# prices together. The run grows to 16 anchors, drops those without which the
# error rises least, goes back to the best objective, and finishes there.

# %%
prices = {"anchor_penalty": 0.003, "l1": 1e-7}
learned = train(
  "learned",
  run_type=nonparametric.NonparametricRun,
  rule="marginal",
  num_anchors=8,
  max_anchors=16,
  growth_rounds=3,
  **prices,
)
trajectory.draw_trajectory(workdir / "learned")
Image(workdir / "learned" / "trajectory.png", width=700)

# %% [markdown]
# ## What the anchors stand for
#
# The symbols that use an anchor most.

# %%
table = tables.load(workdir / "learned" / "items.safetensors")
symbols = neighbors.Symbols(data.item_names)
if data.name in movies.MOVIE_NAMES:
  titles = movies.load_movies(data.name, data_dir=data_dir)
  symbols = neighbors.describe_movies(data.item_names, titles)
report = anchors.anchor_report(
  table,
  symbols=symbols.names,
  labels=symbols.labels,
  counts=known.sum(0),
  top=5,
)
Markdown(anchors.format_report(report))

# %% [markdown]
# Movies have genres: which ones does an anchor serve more than the others do?
# The drawn items have true vectors: what do the learned ones know of them, the
# strongest direction first? An anchor that explains little is not worth its
# price.


# %%
def draw_genres(axes):
  """Draws the share of each genre, over its share on average."""
  genres, shares = neighbors.label_shares(table, symbols.labels)
  genres, shares = genres[:12], shares[:, :12]
  image = axes.imshow(
    shares / shares.mean(0), cmap="RdBu_r", vmin=0, vmax=2, aspect="auto"
  )
  axes.set_xticks(range(len(genres)), genres, rotation=60, ha="right")
  axes.set(yticks=range(len(shares)), ylabel="anchor")
  axes.set_title("Share of a genre, 1: as on average")
  axes.figure.colorbar(image)


def draw_truth(axes):
  """Draws how well learned vectors predict each direction of the true ones."""
  rng = np.random.default_rng(0)  # As `buffet_ratings` draws: users, items.
  shape = {"num_anchors": 8, "features": 16}
  _, truth = (
    synthetic_ratings.buffet_vectors(rng, num_embeddings=count, **shape)
    for count in matrix.shape
  )
  truth -= truth.mean(0)
  _, strengths, directions = np.linalg.svd(truth, full_matrices=False)
  vectors = table.lookup(np.arange(table.num_embeddings))
  vectors -= vectors.mean(0)
  errors = truth - vectors @ np.linalg.lstsq(vectors, truth)[0]
  left = np.linalg.norm(errors @ directions[:8].T, axis=0) / strengths[:8]
  axes.bar(np.arange(1, 9), 1 - left**2)
  axes.set(xlabel="direction", ylabel="explained", ylim=(0, 1))
  axes.set_title(f"8 true directions, {table.num_anchors} learned anchors")


figure, axes = plt.subplots(figsize=(7, 4))
draw = draw_genres if symbols.labels else draw_truth
draw(axes)
plt.show()

# %% [markdown]
# ## Was it the right number?
#
# A recommender for each of a few fixed numbers, with as many epochs, and where
# the run above has ended without trying them. `experiments.analysis.surface` draws the same with
# different numbers of users' and items' anchors, in space.

# %%
objectives = {}
epochs = len(runs.read_course(workdir / "learned"))
for number in (2, 4, 6, 8):
  result = train(f"fixed_{number}", num_anchors=number, epochs=epochs, **prices)
  objectives[number] = runs.objective(
    result, anchor_penalty=prices["anchor_penalty"]
  )

# %%
users, items = (
  learned.metrics[f"num_anchors_{name}"] for name in ("users", "items")
)
star = (users + items) / 2, learned.metrics["objective"]
figure, axes = plt.subplots(figsize=(7, 4))
axes.plot(*zip(*objectives.items(), strict=True), "o-")
axes.annotate(
  "fixed",
  list(objectives.items())[-1],
  xytext=(8, -4),
  textcoords="offset points",
)
axes.plot(*star, "*", color="C1", markersize=18)
axes.annotate(
  f"learned: {users:.0f} and {items:.0f}",
  star,
  xytext=(0, -22),
  textcoords="offset points",
  color="C1",
  ha="center",
)
axes.set(xlabel="anchors of users, and of items", ylabel="objective")
axes.set_xticks(list(objectives))
axes.set_title("Objective, less is better")
axes.margins(0.15)
plt.show()

# %% [markdown]
# ## As found
#
# With the drawn ratings and one seed:
#
# * Eight anchors have a smaller error than the full table of 16 numbers a row,
#   in about a third of its bytes, and with a third of their weights about the
#   same error in a fifth. They should: the ratings are mixtures of eight
#   anchors. With an eighth of the weights the error is larger.
# * The run that learns the numbers ends with six and six, and with a smaller
#   objective than any of the fixed numbers.
# * The learned items know the strongest directions of the true ones well, and
#   little of the weakest. No anchor is a true one: any mixture of them predicts
#   as well.
