"""A view of the file system into which an experiment writes, and nobody else."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from typing import Any

from lightning_debug.experiments.batches import NotApplicableError

MOST_BYTES = 64 * 2**20
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
UNNAMED = getattr(os, "O_TMPFILE", 0)

Name = str | bytes | os.PathLike[Any]


class Overlay:
    """Files that lie above those on the disk: written and read back, and gone afterwards.

    What is written goes to a temporary folder that mirrors the paths of the disk; what is removed
    is noted. Names made up for temporary files are used as they are, and removed at the end.
    """

    def __init__(self) -> None:
        self._root = ""
        self._removed: set[str] = set()
        self._temporary: set[str] = set()

    @property
    def touched(self) -> bool:
        """Tell whether it differs from the disk."""
        return bool(self._root or self._removed)

    def clear(self) -> None:
        """Forget everything."""
        if self._root:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = ""
        for path in self._temporary:
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        self._temporary.clear()
        self._removed.clear()

    def reading(self, name: Name) -> str:
        """Return where a file is to be read.

        Raises:
            FileNotFoundError: If it was removed.
        """
        path = _absolute(name)
        place = self._place(path)
        if place is None:
            raise FileNotFoundError(2, "No such file or directory", path)
        return place

    def writing(self, name: Name, *, keep: bool, new: bool = False) -> str:
        """Return where a file is to be written.

        Args:
            name: The file.
            keep: Whether what is in it stays.
            new: Whether it must not exist.

        Raises:
            NotApplicableError: If what is in it is too much to be copied, or it is no plain file.
            OSError: What the disk would say.
        """
        path = _absolute(name)
        if path == os.devnull or self._as_it_is(path):
            return path
        place = self._place(path)
        exists = place is not None and os.path.lexists(place)
        if place is not None and exists:
            if new:
                raise FileExistsError(17, "File exists", path)
            kind = os.stat(place).st_mode
            if stat.S_ISDIR(kind):
                raise IsADirectoryError(21, "Is a directory", path)
            if stat.S_ISCHR(kind):
                return os.devnull
            if not stat.S_ISREG(kind):
                raise NotApplicableError("the step writes to what is no plain file")
        target = self._mirror(path, make=True)
        if place is not None and exists and keep and place != target:
            _copied(place, target)
        return target

    def temporary(self, name: Name) -> bool:
        """Tell whether this is a fresh name in the folder for temporary files; then note it."""
        path = _absolute(name)
        taken = os.path.lexists(path) or (self._root and os.path.lexists(self._mirror(path)))
        fresh = os.path.dirname(path) == tempfile.gettempdir() and not taken
        if fresh:
            self._temporary.add(path)
        return fresh

    def forget_temporary(self, name: Name) -> None:
        """A temporary file is removed by the step itself."""
        self._temporary.discard(_absolute(name))

    def own(self, name: Name) -> bool:
        """Tell whether a path is used as it is."""
        return self._as_it_is(_absolute(name))

    def mkdir(self, name: Name) -> None:
        """Make a folder."""
        path = _absolute(name)
        place = self._place(path)
        if place is not None and os.path.lexists(place):
            raise FileExistsError(17, "File exists", path)
        os.mkdir(self._mirror(path, make=True))

    def remove(self, name: Name) -> None:
        """Remove a file."""
        path, place = _absolute(name), self.reading(name)
        if stat.S_ISDIR(os.lstat(place).st_mode):
            raise IsADirectoryError(21, "Is a directory", path)
        if place != path:
            os.unlink(place)
        self._removed.add(path)

    def rmdir(self, name: Name) -> None:
        """Remove a folder that is empty."""
        path = _absolute(name)
        if self.listdir(name):
            raise OSError(39, "Directory not empty", path)
        self.rmtree(name)

    def rmtree(self, name: Name) -> None:
        """Remove a folder with all that is in it."""
        path, place = _absolute(name), self.reading(name)
        if not stat.S_ISDIR(os.lstat(place).st_mode):
            raise NotADirectoryError(20, "Not a directory", path)
        if self._root and not self._as_it_is(path):
            shutil.rmtree(self._mirror(path), ignore_errors=True)
        self._removed.add(path)

    def rename(self, source: Name, target: Name) -> None:
        """Move a file, or a folder that was made here.

        Raises:
            NotApplicableError: If it is a folder on the disk, or a file too large to be copied.
        """
        old, new, place = _absolute(source), _absolute(target), self.reading(source)
        kind = os.lstat(place).st_mode
        if stat.S_ISDIR(kind) and (place == old or os.path.lexists(old)):
            raise NotApplicableError("the step moves folders")
        below = self._place(new)
        if below is not None and os.path.isdir(below) and not stat.S_ISDIR(kind):
            raise IsADirectoryError(21, "Is a directory", new)
        mirror = self._mirror(new, make=True)
        if place == old:
            _copied(place, mirror)
        else:
            os.replace(place, mirror)
        self._removed |= {old} if stat.S_ISREG(kind) else {old, new}

    def listdir(self, name: Name) -> list[str]:
        """Return the names in a folder."""
        path = _absolute(name)
        found = set(os.listdir(self.reading(name)))
        if self._root and os.path.isdir(self._mirror(path)):
            found |= set(os.listdir(self._mirror(path)))
        return sorted(
            entry
            for entry in found
            if (place := self._place(os.path.join(path, entry))) is not None
            and os.path.lexists(place)
        )

    def changed(self, name: Name) -> bool:
        """Tell whether a folder has other entries than on the disk."""
        path = _absolute(name)
        below = path.rstrip(os.sep) + os.sep
        return (
            (bool(self._root) and os.path.lexists(self._mirror(path)))
            or self._hidden(path)
            or any(removed.startswith(below) for removed in self._removed)
        )

    def _place(self, path: str) -> str | None:
        """Return where a path lies; None where it was removed."""
        if self._as_it_is(path):
            return path
        if self._root:
            mirror = self._mirror(path)
            if os.path.isfile(mirror) or (os.path.isdir(mirror) and not os.path.isdir(path)):
                return mirror
            if os.path.isdir(mirror):
                return mirror if self._hidden(path) else path
        return None if self._hidden(path) else path

    def _mirror(self, path: str, *, make: bool = False) -> str:
        """Return the place of a path in the temporary folder.

        Args:
            path: Absolute.
            make: Whether to make the folders above it, which must exist.
        """
        if make:
            above = os.path.dirname(path)
            place = self._place(above)
            if place is None or not os.path.exists(place):
                raise FileNotFoundError(2, "No such file or directory", path)
            if not os.path.isdir(place):
                raise NotADirectoryError(20, "Not a directory", path)
            self._root = self._root or tempfile.mkdtemp(prefix="lightning_debug_")
            os.makedirs(self._root + above, exist_ok=True)
        return self._root + path

    def _hidden(self, path: str) -> bool:
        """Tell whether a path on the disk, or a folder above it, was removed."""
        if not self._removed:
            return False
        while path not in self._removed:
            above = os.path.dirname(path)
            if above == path:
                return False
            path = above
        return True

    def _as_it_is(self, path: str) -> bool:
        if self._root and path.startswith(self._root + os.sep):
            return True
        return any(path == t or path.startswith(t + os.sep) for t in self._temporary)


def reads(flags: int) -> bool:
    """Tell whether a file that is opened with these flags stays as it is."""
    unnamed = bool(UNNAMED) and flags & UNNAMED == UNNAMED
    return unnamed or not flags & WRITING


def _absolute(name: Name) -> str:
    return os.path.abspath(os.fsdecode(name))


def _copied(source: str, target: str) -> None:
    size = os.stat(source).st_size
    if size > MOST_BYTES:
        raise NotApplicableError(f"the step changes a file of {size / 2**20:.0f} MiB")
    shutil.copyfile(source, target)
