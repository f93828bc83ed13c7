"""What runs in vLLM's workers, beside the model."""
