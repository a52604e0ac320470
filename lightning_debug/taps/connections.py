"""How the parts of the model are wired together: the three taps that see it, in one hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch.nn import Module
from torch.optim import Optimizer

from lightning_debug.observation import Connections, LossCall, LossTerm, Stray
from lightning_debug.taps import strangers
from lightning_debug.taps.functions import Listener
from lightning_debug.taps.leftovers import LeftoverTap
from lightning_debug.taps.rewrites import RewriteTap
from lightning_debug.taps.strangers import StrangerTap
from lightning_debug.taps.terms import TermTap
from lightning_debug.taps.ties import TieTap
from lightning_debug.taps.trace import Trace
from lightning_debug.taps.transfer import Ledger
from lightning_debug.taps.wiring import Wiring


class ConnectionTap:
    """Sees which tensors are registered, tied and cleared.

    Args:
        trace: Knows which modules run.
        model: The module that is trained.
        wiring: Knows its parameters and its optimizers.
        groups: Names of parameters that were one when the trainer got the model.

    Attributes:
        listeners: What has to hear of functions.
    """

    def __init__(
        self, trace: Trace, model: Module, wiring: Wiring, groups: Iterable[tuple[str, ...]] = ()
    ) -> None:
        self._wiring = wiring
        self._strangers = StrangerTap(trace, model)
        self._ties = TieTap(model, groups)
        self._leftovers = LeftoverTap(wiring)
        self._rewrites = RewriteTap(model, wiring)
        self._strays: dict[str, Stray] = {}
        self._drafts: list[strangers.Draft] = []
        self._batches = 0
        self.listeners: tuple[Listener, ...] = (self._ties, self._leftovers)
        self.handed = self._strangers.used

    def passes(self, index: int, epoch: int) -> None:
        """A batch starts, with a look or without."""
        self._batches += 1
        if index == 0:
            self._rewrites.epoch_starts(epoch)

    def epoch_ends(self) -> None:
        """The last batch of an epoch is over."""
        self._rewrites.epoch_ends()

    def rest(self, step: int, epoch: int) -> Connections | None:
        """Return what no look has shown yet, if there is anything; at the end of the run."""
        if not self._rewrites.waiting:
            return None
        ledger = Ledger()
        self._rewrites.note(ledger)
        ledger.send()
        ledger.settle()
        return Connections(step=step, epoch=epoch, rewrites=self._rewrites.observations())

    def begin(self, ledger: Ledger, *, wanted: bool, fresh: bool) -> None:
        """Start a look; ``fresh`` tells whether the weights are those of the user."""
        self._strangers.begin(ledger, self._wiring.parameters, wanted=wanted)
        self._ties.begin(ledger, wanted=wanted, fresh=fresh)
        self._leftovers.begin(ledger, self._batches, wanted=wanted)
        self._rewrites.note(ledger)
        self._strays = self._replaced() if wanted else {}

    def before_backward(self, terms: TermTap, before: int) -> None:
        """Backward starts from a loss; ``before`` is how many have been taken apart before it."""
        self._leftovers.starts(before if terms.totals > before else -1)

    def after_backward(self) -> None:
        """Backward is over."""
        self._leftovers.ends()

    def before_step(self, optimizer: Optimizer) -> None:
        """An optimizer of the model is about to step."""
        self._leftovers.steps(optimizer)

    def after_step(self, optimizer: Optimizer, *, ours: bool) -> None:
        """An optimizer has made a step; ``ours`` tells whether it trains the model."""
        self._strangers.stepped(optimizer)
        if ours:
            self._leftovers.stepped(optimizer)

    def end(self) -> None:
        """Finish measuring, and let go of the tensors of the step."""
        self._strangers.end()
        self._ties.end()
        self._drafts = self._strangers.take()

    def observation(
        self, step: int, epoch: int, terms: Sequence[LossTerm], calls: Sequence[LossCall]
    ) -> Connections:
        """Return the numbers that have arrived."""
        backwards = self._leftovers.backwards
        found = [strangers.observation(draft) for draft in self._drafts]
        return Connections(
            step=step,
            epoch=epoch,
            strangers=tuple(stranger for stranger in found if stranger is not None),
            uses=self._leftovers.observations(terms, calls),
            ties=self._ties.observations(),
            rewrites=self._rewrites.observations(),
            strays=self._strays,
            backwards=backwards,
        )

    def _replaced(self) -> dict[str, Stray]:
        """Return what optimizers hold in the place of parameters that none of them holds."""
        orphans = self._wiring.orphans()
        strays = self._wiring.strays() if orphans else []
        found = {}
        for name, orphan in orphans.items():
            # The same shape, or at least a weight for a weight and a bias for a bias.
            alike = [s for s in strays if s[1].shape == orphan.shape]
            alike = alike or [s for s in strays if s[1].ndim == orphan.ndim]
            if alike and not self._wiring.name_holder(orphan):
                label, stray = alike[0]
                found[name] = Stray(optimizer=label, shape=tuple(stray.shape))
        return found
