"""``python -m gwstream``."""

from gwstream.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
