"""Tables of codes whose compositions have hidden layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_cases import floats, integers

from anchor_codes import tables, typing
from anchor_codes.ops import codes as code_ops

LENGTH, SIZE, WIDTH, HIDDEN, FEATURES = 6, 8, 4, 5, 7


def make_arrays(composition, *, num_layers=2):
  hidden = WIDTH if composition == "mlp" else HIDDEN
  shapes = typing.network_shapes(
    composition, code_features=WIDTH, hidden=hidden, num_layers=num_layers
  )
  arrays = {
    n: floats(*s, seed=i) / 2 for i, (n, s) in enumerate(shapes.items())
  }
  return {
    "projection": floats(hidden, FEATURES, seed=7) / 2,
    "bias": floats(FEATURES, seed=8),
    **arrays,
  }


def build(composition="mlp", **changes):
  arrays = make_arrays(composition)
  return tables.CodeTable.from_codes(
    integers(SIZE, 30, LENGTH),
    floats(LENGTH, SIZE, WIDTH) / 4,
    composition=composition,
    **{n: a for n, a in (arrays | changes).items() if a is not None},
  )


@pytest.mark.parametrize("composition", ["mlp", "lstm"])
def test_numpy_computes_what_jax_does(composition):
  table = build(composition)
  arrays = make_arrays(composition)
  named = {n: arrays.pop(n) for n in ("projection", "bias")}
  options = {**named, "network": arrays}
  options = jax.tree.map(jnp.asarray, options)
  codes, books = jnp.asarray(table.codes), jnp.asarray(table.codebooks)
  query = floats(3, FEATURES)
  np.testing.assert_allclose(
    table.to_dense(),
    code_ops.decode_codes(codes, books, composition, **options),
    rtol=1e-6,
    atol=1e-6,
  )
  np.testing.assert_allclose(
    table.attend(query),
    code_ops.attend_codes(query, codes, books, composition, **options),
    rtol=1e-5,
    atol=1e-5,
  )


@given(
  composition=st.sampled_from(["mlp", "lstm"]),
  num_layers=st.integers(1, 3),
  rows=st.integers(1, 9),
  is_half=st.booleans(),
  has_bias=st.booleans(),
)
def test_tables_survive_the_file(
  tmp_path_factory, composition, num_layers, rows, is_half, has_bias
):
  if composition == "lstm":
    num_layers = 1
  arrays = make_arrays(composition, num_layers=num_layers)
  if not has_bias:
    del arrays["bias"]
  table = tables.CodeTable.from_codes(
    integers(SIZE, rows, LENGTH),
    floats(1, SIZE, WIDTH),
    composition=composition,
    **arrays,
  ).astype("float16" if is_half else "float32")
  path = tmp_path_factory.mktemp("table") / "table.safetensors"
  table.save(path)
  loaded = tables.load(path)
  assert loaded.metadata == table.metadata
  for name, array in table.tensors.items():
    np.testing.assert_array_equal(loaded.tensors[name], array)
  np.testing.assert_array_equal(loaded.to_dense(), table.to_dense())
  assert table.num_params == SIZE * WIDTH + sum(
    array.size for array in arrays.values()
  )
  width = 2 if is_half else 4
  assert table.nbytes == table.packed.nbytes + width * table.num_params


def test_gates_far_from_zero_do_not_overflow():
  arrays = make_arrays("lstm")
  table = build("lstm", biases=1e4 * arrays["biases"])
  assert np.isfinite(table.to_dense()).all()


BIASES, KERNELS = floats(2, WIDTH), floats(1, WIDTH, WIDTH)


@pytest.mark.parametrize(
  ("composition", "changes", "text"),
  [
    ("mlp", {"projection": None}, "`projection` must be given for the compos"),
    ("mlp", {"biases": None}, r"\['biases', 'kernels'\], got \['kernels'\]"),
    ("mlp", {"kernels": None}, r"`biases` must have shape \(1, 4\) to fit"),
    ("mlp", {"states": BIASES}, r"got \['biases', 'kernels', 'states'\]"),
    ("mlp", {"kernels": BIASES}, "`kernels` must have 3 axes"),
    ("mlp", {"biases": floats(3, WIDTH)}, r"`biases` must have shape \(2, 4\)"),
    (
      "mlp",
      {"kernels": floats(1, WIDTH, 3)},
      r"`kernels` must have shape \(1, 4, 4\) to fit the composition 'mlp', "
      r"got \(1, 4, 3\)",
    ),
    (
      "mlp",
      {"projection": floats(3, FEATURES)},
      r"`projection` must have shape \(4, 7\)",
    ),
    ("mlp", {"bias": floats(3)}, r"`bias` must have shape \(7,\)"),
    ("mlp", {"biases": np.zeros((2, WIDTH))}, "`biases` must be float32 or"),
    ("lstm", {"states": None}, r"got \['biases', 'kernels'\]"),
    ("lstm", {"states": floats(3, HIDDEN)}, r"`states` must have shape \(2, 5"),
    ("lstm", {"states": floats(2)}, "`states` must have 2 axes"),
    ("lstm", {"states": floats(2, 3)}, r"`kernels` must have shape \(7, 12\)"),
    ("lstm", {"kernels": KERNELS}, "`kernels` must have 2 axes"),
    ("lstm", {"biases": floats(5)}, r"`biases` must have shape \(20,\)"),
  ],
)
def test_arrays_that_do_not_fit_are_refused(composition, changes, text):
  with pytest.raises(ValueError, match=text):
    build(composition, **changes)


@pytest.mark.parametrize("composition", ["sum", "concat"])
def test_hidden_layers_are_for_two_compositions(composition):
  text = rf"composition '{composition}' must come with the arrays \[\], got"
  with pytest.raises(ValueError, match=text):
    tables.CodeTable.from_codes(
      integers(SIZE, 3, LENGTH),
      floats(LENGTH, SIZE, WIDTH),
      composition=composition,
      biases=BIASES,
    )
