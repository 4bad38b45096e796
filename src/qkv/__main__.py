"""`python -m qkv` is `qkv`."""

from __future__ import annotations

__all__ = ["main"]


def main() -> int:
    """Run the command line; Ctrl-C while it is still being loaded ends it quietly too."""
    try:
        from qkv.cli import main as run

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
