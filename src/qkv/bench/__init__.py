"""Measurements: ratios in one run, the two sides in turn, medians with their ranges.

A measurement names what was measured, its shape, the figures and the machine, as JSON.
"""

from qkv.bench.measure import Measurement, Timing, compare
from qkv.bench.suites import SUITES

__all__ = ["SUITES", "Measurement", "Timing", "compare"]
