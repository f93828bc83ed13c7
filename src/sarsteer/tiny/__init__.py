"""``sarsteer-tiny``: a small speech model with its clips, shipped with the package.

Its numbers show that the machinery works and what its trade-offs look like. They say nothing about a 7B model.
"""
