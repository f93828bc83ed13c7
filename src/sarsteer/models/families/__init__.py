"""One file for each model family, and the registry that finds them."""
