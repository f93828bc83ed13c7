"""One module per model family: its entry, and its code if it needs any."""
