"""Train ``sarsteer-small`` and write its weights into the package: ``make small``.

Each stage saves every two minutes and resumes from there. If the package has weights, training resumes from them;
``--from-start`` starts from Whisper's own encoder instead.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from training.small.settings import HEARING, READING

SHARES = {"hear": 0.4, "answers": 0.1}
"""Of the time that training from the start has; reading speech takes the rest."""


def stage(name: str, *options: str, may_fail: bool = False) -> None:
    """Run one stage in a process of its own."""
    print(f"== {name} {' '.join(options)}", flush=True)
    done = subprocess.run([sys.executable, "-u", "-m", f"training.small.{name}", *options], check=False)
    if done.returncode and not may_fail:
        sys.exit(f"{name} failed; run make small again to resume")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=120, help="for training; writing the texts comes on top")
    parser.add_argument("--sentences", type=int, default=24_000)
    parser.add_argument("--exclude", nargs="*", default=[], help="CSV files of benchmarks whose texts are kept out")
    parser.add_argument("--from-start", action="store_true")
    args = parser.parse_args()
    began = time.time()
    stage("prepare")
    stage("sentences", "--count", str(args.sentences), "--exclude", *args.exclude)
    if not args.from_start:
        stage("pack", "--unpack")
    if not READING.exists():
        stage("hear", "--minutes", str(args.minutes * SHARES["hear"]))
    assert READING.exists() or HEARING.exists()
    stage("answers", "--minutes", str(args.minutes * SHARES["answers"]))
    spent = (time.time() - began) / 60
    stage("read_speech", "--minutes", str(max(args.minutes / 2, args.minutes - spent)))
    stage("pack")
    stage("contract", may_fail=True)


if __name__ == "__main__":
    main()
