"""Terminal tasks: several verified goals in a real file system, reached with shell commands."""
