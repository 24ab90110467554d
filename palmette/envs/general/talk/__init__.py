"""Dialogues: a backend that keeps a state, a customer who wants something, and what decides about both."""
