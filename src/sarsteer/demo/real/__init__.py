"""The demo on the real model, ``sarsteer-small``, calibrated with ``sarsteer-pairs``."""
