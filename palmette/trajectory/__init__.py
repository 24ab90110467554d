"""The trajectory tree: every token a task's rollouts put before the model, each shared prefix once."""
