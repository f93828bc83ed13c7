"""Text to speech: engines behind one small interface, and clips named by what determines their sound."""
