"""The method: activations, refusal vectors, the safe subspace, the artifact, and the hooks that steer."""
