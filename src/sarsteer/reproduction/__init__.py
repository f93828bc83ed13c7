"""The paper's experiments as one plan: main table, ablation and sensitivity, on real checkpoints or on the toy."""
