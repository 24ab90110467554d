"""SWE tasks from real projects: an environment built for a repository, bugs put in, tests that cannot be talked to."""
