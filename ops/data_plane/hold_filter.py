"""Compiles the hold filter, envoy/hold_response.wat, to the module that Envoy loads.

Run it as `python -m ops.data_plane.hold_filter`. The binary is committed, so running the gateway needs no compiler.
Changing the filter needs wasmtime (extra `dev`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from wasmtime import Engine, Module, wat2wasm

HOLD_RESPONSE_WAT = Path(__file__).parents[2] / "envoy" / "hold_response.wat"


def compile_wat(text: str) -> bytes:
    """Compiles WebAssembly text to a valid binary module. Raises wasmtime.WasmtimeError with the place of an error."""
    module = bytes(wat2wasm(text))
    Module.validate(Engine(), module)
    return module


def main() -> None:
    """Writes the compiled hold filter next to its source."""
    target = HOLD_RESPONSE_WAT.with_suffix(".wasm")
    module = compile_wat(HOLD_RESPONSE_WAT.read_text(encoding="utf-8"))
    target.write_bytes(module)
    sys.stdout.write(f"{target.name}: {len(module)} bytes\n")


if __name__ == "__main__":
    main()
