"""Decides about pages, in a clean sandbox: copied into tasks as a package, so it uses the standard library alone."""
