"""Text to speech: engines behind one small interface, and a job that speaks a manifest."""
