"""Errors of federated calibration."""

from sarsteer.errors import CalibrationError


class FederationError(CalibrationError):
    """A federated calibration cannot run or continue, or a site was refused."""
