"""The table of what the suite costs: ``python -m tests.bench --help``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

# One thread, and memory that is not given back to the system between two steps: which of two
# trainings pays for that is chance, and it may be a tenth of a step.
STEADY = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument(
        "what",
        nargs="*",
        default=["steps"],
        help="steps (the default), whole, memory, startup or growth",
    )
    parser.add_argument(
        "--workload",
        action="append",
        help="mlp, resnet, gpt or deep; of growth layers, width, batch or steps; all of them",
    )
    parser.add_argument("--arm", action="append", help="such as 'every step' or 'GradientNorms'")
    parser.add_argument("--pairs", type=int, default=7, help="blocks of each, in turn")
    parser.add_argument("--steps", type=int, default=1000, help="length of a whole run")
    parser.add_argument("--out", type=Path, help="a file for the table, in Markdown")
    return parser.parse_args()


def steps(names: list[str], arms: list[str], pairs: int) -> list[str]:
    """Return the table of ratios over bare steps: a row for each arm."""
    from tests.bench.timing import compare

    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for arm in arms:
        found = []
        for name in names:
            ratio = compare(name, arm, pairs=pairs)
            print(f"{name}, {arm}: {ratio} of {ratio.bare:.1f} ms", flush=True)
            found.append(str(ratio))
        lines.append(f"| {arm} | " + " | ".join(found) + " |")
    return lines


def main() -> None:
    """Measure what is asked for, and print it."""
    arguments = _arguments()
    what = arguments.what[0]
    # Read when a process starts; memory itself is measured as users have it.
    if what in ("steps", "growth") and not STEADY.items() <= os.environ.items():
        command = [sys.executable, "-m", "tests.bench", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | STEADY)
    os.environ["OMP_NUM_THREADS"] = "1"
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)

    from tests.bench import fresh, growth
    from tests.bench.arms import ALTERNATIVES, SUITE
    from tests.bench.workloads import WORKLOADS

    names = arguments.workload or list(WORKLOADS)
    if what == "_one":
        fresh.one(*arguments.what[1:3], int(arguments.what[3]))
        return
    if what == "steps":
        arms = arguments.arm or ["bare", *SUITE, *ALTERNATIVES]
        lines = steps(names, arms, arguments.pairs)
    elif what == "growth":
        lines = growth.table(arguments.workload or [*growth.GROWTH, "steps"])
    elif what == "startup":
        lines = [fresh.startup()]
    elif what == "memory":
        lines = [fresh.memory()]
    else:
        lines = [fresh.whole(name, arguments.steps) for name in names]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
