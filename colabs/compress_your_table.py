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
# # Compress your table
#
# You have vectors, of words, items or users, and they are too large. One call
# makes them smaller; no training, no labels. Here they are vectors of words,
# made from the documentation that comes with Python: nothing is downloaded. At
# the end it is your own file.
#
# In Colab, upload the project's folder `experiments` first, for the text; what
# compresses is in the package.

# %%
import sys

if "google.colab" in sys.modules:
  # %pip install -q "anchor-codes[experiments,report]"
  pass

# %%
import pathlib
import re
import subprocess
import tempfile

import numpy as np
from IPython.display import Image, Markdown

sys.path.insert(0, str(pathlib.Path("..").resolve()))  # Where the project is.

from anchor_codes import compression, formats
from experiments import cooccurrence, reporting
from experiments.datasets import language_model

workdir = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## A table
#
# Words that stand near the same words get similar vectors: a truncated SVD of
# the pointwise mutual information of 4,000 words.

# %%
text = language_model.load_text("stdlib")
words, features = list(text.vocabulary[:4000]), 64
tokens = text.train[text.train < len(words)]
vectors = cooccurrence.cooccurrence_vectors(
  tokens, num_embeddings=len(words), rank=features
)
print(f"{vectors.shape} float32: {vectors.nbytes:,} bytes")

# %% [markdown]
# ## Sixteen times smaller
#
# `compress` tries recipes that fit the budget, and takes the best: by its
# squared error, or by how many of the ten nearest neighbours stay.

# %%
small = compression.compress(
  vectors,
  budget=vectors.nbytes // 16,
  metric="neighbors",
  vocabulary=words,
)
print(f"{small.table.nbytes:,} bytes: {small.report.chosen.recipe}")

# %% [markdown]
# `small.report` has all that was tried. The best of each family:

# %%
labels = {
  "opq": "rotated codes",
  "pq": "product codes",
  "rq": "additive codes",
  "low_rank": "principal components",
  "anchors+opq": "anchors + rotated codes",
  "norm+opq": "rotated codes, lengths apart",
  "norm+pq": "product codes, lengths apart",
}


def family_of(recipe):
  name = re.sub(r":[\dx]+", "", recipe)
  return labels.get(name, name)


best = {}
for trial in small.report.trials:  # The best comes first.
  row = {"family": family_of(trial.recipe), **trial.quality}
  best.setdefault(row["family"], row)
picture = reporting.Picture(
  title="The best of each family, in a sixteenth of the bytes",
  value="neighbors",
  caption="Share of the ten nearest neighbours that stay (higher is better)",
  label=("family",),
  from_zero=True,
)
path = reporting.plot_table([*best.values()], workdir / "best.png", picture)
Image(path, width=800)

# %% [markdown]
# ## Size against quality
#
# Principal components and product codes are the usual ways, int8, int4 and int2
# the simplest.

# %%
recipes = {
  "principal components": ("64x8", "58x4", "29x4", "15x4"),
  "product codes": ("64x64", "32x64", "16x64", "8x64"),
  "rotated codes": ("64x64x1", "32x64x2", "22x32x3", "8x64x8"),
  "rounded numbers": ("int8", "int4", "int2"),
}
names = {line: name for name, line in labels.items()}
rows = []
for line, sizes in recipes.items():
  for size in sizes:
    recipe = f"{names[line]}:{size}" if line in names else size
    report = compression.compress(
      vectors, budget=vectors.nbytes, metric="neighbors", recipe=recipe
    ).report
    size = {"nbytes": report.chosen.nbytes}
    rows.append({"line": line, **size, **report.quality})

# %%
picture = reporting.Picture(
  title=f"Size against quality, {vectors.nbytes / 1e6:.1f} MB in float32",
  value="neighbors",
  caption="Neighbours that stay (higher is better)",
  lines=("line",),
  x="nbytes",
)
path = reporting.plot_table(rows, workdir / "curves.png", picture)
Image(path, width=800)

# %% [markdown]
# ## Neighbours before and after
#
# New neighbours are bold.


# %%
def nearest(vectors, row, top=6):
  units = vectors / np.maximum(
    np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9
  )
  order = np.argsort(-units @ units[row])
  return [words[other] for other in order if other != row][:top]


after = small.table.to_dense()
lines = ["|word|before|after|", "|---|---|---|"]
for word in ("list", "function", "key", "thread", "socket", "dictionary"):
  row = words.index(word)
  old = nearest(vectors, row)
  new = [n if n in old else f"**{n}**" for n in nearest(after, row)]
  lines.append(f"|{word}|{', '.join(old)}|{', '.join(new)}|")
Markdown("\n".join(lines))

# %% [markdown]
# ## One file, read by NumPy alone

# %%
path = workdir / "words.safetensors"
small.table.save(path)
print(f"{vectors.nbytes:>9,} bytes in float32")
print(f"{small.table.nbytes:>9,} bytes of table")
print(f"{path.stat().st_size:>9,} bytes of file, the words included")

# %%
program = """
import sys
from anchor_codes import tables
table = tables.load(sys.argv[1])
print(table)
print(table.lookup(table.ids_of(["list", "tuple"])).shape)
print("JAX is loaded:", "jax" in sys.modules)
"""
command = [sys.executable, "-c", program, str(path)]
print(
  subprocess.run(command, check=True, text=True, capture_output=True).stdout
)

# %% [markdown]
# ## Now your own file
#
# Text as of word2vec, GloVe or fastText, `.npy`, `.npz`, Parquet, or an array
# in a `.safetensors`. In Colab a button asks for it; elsewhere put its path
# here. Without one, the vectors from above are written as a text file first.

# %%
source = ""
if "google.colab" in sys.modules:
  from google.colab import files

  source = next(iter(files.upload()), "")
if not source:
  source = workdir / "mine.txt"
  pairs = zip(words, vectors, strict=True)
  source.write_text(
    "\n".join(" ".join([word, *map(str, row)]) for word, row in pairs)
  )

# %%
mine, names = formats.read(source)
table = compression.compress(
  mine, budget=mine.nbytes // 16, recipe="opq", vocabulary=names
).table
table.save(workdir / "mine.safetensors")
print(f"{mine.shape}: {mine.nbytes:,} bytes in float32, {table.nbytes:,} now")

# %% [markdown]
# `recipe="auto"`, the default, tries all families and takes longer. The same
# from the command line:
#
# ```
# anchor-codes compress mine.txt mine.safetensors --ratio 16
# anchor-codes neighbors mine.safetensors list
# ```
#
# ## A page to explore
#
# One HTML file without a network: bytes by part, the use of the codes, search
# for a symbol, its neighbours before and after. Open it in a browser; in Colab
# it is downloaded.

# %%
page = workdir / "mine.html"
command = [sys.executable, "-m", "anchor_codes.cli", "report"]
command += [workdir / "mine.safetensors", "--original", source, "--out", page]
subprocess.run(command, check=True)
print(f"{page.as_uri()}: {page.stat().st_size:,} bytes")
if "google.colab" in sys.modules:
  files.download(str(page))

# %% [markdown]
# ## As found
#
# With these 4,000 words and a sixteenth of the bytes, six of ten neighbours
# stay; most of the new ones are as good to a reader, some are not. Below an
# eighth of the bytes codes keep far more than principal components do. At a
# quarter all are close, and int8, the simplest, keeps nearly everything. Your
# vectors differ: look at the picture before you choose.
