"""Programs that drive a model through the gateway to solve a task in a sandbox."""
