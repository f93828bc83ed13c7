"""``sarsteer-pairs``: an English calibration set, as text in the package. Its clips are spoken on first use.

``DATA_CARD.md`` says how it was written and what its limits are.
"""

from sarsteer.data.sarsteer_pairs.load import load_sarsteer_pairs
from sarsteer.data.sarsteer_pairs.texts import GROUPS, NAME, SPLITS, VERSION
from sarsteer.data.sarsteer_pairs.voices import VOICES

__all__ = ["GROUPS", "NAME", "SPLITS", "VERSION", "VOICES", "load_sarsteer_pairs"]
