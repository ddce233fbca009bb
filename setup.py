"""Package metadata; the settings of the tools are in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
  r'^__version__ = "(.+)"$',
  (ROOT / "anchor_codes" / "__init__.py").read_text(encoding="utf-8"),
  re.MULTILINE,
).group(1)

PARQUET = ["pyarrow>=17"]
REPORT = ["altair>=6", "jinja2>=3.1", "vl-convert-python>=1.9"]
EXPERIMENTS = [
  *PARQUET,  # Interactions are read as Arrow columns, those of CSV files, too.
  *REPORT,  # Each run leaves a page.
  "array-record>=0.8",
  "grain>=0.2.18",
  "importlib_resources",  # TFDS needs it for the builders of its old layout.
  "matplotlib>=3.8",
  "ml-collections>=1.0",
  "orbax-checkpoint>=0.12",
  "sacrebleu>=2.4",
  "sentencepiece>=0.2",
  "tensorboardX>=2.6",
  "tensorflow-datasets>=4.9.10",
  "tokenizers>=0.21",
  "tqdm>=4.66",
]
FAISS = ["faiss-cpu>=1.9"]
ONNX = ["flatbuffers>=24", "onnx>=1.17"]  # The first is for `jax.export`.
DOCS = ["docutils>=0.22", "furo>=2025.9", "myst-parser>=5", "sphinx>=9"]
TEST = [
  *EXPERIMENTS,
  *DOCS,
  *FAISS,
  *ONNX,
  "beartype>=0.20",
  "hypothesis>=6.100",
  "ipykernel",
  "jupytext>=1.16",
  "nbmake>=1.5",
  "nbstripout>=0.7",
  "onnxruntime>=1.20",
  "pyright==1.1.414",
  "pytest>=8",
  "pytest-xdist>=3.7",
  "ruff==0.17.5",
  "safetensors>=0.5",  # The reference reader, an oracle for ours.
  "selenium>=4.20",
]

setuptools.setup(
  name="anchor-codes",
  version=VERSION,
  description="Compact and regularised embedding layers for JAX and Flax.",
  long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["anchor_codes", "anchor_codes.*"]),
  package_data={"anchor_codes": ["py.typed", "report/templates/*"]},
  install_requires=[
    "absl-py>=2.1",
    "chex>=0.1.92",
    "flax>=0.12.8",
    "jax>=0.10.2",
    "jaxtyping>=0.3",
    "numpy>=2.0",
    "optax>=0.2.8",
    "threadpoolctl>=3.5",
  ],
  extras_require={
    "experiments": EXPERIMENTS,
    "faiss": FAISS,
    "onnx": ONNX,
    "parquet": PARQUET,
    "report": REPORT,
    "test": TEST,
    "docs": DOCS,
  },
  entry_points={"console_scripts": ["anchor-codes = anchor_codes.cli:main"]},
  classifiers=[
    "Development Status :: 3 - Alpha",
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3.11",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
