"""Ways in which a model is told of tools, calls them, and hears what came of it, one file each."""
