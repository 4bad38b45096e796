"""`python -m qkv` is `qkv`."""

from __future__ import annotations

import os

__all__ = ["main"]


def main() -> int:
    """Run the command line; Ctrl-C while it is still being loaded ends it quietly too."""
    # Where processors are busy, threads that spin as long as they do by default hold each other up:
    # a sample of a second took 35. It counts only before torch is loaded.
    if "GOMP_SPINCOUNT" not in os.environ:
        # The second tells `qkv bench` that it isn't the user's, for processes that aren't ours.
        os.environ["GOMP_SPINCOUNT"] = os.environ["QKV_SPINCOUNT"] = "10000"
    try:
        from qkv.cli import main as run

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
