"""Registries of defenses, judges and other kinds of parts that a command line names and a third party can add.

A part is a frozen dataclass: its fields are its typed options. It is named by a short text, the *spec*:

    NAME[:ARGUMENT][,OPTION=VALUE]...        such as ``sarsteer:alpha=0.2,k=5`` or ``rubric:openai/gpt-x,timeout=30``
    path/to/file.py:ClassName[:ARGUMENT]...  a class in a file of the user's

Built-in parts are the classes in the registry's package that set ``name``; a new one is one new file. Installed
packages add theirs through an entry point in the registry's group. Validation, help and error messages come from the
dataclass fields, and a spec is parsed once.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import inspect
import math
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Union

from sarsteer.errors import SarsteerError

T = TypeVar("T")

_FILE_SPEC = re.compile(r"(?P<file>.+?\.py):(?P<class>[A-Za-z_]\w*)(?::(?P<rest>.*))?", re.DOTALL)
_BEFORE_OPTION = re.compile(r",(?=[a-z_]+=)")
_OPTION = re.compile(r"([a-z_]+)=(.*)", re.DOTALL)
_UNIONS: tuple[Any, ...] = (Union, types.UnionType)


def option(
    default: Any = dataclasses.MISSING, *, help: str = "", argument: bool = False, name: str | None = None
) -> Any:
    """A dataclass field that a spec can set.

    Args:
        default: the value when the spec does not set it; required when left out.
        help: one line for ``--help`` and the docs.
        argument: the value follows the name and a colon, without ``OPTION=``; at most one field.
        name: the option's name in a spec when it differs from the field's, such as ``lambda`` for ``lambda_``.

    """
    metadata = {"help": help, "argument": argument, "name": name}
    return dataclasses.field(default=default, metadata=metadata)


class Registry(Generic[T]):
    """All parts of one kind.

    Args:
        kind: what messages call a part, such as ``"defense"``.
        base: the class that every part extends.
        package: the package whose modules hold the built-in parts.
        error: the exception for a bad spec.
        group: the entry-point group of third-party parts; ``package`` by default.

    """

    def __init__(
        self, kind: str, base: type[T], package: str, error: type[SarsteerError], group: str | None = None
    ) -> None:
        self.kind, self.base, self.package, self.error = kind, base, package, error
        self.group = group or package
        self._classes: dict[str, type[T]] | None = None
        self._specs: dict[type[T], str] = {}  # how classes from files are named

    # ---- which parts there are -----------------------------------------------------------------------------------

    def classes(self) -> dict[str, type[T]]:
        """Every part by name: the built-in ones, then those of installed packages."""
        if self._classes is None:
            found = {cls.name: cls for cls in self._built_in()}  # type: ignore[attr-defined]
            for entry in importlib.metadata.entry_points(group=self.group):
                if entry.name in found:
                    raise self.error(
                        f"{self.kind} {entry.name!r} of package {entry.dist.name if entry.dist else '?'} has the name "
                        "of another one; uninstall one of them"
                    )
                found[entry.name] = self._checked(entry.load(), entry.value)
                self._specs[found[entry.name]] = entry.name
            self._classes = dict(sorted(found.items()))
        return self._classes

    def _built_in(self) -> Iterator[type[T]]:
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__, f"{self.package}."):
            for value in vars(importlib.import_module(module.name)).values():
                own = inspect.isclass(value) and value.__module__ == module.name and "name" in vars(value)
                if own and issubclass(value, self.base) and not inspect.isabstract(value):
                    yield value

    def _checked(self, value: Any, where: str) -> type[T]:
        if not (inspect.isclass(value) and issubclass(value, self.base) and dataclasses.is_dataclass(value)):
            raise self.error(
                f"{where} is not a {self.kind}: write a dataclass that extends {self.base.__module__}."
                f"{self.base.__name__}"
            )
        if inspect.isabstract(value):
            missing = ", ".join(sorted(value.__abstractmethods__))
            raise self.error(f"{where} does not implement {missing}; a {self.kind} must")
        return typing.cast(type[T], value)

    def _from_file(self, path: str, name: str) -> type[T]:
        file = Path(path)
        if not file.is_file():
            raise self.error(f"{self.kind} {path}:{name}: there is no file {path}; check the path")
        module_name = f"_sarsteer_{self.kind}_{abs(hash(file.resolve()))}"
        module = sys.modules.get(module_name)
        if module is None:
            spec = importlib.util.spec_from_file_location(module_name, file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            try:
                spec.loader.exec_module(module)
            except Exception as error:
                del sys.modules[module_name]
                raise self.error(f"{path}: cannot be imported ({type(error).__name__}: {error})") from error
        if not hasattr(module, name):
            raise self.error(f"{path}: has no class {name}; check the name after the colon")
        found = self._checked(getattr(module, name), f"{path}:{name}")
        self._specs[found] = f"{path}:{name}"
        return found

    # ---- specs ---------------------------------------------------------------------------------------------------

    def parse(self, spec: str) -> T:
        """The part that ``spec`` names, with its options.

        Raises:
            SarsteerError: of the registry's type: the spec names no part, or an option is unknown, missing or invalid.

        """
        cls, rest = self.find(spec)
        values: dict[str, Any] = {}
        fields = {_option_name(field): field for field in _options(cls)}
        argument = next((field for field in fields.values() if field.metadata.get("argument")), None)
        types_of = typing.get_type_hints(cls)
        for position, part in enumerate(_BEFORE_OPTION.split(rest) if rest else ()):
            match = _OPTION.fullmatch(part)
            if match is not None and match[1] in fields:
                field, text = fields[match[1]], match[2]
            elif position == 0 and argument is not None:
                field, text = argument, part
            else:
                known = ", ".join(fields) or "none"
                name = match[1] if match is not None else part
                raise self.error(f"{self.kind} {spec!r}: unknown option {name!r}; its options: {known}")
            values[field.name] = self._value(spec, _option_name(field), types_of[field.name], text)
        for field in fields.values():
            if field.name not in values and field.default is field.default_factory is dataclasses.MISSING:
                raise self.error(f"{self.kind} {spec!r} needs {_option_name(field)}; write {self.usage(cls)}")
        return cls(**values)

    def find(self, spec: str) -> tuple[type[T], str]:
        """The class that ``spec`` names, and the rest of the spec."""
        match = _FILE_SPEC.fullmatch(spec)
        if match is not None:
            return self._from_file(match["file"], match["class"]), match["rest"] or ""
        name, _, rest = spec.partition(":")
        if name not in self.classes() and "," in name:  # NAME,OPTION=VALUE
            name, _, rest = spec.partition(",")
        if name not in self.classes():
            raise self.error(
                f"unknown {self.kind} {spec!r}; use one of {', '.join(self.classes())}, or path/to/file.py:ClassName"
            )
        return self.classes()[name], rest

    def spec_of(self, part: T) -> str:
        """The shortest spec of ``part``: options at their defaults are left out."""
        cls = type(part)
        name = self._specs.get(cls) or str(cls.name)  # type: ignore[attr-defined]
        argument, options = "", []
        for field in _options(cls):
            value = getattr(part, field.name)
            if field.default is not dataclasses.MISSING and value == field.default:
                continue
            text = f"{value:g}" if isinstance(value, float) else str(value)
            if field.metadata.get("argument"):
                argument = text
            else:
                options.append(f"{_option_name(field)}={text}")
        rest = ",".join([argument, *options] if argument else options)
        return f"{name}:{rest}" if rest else name

    def usage(self, cls: type[T]) -> str:
        """The form of a spec for help and errors, such as ``prompt:NAME`` or ``sarsteer[:alpha=FLOAT,k=INT]``."""
        name = self._specs.get(cls) or str(cls.name)  # type: ignore[attr-defined]
        argument, options = "", []
        types_of = typing.get_type_hints(cls)
        for field in _options(cls):
            required = field.default is field.default_factory is dataclasses.MISSING
            if field.metadata.get("argument"):
                shown = field.name.upper()
                argument = f":{shown}" if required else f"[:{shown}]"
            else:
                options.append(f"{_option_name(field)}={_type_name(types_of[field.name])}")
        if not options:
            return f"{name}{argument}"
        return f"{name}{argument}[{',' if argument else ':'}{','.join(options)}]"

    def help(self) -> list[tuple[str, str]]:
        """(usage, first line of the docstring) of every part, for ``--help`` and the docs."""
        return [(self.usage(cls), (inspect.getdoc(cls) or "").partition("\n")[0]) for cls in self.classes().values()]

    def _value(self, spec: str, name: str, wanted: Any, text: str) -> Any:
        """``text`` as the field's type."""
        choices = [t for t in typing.get_args(wanted) if t is not type(None)] if _is_union(wanted) else [wanted]
        for choice in choices:
            try:
                return _convert(choice, text)
            except ValueError:
                continue
        raise self.error(f"{self.kind} {spec!r}: {name} must be {_described(wanted)}, not {text!r}")


