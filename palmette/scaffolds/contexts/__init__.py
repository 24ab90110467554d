"""Ways in which a model is shown what has been said so far, one file each."""
