"""Measures models on held-out tasks."""
