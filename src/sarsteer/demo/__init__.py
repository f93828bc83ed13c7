"""The whole defence on the embedded model: calibrate, tune, answer held-out requests, report."""
