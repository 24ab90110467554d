"""Token ids in, token ids and log-probs out; also scores given tokens and loads weights."""
