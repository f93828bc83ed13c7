"""The registry on a small kind of its own: specs, options, errors, classes from files and from packages, help."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarsteer.errors import SarsteerError
from sarsteer.registry import Registry, option, options_of


class ShapeError(SarsteerError):
    pass


class Shape(ABC):
    name: ClassVar[str]

    @abstractmethod
    def area(self) -> float: ...


@dataclass(frozen=True)
class Square(Shape):
    """A square.

    More about it.
    """

    name: ClassVar[str] = "square"
    side: float = option(1.0, argument=True, help="in meters")
    count: int = option(1, help="how many")
    filled: bool = option(False)
    color: Literal["red", "blue", 3] = option("red")
    label: str | None = option(None)
    picture: Path | None = option(None)
    lambda_: float | int | None = option(None, name="lambda")
    key: str | None = option(None, secret="SHAPE_KEY")
    state: str = "not an option"

    def area(self) -> float:
        return self.count * self.side**2


@dataclass(frozen=True)
class Text(Shape):
    """A text."""

    name: ClassVar[str] = "text"
    text: str = option(argument=True)
    font: str = option()

    def area(self) -> float:
        return float(len(self.text))


@dataclass(frozen=True)
class Point(Shape):
    name: ClassVar[str] = "point"

    def area(self) -> float:
        return 0.0


def shapes_in_a_package(package: Path, more: str = "") -> None:
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base.py").write_text("import re\nfrom tests.ground.test_registry import Shape, Square\n")
    (package / "flat.py").write_text(
        "from tests.ground.test_registry import Point, Square, Text\n"
        "class _Helper:\n    name = 'helper'\n"
        + "".join(f"class My{name}({name}):\n    name = '{name.lower()}'\n" for name in ("Square", "Text", "Point"))
        + more
    )


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Registry[Shape]]]:
    names: list[str] = []

    def make(more: str = "") -> Registry[Shape]:
        names.append(f"shapes_{tmp_path.name}_{len(names)}")
        shapes_in_a_package(tmp_path / names[-1], more)
        monkeypatch.syspath_prepend(tmp_path)
        return Registry("shape", Shape, names[-1], ShapeError)  # type: ignore[type-abstract]

    yield make
    for module in [module for module in sys.modules if module.partition(".")[0] in names]:
        del sys.modules[module]


@pytest.fixture
def shapes(made: Callable[..., Registry[Shape]]) -> Registry[Shape]:
    return made()


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry[Shape]]:
    """One registry for many examples of hypothesis."""
    folder = tmp_path_factory.mktemp("fixed")
    shapes_in_a_package(folder / "fixed_shapes")
    sys.path.insert(0, str(folder))
    yield Registry("shape", Shape, "fixed_shapes", ShapeError)  # type: ignore[type-abstract]
    sys.path.remove(str(folder))


# ---- specs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("square", {}),
        ("square:2", {"side": 2.0}),
        ("square:side=2", {"side": 2.0}),
        ("square:2.5,count=3", {"side": 2.5, "count": 3}),
        ("square:count=3", {"count": 3}),
        ("square,count=3", {"count": 3}),
        ("square:,count=3", {"count": 3}),
        ("square:", {}),
        ("square:2, count=3", {"side": 2.0, "count": 3}),
        ("square:filled=on", {"filled": True}),
        ("square:filled=No", {"filled": False}),
        ("square:color=blue", {"color": "blue"}),
        ("square:color=3", {"color": 3}),
        ("square:label=a,b: c=d", {"label": "a,b: c=d"}),
        ("square:label=", {"label": ""}),
        ("square:picture=a/b.png", {"picture": Path("a/b.png")}),
        ("square:lambda=0.5", {"lambda_": 0.5}),
    ],
)
def test_a_spec_sets_typed_options(shapes: Registry[Shape], spec: str, values: dict[str, object]) -> None:
    square = shapes.parse(spec)
    assert isinstance(square, Square)
    for name in ("side", "count", "filled", "color", "label", "picture", "lambda_", "key", "state"):
        assert getattr(square, name) == values.get(name, getattr(Square(), name)), name
    assert type(square.count) is int


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("circle", "unknown shape 'circle'; use one of point, square, text, or path/to/file.py:ClassName"),
        ("", "unknown shape ''; use one of point, square, text, or path/to/file.py:ClassName"),
        ("square:wide", "shape 'square:wide': side must be a finite number, not 'wide'"),
        ("square:nan", "shape 'square:nan': side must be a finite number, not 'nan'"),
        ("square:side=", "shape 'square:side=': side must be a finite number, not ''"),
        ("square:lambda=inf", "shape 'square:lambda=inf': lambda must be a finite number or a whole number, not 'inf'"),
        ("square:count=2.5", "shape 'square:count=2.5': count must be a whole number, not '2.5'"),
        ("square:filled=maybe", "shape 'square:filled=maybe': filled must be on or off, not 'maybe'"),
        ("square:color=pink", "shape 'square:color=pink': color must be one of red, blue, 3, not 'pink'"),
        (
            "square:2,size=3",
            "shape 'square:2,size=3': unknown option 'size'; its options: side, count, filled, color, label, picture, "
            "lambda",
        ),
        ("square:state=x", "shape 'square:state=x': side must be a finite number, not 'state=x'"),
        ("square:2,lambda_=3", "unknown option 'lambda_'"),
        ("square:2,side=3", "shape 'square:2,side=3': side is set twice; set it once"),
        ("point:2", "shape 'point:2': unknown option '2'; its options: none"),
        ("text", "shape 'text' needs text; write text:TEXT,font=TEXT"),
        ("text:hello", "shape 'text:hello' needs font; write text:TEXT,font=TEXT"),
        ("text:,font=x", "shape 'text:,font=x' needs text; write text:TEXT,font=TEXT"),
    ],
)
def test_an_error_says_what_is_wrong_and_what_to_write(shapes: Registry[Shape], spec: str, message: str) -> None:
    with pytest.raises(ShapeError) as caught:
        shapes.parse(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["square:key=s3cret", "square:2,key=s3cret", "square:2,size=1,key=s3cret,count=x"])
def test_a_secret_is_refused_and_not_repeated(shapes: Registry[Shape], spec: str) -> None:
    with pytest.raises(ShapeError, match="shape 'square': logs would contain key; set SHAPE_KEY instead") as caught:
        shapes.parse(spec)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ShapeError) as caught:
        shapes.parse(spec.replace("square", "squares"))
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(Square(key="s3cret"))


_TEXT = st.text(min_size=1, max_size=20) | st.text("ab_ ,=:1", min_size=1)
_FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.builds(
        Square,
        side=_FINITE,
        count=st.integers(),
        filled=st.booleans(),
        color=st.sampled_from(["red", "blue", 3]),
        label=st.none() | _TEXT,
        lambda_=st.none() | _FINITE,
        key=st.none() | _TEXT,
    )
)
def test_a_spec_of_a_part_makes_the_same_part(fixed: Registry[Shape], part: Square) -> None:
    cls = fixed.classes()["square"]
    values = {name: getattr(part, name) for name in ("side", "count", "filled", "color", "label", "lambda_")}
    public, private = cls(**values), cls(**values, key=part.key)  # type: ignore[call-arg]
    if re.search(r",\s*[a-z_][a-z_0-9]*=", part.label or ""):  # would read as another option
        with pytest.raises(ShapeError, match="cannot be written as a spec"):
            fixed.spec_of(private)
    else:
        assert fixed.spec_of(private) == fixed.spec_of(public), "without the secret"
        assert fixed.parse(fixed.spec_of(private)) == public


def test_the_shortest_spec(shapes: Registry[Shape]) -> None:
    for spec, short in (
        ("square", "square"),
        ("square:1,count=1", "square"),
        ("square:2.0,count=1", "square:2"),
        ("square:count=2,filled=yes,lambda=0.125", "square:count=2,filled=on,lambda=0.125"),
        ("text:a b,font=x", "text:a b,font=x"),
        ("square:0.1234567890123", "square:0.1234567890123"),
    ):
        assert shapes.spec_of(shapes.parse(spec)) == short
    text = shapes.classes()["text"]
    for part in (text("", font="x"), text("a,font=y", font="x")):  # type: ignore[call-arg]
        with pytest.raises(ShapeError, match="cannot be written as a spec"):
            shapes.spec_of(part)


# ---- classes from elsewhere ------------------------------------------------------------------------------------------

RING = """
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sarsteer.registry import option
from tests.ground.test_registry import Shape


