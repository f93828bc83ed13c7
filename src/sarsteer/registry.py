"""Registries of defenses, judges and benchmarks: parts that a command line names and that a third party can add.

A part is a frozen dataclass. Its fields are its typed options, and a short text, its *spec*, names it:

    NAME[:ARGUMENT][,OPTION=VALUE]...        such as ``sarsteer:alpha=0.2,k=5`` or ``rubric:openai/gpt-x,timeout=30``
    path/to/file.py:ClassName[:ARGUMENT]...  a class in the user's own file

Built-in parts are the classes in the registry's package that set ``name``; a new one is one new file. Installed
packages add theirs through an entry point in the registry's group. Validation, help and error messages come from the
dataclass fields.
"""

from __future__ import annotations

import dataclasses
import functools
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
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Union

from sarsteer.errors import SarsteerError, did_you_mean

T = TypeVar("T")

_FILE_SPEC = re.compile(r"(?P<file>.+?\.py):(?P<class>[A-Za-z_]\w*)(?:[:,](?P<rest>.*))?", re.DOTALL)
_BEFORE_OPTION = re.compile(r",\s*(?=[a-z_][a-z_0-9]*=)")
_PASSWORD = re.compile(r"https?://(?:(?!,\s*[a-z_][a-z_0-9]*=)[^/?#])*@")  # up to the next option
_KEY = "sarsteer.option"
_TRUE, _FALSE = ("on", "true", "yes", "1"), ("off", "false", "no", "0")


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str = "",
    argument: bool = False,
    name: str | None = None,
    secret: str | None = None,
) -> Any:
    """A dataclass field that a spec can set; in Python, only the argument is positional.

    Args:
        default: the value when the spec does not set it; required when left out.
        help: one line for ``--help`` and the docs.
        argument: the value follows the name and a colon, without ``OPTION=``; at most one field.
        name: the option's name in a spec when it differs from the field's, such as ``lambda`` for ``lambda_``.
        secret: the environment variable that holds the value instead. The field can be set in Python but not in a
            spec, since logs contain specs.

    """
    metadata = {_KEY: {"help": help, "argument": argument, "spec_name": name, "secret": secret}}
    return dataclasses.field(default=default, metadata=metadata, repr=secret is None, kw_only=not argument)


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a part, as its dataclass field declares it.

    Attributes:
        field: the name of the dataclass field.
        type: its type.
        default: its default; ``dataclasses.MISSING`` if it must be set.

    """

    field: str
    type: Any
    default: Any
    help: str
    argument: bool
    spec_name: str | None
    secret: str | None

    @property
    def name(self) -> str:
        """The name in a spec."""
        return self.spec_name or self.field

    @property
    def required(self) -> bool:
        """Whether a spec must set it."""
        return self.default is dataclasses.MISSING

    @property
    def type_name(self) -> str:
        """The type, as help writes it."""
        return _type_name(self.type)


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
        self._spec_names: dict[type[T], str] = {}  # of classes from files and entry points

    # ---- the parts -----------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The names of all parts: built-in ones and those of installed packages, which are not imported."""
        return sorted({*self._built_in, *self._entry_points})

    def get(self, name: str) -> type[T] | None:
        """The class with that name; None if there is none."""
        return self._named(name) if name in self.names() else None

    def classes(self) -> dict[str, type[T]]:
        """Every part by name."""
        return {name: self._named(name) for name in self.names()}

    @functools.cached_property
    def _built_in(self) -> dict[str, type[T]]:
        package = importlib.import_module(self.package)
        classes: dict[str, type[T]] = {}
        for module in pkgutil.walk_packages(package.__path__, f"{self.package}."):
            for value in vars(importlib.import_module(module.name)).values():
                is_part = _is_class(value) and issubclass(value, self.base) and value.__module__ == module.name
                if is_part and "name" in vars(value):
                    where = f"{module.name}.{value.__qualname__}"
                    if classes.setdefault(value.name, self._checked(value, where)) is not value:
                        raise self.error(f"{where} has the name of another {self.kind}, {value.name!r}; rename it")
        return classes

    @functools.cached_property
    def _entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        entries: dict[str, importlib.metadata.EntryPoint] = {}
        for entry in importlib.metadata.entry_points(group=self.group):
            if entry.name in entries and entry.value == entries[entry.name].value:  # a package installed twice
                continue
            if entry.name in self._built_in or entry.name in entries:
                package = entry.dist.name if entry.dist else entry.value
                raise self.error(
                    f"package {package} adds a second {self.kind} {entry.name!r}; uninstall one of the two packages"
                )
            entries[entry.name] = entry
        return entries

    def _named(self, name: str) -> type[T]:
        if name in self._built_in:
            return self._built_in[name]
        entry = self._entry_points[name]
        try:
            value = entry.load()
        except Exception as error:
            raise self.error(
                f"{self.kind} {name!r}: {entry.value} cannot be imported ({_reason(error)}); "
                "repair or uninstall its package"
            ) from error
        cls = self._checked(value, entry.value)
        self._spec_names[cls] = name
        return cls

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
            sys.modules[module_name] = module  # dataclasses look their module up there
            try:
                spec.loader.exec_module(module)
            except Exception as error:
                del sys.modules[module_name]
                raise self.error(f"cannot be imported ({_reason(error)}); fix it", place=path) from error
        if not hasattr(module, name):
            raise self.error(f"has no class {name}; check the name after the colon", place=path)
        cls = self._checked(getattr(module, name), f"{path}:{name}")
        self._spec_names[cls] = f"{path}:{name}"
        return cls

    def _checked(self, value: Any, where: str) -> type[T]:
        """``value``, if it is a complete part."""
        if not (_is_class(value) and issubclass(value, self.base)):
            base = f"{self.base.__module__}.{self.base.__name__}"
            raise self.error(f"{where} is not a {self.kind}: write a class that extends {base}")
        if not dataclasses.is_dataclass(value) or any(isinstance(x, dataclasses.Field) for x in vars(value).values()):
            raise self.error(f"{where} is not a dataclass; decorate it with @dataclass(frozen=True)")
        if inspect.isabstract(value):
            missing = ", ".join(sorted(value.__abstractmethods__))
            raise self.error(f"{where} does not implement {missing}; a {self.kind} must")
        if not isinstance(getattr(value, "name", None), str):
            raise self.error(f"{where} has no name; set name: ClassVar[str]")
        return typing.cast(type[T], value)

    # ---- specs ---------------------------------------------------------------------------------------------------

    def parse(self, spec: str) -> T:
        """The part that ``spec`` names, with its options.

        Raises:
            SarsteerError: of the registry's type: the spec names no part, or an option is unknown, missing or invalid.

        """
        cls, rest = self.find(spec)
        if _PASSWORD.search(rest):  # before any error that quotes the spec
            raise self.error(
                f"{self.kind} {self._name_of(cls)!r}: logs and results would contain its address's password; leave the "
                "address out and set OPENAI_BASE_URL instead"
            )
        options = options_of(cls)
        argument = next((option for option in options.values() if option.argument), None)
        parts = _BEFORE_OPTION.split(rest) if rest else []
        for part in parts:  # before any error that quotes the spec
            secret = options.get(part.partition("=")[0])
            if secret is not None and secret.secret is not None:
                raise self.error(
                    f"{self.kind} {self._name_of(cls)!r}: logs would contain {secret.name}; set {secret.secret} instead"
                )
        values: dict[str, Any] = {}
        for position, part in enumerate(parts):
            if position == 0 and not part:
                continue
            name, equals, text = part.partition("=")
            chosen = options.get(name) if equals else None
            if chosen is None and position == 0:
                chosen, text = argument, part
            if chosen is None:
                known = ", ".join(option.name for option in options.values() if option.secret is None) or "none"
                hint = did_you_mean(name, options)
                raise self.error(f"{self.kind} {spec!r}: unknown option {name!r}; its options: {known}{hint}")
            if chosen.field in values:
                raise self.error(f"{self.kind} {spec!r}: {chosen.name} is set twice; set it once")
            values[chosen.field] = self._value(spec, chosen, text)
        for option in options.values():
            if option.required and option.field not in values:
                raise self.error(f"{self.kind} {spec!r} needs {option.name}; write {self.usage(cls, optional=False)}")
        return cls(**values)

    def find(self, spec: str) -> tuple[type[T], str]:
        """The class that ``spec`` names, and the rest of the spec."""
        name, _, rest = spec.partition(":")
        if name not in self.names() and "," in name:  # NAME,OPTION=VALUE
            name, _, rest = spec.partition(",")
        if name in self.names():
            return self._named(name), rest
        match = _FILE_SPEC.fullmatch(spec)
        if match is not None:
            return self._from_file(match["file"], match["class"]), match["rest"] or ""
        raise self.error(
            f"unknown {self.kind} {name!r}; use one of {', '.join(self.names())}, or path/to/file.py:ClassName"
            + did_you_mean(name, self.names())
        )

    def spec_of(self, part: T) -> str:
        """The shortest spec of ``part``: options at their defaults are left out, and so are secrets.

        Raises:
            SarsteerError: of the registry's type: a spec cannot express one of the values.

        """
        cls = type(part)
        argument: list[str] = []
        settings: list[str] = []
        written = [option for option in options_of(cls).values() if option.secret is None]
        for option in written:
            value = getattr(part, option.field)
            if option.required or value != option.default:
                if option.argument:
                    argument = [_text(value)]
                else:
                    settings.append(f"{option.name}={_text(value)}")
        spec = self._name_of(cls) + "".join(f":{text}" for text in [",".join([*argument, *settings])] if text)
        try:
            parsed = self.parse(spec)
            lost = next((one for one in written if getattr(parsed, one.field) != getattr(part, one.field)), None)
        except SarsteerError as error:
            raise self.error(f"{self.kind} {part!r} cannot be written as a spec ({error.message})") from error
        if lost is not None:
            raise self.error(f"{self.kind} {part!r} cannot be written as a spec: {lost.name} would change")
        return spec

    # ---- help ----------------------------------------------------------------------------------------------------

    def usage(self, cls: type[T], *, optional: bool = True) -> str:
        """The form of a spec for help and errors, such as ``prompt:NAME`` or ``sarsteer[:alpha=FLOAT,k=INT]``.

        Args:
            cls: the part's class.
            optional: whether to list the options that have a default.

        """
        text, separator = self._name_of(cls), ":"
        options = [option for option in options_of(cls).values() if option.secret is None]
        for option in options:
            if option.argument:
                text += f":{option.name.upper()}" if option.required else f"[:{option.name.upper()}]"
                separator = ","
        for option in options:
            if option.required and not option.argument:
                text += f"{separator}{option.name}={option.type_name}"
                separator = ","
        rest = [f"{option.name}={option.type_name}" for option in options if not (option.required or option.argument)]
        return f"{text}[{separator}{','.join(rest)}]" if rest and optional else text

    def help(self) -> list[tuple[str, str]]:
        """(usage, description) of every part, for ``--help`` and the docs."""
        return [(self.usage(cls), self.description(cls)) for cls in self.classes().values()]

    def description(self, cls: type[T]) -> str:
        """The first line of the docstring, without code marks."""
        return (inspect.getdoc(cls) or "").partition("\n")[0].replace("``", "")

    def _name_of(self, cls: type[T]) -> str:
        return self._spec_names.get(cls) or str(cls.name)  # type: ignore[attr-defined]

    def _value(self, spec: str, option: Option, text: str) -> Any:
        """``text`` as the option's type."""
        for choice in _choices(option.type):
            try:
                return _convert(choice, text)
            except ValueError:
                continue
        raise self.error(f"{self.kind} {spec!r}: {option.name} must be {_described(option.type)}, not {text!r}")


