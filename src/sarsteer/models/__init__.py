"""Models: prompts, answers, decoder layers and activations, for each family."""
