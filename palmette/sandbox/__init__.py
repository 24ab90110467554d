"""Isolated machines in which agents work: one protocol, several back ends, one conformance suite."""
