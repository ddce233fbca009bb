"""Pure functions on arrays: lookups, codes, relaxations, transitions.

No state, and no Flax: the layers of :mod:`anchor_codes.nn` call these.
"""

from anchor_codes.ops.anchor_starts import (
  anchor_scale,
  antipodal_anchors,
  antipodal_rows,
  antipodal_scale,
  frequency_anchors,
  kmeans_anchors,
  random_anchors,
  random_rows,
  start_anchors,
)
from anchor_codes.ops.anchors import (
  SparseRows,
  anchor_attend,
  anchor_lookup,
  expand_rows,
  project_rows,
  sparse_anchor_attend,
  sparse_anchor_lookup,
)
from anchor_codes.ops.buckets import (
  hash_attend,
  hash_lookup,
  qr_attend,
  qr_lookup,
  qr_scale,
)
from anchor_codes.ops.clustering import (
  Clusters,
  kmeans,
  product_kmeans,
  residual_kmeans,
)
from anchor_codes.ops.codes import (
  assign_codes,
  attend_codes,
  combine_codes,
  decode_codes,
  lookup_codes,
  nonfinite_rows,
  pack_codes,
  unpack_codes,
)
from anchor_codes.ops.compositions import (
  CodeParameter,
  code_parameters,
  combine,
  compose,
  finish,
)
from anchor_codes.ops.dropout import drop_digits
from anchor_codes.ops.entries import (
  Entries,
  sample_rows,
  start_entries,
)
from anchor_codes.ops.folding import (
  Folded,
  fold_linear,
  fold_norms,
  fold_smaller,
)
from anchor_codes.ops.given_codes import (
  as_codes,
  composition_arguments,
  random_codes,
)
from anchor_codes.ops.graphs import Graph, graph_from_edges
from anchor_codes.ops.guidance import (
  GuidanceWeights,
  autoencoding_loss,
  guidance_loss,
  mix_vectors,
)
from anchor_codes.ops.hashing import hash_buckets, quotient_remainder
from anchor_codes.ops.indexing import (
  as_ids,
  clip_ids,
  inside_table,
  nan_outside,
  put_rows,
  take_rows,
)
from anchor_codes.ops.losses import (
  code_entropy,
  codebook_loss,
  commitment_loss,
  distillation_loss,
)
from anchor_codes.ops.metrics import (
  code_perplexity,
  mean_cosine,
  neighbor_overlap,
  relative_squared_error,
  unique_fraction,
)
from anchor_codes.ops.networks import mean_lstm, residual_layers
from anchor_codes.ops.nonparametric import (
  indian_buffet_rows,
  small_variance_objective,
)
from anchor_codes.ops.normalization import (
  Affine,
  Moments,
  centroid_moments,
  normalization_affine,
  normalize_scores,
  scale_and_shift,
  update_moments,
)
from anchor_codes.ops.penalties import (
  frequency_multipliers,
  keep_largest_multipliers,
  relation_multipliers,
)
from anchor_codes.ops.prox import (
  catch_up,
  nonnegative_soft_threshold,
  soft_threshold,
  yogi_catch_up,
  yogi_step_sizes,
)
from anchor_codes.ops.pruning import most_salient, pruning_budget, saliency
from anchor_codes.ops.quantization import (
  quantization_loss,
  quantize,
  query_codes,
  query_moments,
  query_scores,
  share_gradient,
)
from anchor_codes.ops.reclustering import (
  Reclustered,
  recluster_codes,
  residual_codes,
)
from anchor_codes.ops.relaxations import (
  gumbel_codes,
  nearest_lookup,
  perturb_logits,
  softmax_codes,
  straight_through,
  straight_through_combine,
  straight_through_decode,
  straight_through_lookup,
)
from anchor_codes.ops.revival import (
  Revived,
  code_usage,
  dead_share,
  revive_entries,
  revive_logits,
)
from anchor_codes.ops.scores import (
  dot_scores,
  position_scores,
  squared_distance_scores,
)
from anchor_codes.ops.transitions import (
  sse_graph_transition,
  sse_se_transition,
  transition_row,
)

__all__ = [
  "Affine",
  "Clusters",
  "CodeParameter",
  "Entries",
  "Folded",
  "Graph",
  "GuidanceWeights",
  "Moments",
  "Reclustered",
  "Revived",
  "SparseRows",
  "anchor_attend",
  "anchor_lookup",
  "anchor_scale",
  "antipodal_anchors",
  "antipodal_rows",
  "antipodal_scale",
  "as_codes",
  "as_ids",
  "assign_codes",
  "attend_codes",
  "autoencoding_loss",
  "catch_up",
  "centroid_moments",
  "clip_ids",
  "code_entropy",
  "code_parameters",
  "code_perplexity",
  "code_usage",
  "codebook_loss",
  "combine",
  "combine_codes",
  "commitment_loss",
  "compose",
  "composition_arguments",
  "dead_share",
  "decode_codes",
  "distillation_loss",
  "dot_scores",
  "drop_digits",
  "expand_rows",
  "finish",
  "fold_linear",
  "fold_norms",
  "fold_smaller",
  "frequency_anchors",
  "frequency_multipliers",
  "graph_from_edges",
  "guidance_loss",
  "gumbel_codes",
  "hash_attend",
  "hash_buckets",
  "hash_lookup",
  "indian_buffet_rows",
  "inside_table",
  "keep_largest_multipliers",
  "kmeans",
  "kmeans_anchors",
  "lookup_codes",
  "mean_cosine",
  "mean_lstm",
  "mix_vectors",
  "most_salient",
  "nan_outside",
  "nearest_lookup",
  "neighbor_overlap",
  "nonfinite_rows",
  "nonnegative_soft_threshold",
  "normalization_affine",
  "normalize_scores",
  "pack_codes",
  "perturb_logits",
  "position_scores",
  "product_kmeans",
  "project_rows",
  "pruning_budget",
  "put_rows",
  "qr_attend",
  "qr_lookup",
  "qr_scale",
  "quantization_loss",
  "quantize",
  "query_codes",
  "query_moments",
  "query_scores",
  "quotient_remainder",
  "random_anchors",
  "random_codes",
  "random_rows",
  "recluster_codes",
  "relation_multipliers",
  "relative_squared_error",
  "residual_codes",
  "residual_kmeans",
  "residual_layers",
  "revive_entries",
  "revive_logits",
  "saliency",
  "sample_rows",
  "scale_and_shift",
  "share_gradient",
  "small_variance_objective",
  "soft_threshold",
  "softmax_codes",
  "sparse_anchor_attend",
  "sparse_anchor_lookup",
  "squared_distance_scores",
  "sse_graph_transition",
  "sse_se_transition",
  "start_anchors",
  "start_entries",
  "straight_through",
  "straight_through_combine",
  "straight_through_decode",
  "straight_through_lookup",
  "take_rows",
  "transition_row",
  "unique_fraction",
  "unpack_codes",
  "update_moments",
  "yogi_catch_up",
  "yogi_step_sizes",
]
