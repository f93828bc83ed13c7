"""The paper's experiments as one plan: its table, its ablation, its sensitivity; on real checkpoints or the toy."""
