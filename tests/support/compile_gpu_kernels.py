"""A program: compiles the GPU kernels to machine code for NVIDIA's Ampere and Hopper, which needs no GPU.

It is a process of its own because Triton decides when it is first imported whether it interprets or compiles.
"""

from __future__ import annotations

from collections.abc import Mapping

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from folkmoot.kernels.gpu import products

VARIANTS = {80: (1, 5, 6), 90: range(8)}
"""Formats, as the kernels number them, for each kind of GPU."""
INTEGERS = [
    "size",
    "intermediate",
    *(f"{role}_{part}" for role in ("gate", "up") for part in ("values", "scales", "minima", "bias")),
]
DOWN_INTEGERS = ["size", "intermediate", "down_values", "down_scales", "down_minima", "down_bias"]


def compile_kernel(
    function: object, types: Mapping[str, str], constants: Mapping[str, object], architecture: int
) -> None:
    """Compiles one variant of a kernel.

    Args:
        function: The kernel.
        types: Of its arguments, as Triton spells them.
        constants: Its compile-time arguments.
        architecture: NVIDIA's number of the kind of GPU.
    """
    signature = {**types, **dict.fromkeys(constants, "constexpr")}
    source = ASTSource(fn=function, signature=signature, constexprs=dict(constants))
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32))
    assert made.asm["cubin"]


def main() -> None:
    """Compiles the variants, with all activations in turn."""
    for architecture, forms in VARIANTS.items():
        for form in forms:
            shared: dict[str, object] = {
                "FORMAT": form,
                "BIASED": form == 7,
                "HEIGHT": 16,
                "WIDTH": 64,
                "STEP": 32 if form > 4 else 64,
            }
            shared["COMPUTE"] = tl.bfloat16 if form else tl.float32
            rows = "*bf16" if form else "*fp32"
            inner = {"hidden": rows, "inner": rows, "addresses": "*i64", "block_groups": "*i32"}
            inner |= {"slot_rows": "*i32", **dict.fromkeys(INTEGERS, "i32"), "alpha": "fp32", "limit": "fp32"}
            compile_kernel(products.inner_kernel, inner, {**shared, "ACTIVATION": form % 4}, architecture)
            down = {"inner": rows, "answer": "*fp32", "addresses": "*i64", "block_groups": "*i32"}
            down |= {"slot_gates": "*fp32", **dict.fromkeys(DOWN_INTEGERS, "i32")}
            compile_kernel(products.down_kernel, down, shared, architecture)
        total = {"answer": "*fp32", "output": "*fp32", "row_slots": "*i32", "size": "i32", "most": "i32"}
        compile_kernel(products.sum_kernel, total, {"WIDTH": 64}, architecture)
    print("compiled")


if __name__ == "__main__":
    main()
