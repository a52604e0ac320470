"""What is written, said and started inside of an experiment stays inside."""

import builtins
import csv
import io
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from lightning_debug.experiments import outward
from lightning_debug.experiments.batches import NotApplicableError
from lightning_debug.experiments.isolation import isolated
from tests.runs import Program, digits, fit, quiet_trainer


@pytest.fixture
def folder(tmp_path):
    """A folder with a file of one line and a folder with a file."""
    (tmp_path / "old.txt").write_text("one\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "in.txt").write_text("in\n")
    return tmp_path


def contents(folder):
    """Return every path of a folder with what is in it, and when it was written."""
    return {
        str(path): (path.read_bytes() if path.is_file() else None, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def functions():
    """Return everything that is replaced in a thread that is contained."""
    owners = {o: outward._loaded(o) for o in (*outward.HANDLERS, *outward.TRACKERS)}
    return {o: dict(vars(place)) for o, place in owners.items() if place is not None}


def append(folder):
    for _ in range(2):
        with open(folder / "old.txt", "a") as file:
            file.write("more\n")
    return (folder / "old.txt").read_text() == "one\nmore\nmore\n"


def text(folder):
    Path(folder, "new.txt").write_text("new")
    return Path(folder, "new.txt").read_text() == "new" and (folder / "new.txt").exists()


def by_torch(folder):
    torch.save({"a": torch.ones(2)}, folder / "w.pt")
    torch.save({"a": torch.ones(2)}, str(folder / "w.pt"))
    return torch.load(folder / "w.pt")["a"].sum() == 2


def by_numpy(folder):
    np.save(folder / "a.npy", np.ones(3))
    np.savetxt(folder / "a.txt", np.ones(3))
    np.savez(folder / "a.npz", a=np.ones(3))
    memory = np.memmap(folder / "a.bin", dtype="float32", mode="w+", shape=(4,))
    memory[:] = 1
    return np.load(folder / "a.npy").sum() == 3 and os.path.getsize(folder / "a.txt") > 10


def by_json_and_csv(folder):
    with (folder / "old.txt").open("w") as file:
        json.dump({"a": 1}, file)
    with open(folder / "rows.csv", "a", newline="") as file:
        csv.writer(file).writerow([1, 2])
    return json.loads((folder / "old.txt").read_text()) == {"a": 1}


def by_descriptor(folder):
    number = os.open(folder / "old.txt", os.O_WRONLY | os.O_APPEND)
    os.write(number, b"two\n")
    os.close(number)
    (folder / "touched").touch()
    return (folder / "old.txt").read_text() == "one\ntwo\n" and (folder / "touched").exists()


def in_folders(folder):
    os.makedirs(folder / "a" / "b")
    os.makedirs(folder / "more", exist_ok=True)
    (folder / "a" / "b" / "x.txt").write_text("x")
    with pytest.raises(FileExistsError):
        os.mkdir(folder / "a")
    with pytest.raises(FileNotFoundError):
        (folder / "nowhere" / "x.txt").write_text("x")
    return os.path.isdir(folder / "a") and os.listdir(folder / "a" / "b") == ["x.txt"]


def removed(folder):
    os.remove(folder / "old.txt")
    gone = not os.path.exists(folder / "old.txt") and "old.txt" not in os.listdir(folder)
    with pytest.raises(FileNotFoundError):
        (folder / "old.txt").read_text()
    shutil.rmtree(folder / "more")
    assert not os.path.exists(folder / "more" / "in.txt")
    (folder / "more").mkdir()
    return gone and os.listdir(folder / "more") == []


def moved(folder):
    os.rename(folder / "old.txt", folder / "older.txt")
    (folder / "new").write_text("new")
    os.replace(folder / "new", folder / "old.txt")
    shutil.copy2(folder / "older.txt", folder / "copy.txt")
    shutil.move(str(folder / "copy.txt"), str(folder / "more" / "copy.txt"))
    read = [(folder / name).read_text() for name in ("older.txt", "old.txt", "more/copy.txt")]
    return read == ["one\n", "new", "one\n"] and sorted(os.listdir(folder / "more")) == [
        "copy.txt",
        "in.txt",
    ]


def rotated(folder):
    """Keep the newest two of three checkpoints."""
    for index in range(3):
        torch.save(index, folder / f"{index}.pt")
    names = [name for name in os.listdir(folder) if name.endswith(".pt")]
    os.remove(folder / sorted(names)[0])
    return sorted(n for n in os.listdir(folder) if n.endswith(".pt")) == ["1.pt", "2.pt"]


def temporary(folder):
    with tempfile.TemporaryDirectory() as name, tempfile.NamedTemporaryFile("w") as file:
        Path(name, "a").write_text("a")
        file.write("b")
        shutil.copy(Path(name, "a"), folder / "a")
    number, _ = tempfile.mkstemp()  # left to us
    os.close(number)
    return (folder / "a").read_text() == "a"


WRITES = [
    append,
    text,
    by_torch,
    by_numpy,
    by_json_and_csv,
    by_descriptor,
    in_folders,
    removed,
    moved,
    rotated,
    temporary,
]


@pytest.mark.parametrize("write", WRITES, ids=lambda function: function.__name__)
def test_files_are_read_back_and_gone_afterwards(write, folder, tmp_path_factory, monkeypatch):
    own = tmp_path_factory.mktemp("temporary")  # other tests run at the same time
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    before = contents(folder)
    for _ in range(2):  # the second time starts from the disk again
        with isolated(None):
            assert write(folder)
        assert contents(folder) == before
    assert not os.listdir(own)


def test_what_was_written_can_be_forgotten(folder):
    with isolated(None):
        append(folder)
        os.remove(folder / "more" / "in.txt")
        outward.forget()
        assert (folder / "old.txt").read_text() == "one\n"
        assert (folder / "more" / "in.txt").exists()


def test_other_threads_are_left_alone(folder):
    def work():
        (folder / "theirs.txt").write_text("theirs")
        os.remove(folder / "old.txt")
        logging.getLogger("theirs").error("theirs")

    heard = []
    logging.getLogger("theirs").addFilter(lambda record: heard.append(record) or True)
    with isolated(None):
        (folder / "ours.txt").write_text("ours")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert (folder / "old.txt").exists() is False
    assert (folder / "theirs.txt").read_text() == "theirs"
    assert not (folder / "ours.txt").exists()
    assert len(heard) == 1


def test_two_threads_at_once(folder):
    def work(name, barrier, seen):
        for _ in range(50):
            with isolated(None):
                barrier.wait()
                (folder / "mine.txt").write_text(name)
                seen.append((folder / "mine.txt").read_text() == name)
                outward.forget()

    before, barrier, seen = functions(), threading.Barrier(2), []
    threads = [threading.Thread(target=work, args=(n, barrier, seen)) for n in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(seen)
    assert len(seen) == 100
    assert functions() == before
    assert not (folder / "mine.txt").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_everything_is_put_back(error, folder):
    before = functions()

    def fail():
        with isolated(None):
            assert builtins.open is not before["builtins"]["open"]
            append(folder)
            raise error

    with pytest.raises(error):
        fail()
    assert functions() == before
    assert builtins.open is io.open
    assert not outward._replaced
    assert not outward._inside
    assert not outward._threads


def test_one_inside_of_another(folder):
    before = functions()
    with isolated(torch.float64):
        append(folder)
        with isolated(None):
            assert (folder / "old.txt").read_text().count("more") == 2
            append_once = (folder / "old.txt").open("a")
            append_once.close()
        assert builtins.open is not before["builtins"]["open"]
        assert (folder / "old.txt").read_text().count("more") == 2
    assert (folder / "old.txt").read_text() == "one\n"
    assert functions() == before


def test_large_files_and_pipes_are_refused(folder):
    with open(folder / "large", "wb") as file:
        file.truncate(2**30)
    os.mkfifo(folder / "pipe")
    with isolated(None):
        with pytest.raises(NotApplicableError, match="1024 MiB"):
            (folder / "large").open("ab")
        with pytest.raises(NotApplicableError, match="no plain file"):
            (folder / "pipe").open("w")
        with open(os.devnull, "w") as file:
            file.write("nothing")


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(lambda: subprocess.run(["true"], check=True), id="run"),
        pytest.param(lambda: os.system("true"), id="system"),
        pytest.param(lambda: os.popen("true"), id="popen"),
        pytest.param(lambda: socket.create_connection(("127.0.0.1", 9)), id="network"),
        pytest.param(lambda: os.chdir("/"), id="working folder"),
        pytest.param(lambda: os.symlink("a", "b"), id="link"),
    ],
)
def test_what_cannot_be_contained_is_refused(start):
    with isolated(None), pytest.raises(NotApplicableError, match="the step"):
        start()


def test_logs_are_silent_but_for_our_own(caplog):
    with caplog.at_level(logging.INFO), isolated(None):
        logging.getLogger("user").error("theirs")
        logging.info("theirs")
        logging.getLogger("lightning_debug").info("ours")
    logging.getLogger("user").error("later")
    assert [record.message for record in caplog.records] == ["ours", "later"]


def test_trackers_are_mute(monkeypatch, tmp_path):
    heard = []

    class Tracker:
        """Stands for the module wandb; the real one needs a server."""

        log = staticmethod(lambda values: heard.append(values))
        run = None

    monkeypatch.setitem(sys.modules, "wandb", Tracker)
    board = SummaryWriter(tmp_path)
    sizes = []
    for inside in (True, False):
        if inside:
            with isolated(None):
                Tracker.log({"loss": 1.0})
                board.add_scalar("loss", 1.0)
        else:
            Tracker.log({"loss": 2.0})
            board.add_scalar("loss", 2.0)
        board.flush()
        sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
    board.close()
    assert heard == [{"loss": 2.0}]
    assert sizes[0] < sizes[1]


def test_entering_costs_little():
    def seconds():
        begun = time.perf_counter()
        with outward.contained():
            pass
        return time.perf_counter() - begun

    assert min(seconds() for _ in range(20)) < 1e-3


class Writing(Program):
    """Writes a line a step, a checkpoint now and then, and removes the one before."""

    def __init__(self, folder):
        super().__init__(torch.nn.Linear(64, 10))
        self.folder = folder

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        with open(self.folder / "losses.txt", "a") as file:
            file.write(f"{loss.item()}\n")
        lines = (self.folder / "losses.txt").read_text().count("\n")
        os.makedirs(self.folder / "weights", exist_ok=True)
        if lines % 10 == 1:
            torch.save(self.net.state_dict(), self.folder / "weights" / f"{lines}.pt")
        if lines % 10 == 1 and lines > 10:
            os.remove(self.folder / "weights" / f"{lines - 10}.pt")
        logging.getLogger("user").warning("step %d", lines)
        return loss


def test_a_run_leaves_the_files_that_it_would_have_left(tmp_path, caplog):
    found = []
    for name in ("watched", "bare"):
        folder = tmp_path / name
        folder.mkdir()
        caplog.clear()
        if name == "watched":
            suite = fit(lambda folder=folder: Writing(folder), digits(n=320))
            assert len([e for e in suite.experiments if e.outcome != "not applicable"]) >= 5
        else:
            torch.manual_seed(0)
            quiet_trainer().fit(Writing(folder), digits(n=320))
        lines = (folder / "losses.txt").read_text().splitlines()
        said = [r for r in caplog.records if r.name == "user"]
        found.append((len(lines), sorted(os.listdir(folder / "weights")), len(said)))
    assert found[0] == found[1] == (20, ["11.pt"], 20)
