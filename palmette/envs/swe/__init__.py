"""SWE tasks: a small git repository with a bug, an issue that shows it, and hidden tests that decide."""