@dataclass(frozen=True)
class Ring(Shape):
    "A ring."

    name: ClassVar[str] = "ring"
    radius: float | None = option(None, argument=True)
    holes: int = option(1)

    def area(self) -> float:
        return self.holes * 1.0


Sizes = dict[str, float]  # in Python 3.10, inspect.isclass takes it for a class


class Plain(Shape):
    def area(self) -> float:
        return 0.0


class Undecorated(Ring):
    width: float = option(1.0)


@dataclass(frozen=True)
class Anonymous(Ring):
    name = None


@dataclass(frozen=True)
class Unfinished(Shape):
    name: ClassVar[str] = "unfinished"


number = 3
"""


def test_a_class_in_a_file(shapes: Registry[Shape], tmp_path: Path) -> None:
    file = tmp_path / "my rings.py"
    file.write_text(RING)
    ring = shapes.parse(f"{file}:Ring")
    assert (ring.name, ring.area()) == ("ring", 1.0)
    assert shapes.spec_of(ring) == f"{file}:Ring"
    for spec in (f"{file}:Ring:2,holes=3", f"{file}:Ring,holes=3,radius=2"):
        other = shapes.parse(spec)
        assert type(other) is type(ring), "the file is imported once"
        assert shapes.spec_of(other) == f"{file}:Ring:2,holes=3"
    assert shapes.usage(type(ring)) == f"{file}:Ring[:RADIUS][,holes=INT]"
    assert "ring" not in shapes.names()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Wheel", "has no class Wheel; check the name after the colon"),
        ("number", "number is not a shape: write a class that extends tests.ground.test_registry.Shape"),
        ("Sizes", "Sizes is not a shape: write a class that extends tests.ground.test_registry.Shape"),
        ("Plain", "Plain is not a dataclass; decorate it with @dataclass(frozen=True)"),
        ("Undecorated", "Undecorated is not a dataclass; decorate it"),
        ("Anonymous", "Anonymous has no name; set name: ClassVar[str]"),
        ("Unfinished", "Unfinished does not implement area; a shape must"),
        ("Path", "has no class Path"),
    ],
)
def test_a_file_without_the_class(shapes: Registry[Shape], tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "rings.py").write_text(RING)
    with pytest.raises(ShapeError) as caught:
        shapes.parse(f"{tmp_path}/rings.py:{name}")
    assert message in str(caught.value)


def test_a_file_that_cannot_be_imported(shapes: Registry[Shape], tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"there is no file nowhere\.py; check the path"):
        shapes.parse("nowhere.py:Ring")
    file = tmp_path / "rings.py"
    file.write_text("raise ValueError('bad\\nday')")
    with pytest.raises(ShapeError, match=r"rings\.py: cannot be imported \(ValueError: bad day\); fix it") as caught:
        shapes.parse(f"{file}:Ring")
    assert "\n" not in str(caught.value)
    file.write_text(RING)
    assert shapes.parse(f"{file}:Ring").area() == 1.0, "a repaired file can be imported"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Pretend that a package with these entry points is installed."""
    (tmp_path / "rings_of_a_package.py").write_text(RING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rings_of_a_package", raising=False)

    def install(**entries: str) -> None:
        def entry_points(group: str) -> list[importlib.metadata.EntryPoint]:
            return [importlib.metadata.EntryPoint(name, value, group) for name, value in entries.items()]

        monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)

    return install


