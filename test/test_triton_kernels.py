"""Triton's kernels without a GPU: what they compute, by Triton's interpreter, and that they compile for real GPUs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed (it is for Linux only)")

HERE = Path(__file__).parent
NUMBERS = dict.fromkeys(
    ("neurons", "channels", "columns", "values", "pixels", "grad_pixels", "share_of", "programs"), "i32"
)
SUMS = {"x": "*bf16", "grad": "*bf16", **dict.fromkeys(("partial", "facts", "slopes"), "*fp32")}


def test_kernels_compute_what_eager_torch_does() -> None:
    """In a process of its own: the interpreter must be asked for before Triton is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "triton_interpreted.py")]
    done = subprocess.run(command, env=environment, cwd=HERE.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) > 70 and "skipped" not in done.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))


def compiled(kernel: object, capability: int, pointers: dict[str, str], **constants: object) -> str:
    """The kernel's assembly for a GPU of a compute capability: 75 is Turing, 87 Orin, 90 Hopper."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names  # type: ignore[attr-defined]
    types = {**NUMBERS, **pointers, **dict.fromkeys(constants, "constexpr")}
    signature = {name: types.get(name, "fp32") for name in names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert len(made.asm["cubin"]) > 1000
    assembly: str = made.asm["ptx"]
    return assembly


@pytest.mark.parametrize(
    ("capability", "stored", "pool"),
    [(75, "*fp16", True), (75, "*fp32", False), (87, "*fp16", False), (90, "*fp16", True), (90, "*bf16", False)],
)
def test_neurons_compile_and_round_once(capability: int, stored: str, pool: bool) -> None:
    from sdt_ros.runtime.gpu.triton_ops import BLOCK, fire_kernel

    pointers = {"x": stored, "spikes": stored, "bias": "*fp32"}
    assembly = compiled(fire_kernel, capability, pointers, scale=None, steps=4, pool=pool, block=BLOCK)
    # One for each step and neuron of a thread, and those of the reset, which is exact either way.
    assert assembly.count("fma.rn.f32") >= 4 * BLOCK // 128
    assert "local" not in re.sub(r"//.*", "", assembly)  # membranes stay in registers


@pytest.mark.parametrize("capability", [75, 90])
def test_kernels_of_training_and_the_shortcut_compile(capability: int) -> None:
    from sdt_distill.kernels.triton_lif import STEPS, fire_backward_kernel
    from sdt_ros.runtime.gpu.triton_ops import BLOCK, fire_kernel, shortcut_kernel

    pointers = {"membrane": "*fp32", "currents": "*fp16", "bias": "*fp32", "total": "*fp32"}
    assert compiled(shortcut_kernel, capability, pointers, block=BLOCK)
    pointers = {"current": "*bf16", "grad_spikes": "*bf16", "grad_current": "*bf16"}
    assert compiled(fire_backward_kernel, capability, pointers, steps=STEPS, block=BLOCK)
    pointers = {"x": "*bf16", "spikes": "*bf16"}  # as the trainer calls it: numbers that are 1 become constants
    constants = {"scale": None, "bias": None, "neurons": 1, "channels": 1, "columns": 1}
    assert compiled(fire_kernel, capability, pointers, steps=1, pool=False, block=BLOCK, **constants)


@pytest.mark.parametrize("capability", [75, 90])
@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("moments_kernel", {"block_r": 64, "block_c": 32}),
        ("statistics_kernel", {"block_r": 32, "block_c": 16}),
        ("normalise_kernel", {"channels": 12, "steps": 4, "block": 1024}),
        ("pool_kernel", {"channels": 32, "columns": 86, "block": 1024}),
        ("grad_moments_kernel", {"block_r": 64, "block_c": 32}),
        ("pool_grad_moments_kernel", {"columns": 86, "block_r": 64, "block_c": 32}),
        ("gradient_facts_kernel", {"block_r": 32, "block_c": 16}),
        ("grad_input_kernel", {"channels": 32, "steps": 4, "block": 1024}),
        ("pool_grad_input_kernel", {"channels": 12, "columns": 86, "block": 1024}),
    ],
)
def test_kernels_of_norms_compile(capability: int, name: str, constants: dict[str, int]) -> None:
    from sdt_distill.kernels import triton_norm_kernels

    parameters = ("weight", "bias", "running_mean", "running_var", "grad_weight", "grad_bias")
    pointers = {**SUMS, "y": "*bf16", "grad_x": "*bf16", "batches": "*i64", **dict.fromkeys(parameters, "*fp32")}
    assembly = compiled(getattr(triton_norm_kernels, name), capability, pointers, **constants)
    assert ".local" not in re.sub(r"//.*", "", assembly)
