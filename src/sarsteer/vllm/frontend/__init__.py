"""What runs in the process that takes requests, or that starts it."""
