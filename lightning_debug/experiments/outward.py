"""Keeps what a thread does from reaching out of it: files, trackers, logs, other programs.

Functions of Python and of libraries that are loaded are replaced while a thread is contained;
the replacements ask which thread calls them, and all others get what they always got.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lightning_debug.experiments import files
from lightning_debug.experiments.batches import NotApplicableError
from lightning_debug.experiments.files import Overlay
from lightning_debug.experiments.stand_ins import Mute

# Gets the overlay of the thread, the original function, and what it was called with.
Handler = Callable[..., Any]

# They write what makes later runs faster, start compilers for it, and remember what fails.
TOOLS = (
    "triton",
    "torch._inductor",
    "torch.utils.cpp_extension",
    "multiprocessing",
    "importlib._bootstrap",
)
OURS = "lightning_debug"


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Contain this thread; inside of a thread that is contained already, do nothing more."""
    thread = threading.get_ident()
    if thread in _threads:
        yield
        return
    overlay = Overlay()
    try:
        with _lock:
            _threads.add(thread)
            if not _replaced:
                _replace()
            _inside[thread] = overlay
        yield
    finally:
        with _lock:
            _inside.pop(thread, None)
            _threads.discard(thread)
            if not _threads:
                _put_back()
        overlay.clear()


def forget() -> None:
    """Bring the files of this thread back to what is on the disk."""
    overlay = _inside.get(threading.get_ident())
    if overlay is not None and overlay.touched:
        with _outside():
            overlay.clear()


# -- which thread is contained, and what is replaced meanwhile -----------------------------

_lock = threading.RLock()
_threads: set[int] = set()
_inside: dict[int, Overlay] = {}  # of these threads, while none of our own work is done there
_replaced: list[tuple[Any, str, Any, bool]] = []
_dispatchers: dict[tuple[str, str], tuple[Any, Any]] = {}


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    """Let our own work with files through."""
    thread = threading.get_ident()
    overlay = _inside.pop(thread, None)
    try:
        yield
    finally:
        if overlay is not None:
            _inside[thread] = overlay


def _replace() -> None:
    for owner, handlers in HANDLERS.items():
        place = _loaded(owner)
        if place is not None:
            for name, handler in handlers.items():
                _swap(owner, place, name, handler)
    for owner, prefixes in TRACKERS.items():
        place = _loaded(owner)
        if place is not None:
            for name in [n for n in vars(place) if n.startswith(prefixes)]:
                _swap(owner, place, name, _mute)


def _swap(owner: str, place: Any, name: str, handler: Handler) -> None:
    original = getattr(place, name, None)
    if not callable(original) or isinstance(original, type):
        return
    known, dispatcher = _dispatchers.get((owner, name), (None, None))
    if known is not original:
        dispatcher = _dispatcher(original, handler)
        _dispatchers[owner, name] = original, dispatcher
    _replaced.append((place, name, original, name in vars(place)))
    setattr(place, name, dispatcher)


def _put_back() -> None:
    while _replaced:
        place, name, original, own = _replaced.pop()
        if own:
            setattr(place, name, original)
        elif name in vars(place):
            delattr(place, name)


def _loaded(owner: str) -> Any:
    """Return a module, or a class of one (``module:Class``), if it has been imported."""
    module, _, name = owner.partition(":")
    found = sys.modules.get(module)
    return vars(found).get(name) if found is not None and name else found


def _dispatcher(original: Any, handler: Handler) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        overlay = _inside.get(threading.get_ident())
        if overlay is None:
            return original(*args, **kwargs)
        return handler(overlay, original, *args, **kwargs)

    call.__name__ = getattr(original, "__name__", "call")
    call.__doc__ = original.__doc__
    return call


