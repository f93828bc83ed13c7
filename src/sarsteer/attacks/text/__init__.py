"""Attacks on the text beside a clip, the turns before it, and what a clip says; one per file."""
