"""What ran, told to the trainer's loggers: a short, flat summary next to the hyperparameters.

Only where a logger has a place for it that is not the user's own: loggers that write
hyperparameters to a file, as those for CSV and TensorBoard do, get no more of them, since models
are built from these files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning_debug.sinks.logger_kinds import for_logger
from lightning_debug.sinks.text import plain

MOST_CHARACTERS = 250
# Entries of the record by dotted names, and what they are called in the summary.
ENTRIES = {
    "command": "command",
    "git.commit": "git_commit",
    "git.branch": "git_branch",
    "git.dirty": "git_dirty",
    "seeds.PL_GLOBAL_SEED": "seed",
    "seeds.seeded": "seeded",
    "determinism.deterministic_algorithms": "deterministic",
    "packages.torch": "torch",
    "packages.pytorch-lightning": "pytorch_lightning",
    "packages.lightning": "lightning",
    "packages.lightning-debug": "lightning_debug",
    "python": "python",
    "platform": "platform",
    "machine.accelerators": "accelerators",
    "trainer.precision": "precision",
    "trainer.strategy": "strategy",
    "trainer.devices": "devices",
    "trainer.accumulate_grad_batches": "accumulate_grad_batches",
    "trainer.gradient_clip_val": "gradient_clip_val",
    "optimizers.0.class": "optimizer",
    "optimizers.0.groups.0.lr": "lr",
    "optimizers.0.groups.0.weight_decay": "weight_decay",
    "model": "model",
    "parameters": "parameters",
    "weights.architecture": "architecture",
    "weights.initial_weights": "initial_weights",
    "data.training.0.batch_size": "batch_size",
    "data.training.0.samples": "samples",
    "data.fingerprint": "data_fingerprint",
}
Summary = Mapping[str, str | float]


def summary(record: Mapping[str, Any]) -> dict[str, str | float]:
    """Return the entries of a record that are worth a line in a table of runs."""
    found: dict[str, str | float] = {}
    for path, name in ENTRIES.items():
        value = _at(record, path)
        if isinstance(value, list):
            value = " ".join(map(str, value))
        if value is not None:
            found[name] = _short(value)
    return found


def log(logger: Any, part: Summary, whole: Summary) -> None:
    """Tell a logger what has become known, if it has a place for it.

    Args:
        logger: Of the trainer.
        part: What is new.
        whole: All that is known so far.
    """
    write = for_logger(logger, WRITERS)
    if write is not None:
        write(logger, part, whole)


def _at(record: Any, path: str) -> Any:
    for key in path.split("."):
        if isinstance(record, Mapping):
            record = record.get(key)
        elif isinstance(record, list) and key.isdigit() and int(key) < len(record):
            record = record[int(key)]
        else:
            return None
    return record


def _short(value: Any) -> str | float:
    if isinstance(value, (bool, int, float)):
        return value
    return plain(str(value)[: 2 * MOST_CHARACTERS])[:MOST_CHARACTERS]


def _to_wandb(logger: Any, part: Summary, whole: Summary) -> None:
    logger.experiment.config.update({"debug": dict(whole)}, allow_val_change=True)


def _to_mlflow(logger: Any, part: Summary, whole: Summary) -> None:
    # Tags, not parameters: those cannot be changed, and the user's own have their names. All in
    # one call, since a server may be far away.
    from mlflow.entities import RunTag

    tags = [RunTag(f"debug/{name}", str(value)) for name, value in part.items()]
    logger.experiment.log_batch(logger.run_id, tags=tags)


def _to_comet(logger: Any, part: Summary, whole: Summary) -> None:
    logger.experiment.log_others({f"debug/{name}": value for name, value in part.items()})


def _to_neptune(logger: Any, part: Summary, whole: Summary) -> None:
    logger.experiment["debug/record"].assign(dict(whole))


def _to_tensorboard(logger: Any, part: Summary, whole: Summary) -> None:
    # TensorBoard renders Markdown; four spaces make it show the text as it is.
    text = "\n".join(f"    {name}: {value}" for name, value in part.items())
    logger.experiment.add_text("debug/record", text, 0)


WRITERS: dict[str, Callable[[Any, Summary, Summary], None]] = {
    "WandbLogger": _to_wandb,
    "MLFlowLogger": _to_mlflow,
    "CometLogger": _to_comet,
    "NeptuneLogger": _to_neptune,
    "TensorBoardLogger": _to_tensorboard,
}