def test_a_class_of_an_installed_package(shapes: Registry[Shape], installed: Callable[..., None]) -> None:
    installed(hoop="rings_of_a_package:Ring")
    assert shapes.names() == ["hoop", "point", "square", "text"]
    assert "rings_of_a_package" not in sys.modules, "imported when it is used"
    hoop = shapes.parse("hoop:2,holes=3")
    assert hoop.area() == 3.0
    assert shapes.spec_of(hoop) == "hoop:2,holes=3"
    assert shapes.help()[0] == ("hoop[:RADIUS][,holes=INT]", "A ring.")


def test_a_package_that_is_broken(shapes: Registry[Shape], installed: Callable[..., None]) -> None:
    installed(hoop="rings_of_no_package:Ring", odd="rings_of_a_package:number")
    assert shapes.parse("point").area() == 0.0, "other parts still work"
    with pytest.raises(ShapeError, match=r"shape 'hoop': rings_of_no_package:Ring cannot be imported \(ModuleNotFound"):
        shapes.parse("hoop")
    with pytest.raises(ShapeError, match="rings_of_a_package:number is not a shape"):
        shapes.parse("odd")


def test_a_name_that_is_taken(shapes: Registry[Shape], installed: Callable[..., None]) -> None:
    installed(square="rings_of_a_package:Ring")
    with pytest.raises(ShapeError, match="adds a second shape 'square'; uninstall one of the two packages"):
        shapes.parse("point")