def _options(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(cls) if field.init and "help" in field.metadata]


def _option_name(field: dataclasses.Field[Any]) -> str:
    return field.metadata.get("name") or field.name


def _is_union(wanted: Any) -> bool:
    return typing.get_origin(wanted) in _UNIONS


def _convert(wanted: Any, text: str) -> Any:
    """``text`` as ``wanted``; ``ValueError`` when it is not one."""
    if typing.get_origin(wanted) is Literal:
        if text in typing.get_args(wanted):
            return text
        raise ValueError(text)
    if wanted is bool:
        if text.lower() in ("true", "yes", "on", "1"):
            return True
        if text.lower() in ("false", "no", "off", "0"):
            return False
        raise ValueError(text)
    value = wanted(text)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(text)
    return value


def _described(wanted: Any) -> str:
    """How an error describes the values of a type."""
    if _is_union(wanted):
        return " or ".join(_described(t) for t in typing.get_args(wanted) if t is not type(None))
    if typing.get_origin(wanted) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(wanted)))
    words = {str: "text", float: "a finite number", int: "a whole number", bool: "on or off", Path: "a file"}
    return words.get(wanted, "valid")


def _type_name(wanted: Any) -> str:
    """How help writes a type."""
    if _is_union(wanted):
        return "|".join(_type_name(t) for t in typing.get_args(wanted) if t is not type(None))
    if typing.get_origin(wanted) is Literal:
        return "|".join(map(str, typing.get_args(wanted)))
    return str({str: "TEXT", float: "FLOAT", int: "INT", bool: "BOOL", Path: "FILE"}.get(wanted, "VALUE"))
