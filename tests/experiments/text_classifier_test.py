"""Tests of the text classifiers: what padding may do, and what the words do."""

import jax
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx
from jax import numpy as jnp

from anchor_codes import nn
from experiments.models import text_classifier

VOCAB, FEATURES, CLASSES = 30, 6, 3


def make(encoder="cnn", **options):
  embed = nnx.Embed(VOCAB, FEATURES, rngs=nnx.Rngs(0))
  return text_classifier.TextClassifier(
    embed,
    CLASSES,
    encoder=encoder,
    **({"num_filters": 5, "widths": (2, 4)} | options),
    rngs=nnx.Rngs(1),
  )


def make_texts(*lengths, width=None):
  rng = np.random.default_rng(0)
  width = max(lengths) if width is None else width
  tokens = np.zeros((len(lengths), width), np.int32)
  for row, length in zip(tokens, lengths, strict=True):
    row[:length] = rng.integers(2, VOCAB, size=length)
  return jnp.asarray(tokens)


@jax.jit
def predict(model, tokens, where):
  return model(tokens, where)


def slow_cnn(model, words):
  """The definition, for one text without padding."""
  vectors = np.asarray(model.embed(words))
  outputs = []
  for filters in model.encoder.filters:
    kernel, bias = np.asarray(filters.kernel), np.asarray(filters.bias)
    best = np.zeros(len(bias))
    for start in range(len(vectors)):
      window = vectors[start : start + len(kernel)]
      total = np.einsum("wd,wdf->f", window, kernel[: len(window)]) + bias
      best = np.maximum(best, total)
    outputs.append(best)
  return np.concatenate(outputs)


class TextClassifierTest(parameterized.TestCase):
  @parameterized.product(encoder=text_classifier.ENCODERS, length=(0, 1, 3, 7))
  def test_padding_changes_no_prediction(self, encoder, length):
    model = make(encoder)
    predictions = []
    for width, filler in ((max(length, 1), 0), (9, 0), (9, 7)):
      tokens = np.array(make_texts(length, width=width))
      where = np.arange(width)[None] < length
      tokens[~where] = filler
      predictions.append(predict(model, tokens, where))
    for prediction in predictions:
      np.testing.assert_allclose(prediction, predictions[0], rtol=1e-5)

  @parameterized.parameters(*text_classifier.ENCODERS)
  def test_padding_gets_no_gradient(self, encoder):
    model = make(encoder)
    tokens = make_texts(3, 5)
    graphdef, params = nnx.split(model)

    def loss(params):
      logits = nnx.merge(graphdef, params)(tokens, tokens != 0)
      return text_classifier.mean_loss(logits, jnp.array([0, 2]))

    gradient = jax.jit(jax.grad(loss))(params)["embed"]["embedding"][...]
    self.assertEqual(jnp.abs(gradient[0]).sum(), 0)
    rows = np.flatnonzero(np.abs(gradient).sum(axis=1))
    self.assertContainsSubset(rows, np.unique(tokens[tokens != 0]))
    self.assertNotEmpty(rows)

  @parameterized.parameters(1, 2, 3, 6)
  def test_cnn_is_the_largest_output_of_each_filter(self, length):
    model = make()
    tokens = make_texts(length, width=8)
    vectors = jnp.where((tokens != 0)[..., None], model.embed(tokens), 0)
    hidden = predict(model.encoder, vectors, tokens != 0)
    expected = slow_cnn(model, tokens[0, :length])
    np.testing.assert_allclose(hidden[0], expected, rtol=1e-5, atol=1e-6)

  def test_texts_without_words_see_the_bias_alone(self):
    for encoder in text_classifier.ENCODERS:
      model = make(encoder)
      model.output.bias[...] = jnp.arange(float(CLASSES))
      tokens = jnp.zeros((2, 4), jnp.int32)
      np.testing.assert_array_equal(
        model(tokens, tokens != 0), [[0, 1, 2], [0, 1, 2]]
      )

  def test_mean_does_not_know_the_order(self):
    model, tokens = make("mean"), make_texts(6)
    where = tokens != 0
    np.testing.assert_allclose(
      model(tokens, where), model(tokens[:, ::-1], where), rtol=1e-5
    )
    cnn = make("cnn")
    difference = cnn(tokens, where) - cnn(tokens[:, ::-1], where)
    self.assertGreater(jnp.abs(difference).max(), 1e-3)

  def test_dropout_is_for_training_alone(self):
    model, tokens = make(), make_texts(6)
    where = tokens != 0
    plain = model(tokens, where)
    noisy = model(tokens, where, key=jax.random.key(0))
    self.assertGreater(jnp.abs(noisy - plain).max(), 1e-3)
    model.eval()
    np.testing.assert_array_equal(
      plain, model(tokens, where, key=jax.random.key(0))
    )

  def test_sharing_leaves_padding_alone(self):
    sharing = nn.StochasticSharing(VOCAB, rate=1.0)
    model, tokens = make(sharing=sharing), make_texts(2, 8)
    shared = model.share(tokens, tokens != 0, jax.random.key(0))
    np.testing.assert_array_equal(shared[0, 2:], 0)
    self.assertGreater(jnp.sum(shared != tokens), 3)
    without = make().share(tokens, tokens != 0, jax.random.key(0))
    np.testing.assert_array_equal(without, tokens)

  def test_loss_is_that_of_the_softmax(self):
    logits = jnp.array([[0.0, jnp.log(3.0)], [2.0, 2.0]])
    loss = text_classifier.mean_loss(logits, jnp.array([1, 0]))
    expected = (np.log(4 / 3) + np.log(2)) / 2
    np.testing.assert_allclose(loss, expected, rtol=1e-6)

  def test_unknown_encoder_lists_the_known(self):
    message = "`encoder` must be one of 'cnn', 'mean', got 'lstm'"
    with self.assertRaisesRegex(ValueError, message):
      make("lstm")


if __name__ == "__main__":
  absltest.main()
