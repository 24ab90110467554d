"""Tasks: builders of unlimited graded tasks, and verifiers that decide."""
