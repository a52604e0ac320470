"""What ran: the whole record of real runs, and nothing that is secret in it."""

import json
import random
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from lightning_debug import DebugSuite, GradientNorms, RunTracker, trainers
from lightning_debug.sinks.run_folder import RunFolder
from lightning_debug.sinks.sink import Sink
from lightning_debug.tracking import data, git, machine, model, record
from tests.runs import Program, digits, quiet_trainer

PLANTED = "hunter2hunter2"


class Parts(Sink):
    """Keeps what it is told of the record, and when."""

    def __init__(self):
        self.told = []

    def start(self, run):
        self.told.append(dict(run.record))

    def record(self, part):
        self.told.append(dict(part))

    @property
    def whole(self):
        return {key: value for part in self.told for key, value in part.items()}


class Saving(Program):
    def __init__(self, lr=0.1, **others):
        super().__init__(nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)))
        self.save_hyperparameters()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 5)]


def run(*sinks, module=None, suite=RunTracker, seed=3, loader=None, **settings):
    pl.seed_everything(seed, verbose=False)
    module = module or Saving()
    callback = suite(sinks=list(sinks), preflight=False)
    trainer = quiet_trainer(**{"max_steps": 5, "callbacks": [callback]} | settings)
    trainer.fit(module, loader or digits(n=160))
    assert not callback.failures, callback.failures
    return callback


def described(**settings):
    parts = Parts()
    run(parts, **settings)
    return parts.whole


def test_the_whole_record(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "0.1"])
    found = described()
    assert found["command"][1:] == ["train.py", "--lr", "0.1"]
    assert found["model"] == "Saving"
    assert found["parameters"] == 610
    assert found["hyperparameters"] == {"model": {"lr": 0.1}}
    [optimizer] = found["optimizers"]
    assert optimizer["class"] == "SGD"
    assert optimizer["groups"][0].items() >= {"lr": 0.1, "momentum": 0.9, "parameters": 610}.items()
    [scheduler] = found["schedulers"]
    assert scheduler.items() >= {"class": "StepLR", "step_size": 5, "interval": "epoch"}.items()
    assert found["trainer"].items() >= {"max_steps": 5, "precision": "32-true"}.items()
    assert found["trainer"]["callbacks"] == ["RunTracker"]
    assert found["seeds"].items() >= {"PL_GLOBAL_SEED": 3, "seeded": True, "torch": 3}.items()
    assert found["packages"]["torch"] == torch.__version__
    assert "scikit-learn" in found["packages"]
    assert found["determinism"]["deterministic_algorithms"] is False
    assert found["weights"]["parts"] == {"net": 610}
    [loader] = found["data"]["training"]
    assert loader.items() >= {"batch_size": 32, "samples": 160, "shuffle": True}.items()
    assert sum(loader["classes"].values()) == 160
    assert found["data"]["batch"] == {
        "batch[0]": "(32, 64) torch.float32",
        "batch[1]": "(32,) torch.int64",
    }
    assert len(set(found["data"]["first_batches"])) == 3
    assert found["folder"].startswith(("/", "~"))
    assert json.loads(json.dumps(found)) == found


def test_the_same_run_has_the_same_fingerprints():
    first, second, other = described(), described(), described(seed=4)
    for key in ("weights", "data"):
        assert first[key] == second[key]
    assert first["weights"]["architecture"] == other["weights"]["architecture"]
    assert first["weights"]["initial_weights"] != other["weights"]["initial_weights"]
    assert first["data"]["fingerprint"] != other["data"]["fingerprint"]


def test_the_run_is_bit_identical():
    def left(callbacks):
        pl.seed_everything(3, verbose=False)
        module = Saving()
        trainer = quiet_trainer(max_steps=8, callbacks=callbacks)
        trainer.fit(module, digits(n=160))
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        return module.state_dict(), trainer.optimizers[0].state_dict()["param_groups"], states

    parts = Parts()
    weights, settings, states = left([RunTracker(sinks=[parts], preflight=False)])
    assert parts.whole["git"] is not None
    others = left([])
    assert all(torch.equal(weights[name], others[0][name]) for name in weights)
    assert settings == others[1]
    assert torch.equal(states[0], others[2][0])
    assert states[1:] == others[2][1:]


def test_other_sections_write_a_short_record():
    found = described(suite=GradientNorms)
    assert found["model"] == "Saving"
    assert not found.keys() & {"command", "hyperparameters", "seeds", "git", "data", "environment"}


def test_a_run_of_one_step_is_recorded_as_well():
    found = described(max_steps=1)
    assert len(found["data"]["first_batches"]) == 1
    assert "git" in found


