"""What `qkv train --dry-run` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qkv.cli.console import count, duration, err, out, print_json

if TYPE_CHECKING:
    from qkv.training.recipes import Preset
    from qkv.training.run import Data

__all__ = ["print_estimate"]


def print_estimate(recipe: Preset, model: Any, training: Any, data: Data, as_json: bool) -> None:
    """Say what a run would need, from counting, and from timing some steps."""
    from qkv.training.estimate import estimate

    err().print("Timing some steps …", style="dim")
    told = estimate(model, training, data)
    if as_json:
        print_json(told)
        return
    console = out()
    rows = {
        "preset": f"{recipe.name}: {recipe.about}",
        "parameters": count(told["parameters"]),
        "budget": f"{count(told['tokens'])} tokens: {told['steps']:,} steps of "
        f"{training.batch} x {model.context}",
        "memory": f"about {told['memory_bytes'] / 2**20:,.0f} MiB: weights, gradients, optimizer, "
        "activations",
        "disk": f"about {told['checkpoint_bytes'] / 2**20:,.1f} MiB a checkpoint, "
        f"{training.keep} kept",
        "compute": f"{told['flops']:.3g} FLOP for training",
        "time": f"about {duration(told['seconds'])} here, in {told['precision']} "
        f"({told['steps_timed']} steps timed)",
    }
    if told["compiled"]:
        rows["compiled"] = f"the run will be, in {told['run_precision']}, and faster than that"
    for name, text in rows.items():
        console.print(f"{name:<11}{text}", markup=False)
