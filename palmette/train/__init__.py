"""Turns scored trees into gradients: credit, losses, steps, and the stages of a recipe."""