def test_a_run_that_fails_at_its_first_step_is_recorded_as_well():
    class Failing(Saving):
        def training_step(self, batch, batch_idx):
            raise KeyError("no such batch")

    parts = Parts()
    with pytest.raises(KeyError):
        run(parts, module=Failing())
    assert len(parts.whole["data"]["first_batches"]) == 1


def test_nothing_is_recorded_where_nobody_listens(monkeypatch):
    monkeypatch.setattr(record, "Later", None)
    run()


def test_a_failure_of_the_record_leaves_the_run_alone(monkeypatch, caplog):
    def fail(*args):
        raise OSError("no more processes")

    monkeypatch.setattr(git, "_ask", fail)
    parts = Parts()
    tracker = RunTracker(sinks=[parts])
    quiet_trainer(max_steps=2, callbacks=[tracker]).fit(Saving(), digits(n=64))
    assert tracker.failures == {"the run record": "OSError: no more processes"}
    assert parts.whole["model"] == "Saving"


def test_hyperparameters_are_not_made_by_asking():
    module = Program(nn.Linear(64, 10))
    assert trainers.hyperparameters(quiet_trainer(), module) == {}
    assert "_hparams" not in vars(module)


class Settings(pl.LightningDataModule):
    def __init__(self, url, root):
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self):
        return digits(n=64)


class SecretLogger(CSVLogger):
    """A logger that is given a key."""

    def __init__(self, folder, api_key):
        super().__init__(folder)
        self.api_key = api_key


def test_planted_secrets_are_nowhere(tmp_path, monkeypatch):
    repository = tmp_path / "repository"
    repository.mkdir()
    for command in (
        ["init", "-q"],
        ["remote", "add", "origin", f"https://bob:{PLANTED}@example.org/a.git"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", *command], cwd=repository, check=True, capture_output=True)
    (repository / "train.py").write_text(f'wandb.login(key="x")\nPASSWORD = "{PLANTED}"\n')
    subprocess.run(["git", "add", "."], cwd=repository, check=True)
    monkeypatch.setattr(record, "script_folder", lambda: repository)
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "train.py",
            *("--token", PLANTED, f"--password={PLANTED}", f"model.api_key={PLANTED}"),
            f"--data=https://bob:{PLANTED}@example.org/x?sig={PLANTED}",
        ],
    )
    for name in ("NCCL_SECRET", "WANDB_API_KEY", "TORCH_TOKEN", "DATABASE_URL", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, PLANTED)
    monkeypatch.setenv("MASTER_ADDR", f"tcp://a:{PLANTED}@host")
    module = Saving(
        nested={"db": [{"password": PLANTED}]},
        index=f"https://{PLANTED}@packages.example.org/simple",
        note=f"sk-{PLANTED}-0123456789",
    )
    loader = Settings(url=f"s3://a:{PLANTED}@bucket", root={"credentials": PLANTED})
    logger = SecretLogger(tmp_path / "logs", api_key=PLANTED)
    told = Parts()
    monkeypatch.chdir(tmp_path)
    callback = run(
        *(RunFolder(), told), suite=DebugSuite, module=module, loader=loader, logger=logger
    )
    found = told.whole
    assert found["hyperparameters"]["model"]["nested"] == {"db": [{"password": "(left out)"}]}
    assert found["git"]["remote"] == "https://example.org/a.git"
    assert "+PASSWORD = (left out)" in found["git"]["diff"]
    assert found["environment"]["MASTER_ADDR"] == "tcp://host"
    assert PLANTED not in json.dumps(found)
    files = [path for path in callback.run_folder.rglob("*") if path.is_file()]
    assert {"run.json", "stats.jsonl"} <= {path.name for path in files}
    assert not [path for path in files if PLANTED.encode() in path.read_bytes()]


class Batch(namedtuple("Batch", "x y")):
    """A batch as some loaders make it."""


class TestModel:
    def test_large_tensors_are_sampled(self):
        weight = torch.zeros(200, 100)
        first = model.fingerprint([weight])
        weight[0, 1] = 1.0
        assert model.fingerprint([weight]) == first
        weight[0, 0] = 1.0
        assert model.fingerprint([weight]) != first

    @pytest.mark.parametrize(
        "other",
        [
            nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.2)),
            nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Dropout(0.1)),
            nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Dropout(0.1)),
            nn.Sequential(nn.Linear(3, 4).double(), nn.ReLU(), nn.Dropout(0.1)),
        ],
    )
    def test_architectures_are_told_apart(self, other):
        net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.1))
        same = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.1))
        assert model.architecture(net) == model.architecture(same)
        assert model.architecture(net) != model.architecture(other)

    @pytest.mark.parametrize(
        "tensor",
        [
            torch.zeros(0),
            torch.zeros((), dtype=torch.bfloat16),
            torch.zeros(3, dtype=torch.complex64).conj(),
            torch.eye(3).to_sparse(),
            torch.zeros(3, device="meta"),
            torch.ones(3, dtype=torch.bool),
            torch.zeros(4, 4).T[::2],
        ],
    )
    def test_any_tensor_has_a_fingerprint(self, tensor):
        assert len(model.fingerprint([tensor])) == 16

    def test_a_lazy_layer(self):
        assert model.architecture(nn.Sequential(nn.LazyLinear(4)))


