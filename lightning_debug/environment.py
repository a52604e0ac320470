"""The environment variables that switch the suite on in an unmodified script."""

from __future__ import annotations

VARIABLE = "LIGHTNING_DEBUG"
ON = frozenset({"1", "true", "yes", "on"})
OFF = frozenset({"", "0", "false", "no", "off"})
# Makes the experiments and ends the run before it begins.
ONLY = "preflight"
# Names the file into which the exit code of such a run is written.
ANSWER = "LIGHTNING_DEBUG_ANSWER"
