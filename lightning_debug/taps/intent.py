"""What the user's own code says of a call: read in its source, where there is one."""

from __future__ import annotations

import ast
import linecache
from types import FrameType

from lightning_debug.taps.lines import user_frame

FLAGS = ("training", "train")
FLAG_AT = 2
CHANCES = ("p", "dropout_p")
LONGEST = 40


def declared(*, flagged: bool, dedicated: bool) -> bool:
    """Tell whether the code asks for a dropout that is on in evaluation too.

    A flag with a name of its own asks for it (``training=self.monte_carlo``), and ``True`` in a
    module that is made for nothing else. A flag that is left out, or named after training and not
    switched off, does not.

    Args:
        flagged: Whether the function takes a flag, third.
        dedicated: Whether the module does nothing but this call.
    """
    call = _call(user_frame())
    if call is None:
        return False
    flag = next((k.value for k in call.keywords if k.arg in FLAGS), None)
    if flag is None and flagged and len(call.args) > FLAG_AT:
        flag = call.args[FLAG_AT]
    if isinstance(flag, ast.Constant):
        return dedicated and flag.value is True
    if flag is not None and _names_own(flag):
        return True
    chances = [k.value for k in call.keywords if k.arg in CHANCES]
    return any(isinstance(c, ast.IfExp) and _names_own(c.test) for c in chances)


def _call(frame: FrameType | None) -> ast.Call | None:
    """Return the call that a frame is making."""
    if frame is None:
        return None
    # Instructions are two bytes long.
    place = next(
        (p for i, p in enumerate(frame.f_code.co_positions()) if i == frame.f_lasti // 2), None
    )
    if place is None or None in place:
        return None
    first, last, start, end = (int(number or 0) for number in place)
    if last - first > LONGEST:
        return None
    lines = [
        linecache.getline(frame.f_code.co_filename, number).encode()
        for number in range(first, last + 1)
    ]
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][start:]
    try:
        node = ast.parse(b"(" + b"".join(lines) + b")", mode="eval").body
    except (SyntaxError, ValueError):
        return None
    return node if isinstance(node, ast.Call) else None


def _names_own(value: ast.expr) -> bool:
    """Tell whether an expression asks for anything but whether the model trains."""
    names = [n.attr for n in ast.walk(value) if isinstance(n, ast.Attribute)]
    owners = {id(n.value) for n in ast.walk(value) if isinstance(n, ast.Attribute)}
    names += [n.id for n in ast.walk(value) if isinstance(n, ast.Name) and id(n) not in owners]
    return any("train" not in name.lower() for name in names)
