"""Old place of ``outcome``, until all callers use the new one."""

from sarsteer.judges.embedded import outcome

__all__ = ["outcome"]
