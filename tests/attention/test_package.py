"""The package as a whole: what it imports, and how much memory the torch version takes."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    """What a fresh Python prints for some code; warnings are errors there too."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_loads_no_torch() -> None:
    code = "import sys, qkv.attention; print('torch' in sys.modules)"
    assert run(code).strip() == "False"


GROWTH = """
import resource, torch
from qkv.attention import Causal
from qkv.attention.fused import attend

def forward_and_backward(T):
    q, k, v = (torch.randn(1, 4, T, 64, requires_grad=True) for _ in range(3))
    found = attend(q, k, v, mask=Causal(), {options})
    mixed = found[0] if isinstance(found, tuple) else found
    mixed.sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))

forward_and_backward(256)  # threads, libraries and their buffers
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
forward_and_backward({T})
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) / 1024)
"""


def growth_mb(T: int, options: str) -> float:
    """How far the peak memory of a fresh Python grows at T tokens, H 4, C 64, fp32; in MB."""
    return float(run(GROWTH.replace("{options}", options).replace("{T}", str(T))))


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_memory_at_16384_tokens_on_the_default_path() -> None:
    # The pattern alone would be 4,096 MB; q, k, v, the result and all gradients are 134 MB.
    assert growth_mb(16384, "") < 400


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_memory_on_the_blocked_path_is_linear(full: bool) -> None:
    options = "softcap=20.0, return_lse=True"
    once, twice = growth_mb(4096, options), growth_mb(8192, options)
    assert twice < 2.5 * max(once, 40)
    assert twice < 200
    if full:
        assert growth_mb(16384, options) < 400
