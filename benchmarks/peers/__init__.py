"""Steering by sarsteer and by other libraries, side by side: ``make bench-peers``."""