class TestData:
    def test_loaders_in_containers(self):
        loaders = {"a": digits(n=32), "b": [digits(n=64)]}
        assert [found["samples"] for found in data.describe(loaders)] == [32, 64]

    def test_a_subset_counts_its_own_classes(self):
        whole = TensorDataset(torch.zeros(6, 2), torch.tensor([0, 0, 1, 1, 1, 2]))
        [found] = data.describe(DataLoader(Subset(whole, [0, 2, 3])))
        assert found["classes"] == {"0": 1, "1": 2}

    def test_targets_by_custom(self):
        class Folder(Dataset):
            def __init__(self):
                self.targets = [0, 1, 1]

            def __len__(self):
                return 3

        assert data.describe(DataLoader(Folder()))[0]["classes"] == {"0": 1, "1": 2}

    @pytest.mark.parametrize(
        "targets",
        [torch.rand(4), torch.arange(4000), [-1, 2], ["a"], [], None, torch.zeros(2, 2).long()],
    )
    def test_targets_that_are_no_classes(self, targets):
        class Odd(Dataset):
            def __init__(self):
                self.targets = targets

            def __len__(self):
                return 4

        assert "classes" not in data.describe(DataLoader(Odd()))[0]

    def test_a_property_is_not_asked(self):
        class Asking(Dataset):
            targets = property(lambda self: 1 / 0)

            def __len__(self):
                return 3

        assert data.describe(DataLoader(Asking()))[0]["samples"] == 3

    def test_a_stream_has_no_length(self):
        class Stream(IterableDataset):
            def __len__(self):
                raise TypeError("endless")

            def __iter__(self):
                raise AssertionError("drawn from")

        [found] = data.describe(DataLoader(Stream(), batch_size=4))
        assert (found["samples"], found["batch_size"]) == (None, 4)

    def test_what_is_no_loader(self):
        assert data.describe([object()]) == [{"loader": "object", "batches": None}]
        assert data.describe(None) == []

    def test_batches_of_any_shape(self):
        taken = data.FirstBatches()
        for batch in (Batch(torch.ones(2), {"y": torch.eye(2).to_sparse()}), "text", [1, None]):
            taken.take(batch)
        assert not taken.waiting
        found = taken.describe()
        assert found["batch"]["batch.x"] == "(2,) torch.float32"
        assert len(found["first_batches"]) == 3

    def test_what_is_changed_in_place_later_does_not_count(self):
        batch = torch.ones(4, 3)
        first, second = data.FirstBatches(), data.FirstBatches()
        first.take(batch)
        second.take(batch)
        batch += 1
        assert first.describe() == second.describe()
        assert first.describe()["fingerprint"]


class TestMachine:
    def test_only_variables_that_matter(self):
        variables = {
            "CUDA_VISIBLE_DEVICES": "0",
            "OMP_NUM_THREADS": "4",
            "AWS_SECRET_ACCESS_KEY": "x",
            "HOME": "/root",
            "NCCL_TOKEN": "x",
        }
        assert machine.environment(variables) == {
            "CUDA_VISIBLE_DEVICES": "0",
            "NCCL_TOKEN": "(left out)",
            "OMP_NUM_THREADS": "4",
        }

    def test_packages_are_those_that_were_imported(self, tmp_path, monkeypatch):
        for name in ("used_one-1.2.dist-info", "other-3.4.dist-info", "unused-5.dist-info"):
            (tmp_path / name).mkdir()
        (tmp_path / "other-3.4.dist-info" / "RECORD").write_text("../x,,\nuses/__init__.py,,\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path), "/nowhere"])
        monkeypatch.setitem(sys.modules, "used_one", machine)
        monkeypatch.setitem(sys.modules, "uses.deep", machine)
        assert machine.packages() == {"other": "3.4", "used-one": "1.2"}


def test_the_program_of_a_notebook_lies_in_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    assert git.script_folder() == tmp_path
    monkeypatch.setattr(
        sys.modules["__main__"], "__file__", str(tmp_path / "a" / "b.py"), raising=False
    )
    assert git.script_folder() == Path(tmp_path / "a")
