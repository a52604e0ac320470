"""The run folder, written: what a run leaves on the disk."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lightning_debug.finding import Finding
from lightning_debug.look import Look
from lightning_debug.picture import Image, Network, Picture, fields_of
from lightning_debug.sinks.sink import RunInfo, RunState, Sink
from lightning_debug.tracking.secrets import without_secrets

NAME = "lightning_debug"
FORMAT = 2
RUN, FINDINGS, STATS = "run.json", "findings.jsonl", "stats.jsonl"
NETWORK, PICTURES = "network.json", "pictures.jsonl"
MOST_LAYERS = 1024
MOST_PICTURE_BYTES = 16_000_000
DIGITS = 4


def new_folder(base: str | Path) -> Path:
    """Make ``base/lightning_debug``, or the first numbered one that no older run has taken."""
    Path(base).mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        folder = Path(base) / (f"{NAME}_{number}" if number else NAME)
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


class RunFolder(Sink):
    """Writes the run folder so that it can be read at any time, also after a kill -9.

    ``run.json`` and ``network.json`` are replaced as a whole; the other files only grow, by one
    line a write. ``stats.jsonl`` names the layers of a metric in a line of their own,
    ``{"names": {"gradient-norm": ["net.0", ...]}}``; the looks after it hold their numbers in
    that order.
    """

    draws: ClassVar[bool] = True

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._head: dict[str, Any] = {}
        self._state: dict[str, Any] = {}
        self._written: dict[str, Finding] = {}
        self._names: dict[str, list[str]] = {}
        self._drawn = 0
        self._begun = 0.0

    def start(self, run: RunInfo) -> None:
        """Write what runs."""
        self._folder = Path(run.folder) if run.folder else None
        self._begun = time.monotonic()
        self._head = {"format": FORMAT, "started": _now(), "record": dict(run.record)}
        self._state, self._written, self._names = {}, {}, {}
        self._drawn = 0
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write_run("running")

    def record(self, part: Mapping[str, Any]) -> None:
        """Write more of what runs."""
        self._head["record"] |= part
        self._write_run("running")

    def finding(self, finding: Finding, *, new: bool) -> None:
        """Append the finding as it is now; the last line of a name is the one that counts."""
        if self._folder:
            _append(self._folder / FINDINGS, _told(finding) | {"time": _now()})
            self._written[finding.name] = finding

    def look(self, look: Look) -> None:
        """Append the numbers of a look."""
        if not self._folder:
            return
        few = {metric: _few(list(values)) for metric, values in look.layers.items() if values}
        fresh = {metric: names for metric, names in few.items() if names != self._names.get(metric)}
        if fresh:
            self._names |= fresh
            _append(self._folder / STATS, {"names": fresh})
        content: dict[str, Any] = {"step": look.step, "epoch": look.epoch}
        content["scalars"] = dict(look.scalars)
        content["layers"] = {
            metric: [_short(look.layers[metric][name]) for name in names]
            for metric, names in few.items()
        }
        content["losses"] = look.losses
        _append(self._folder / STATS, content)

    def picture(self, picture: Picture) -> None:
        """Replace the network, or append a picture while there is room."""
        if not self._folder:
            return
        if isinstance(picture, Network):
            nodes = [fields_of(node) for node in picture.nodes]
            _replace(self._folder / NETWORK, fields_of(picture) | {"nodes": nodes})
        elif self._drawn < MOST_PICTURE_BYTES:
            content = {"type": type(picture).__name__} | fields_of(picture)
            if isinstance(picture, Image):
                content["pixels"] = png(picture.pixels)
            self._drawn += _append(self._folder / PICTURES, content)

    def state(self, state: RunState) -> None:
        """Write where the run stands."""
        self._state = {
            "step": state.step,
            "epoch": state.epoch,
            "seconds": time.monotonic() - self._begun,
            "looked": dict(state.looked),
            "observed": dict(state.observed),
            "experiments": [
                experiment.as_dict() | {"detail": without_secrets(experiment.detail)}
                for experiment in state.experiments
            ],
            "metrics": dict(state.metrics),
        }
        self._write_run("running")

    def close(
        self, findings: Sequence[Finding], *, status: str, failures: Mapping[str, str]
    ) -> None:
        """Append what changed without being told, such as counts, and write how the run ended."""
        if not self._folder:
            return
        for finding in findings:
            if self._written.get(finding.name) != finding:
                self.finding(finding, new=False)
        shown = {part: without_secrets(error) for part, error in failures.items()}
        counts = Counter(str(finding.severity) for finding in findings)
        end = {"ended": _now(), "failures": shown, "counts": dict(counts)}
        self._state |= end
        self._write_run(status)

    def _write_run(self, status: str) -> None:
        if self._folder:
            _replace(self._folder / RUN, {"status": status, **self._head, **self._state})


def _told(finding: Finding) -> dict[str, Any]:
    """Return a finding as plain values; what it quotes of the user's code may hold a secret."""
    fields = finding.as_dict()
    words = {name: value for name, value in fields["evidence"].items() if isinstance(value, str)}
    fields["evidence"] |= {name: without_secrets(value) for name, value in words.items()}
    return fields | {"message": without_secrets(finding.message)}


def _few(names: list[str]) -> list[str]:
    """Return the names of the layers that are written: all, or evenly chosen ones."""
    return names[:: -(-len(names) // MOST_LAYERS)]


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def png(pixels: NDArray[np.uint8]) -> str:
    """Return pixels as a PNG file in base64."""
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old one or the new one, never half of one."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, _json(content, indent=2) + "\n")


def _append(path: Path, content: Mapping[str, Any]) -> int:
    """Append a line, and return its length in bytes."""
    # Unbuffered: one write call a line, and nothing in our hands when the process dies.
    with open(path, "ab", buffering=0) as file:
        return file.write(_json(content).encode() + b"\n") or 0


def _json(content: Mapping[str, Any], indent: int | None = None) -> str:
    return json.dumps(_strict(content), allow_nan=False, indent=indent)


def _strict(value: Any) -> Any:
    """Return a value as strict JSON has it: numbers that it lacks, and all else, as words."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_strict(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    return str(value)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
