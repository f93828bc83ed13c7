"""One loaded model shared by many requests: answering and batching, without Inspect or HTTP."""
