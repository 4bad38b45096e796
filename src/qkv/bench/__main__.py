"""`python -m qkv.bench generate` prints the measurements as JSON."""

import json
import sys

from qkv.bench import SUITES

for name in sys.argv[1:] or SUITES:
    print(json.dumps([found.to_json() for found in SUITES[name]()], indent=2))