def _tools() -> bool:
    """Tell whether a compiler, or Python itself, does this, and not the user's code."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__") or ""
        if name.startswith(TOOLS):
            return True
        if name.startswith(OURS) and name != __name__:
            return False
        frame = frame.f_back
    return False


# -- files -----------------------------------------------------------------------------------


def _open(
    overlay: Overlay, original: Any, file: Any, mode: str = "r", *args: Any, **kwargs: Any
) -> Any:
    opened_otherwise = len(args) > 5 or kwargs.get("opener") is not None
    if isinstance(file, int) or opened_otherwise or not isinstance(mode, str):
        return original(file, mode, *args, **kwargs)
    writes = any(letter in mode for letter in "wax+")
    if not writes and not overlay.touched:
        return original(file, mode, *args, **kwargs)
    if writes and _tools():
        return original(file, mode, *args, **kwargs)
    with _outside():
        if writes:
            path = overlay.writing(file, keep="w" not in mode, new="x" in mode)
        else:
            path = overlay.reading(file)
        if "+" in mode and "r" in mode and not os.path.lexists(path):
            raise FileNotFoundError(2, "No such file or directory", os.fspath(file))
        return original(path, mode, *args, **kwargs)


def _os_open(
    overlay: Overlay, original: Any, path: Any, flags: int, mode: int = 0o777, **kwargs: Any
) -> Any:
    if kwargs.get("dir_fd") is not None or _unnamed(flags):
        return original(path, flags, mode, **kwargs)
    if files.reads(flags):
        return _on_read(overlay, original, path, flags, mode, **kwargs)
    if _tools():
        return original(path, flags, mode, **kwargs)
    with _outside():
        new = bool(flags & os.O_EXCL)
        if new and overlay.temporary(path):
            return original(path, flags, mode, **kwargs)
        place = overlay.writing(path, keep=not flags & os.O_TRUNC, new=new)
        return original(place, flags, mode, **kwargs)


def _unnamed(flags: int) -> bool:
    return bool(files.UNNAMED) and flags & files.UNNAMED == files.UNNAMED


def _on_read(overlay: Overlay, original: Any, path: Any = ".", *args: Any, **kwargs: Any) -> Any:
    """Ask about a file where it lies."""
    if isinstance(path, int) or not overlay.touched or kwargs.get("dir_fd") is not None:
        return original(path, *args, **kwargs)
    with _outside():
        return original(overlay.reading(path), *args, **kwargs)


def _on_entry(method: str) -> Handler:
    """Change the overlay in place of the disk."""

    def handle(overlay: Overlay, original: Any, *args: Any, **kwargs: Any) -> Any:
        path = args[0] if args else next(iter(kwargs.values()))
        beside = any(kwargs.get(key) is not None for key in ("dir_fd", "src_dir_fd"))
        if _tools() or beside or isinstance(path, int) or overlay.own(path):
            return original(*args, **kwargs)
        paths = (*args, *kwargs.values())[: 2 if method == "rename" else 1]
        with _outside():
            return getattr(overlay, method)(*paths)

    return handle


def _unlink(overlay: Overlay, original: Any, path: Any, **kwargs: Any) -> Any:
    if overlay.own(path) or kwargs.get("dir_fd") is not None:
        overlay.forget_temporary(path)
    return _on_entry("remove")(overlay, original, path, **kwargs)


def _mkdir(overlay: Overlay, original: Any, path: Any, mode: int = 0o777, **kwargs: Any) -> Any:
    if mode == 0o700 and not _tools():  # as tempfile does
        with _outside():
            if overlay.temporary(path):
                return original(path, mode, **kwargs)
    return _on_entry("mkdir")(overlay, original, path, mode, **kwargs)


def _rmtree(overlay: Overlay, original: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
    if overlay.own(path) or _tools():
        with _outside():
            return original(path, *args, **kwargs)
    ignored = (args and args[0]) or kwargs.get("ignore_errors")
    with _outside(), contextlib.suppress(OSError) if ignored else contextlib.nullcontext():
        overlay.rmtree(path)
    return None


def _listdir(overlay: Overlay, original: Any, path: Any = ".", **kwargs: Any) -> Any:
    folder = path if path is not None else "."
    if isinstance(folder, (int, bytes)) or not overlay.touched:
        return original(path, **kwargs)
    with _outside():
        return overlay.listdir(folder)


def _scandir(overlay: Overlay, original: Any, path: Any = ".", **kwargs: Any) -> Any:
    folder = path if path is not None else "."
    if isinstance(folder, int) or not overlay.touched:
        return original(path, **kwargs)
    with _outside():
        if not overlay.changed(folder):
            return original(folder, **kwargs)
        place = overlay.reading(folder)
        if place == os.path.abspath(os.fsdecode(folder)):
            raise NotApplicableError("the step searches a folder to which it writes")
        return original(place, **kwargs)


def _on_change(overlay: Overlay, original: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
    """Change what is said of a file, if it is the overlay's."""
    if _tools():
        return original(path, *args, **kwargs)
    with _outside():
        place = path if isinstance(path, int) else overlay.reading(path)
        disk = not isinstance(path, int) and place == os.path.abspath(os.fsdecode(path))
        if not (disk and os.path.lexists(place)) or overlay.own(path):
            return original(place, *args, **kwargs)
    return None


def _truncate(overlay: Overlay, original: Any, path: Any, length: int) -> Any:
    if isinstance(path, int):
        return original(path, length)
    with _outside():
        return original(overlay.writing(path, keep=True), length)


