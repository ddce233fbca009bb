"""Embedding tables as others keep them: read into a matrix, written again.

:func:`read` takes NumPy, safetensors, word2vec, GloVe, fastText and Parquet
files and our own tables; :func:`write` the forms that other tools read. NumPy
alone is needed; Parquet needs pyarrow, bfloat16 tensors ml_dtypes.
"""

from anchor_codes.formats.matrix import FormatError, Matrix
from anchor_codes.formats.reading import read
from anchor_codes.formats.tensor_files import is_table
from anchor_codes.formats.writing import write

__all__ = ["FormatError", "Matrix", "is_table", "read", "write"]
