"""The demo: the whole defense on the embedded model, with strengths tuned on calibration pairs."""
