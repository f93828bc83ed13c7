"""``python -m sarsteer``."""

from sarsteer.cli.main import main

main()
