"""The base of the sections: a callback to each of Lightning's two packages that is in use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pytorch_lightning import Callback

# The packages are twins that do not know each other, and a LightningCLI takes callbacks of its own.
if not TYPE_CHECKING and "lightning.pytorch" in sys.modules:
    from lightning.pytorch import Callback as Twin

    class Callback(Callback, Twin):
        """A callback to both."""


__all__ = ["Callback"]
