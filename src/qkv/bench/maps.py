"""How long a head's map takes at a length that no table could hold, and how exact it is."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from typing import Any

import numpy as np

from qkv.attention import Causal
from qkv.bench.measure import Measurement, Timing, peak_bytes
from qkv.lens import AttentionMap

__all__ = ["maps", "measure_map"]

PIXELS = 1024
# Rows whose weights are summed up in float64, by other code than the pass they prove.
PROVED_ROWS = 32

SCRIPT = """
import json, sys
from qkv.bench.maps import measure_map
print(json.dumps(measure_map(*map(int, sys.argv[1:]))))
"""


def maps(
    rounds: int = 3, *, T: int = 100_000, C: int = 64, viewports: int = 50
) -> list[Measurement]:
    """Measure one causal head, each round in a fresh process: lse and pyramid, then viewports.

    Queries and keys are normal random numbers. Viewports are of 1024 x 1024 pixels, at zooms from
    one cell a pixel to all of the map, each power of two as often, and where the mask allows
    something (those in the other half are faster). Each is asked for once.
    """
    runs = []
    for seed in range(rounds):
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, *map(str, (T, C, viewports, seed))],
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append(json.loads(run.stdout))
    views = [view for run in runs for view in run["viewports"]]
    by_level = {
        f"viewport_at_{level}_cells_a_pixel": Timing(
            [seconds for at, seconds in views if at == level]
        ).to_json()
        for level in sorted({at for at, _ in views})
    }
    return [
        Measurement(
            "one causal head: lse and pyramid, then viewports of 1024 x 1024 pixels, fp32",
            {"T": T, "C": C, "viewports": viewports},
            {
                "lse_and_pyramid": Timing([run["seconds"] for run in runs]).to_json(),
                "viewport": Timing([seconds for _, seconds in views]).to_json(),
                **by_level,
                "pyramid_base_cells": runs[0]["base"],
                "pyramid_mb": runs[0]["pyramid_mb"],
                "peak_resident_mb": max(run["peak_mb"] for run in runs),
                "largest_row_sum_error": max(run["row_error"] for run in runs),
                "largest_value_error": max(run["value_error"] for run in runs),
            },
            rounds,
        )
    ]


def measure_map(T: int, C: int, viewports: int, seed: int) -> dict[str, Any]:
    """One round: seconds, each viewport's level and seconds, memory in MB, and the errors."""
    rng = np.random.default_rng(seed)
    q, k = (rng.standard_normal((T, C), dtype=np.float32) for _ in range(2))
    started = time.perf_counter()
    head = AttentionMap.survey(q, k, mask=Causal())
    seconds = time.perf_counter() - started
    pyramid = head.pyramid()
    errors, views = [float(pyramid.row_errors.max())], []
    worst = 0.0
    zooms = 1 + max(0, math.ceil(math.log2(T / PIXELS)))
    for _ in range(viewports):
        # At 1, 2, 4 ... cells a pixel, each as often; the last shows all of the map.
        size = min(T, PIXELS * 2 ** int(rng.integers(0, zooms)))
        top = int(rng.integers(0, T - size + 1))
        left = int(rng.integers(0, top + 1))
        rows, cols = range(top, top + size), range(left, left + size)
        started = time.perf_counter()
        view = head.viewport(rows, cols, (PIXELS, PIXELS), "max" if rng.random() < 0.5 else "sum")
        views.append((view.level, time.perf_counter() - started))
        worst = max(worst, view.cell_error)
    for row in rng.integers(0, T, PROVED_ROWS).tolist():
        errors.append(abs(float(head.row(row).sum()) - 1.0))
    return {
        "seconds": seconds,
        "viewports": views,
        "base": pyramid.base,
        "pyramid_mb": pyramid.nbytes / 1e6,
        "peak_mb": peak_bytes() / 1e6,
        "row_error": max(errors),
        "value_error": worst,
    }
