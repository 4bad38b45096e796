"""Compiles qkv's kernels while it is installed; without a compiler it is installed without them."""

from __future__ import annotations

import contextlib
import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelBuildHook(BuildHookInterface[Any]):
    """Adds the compiled library to a wheel, or beside the source of an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile, and say what the wheel is for."""
        native = Path(self.root, "src", "qkv", "native")
        try:
            library = runpy.run_path(str(native / "build.py"))["build"]()
        except (RuntimeError, OSError) as error:
            self.app.display_warning(f"qkv is installed without its compiled kernels: {error}")
            with contextlib.suppress(OSError):  # an old one is not loaded: it says what made it
                (native / "kernels.so").unlink()
            return
        system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{system}"
        build_data["artifacts"].append(str(library.relative_to(self.root)))
