"""Words that several messages share."""

from __future__ import annotations

from collections.abc import Sequence

# What the user has typed, by the name of the function that was heard.
CUTS = {
    "detach": ".detach()",
    "detach_": ".detach_()",
    "__get__": ".data",
    "requires_grad_": ".requires_grad_(False)",
    "item": ".item()",
    "__float__": "float()",
    "tolist": ".tolist()",
    "numpy": ".numpy()",
    "no_grad": "torch.no_grad()",
    "checkpoint": "checkpoint(..., use_reentrant=True), whose input asks for no gradient,",
}


def listed(places: Sequence[str], shown: int) -> str:
    """Return ``"a, b and 3 more"``; a place without a name is the model itself."""
    words = ", ".join(place or "the model itself" for place in places[:shown])
    return words + (f" and {len(places) - shown} more" if len(places) > shown else "")
