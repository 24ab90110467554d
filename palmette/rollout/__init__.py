"""Runs agents on tasks and scores them: concurrency, groups, and exactly one typed outcome each."""
