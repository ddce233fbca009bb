"""Measurements against what is known of the methods from elsewhere."""
