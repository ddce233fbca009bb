"""Binaries that train and compare embeddings, and what they share."""
