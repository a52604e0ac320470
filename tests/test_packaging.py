import configparser
import re
from importlib import metadata
from pathlib import Path

import pytest

import lightning_debug


def test_there_is_one_version():
    assert metadata.version("lightning-debug") == lightning_debug.__version__


@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
def test_a_trainer_of_either_namespace_finds_the_factory(namespace, monkeypatch):
    monkeypatch.delenv("LIGHTNING_DEBUG", raising=False)
    points = metadata.entry_points(group=f"{namespace}.callbacks_factory")
    assert points["lightning_debug"].load()() == []


def test_the_command_is_installed():
    [command] = metadata.entry_points(group="console_scripts", name="lightning-debug")
    assert command.value == "lightning_debug.cli:main"


def test_the_types_are_shipped():
    assert (Path(lightning_debug.__file__).parent / "py.typed").is_file()


def test_all_files_that_are_no_code_are_shipped():
    package = Path(lightning_debug.__file__).parent
    config = configparser.ConfigParser()
    config.read(package.parent / "setup.cfg")
    shipped = {
        file
        for name, patterns in config["options.package_data"].items()
        for pattern in re.split(r"[,\s]+", patterns)
        for file in package.parent.joinpath(*name.split(".")).glob(pattern)
    }
    others = {f for f in package.rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc")}
    assert others == shipped
