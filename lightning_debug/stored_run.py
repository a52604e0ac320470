"""The run folder, read back: as data, whatever state it is in."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lightning_debug.experiment import Experiment
from lightning_debug.finding import Finding, Severity, worst_first
from lightning_debug.look import Look
from lightning_debug.picture import Bars, Histogram, Image, Network, Node, Picture
from lightning_debug.sinks.run_folder import FINDINGS, NAME, NETWORK, PICTURES, RUN, STATS

MOST_LOOKS = 400
MOST_LINE = 8_000_000
MOST_COUNT = 2**53  # what a float and a browser count to
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run folder, read back.

    Attributes:
        folder: Where it lies.
        record: What ``run.json`` holds: status, times, settings; empty where it is missing.
        findings: Worst first, causes above their symptoms.
        stats: The looks, oldest first; of many only every so-manieth keeps its layers.
        experiments: What was tried on a copy of the model.
        network: As it was executed; None where it was not drawn.
        pictures: All others, oldest first.
        skipped: Number of lines, in all files, that were torn or none of ours.
    """

    folder: Path
    record: Mapping[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    stats: list[Look] = field(default_factory=list)
    experiments: list[Experiment] = field(default_factory=list)
    network: Network | None = None
    pictures: list[Picture] = field(default_factory=list)
    skipped: int = 0


def find_run(path: str | Path) -> Path:
    """Return the run folder at ``path``, or the newest one in it.

    Raises:
        ValueError: If there is none.
    """
    path = Path(path)
    if is_run(path):
        return path
    inside = [run.parent for run in path.glob(f"{NAME}*/{RUN}")]
    if not inside:
        raise ValueError(
            f"{str(path)!r} is no run folder: expected a folder with {RUN}, or one that contains"
            f" {NAME}/{RUN}, such as the log directory of a trainer"
        )
    return max(inside, key=lambda folder: ((folder / RUN).stat().st_mtime_ns, folder.name))


def is_run(path: Path) -> bool:
    """Tell whether a folder is a run folder."""
    return any((path / name).is_file() for name in (RUN, FINDINGS, STATS))


def read_run(folder: str | Path) -> StoredRun:
    """Read a run folder as data; what is missing or torn is left out.

    Raises:
        ValueError: If it is no run folder.
    """
    folder = find_run(folder)
    reader = _Reader()
    found = {f.name: f for f in reader.parse(folder / FINDINGS, _as_finding)}
    record = reader.whole(folder / RUN)
    network = reader.whole(folder / NETWORK)
    experiments = record.get("experiments", ())
    return StoredRun(
        folder=folder,
        record=record,
        findings=worst_first(found.values()),
        stats=_thinned(reader, folder / STATS),
        experiments=reader.each(experiments, Experiment.from_dict),
        network=next(iter(reader.each([network] if network else (), _as_network)), None),
        pictures=list(reader.parse(folder / PICTURES, _as_picture)),
        skipped=reader.skipped,
    )


def read_summary(folder: str | Path) -> StoredRun:
    """Read what ran and what was found, without numbers and pictures: a history reads many runs.

    Raises:
        ValueError: If it is no run folder.
    """
    folder = find_run(folder)
    reader = _Reader()
    found = {f.name: f for f in reader.parse(folder / FINDINGS, _as_finding)}
    return StoredRun(
        folder=folder,
        record=reader.whole(folder / RUN),
        findings=worst_first(found.values()),
        skipped=reader.skipped,
    )


def read_losses(folder: str | Path) -> Iterator[tuple[int, float]]:
    """Yield every loss of a run folder, as ``(step, loss)``, without keeping them."""
    for look in _Looks(keeps=lambda index: False).read(_Reader(), find_run(folder) / STATS):
        yield from look.losses


def _thinned(reader: _Reader, path: Path) -> list[Look]:
    """Read the looks; of more than a few hundred, keep the layers of every so-manieth."""
    every = max(1, -(-_count(path) // MOST_LOOKS))
    return list(_Looks(keeps=lambda index: index % every == 0).read(reader, path))


class _Reader:
    """Reads JSON, and counts what is none of ours."""

    def __init__(self) -> None:
        self.skipped = 0

    def lines(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects of a file, one a line."""
        if path.is_file():
            with open(path, "rb") as file:
                while line := file.readline(MOST_LINE):
                    if content := _parsed(line):
                        yield content
                    elif line.strip():
                        self.skipped += 1

    def parse(self, path: Path, make: Callable[[dict[str, Any]], T]) -> Iterator[T]:
        """Yield what is made of the lines of a file."""
        for content in self.lines(path):
            yield from self.each([content], make)

    def whole(self, path: Path) -> dict[str, Any]:
        """Return the JSON object that a file holds; empty where it holds none."""
        if not path.is_file():
            return {}
        content = _parsed(path.read_bytes())
        self.skipped += content is None
        return content or {}

    def each(self, values: Any, make: Callable[[Any], T]) -> list[T]:
        """Return what is made of some values, without those that nothing can be made of."""
        made = []
        for value in values if isinstance(values, (list, tuple)) else ():
            try:
                made.append(make(value))
            except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
                self.skipped += 1
        return made


class _Looks:
    """Reads looks; ``keeps`` tells whose layers are kept."""

    def __init__(self, keeps: Callable[[int], bool]) -> None:
        self._keeps = keeps
        self._names: dict[str, list[str]] = {}
        self._index = 0

    def read(self, reader: _Reader, path: Path) -> Iterator[Look]:
        """Yield the looks of a file."""
        for look in reader.parse(path, self._one):
            if look is not None:
                yield look

    def _one(self, fields: Mapping[str, Any]) -> Look | None:
        if "names" in fields:
            self._names |= {str(k): [str(n) for n in v] for k, v in fields["names"].items()}
            return None
        keeps = self._keeps(self._index)
        self._index += 1
        return Look(
            step=_whole(fields["step"]),
            epoch=_whole(fields["epoch"]),
            scalars={str(key): float(value) for key, value in fields["scalars"].items()},
            layers=self._layers(fields.get("layers", {})) if keeps else {},
            losses=tuple((_whole(step), float(loss)) for step, loss in fields.get("losses", ())),
        )

    def _layers(self, fields: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        return {
            metric: {name: float(v) for name, v in zip(names, fields[metric], strict=True)}
            for metric, names in self._names.items()
            if metric in fields
        }


def _count(path: Path) -> int:
    if not path.is_file():
        return 0
    with open(path, "rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _as_finding(fields: Mapping[str, Any]) -> Finding:
    """Return the finding of a line.

    Raises:
        KeyError, TypeError, ValueError: If a field is missing or of another kind.
    """
    model = Finding(name="", severity=Severity.INFO, message="").as_dict()
    wrong = [k for k, v in model.items() if not isinstance(fields.get(k, v), type(v))]
    if wrong:
        raise TypeError(f"{wrong[0]} is of another kind")
    for name in ("step", "epoch", "count"):
        _whole(fields.get(name, 0))
    evidence = {key: _number(value) for key, value in fields.get("evidence", {}).items()}
    places = [str(place) for place in fields.get("places", ())]
    return Finding.from_dict({**fields, "evidence": evidence, "places": places})


def _as_network(fields: Mapping[str, Any]) -> Network:
    nodes = tuple(
        Node(
            name=str(node["name"]),
            kind=str(node["kind"]),
            role=_one_of(node["role"], ("input", "module", "function", "loss")),
            shape=_sizes(node["shape"]),
            input_shape=_sizes(node["input_shape"]),
            parameters=_whole(node["parameters"]),
            trainable=_whole(node["trainable"]),
            calls=_whole(node["calls"]),
        )
        for node in fields["nodes"]
    )
    known = {node.name for node in nodes}
    edges = ((str(source), str(target)) for source, target in fields["edges"])
    return Network(
        step=_whole(fields["step"]),
        nodes=nodes,
        edges=tuple((a, b) for a, b in edges if a in known and b in known),
        more=_whole(fields["more"]),
    )


def _as_picture(fields: Mapping[str, Any]) -> Picture:
    head: dict[str, Any] = {
        "kind": str(fields["kind"]),
        "place": str(fields["place"]),
        "step": _whole(fields["step"]),
    }
    if fields["type"] == "Histogram":
        counts = tuple(map(_whole, fields["counts"]))
        low, high = float(fields["low"]), float(fields["high"])
        return Histogram(**head, low=low, high=high, counts=counts)
    head["caption"] = str(fields["caption"])
    if fields["type"] == "Image":
        return Image(**head, pixels=_pixels(fields["pixels"]))
    if fields["type"] == "Bars":
        labels, values = map(str, fields["labels"]), map(float, fields["values"])
        return Bars(**head, labels=tuple(labels), values=tuple(values))
    raise ValueError(f"type {fields['type']!r} is no picture")


def _pixels(text: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the pixels of a PNG file in base64.

    Raises:
        ValueError: If it is none.
    """
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as png:
            return np.asarray(png.convert("L" if png.mode == "L" else "RGB"))
    except (binascii.Error, OSError, SyntaxError, Pillow.DecompressionBombError) as error:
        raise ValueError("not a picture") from error


def _sizes(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(map(_whole, values))


def _whole(value: Any) -> int:
    """Return a whole number that a run can have counted to.

    Raises:
        ValueError: If it is none.
    """
    number = int(value)
    if abs(number) > MOST_COUNT:
        raise ValueError("larger than any count")
    return number


def _one_of(value: Any, words: tuple[Any, ...]) -> Any:
    if value not in words:
        raise ValueError(f"{value!r} is none of {words}")
    return value


def _number(value: Any) -> Any:
    """Return the number behind a word of the writer, and everything else as it is."""
    return float(value) if value in ("nan", "inf", "-inf") else value
