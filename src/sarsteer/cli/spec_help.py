"""What ``--help`` says about specs, generated from the registries."""

from __future__ import annotations

from typing import Any

from sarsteer.registry import Registry, options_of


def spec_rows(registry: Registry[Any]) -> list[tuple[str, str]]:
    """For each part: the form of its spec, and its description with its options. Plug-ins are imported."""
    rows = [(registry.usage(cls, optional=False), _describe(registry, cls)) for cls in registry.classes().values()]
    return [*rows, ("path/to/file.py:Class", f"Your own {registry.kind}; see docs/extending.md.")]


def _describe(registry: Registry[Any], cls: type[Any]) -> str:
    options = [option for option in options_of(cls).values() if option.secret is None]
    sentences = [registry.description(cls)]
    sentences += [f"{option.name.upper()}: {option.help}." for option in options if option.argument and option.help]
    named = [f"{option.name}={option.type_name}" for option in options if not option.argument]
    sentences += [f"Options: {', '.join(named)}."] if named else []
    return " ".join(sentences)
