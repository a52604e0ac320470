"""Where a run happens: packages, machine, environment, seeds."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_debug.tracking.secrets import redacted

ALWAYS = ("lightning_debug", "torch", "pytorch_lightning", "lightning", "torchmetrics", "numpy")
MOST_PACKAGES = 300
MOST_OF_RECORD = 16_000
SUFFIX = ".dist-info"
# Names of environment variables that change what a training does, and hold no secrets.
VARIABLES = re.compile(
    r"CUDA_(VISIBLE_DEVICES|LAUNCH_BLOCKING|DEVICE_ORDER)|CUBLAS_WORKSPACE_CONFIG"
    r"|(OMP|MKL|OPENBLAS|NUMEXPR)_NUM_THREADS|KMP_\w+|MASTER_(ADDR|PORT)"
    r"|(LOCAL_|GROUP_|NODE_)?RANK|(LOCAL_)?WORLD_SIZE|PL_\w+|(PY)?TORCH_\w+|NCCL_\w+|GLOO_\w+"
    r"|LIGHTNING_DEBUG|PYTHONHASHSEED|SLURM_(JOB_ID|JOB_NAME|NNODES|NTASKS|PROCID|NODEID)"
    r"|NVIDIA_TF32_OVERRIDE|HF_(HUB_OFFLINE|DATASETS_OFFLINE)|TOKENIZERS_PARALLELISM"
    r"|XLA_\w+|MIOPEN_\w+|HIP_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES"
)
# No program of numbers draws a seed as large as the one that an unseeded generator starts with.
LARGEST_SEED = 2**32


def seeds() -> dict[str, Any]:
    """Return what the random generators were seeded with, as far as they tell."""
    initial = torch.initial_seed()
    return {
        "seeded": seeded(),
        "PL_GLOBAL_SEED": _number(os.environ.get("PL_GLOBAL_SEED")),
        "torch": initial,
        "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", ""),
    }


def seeded() -> bool:
    """Tell whether somebody has seeded the random numbers, with Lightning or by hand.

    An unseeded generator of torch starts with 53 or 64 random bits; people's seeds are small.
    """
    return "PL_GLOBAL_SEED" in os.environ or torch.initial_seed() < LARGEST_SEED


def determinism() -> dict[str, Any]:
    """Return the switches that decide whether a run repeats bit for bit."""
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "default_dtype": str(torch.get_default_dtype()),
    }


def describe() -> dict[str, Any]:
    """Return the machine: processors, memory, accelerators, drivers."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "processors": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "memory_gib": _memory(),
    }
    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        found["accelerators"] = [torch.cuda.get_device_name(i) for i in devices]
        found["cuda"] = str(torch.version.cuda or torch.version.hip)
        found["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        found["driver"] = _driver()
    return found


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment variables that matter, and no others."""
    variables = os.environ if variables is None else variables
    known = {name: value[:500] for name, value in variables.items() if VARIABLES.fullmatch(name)}
    result: dict[str, str] = redacted(dict(sorted(known.items())[:100]))
    return result


def packages() -> dict[str, str]:
    """Return the versions of the installed packages that this process has imported.

    Read from the names of the folders that installers leave next to packages: to open the
    metadata of each takes a hundred times as long.
    """
    imported = {name.partition(".")[0] for name in list(sys.modules)}
    found: dict[str, str] = {}
    for folder in _distributions():
        name, _, version = folder.name.removesuffix(SUFFIX).partition("-")
        if name.lower() in ALWAYS or not imported.isdisjoint(_modules(folder, name)):
            found.setdefault(name.replace("_", "-"), version)
    return dict(sorted(found.items(), key=lambda item: item[0].lower())[:MOST_PACKAGES])


def _distributions() -> Iterator[Path]:
    for place in dict.fromkeys(sys.path):
        with contextlib.suppress(OSError):
            for entry in os.scandir(place or "."):
                if entry.name.endswith(SUFFIX):
                    yield Path(entry.path)


def _modules(folder: Path, name: str) -> set[str]:
    """Return names of top-level modules of an installed package, one at least."""
    if lines := _lines(folder / "top_level.txt"):
        return {line.strip() for line in lines}
    # Paths of its files; those of its own folder come in between, and are few.
    with contextlib.suppress(OSError), open(folder / "RECORD", encoding="utf-8") as record:
        start = record.read(MOST_OF_RECORD)
        return {name, *re.findall(r"^(\w+)(?:/|\.py,)", start, flags=re.MULTILINE)}
    return {name}


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _processor() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()[:200]
    return platform.processor()[:200] or platform.machine()


def _memory() -> float:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0.0
    return round(size / 2**30, 1)


def _driver() -> str:
    words = " ".join(_lines("/proc/driver/nvidia/version")[:1]).split()
    return next((word for word in words if re.fullmatch(r"\d+(\.\d+)+", word)), "")


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
