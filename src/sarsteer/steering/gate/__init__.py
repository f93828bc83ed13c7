"""The gate: steer only the requests whose activations look harmful."""
