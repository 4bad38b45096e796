"""`python -m qkv` is `qkv`."""

from qkv.cli import main

raise SystemExit(main())
