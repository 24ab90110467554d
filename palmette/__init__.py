"""Palmette: train agent models on the tasks you care about, from a laptop to a cluster."""

__version__ = "0.1.0"
