"""A loss that does not fit the targets, or an output that cannot reach them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import mean

from lightning_debug.check import Check
from lightning_debug.finding import Finding, Severity
from lightning_debug.observation import DataFlow, LossCall, LossCalls

MANY = 64
KEPT = 32
REACH = {
    "relu": "0 and more",
    "softplus": "more than 0",
    "exp": "more than 0",
    "sigmoid": "0 to 1",
    "softmax": "0 to 1",
    "tanh": "-1 to 1",
}


@dataclass(kw_only=True)
class LossTaskMismatch(Check):
    """The loss asks for something else than the targets are, or than the output can give.

    Why: a cross entropy over one column is always 0. A squared error on class numbers says that
    class 3 lies between 2 and 4. A sigmoid never gives 5, and a prediction in units never meets a
    target in thousands. The loss then stops high, or falls without the task being learned.

    Silent when: targets are one-hot or soft, counts, ratings or ages under a regression; a few
    targets lie outside, or many by little (noise); targets are made by the model; the shares of
    several true classes are modelled, because they are what the model takes (baskets, bags of
    words), or by a likelihood that is spelled out; predictions grow towards their targets.

    Args:
        outside: Distance of targets from the range of 0 to 1 that noise on labels explains.
        beyond: Smallest share of targets that the last activation cannot give.
        cost: Smallest share of their variance that is lost with that; noise on targets that lie
            near the end of a range costs little.
        several: Smallest share of rows with several true classes.
        clusters: Smallest distance of inputs with different targets, over that of equal ones, for
            targets to be classes.
        order: Largest correlation of that distance with the difference of targets that are names.
        scale: Ratio of the sizes (rms) of targets and predictions that counts as another scale.
        unit: Size that is far from what layers give; or, below 1, one over it.
        steps: Fewest steps, at the pace so far, that predictions need to grow to the targets.
        scale_patience: Looks in a row for different scales.
        id_patience: Looks in a row for class numbers under a regression.
        patience: Looks in a row for the rest.
    """

    severity = Severity.ERROR
    fix = "Use the loss that belongs to the targets, and an output that can reach them."

    outside: float = 0.5
    beyond: float = 0.1
    cost: float = 0.03
    several: float = 0.1
    clusters: float = 1.15
    order: float = 0.12
    scale: float = 100.0
    unit: float = 30.0
    steps: int = 10_000
    scale_patience: int = 12
    id_patience: int = 5
    patience: int = 3
    _rebuilds: bool = field(default=False, init=False, repr=False)
    _given: dict[tuple[str, str], float] = field(default_factory=dict, init=False, repr=False)
    _highest: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _looks: dict[str, deque[tuple[float, float]]] = field(
        default_factory=dict, init=False, repr=False
    )

    def on_data_flow(self, obs: DataFlow) -> Iterator[Finding]:
        """See whether a target of the loss is what the model takes, as in an autoencoder."""
        self._rebuilds = self._rebuilds or any(entry.target for entry in obs.entries)
        yield from ()

    def on_loss_calls(self, obs: LossCalls) -> Iterator[Finding]:
        """Ask each call the questions that its kind allows; one answer is enough."""
        for call in obs.calls:
            cases = (
                self._one_column(obs, call),
                self._over_the_batch(obs, call),
                self._several_classes(obs, call),
                self._outside(obs, call),
                self._class_numbers(obs, call),
                self._names(obs, call),
                self._out_of_reach(obs, call),
                self._scales(obs, call),
            )
            yield from [finding for finding in cases if finding is not None][:1]

    def _one_column(self, obs: LossCalls, call: LossCall) -> Finding | None:
        """One unit has no other to be compared with."""
        shape, maker = call.prediction.shape, call.prediction.maker
        fix = (
            "Use F.binary_cross_entropy_with_logits(output.squeeze(1), y.float()) with one output,"
            " or as many outputs as there are classes."
        )
        picks = call.function in ("cross_entropy", "nll_loss") and len(shape) > 1
        if picks and shape[1] == 1:
            message = (
                f"{call.function} gets a prediction of shape {shape}: one class, whose probability"
                f" is always 1. The loss is {call.value:.3g} whatever the model says."
            )
            return self.finding(obs, message, where=call.place, fix=fix, columns=1)
        if maker in ("softmax", "log_softmax") and call.prediction.width == 1:
            message = (
                f"The prediction of {call.function} comes from a {maker} over one unit, which is"
                f" always {1 if maker == 'softmax' else 0}. Nothing can be learned through it."
            )
            return self.finding(obs, message, where=call.place, fix=fix, columns=1)
        return None

    def _over_the_batch(self, obs: LossCalls, call: LossCall) -> Finding | None:
        """A prediction without an axis of classes makes the samples compete."""
        mine, target = call.prediction.shape, call.target
        flat = call.function == "cross_entropy" and len(mine) == 1 and target.shape == mine
        if not flat or not target.whole or not target.per_sample or mine[0] < 2:
            return None
        if abs(target.mean * mine[0] - 1.0) < 0.01:
            return None
        message = (
            f"cross_entropy gets a prediction of shape {mine} and float targets of the same shape:"
            f" it takes the {mine[0]} samples for classes of one sample."
        )
        fix = "Use F.binary_cross_entropy_with_logits(output, target)."
        return self.finding(obs, message, where=call.place, fix=fix, samples=mine[0])

    def _several_classes(self, obs: LossCalls, call: LossCall) -> Finding | None:
        """A softmax shares one probability among the classes."""
        target = call.target
        hot = target.dtype == "float" and target.whole and target.low == 0.0 and target.high == 1.0
        if call.function != "cross_entropy" or not hot or target.made or self._rebuilds:
            return None
        if call.spelled:
            return None  # a log-likelihood of several draws
        if len(target.shape) < 2 or not target.several >= self.several:
            return None
        message = (
            f"In {target.several:.0%} of the targets of cross_entropy several classes are true, but"
            " its softmax lets them share one probability, so none can be near 1."
        )
        fix = (
            "Use F.binary_cross_entropy_with_logits(logits, target), which asks for each class by"
            " itself."
        )
        return self.finding(obs, message, where=call.place, fix=fix, several=target.several)

    def _outside(self, obs: LossCalls, call: LossCall) -> Finding | None:
        """A binary cross entropy is only defined between 0 and 1."""
        target, masked = call.target, call.weighted or call.reduction == "none"
        if not call.function.startswith("binary_cross_entropy") or masked:
            return None
        if target.low >= -self.outside and target.high <= 1.0 + self.outside:
            return None
        message = (
            f"{call.function} gets targets of {target.low:.4g} to {target.high:.4g}, but it is"
            " defined for 0 to 1 only; outside, the loss has no minimum."
        )
        fix = (
            "Bring the targets to 0 and 1: (y > 0).float(), y / 255. For class numbers use"
            " F.cross_entropy(logits, y.long()) with one output a class."
        )
        return self.finding(
            obs, message, where=call.place, fix=fix, low=target.low, high=target.high
        )

    def _class_numbers(self, obs: LossCalls, call: LossCall) -> Finding | None:
        """One output a class, and all of them are drawn to the number of the class."""
        shape, target = call.prediction.shape, call.target
        numbers = target.whole and target.low >= 0.0 and target.distinct > 2
        if call.kind != "regression" or not numbers or len(shape) != 2:
            return None
        highest = max(target.high, self._highest.get(call.place, 0.0))
        self._highest[call.place] = highest
        if target.shape not in ((shape[0], 1), (1, shape[0])) and shape[0] != shape[1]:
            return None
        if math.prod(target.shape) != shape[0] or shape[1] != highest + 1.0:
            return None
        message = (
            f"{call.function} draws all {shape[1]} outputs to the number of the class"
            f" ({target.low:.0f} to {highest:.0f}), as if classes were amounts."
        )
        fix = "Use F.cross_entropy(output, y) with the class numbers as they are, y.long()."
        return self.finding(
            obs, message, where=call.place, fix=fix, patience=self.id_patience, outputs=shape[1]
        )

    def _names(self, obs: LossCalls, call: LossCall) -> Finding | None:
        """Numbers that are only names: inputs of 3 are no nearer to those of 4 than to those of 9.

        Amounts are not like that: where inputs of one amount lie close together, those of the next
        amount lie next to them.
        """
        target = call.target
        span = target.high - target.low + 1.0
        numbered = target.ids and target.low >= 0.0 and MANY >= span > 2.0 and target.distinct > 2
        classified = any(
            other.kind in ("logits", "log-probabilities") and other.target.per_sample
            for other in obs.calls
        )
        one = math.prod(call.prediction.shape) == math.prod(target.shape)
        if call.kind != "regression" or not (numbered and one) or classified:
            return None
        if not math.isfinite(target.clusters + target.order):
            return None
        looks = self._looks.setdefault(call.place, deque(maxlen=KEPT))
        looks.append((target.clusters, target.order))
        clusters, order = (mean(values) for values in zip(*looks, strict=True))
        if clusters < self.clusters or order > self.order:
            return None
        message = (
            f"{call.function} predicts the number of a class ({target.low:.0f} to"
            f" {target.high:.0f}) as if it were an amount. Inputs of equal targets lie"
            f" {clusters:.2g} times as close together as others, but neighbouring targets do not"
            f" have neighbouring inputs (correlation {order:.2g}), so the numbers are names."
        )
        fix = "Give the model an output for each class, and use F.cross_entropy(output, y)."
        return self.finding(
            obs,
            message,
            where=call.place,
            fix=fix,
            severity=Severity.WARNING,
            patience=self.id_patience,
            clusters=clusters,
            order=order,
        )

    def _out_of_reach(self, obs: LossCalls, call: LossCall) -> Finding | None:
        """An activation that has no such values."""
        maker, target = call.prediction.maker, call.target
        judged = call.kind == "regression" and maker in REACH and not target.made
        if not judged or not target.beyond >= self.beyond or target.cost < self.cost:
            return None
        message = (
            f"{target.beyond:.0%} of the targets of {call.function} ({target.low:.4g} to"
            f" {target.high:.4g}) cannot be predicted: the output is made by a {maker}, which gives"
            f" {REACH[maker]}."
        )
        fix = (
            f"Take the {maker} off the output layer, or scale the targets to what it can give"
            f" ({REACH[maker]})."
        )
        return self.finding(obs, message, where=call.place, fix=fix, beyond=target.beyond)

    def _scales(self, obs: LossCalls, call: LossCall) -> Finding | None:
        """Sizes that are orders of magnitude apart, and stay so."""
        target = call.target
        if call.kind != "regression" or target.made or obs.resumed:
            return None
        wanted = math.hypot(target.mean, target.std)
        given = math.hypot(call.prediction.mean, call.prediction.std)
        # A prediction that has grown to one part in N in n steps gets there after N times n.
        distant = wanted * obs.step >= self.steps * given and wanted >= self.scale * given
        raw_targets = wanted >= self.unit and distant
        # One that was smaller at first has grown: training blows up, and nothing is scaled.
        first = self._given.setdefault((call.place, call.function), given)
        raw_outputs = min(first, given) >= self.scale * wanted > 0.0 and (
            given >= self.unit or wanted <= 1.0 / self.unit
        )
        if not raw_targets and not raw_outputs:
            return None
        message = (
            f"The predictions of {call.function} have a size (rms) of {given:.3g}, its targets of"
            f" {wanted:.3g}, and training does not bring them together: one side seems to be"
            " scaled and the other not."
        )
        fix = (
            f"Scale both sides alike: (y - {target.mean:.4g}) / {target.std:.4g} for the targets"
            " before the loss, and undo it only to report predictions."
        )
        return self.finding(
            obs,
            message,
            where=call.place,
            fix=fix,
            severity=Severity.WARNING,
            patience=self.scale_patience,
            prediction=given,
            target=wanted,
        )
