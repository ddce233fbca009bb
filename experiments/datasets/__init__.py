"""Data for the experiments: each `load_...` returns NumPy arrays."""
