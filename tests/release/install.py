"""Build what is published, and try it in an empty environment outside of the repository.

    python -m tests.release.install dist

installs the wheels with their dependencies, which takes minutes and about 2 GB in a temporary folder. The test in this
folder does the same with the dependencies of the environment that it runs in.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "packages" / "sarsteer-small"


def call(*command: object, cwd: Path) -> str:
    """Standard output of a command that succeeds, in an environment that knows nothing of the repository."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def build(out: Path) -> tuple[Path, Path, Path]:
    """The sdist, the wheel that is built from it, and the wheel of the weights."""
    python = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)]
    for command in ([*python, str(ROOT)], [*python, "--wheel", str(SMALL)]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    (sdist,) = out.glob("sarsteer-*.tar.gz")
    (wheel,) = out.glob("sarsteer-*.whl")
    (small,) = out.glob("sarsteer_small-*.whl")
    return sdist, wheel, small


def environment(folder: Path, wheels: list[Path], *, borrow: bool) -> Path:
    """The Python of a new environment with these wheels. ``borrow`` takes other packages from this one.

    Borrowed folders are only put on the path: their ``.pth`` files, and so an editable sarsteer, stay out of it.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-compile",
    ]
    if borrow:
        site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip += ["--no-deps", "--no-index"]
    else:
        pip += ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *map(str, wheels)], check=True)
    return python


def try_it(python: Path, sdist: Path, folder: Path, *, demo: bool) -> None:
    """What a stranger does first: import, doctor, the quick start of the sdist, and the demo."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.glob("sarsteer-*/")
    where = call(python, "-c", "import sarsteer, os; print(os.path.dirname(sarsteer.__file__))", cwd=folder).strip()
    assert where.startswith(str(python.parents[1])), where
    trained = "from sarsteer.small.checkpoint import TRAINED; print(TRAINED, TRAINED.is_file())"
    assert call(python, "-c", trained, cwd=folder).split()[1] == "True"
    assert "serve, calibrate --engine vllm" in call(python, "-m", "sarsteer", "doctor", cwd=folder)
    assert "I am sorry" in call(python, source / "examples" / "quickstart.py", cwd=folder)
    if demo:
        call(python, "-m", "sarsteer", "demo", "--model", "tiny", cwd=folder)
        assert (folder / "demo-report.html").is_file()


def main(out: Path) -> None:
    out = out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    sdist, wheel, small = build(out)
    for path in (sdist, wheel, small):
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        python = environment(folder / "environment", [wheel, small], borrow=False)
        try_it(python, sdist, folder, demo=True)
    print(f"the wheels run outside of the repository, on Python {sysconfig.get_python_version()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
