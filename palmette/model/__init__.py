"""Models from transformers, as they are: loading, saving, and what the embedded base is made of."""
