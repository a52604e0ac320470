"""Everything of a report that is drawn: as data for the scripts, and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_debug.report.curves import Chart, curves, experiment_curves, marked_steps
from lightning_debug.report.histograms import Histograms, histograms
from lightning_debug.report.maps import Map, maps
from lightning_debug.report.network import Drawing, drawing
from lightning_debug.stored_run import StoredRun


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is drawn of a run; bounded, however long the run and large the network.

    Attributes:
        data: What the scripts draw from; JSON can hold it. Plots of evidence are added to
            ``data["evidence"]`` by who chooses them.
        network: The network as executed; None where it was not recorded.
        maps: Layers by steps, one for each metric.
        curves: Numbers over the steps.
        histograms: Of weights, gradients and activations.
        experiments: Ids of the charts of experiments, by their place in ``run.experiments``.
        marks: Steps at which findings were first seen, with their names: the numbers in charts.
    """

    data: dict[str, Any]
    network: Drawing | None
    maps: list[Map]
    curves: list[Chart]
    histograms: Histograms
    experiments: dict[int, str]
    marks: list[tuple[int, list[str]]]


def figures(run: StoredRun) -> Figures:
    """Return what is drawn of a run."""
    network, layers, lines, spreads = drawing(run), maps(run), curves(run), histograms(run)
    tried = experiment_curves(run)
    return Figures(
        data={
            "network": network.data if network else None,
            "maps": [each.as_data() for each in layers],
            "curves": [chart.as_data() for chart in lines],
            "histograms": spreads.tensors,
            "evidence": [chart.as_data() for chart in tried.values()],
        },
        network=network,
        maps=layers,
        curves=lines,
        histograms=spreads,
        experiments={index: chart.id for index, chart in tried.items()},
        marks=marked_steps(run),
    )
