"""The embedded base model: its corpus, tokenizer and training, from nothing."""
