"""Old place of ``read_llama_guard``, until all callers use the new one."""

from sarsteer.judges.llama_guard import read_llama_guard

__all__ = ["read_llama_guard"]
