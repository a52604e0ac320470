"""Which code ran."""

import subprocess
import time

import pytest

from lightning_debug.tracking import git
from lightning_debug.tracking.git import Git


def run(folder, *command):
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *command],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def repository(tmp_path):
    run(tmp_path, "init", "-q", "-b", "trunk")
    (tmp_path / "train.py").write_text("lr = 0.1\n")
    run(tmp_path, "add", ".")
    run(tmp_path, "commit", "-qm", "first")
    return tmp_path


def answer(folder):
    asked = Git(folder)
    until = time.monotonic() + 20
    while asked.waiting and time.monotonic() < until:
        time.sleep(0.005)
    return asked.answer()


def test_a_clean_repository(repository):
    found = answer(repository)
    assert len(found.pop("commit")) == 40
    assert found == {"branch": "trunk", "dirty": False, "changed_files": 0}


def test_what_is_not_committed(repository):
    (repository / "train.py").write_text('lr = 0.2\napi_key = "hunter2"\n')
    (repository / "new.py").write_text("x")
    run(repository, "remote", "add", "origin", "https://bob:hunter2@example.org/a.git")
    found = answer(repository)
    assert found["dirty"] is True
    assert found["untracked"] == ["new.py"]
    assert found["remote"] == "https://example.org/a.git"
    assert found["diff"].splitlines()[-3:] == [
        "-lr = 0.1",
        "+lr = 0.2",
        "+api_key = (left out)",
    ]
    assert "hunter2" not in str(found)


def test_a_long_diff_is_cut(repository):
    (repository / "train.py").write_text("a line of code\n" * 20_000)
    diff = answer(repository)["diff"]
    assert len(diff) < git.MOST_OF_DIFF + 100
    assert diff.endswith("(cut after 100000 characters)")


def test_no_program_of_the_repository_is_run(repository):
    witness = repository / "witness"
    run(repository, "config", "core.fsmonitor", f"touch {witness}")
    run(repository, "config", "diff.external", f"touch {witness}")
    (repository / "train.py").write_text("lr = 0.2\n")
    assert answer(repository)["dirty"] is True
    assert not witness.exists()


def test_no_repository(tmp_path):
    assert answer(tmp_path) == {}


def test_a_repository_without_commits(tmp_path):
    run(tmp_path, "init", "-q", "-b", "trunk")
    assert answer(tmp_path)["branch"] == "trunk"


def test_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not Git(tmp_path).waiting
    assert answer(tmp_path) == {}


def test_an_answer_that_does_not_come_is_given_up(tmp_path, monkeypatch):
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(git, "MOST_SECONDS", 0.05)
    asked = Git(tmp_path)
    asked.stop()
    assert not asked.waiting
    assert asked.answer() == {}