def _path_at(index: int, key: str, *, writes: bool, keep: bool = False) -> Handler:
    """Give a function that opens a path by itself, below Python, the path in the overlay."""

    def handle(overlay: Overlay, original: Any, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.get(key, args[index] if len(args) > index else None)
        if isinstance(given, (str, bytes, os.PathLike)) and os.fspath(given) != ":memory:":
            with _outside():
                path = overlay.writing(given, keep=keep) if writes else overlay.reading(given)
            if key in kwargs:
                kwargs[key] = path
            else:
                args = (*args[:index], path, *args[index + 1 :])
        return original(*args, **kwargs)

    return handle


# -- everything else ---------------------------------------------------------------------------


def _refuse(what: str) -> Handler:
    def handle(overlay: Overlay, original: Any, *args: Any, **kwargs: Any) -> Any:
        if _tools():
            return original(*args, **kwargs)
        raise NotApplicableError(f"the step {what}")

    return handle


def _mute(overlay: Overlay, original: Any, *args: Any, **kwargs: Any) -> Any:
    return Mute()


def _log(
    overlay: Overlay, original: Any, logger: Any, record: logging.LogRecord, *args: Any
) -> None:
    if record.name.startswith(OURS):
        original(logger, record, *args)


_REMOVE = {"unlink": _unlink, "remove": _unlink}
_ASK = dict.fromkeys(("stat", "lstat", "access", "readlink", "listxattr", "getxattr"), _on_read)
_CHANGE = dict.fromkeys(("chmod", "chown", "utime", "setxattr", "removexattr"), _on_change)
_LINK = dict.fromkeys(("link", "symlink", "mkfifo", "mknod"), _refuse("makes links"))
_PROGRAMS = ("system", "posix_spawn", "posix_spawnp", "execv", "execve")
_NETWORK = dict.fromkeys(("connect", "connect_ex", "send", "sendall", "sendto", "sendmsg"))

HANDLERS: Mapping[str, Mapping[str, Handler]] = {
    "builtins": {"open": _open},
    "io": {"open": _open},
    # They keep the function under names of their own.
    "bz2": {"_builtin_open": _open},
    "lzma": {"_builtin_open": _open},
    "tarfile": {"bltn_open": _open},
    "os": {
        "open": _os_open,
        "mkdir": _mkdir,
        "rmdir": _on_entry("rmdir"),
        "rename": _on_entry("rename"),
        "replace": _on_entry("rename"),
        "listdir": _listdir,
        "scandir": _scandir,
        "truncate": _truncate,
        "chdir": _refuse("changes the working folder"),
        **_REMOVE,
        **_ASK,
        **_CHANGE,
        **_LINK,
        **dict.fromkeys(_PROGRAMS, _refuse("starts another program")),
    },
    "shutil": {"rmtree": _rmtree},
    "torch": {
        "save": _path_at(1, "f", writes=True),
        "load": _path_at(0, "f", writes=False),
    },
    "torch.jit": {
        "save": _path_at(1, "f", writes=True),
        "load": _path_at(0, "f", writes=False),
    },
    "numpy": {"savetxt": _path_at(0, "fname", writes=True)},
    "safetensors.torch": {"save_file": _path_at(1, "filename", writes=True)},
    "safetensors.numpy": {"save_file": _path_at(1, "filename", writes=True)},
    "cv2": {
        "imwrite": _path_at(0, "filename", writes=True),
        "imread": _path_at(0, "filename", writes=False),
    },
    "sqlite3": {"connect": _path_at(0, "database", writes=True, keep=True)},
    "subprocess:Popen": {"__init__": _refuse("starts another program")},
    "socket:socket": {name: _refuse("uses the network") for name in _NETWORK},
    "ssl:SSLSocket": {name: _refuse("uses the network") for name in ("send", "sendall")},
    "logging:Logger": {"callHandlers": _log},
}
# Functions of trackers, by how their names begin.
TRACKERS: Mapping[str, tuple[str, ...]] = {
    "wandb": ("log", "save", "alert", "define_metric", "init", "finish", "watch"),
    "wandb.sdk.wandb_run:Run": ("log", "save", "alert", "define_metric", "finish", "watch"),
    "mlflow": ("log_", "set_tag", "start_run", "end_run", "set_experiment"),
    "mlflow.tracking.client:MlflowClient": ("log_", "set_tag", "create_", "update_"),
    "torch.utils.tensorboard.writer:FileWriter": ("add_", "flush"),
    "comet_ml": ("log_", "start"),
    "comet_ml:Experiment": ("log_",),
    "swanlab": ("log", "init", "finish"),
    "trackio": ("log", "init", "finish"),
}
