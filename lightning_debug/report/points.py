"""The points of the checklist for debugging neural networks: which findings ask about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Question:
    """What one finding asks of a run.

    Attributes:
        finding: Its name.
        experiment: Name of the experiment on a copy of the model without which there is no answer.
        needs: Name of what must be there for it to apply, in the checklist's ``NEEDS``.
    """

    finding: str
    experiment: str = ""
    needs: str = ""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of the checklist.

    Attributes:
        title: What is to be checked.
        questions: What is asked of the run about it.
        shows: Name of what the report shows for it instead, in the checklist's ``SHOWS``.
    """

    title: str
    questions: tuple[Question, ...] = ()
    shows: str = ""


def ask(*findings: str, experiment: str = "", needs: str = "") -> tuple[Question, ...]:
    """Return a question for each of some findings."""
    return tuple(Question(finding=f, experiment=experiment, needs=needs) for f in findings)


CHECKLIST: Mapping[str, tuple[Point, ...]] = {
    "Start simple": (
        Point(
            title="The model learns one or two samples by heart",
            questions=ask("cannot-overfit-batch", experiment="one or two samples by heart"),
        ),
        Point(
            title="It beats the simplest models on the same data",
            questions=ask("worse-than-baseline", experiment="simple models on the same batches"),
        ),
        Point(
            title="It makes use of its inputs",
            questions=ask("ignores-input", experiment="other inputs"),
        ),
        Point(
            title="No sample depends on another one, and nothing on the future",
            questions=ask("batch-mixing", experiment="another sample of the batch")
            + ask("future-leak", experiment="another future"),
        ),
    ),
    "Confirm the loss": (
        Point(
            title="The loss fits the task",
            questions=ask("loss-task-mismatch", "target-broadcast"),
        ),
        Point(
            title="It gets what it expects: logits, log-probabilities, no padding",
            questions=ask("probabilities-as-logits", "not-log-probabilities", "padding-in-loss"),
        ),
        Point(title="The first loss is at chance", questions=ask("initial-loss")),
        Point(title="No class is lost to imbalance", questions=ask("class-imbalance")),
        Point(
            title="The terms of the loss are on one scale, and all of them train",
            questions=ask("loss-scale-imbalance", "constant-loss-terms", "loss-reduction"),
        ),
        Point(
            title="The loss falls and stays finite",
            questions=ask("loss-not-decreasing", "loss-diverging", "non-finite-loss"),
        ),
        Point(
            title="It falls on validation data too",
            questions=ask("overfitting", needs="validation"),
        ),
    ),
    "Check intermediate outputs and connections": (
        Point(
            title="Gradients are the derivative of the loss",
            questions=ask("wrong-gradient", experiment="gradients against finite differences"),
        ),
        Point(
            title="Gradients are cleared and scaled as they should be",
            questions=ask("gradients-not-cleared", "accumulation-not-scaled"),
        ),
        Point(
            title="Every parameter is registered, optimized and updated",
            questions=ask(
                "unregistered-module",
                "parameter-not-optimized",
                "weights-not-updated",
                "tied-weights-lost",
            ),
        ),
        Point(
            title="Gradients reach every layer and neither vanish nor explode",
            questions=ask(
                "no-gradient",
                "zero-gradient",
                "vanishing-gradient",
                "exploding-gradient",
                "non-finite-gradient",
            ),
        ),
        Point(
            title="Activations have a sound size in every layer",
            questions=ask(
                "activation-scale",
                "activation-collapse",
                "saturated-activation",
                "non-finite-activation",
            ),
        ),
        Point(title="No ReLU units are dead", questions=ask("dead-relu", needs="ReLU")),
        Point(
            title="Updates are about a thousandth of the weights",
            questions=ask("update-too-large", "update-too-small"),
        ),
        Point(
            title="Layers are joined in a sound order",
            questions=ask("non-linearity-missing"),
        ),
        Point(title="The structure of the network, drawn", shows="network"),
        Point(title="Numbers of each layer, over the run", shows="layers"),
        Point(title="Histograms of weights, gradients and activations", shows="histograms"),
        Point(title="Filters of the first convolution, drawn", shows="filters"),
        Point(title="Activations for real samples, drawn", shows="activations"),
        Point(title="What the output depends on: saliency, class activation", shows="saliency"),
    ),
    "Diagnose parameters": (
        Point(
            title="Batch size",
            questions=ask("batch-size-too-small")
            + ask("batch-size-too-large", experiment="gradients of parts of a batch"),
        ),
        Point(
            title="Learning rate",
            questions=ask("learning-rate-too-high")
            + ask("learning-rate-too-low", experiment="other learning rates"),
        ),
        Point(
            title="Schedule of the learning rate",
            questions=ask("scheduler-misconfigured", "no-scheduler"),
        ),
        Point(
            title="Gradient clipping",
            questions=ask("clipping-too-tight", "clipping-missing"),
        ),
        Point(
            title="Batch normalization",
            questions=ask(
                "batch-norm-small-batch",
                "batch-norm-stale-stats",
                "bias-before-norm",
                needs="batch norm",
            )
            + ask("batch-norm-not-synced", needs="several processes"),
        ),
        Point(
            title="Optimizer",
            questions=ask("sgd-without-momentum", "adam-with-l2", "weight-decay-on-norm"),
        ),
        Point(
            title="Regularization does not drown the loss of the data",
            questions=ask("regularization-dominates"),
        ),
        Point(
            title="Dropout: its place, its order with batch norm, off in evaluation",
            questions=ask("dropout-misplaced", needs="dropout")
            + ask("dropout-active-in-eval", needs="dropout in validation")
            + ask("dropout-before-batch-norm", needs="dropout and batch norm"),
        ),
        Point(
            title="Modules train in train mode and are evaluated in eval mode",
            questions=ask("module-in-eval-mode") + ask("module-in-train-mode", needs="validation"),
        ),
        Point(title="Initial weights", questions=ask("weight-init-scale", "symmetric-init")),
        Point(
            title="Attention sees no padding",
            questions=ask("attention-mask", experiment="other padding"),
        ),
        Point(
            title="Number formats can hold gradients and steps",
            questions=ask("precision-underflow", needs="reduced precision"),
        ),
    ),
    "The data": (
        Point(title="Inputs are normalized", questions=ask("input-not-normalized")),
        Point(
            title="Inputs and targets are finite, and not all the same",
            questions=ask("non-finite-input", "constant-input", "constant-target"),
        ),
        Point(title="Samples are shuffled", questions=ask("data-not-shuffled")),
        Point(
            title="Labels have to do with the inputs",
            questions=ask("labels-unrelated"),
        ),
        Point(
            title="No sample is in training and in validation",
            questions=ask("train-val-overlap", needs="validation"),
        ),
        Point(
            title="Augmentation differs between samples",
            questions=ask("duplicate-augmentation"),
        ),
    ),
    "Track the work": (
        Point(
            title="Metrics are computed and watched as they are meant",
            questions=ask("metric-misuse") + ask("monitor-mode-reversed", needs="validation"),
        ),
        Point(
            title="A step, made again, gives the same result",
            questions=ask("nondeterministic-step", experiment="one step made twice"),
        ),
        Point(
            title="The processes train one model, each on data of its own",
            questions=ask(
                "ranks-diverged",
                "ranks-same-data",
                "sampler-epoch-not-set",
                needs="several processes",
            ),
        ),
        Point(title="Memory does not grow from step to step", questions=ask("memory-growth")),
        Point(title="Random numbers are seeded", questions=ask("unseeded-run")),
        Point(title="The code is recorded: commit and changes", shows="code"),
        Point(title="The data are recorded: sizes, shapes, a fingerprint", shows="data"),
        Point(title="Hyperparameters and settings are recorded", shows="settings"),
        Point(title="The model is recorded: its architecture and weights", shows="model"),
        Point(title="Environment and versions are recorded", shows="environment"),
        Point(title="Metrics are recorded", shows="metrics"),
    ),
}