def test_a_package_may_be_installed_twice(
    shapes: Registry[Shape], monkeypatch: pytest.MonkeyPatch, installed: Callable[..., None]
) -> None:
    installed(hoop="rings_of_a_package:Ring")
    (entry,) = importlib.metadata.entry_points(group=shapes.group)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry, entry])
    assert shapes.parse("hoop").area() == 1.0


def test_a_name_that_is_used_twice(made: Callable[..., Registry[Shape]]) -> None:
    registry = made("class Other(Point):\n    name = 'point'\n")
    with pytest.raises(ShapeError, match=r"flat\.Other has the name of another shape, 'point'; rename it"):
        registry.names()


def test_a_built_in_part_must_be_complete(made: Callable[..., Registry[Shape]]) -> None:
    more = "from dataclasses import dataclass\nfrom tests.ground.test_registry import Shape\n"
    registry = made(more + "@dataclass(frozen=True)\nclass Half(Shape):\n    name = 'half'\n")
    with pytest.raises(ShapeError, match=r"flat\.Half does not implement area"):
        registry.names()


# ---- help ------------------------------------------------------------------------------------------------------------


def test_usage_and_help(shapes: Registry[Shape]) -> None:
    square = "square[:SIDE][,count=INT,filled=BOOL,color=red|blue|3,label=TEXT,picture=FILE,lambda=FLOAT|INT]"
    classes = shapes.classes()
    assert list(classes) == ["point", "square", "text"]
    assert [shapes.usage(cls) for cls in classes.values()] == ["point", square, "text:TEXT,font=TEXT"]
    assert shapes.usage(classes["square"], optional=False) == "square[:SIDE]"
    assert [line for _, line in shapes.help()][1:] == ["A square.", "A text."]
    options = options_of(Square)
    assert (options["count"].help, options["count"].type_name, options["count"].default) == ("how many", "INT", 1)
    assert options["lambda"].field == "lambda_"


def test_only_the_argument_is_positional() -> None:
    assert Text("a", font="x").text == "a"
    with pytest.raises(TypeError):
        Text("a", "x")  # type: ignore[misc]
