"""Looks at what runs have learned: each module is a binary, and a function."""