def options_of(cls: type[Any]) -> dict[str, Option]:
    """The options of a part's class, by the name that specs use."""
    hints = typing.get_type_hints(cls)
    options = [
        Option(field.name, hints[field.name], field.default, **field.metadata[_KEY])
        for field in dataclasses.fields(cls)
        if _KEY in field.metadata
    ]
    return {option.name: option for option in options}


def _is_class(value: Any) -> typing.TypeGuard[type[Any]]:
    """Whether ``value`` is a class. In Python 3.10, ``inspect.isclass(dict[str, int])`` is true."""
    return issubclass(type(value), type)


def _reason(error: Exception) -> str:
    """The type and message of an error, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _choices(wanted: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type itself."""
    if typing.get_origin(wanted) in (Union, types.UnionType):
        return tuple(choice for choice in typing.get_args(wanted) if choice is not type(None))
    return (wanted,)


def _convert(wanted: Any, text: str) -> Any:
    """``text`` as ``wanted``; ``ValueError`` when it is not one."""
    if typing.get_origin(wanted) is Literal:
        for value in typing.get_args(wanted):
            if str(value) == text:
                return value
        raise ValueError(text)
    if wanted is bool:
        if text.lower() not in (*_TRUE, *_FALSE):
            raise ValueError(text)
        return text.lower() in _TRUE
    value = wanted(text)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(text)
    return value


def _text(value: Any) -> str:
    """A value as a spec writes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


def _described(wanted: Any) -> str:
    """How an error describes the values of a type."""
    words = {str: "text", float: "a finite number", int: "a whole number", bool: "on or off", Path: "a file"}
    return " or ".join(
        "one of " + ", ".join(map(str, typing.get_args(choice)))
        if typing.get_origin(choice) is Literal
        else words.get(choice, "valid")
        for choice in _choices(wanted)
    )


def _type_name(wanted: Any) -> str:
    """How help writes a type."""
    words = {str: "TEXT", float: "FLOAT", int: "INT", bool: "BOOL", Path: "FILE"}
    return "|".join(
        "|".join(map(str, typing.get_args(choice)))
        if typing.get_origin(choice) is Literal
        else words.get(choice, "VALUE")
        for choice in _choices(wanted)
    )
