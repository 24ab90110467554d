"""Reads run directories, draws tables, plots and trajectories; imports nothing that trains."""
