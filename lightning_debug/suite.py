"""The suite and its sections: callbacks that differ in what they look for."""

from __future__ import annotations

from lightning_debug.section import Section


class DebugSuite(Section):
    """Watches a training run and says in plain words what is wrong, where, and what to type.

    Add it to the Trainer: ``Trainer(callbacks=[DebugSuite(debug=True)])``. All sections in one
    callback, behind one flag; the arguments are those of :class:`Section`.
    """

    draws = True
    tracks = True


class InitialLoss(Section):
    """Is the first loss at chance, and are the initial weights sane?"""

    names = ("initial-loss", "symmetric-init", "weight-init-scale")


class GradientNorms(Section):
    """Do gradients reach every layer, at a sensible size?"""

    names = (
        "vanishing-gradient",
        "exploding-gradient",
        "zero-gradient",
        "no-gradient",
        "non-finite-gradient",
    )


class ActivationStats(Section):
    """Are units alive, different for different samples, and finite?"""

    names = (
        "dead-relu",
        "saturated-activation",
        "activation-collapse",
        "activation-scale",
        "non-finite-activation",
        "non-finite-loss",
    )


class OverfitTwoSamples(Section):
    """Can the model learn one or two samples by heart?"""

    names = ("cannot-overfit-batch",)


class GradientCorrectness(Section):
    """Is the gradient the derivative of the loss?"""

    names = ("wrong-gradient",)


class UpdateRatios(Section):
    """Does the optimizer change every weight, by about a thousandth of its size?"""

    names = (
        "update-too-large",
        "update-too-small",
        "weights-not-updated",
        "parameter-not-optimized",
    )


class LearningRate(Section):
    """Does the learning rate do what it is meant to, from the first update to the last?"""

    names = (
        "learning-rate-too-high",
        "learning-rate-too-low",
        "scheduler-misconfigured",
        "no-scheduler",
    )


class LayerOrder(Section):
    """Are layers executed in a sound order, with a non-linearity between weight layers?"""

    names = ("dropout-before-batch-norm", "non-linearity-missing")


class ModelWiring(Section):
    """Is every tensor registered, tied and cleared as it should be?"""

    names = (
        "unregistered-module",
        "gradients-not-cleared",
        "accumulation-not-scaled",
        "tied-weights-lost",
    )


class ModuleModes(Section):
    """Do modules train in train mode and validate in eval mode?"""

    names = ("module-in-eval-mode", "module-in-train-mode")


class BatchNormUse(Section):
    """Do batch norms have enough values to normalise over, and statistics fit to evaluate by?"""

    names = (
        "batch-norm-small-batch",
        "batch-norm-stale-stats",
        "batch-norm-not-synced",
        "bias-before-norm",
    )


class DropoutUse(Section):
    """Is dropout where it belongs, and off in evaluation?"""

    names = ("dropout-active-in-eval", "dropout-misplaced")


class GradientClipping(Section):
    """Does clipping leave enough of the gradients, and is it there where it is needed?"""

    names = ("clipping-too-tight", "clipping-missing")


class BatchSize(Section):
    """Does a batch have enough samples, and an epoch enough batches?"""

    names = ("batch-size-too-small", "batch-size-too-large")


class SimpleBaseline(Section):
    """Is the model better than the simplest ones?"""

    names = ("worse-than-baseline",)


class LeakProbes(Section):
    """Does the output depend on what it may, and only on that?"""

    names = ("batch-mixing", "future-leak", "attention-mask", "ignores-input")


class Repeatability(Section):
    """Does the same step, made again, give the same result?"""

    names = ("nondeterministic-step",)


class LossFunction(Section):
    """Is it the right loss for the task, and does it get what it expects?"""

    names = (
        "probabilities-as-logits",
        "not-log-probabilities",
        "target-broadcast",
        "loss-task-mismatch",
        "class-imbalance",
        "padding-in-loss",
        "loss-reduction",
        "constant-loss-terms",
        "loss-scale-imbalance",
        "regularization-dominates",
    )


class LossCurve(Section):
    """Does the loss fall, in training and in validation?"""

    names = ("loss-not-decreasing", "loss-diverging", "overfitting")


class DataQuality(Section):
    """Are the inputs and targets fit to learn from?"""

    names = (
        "input-not-normalized",
        "non-finite-input",
        "constant-input",
        "constant-target",
        "data-not-shuffled",
        "labels-unrelated",
        "train-val-overlap",
        "duplicate-augmentation",
    )


class OptimizerChoice(Section):
    """Does the optimizer have momentum, and decay what it should, in the way it should?"""

    names = ("adam-with-l2", "weight-decay-on-norm", "sgd-without-momentum")


class NumericPrecision(Section):
    """Can the number formats of the run hold its gradients and steps?"""

    names = ("precision-underflow",)


class DistributedTraining(Section):
    """Do several processes train one model, each on data of its own?"""

    names = ("ranks-diverged", "ranks-same-data", "sampler-epoch-not-set")


class NetworkPictures(Section):
    """Pictures for the report: the network as it ran, histograms, feature maps, saliency."""

    names = ()
    draws = True


class RunTracker(Section):
    """Records what ran, so that runs can be told apart, compared and repeated."""

    names = ("unseeded-run",)
    tracks = True


class MemoryUse(Section):
    """Is memory given back after each step?"""

    names = ("memory-growth",)


class MetricUse(Section):
    """Are metrics computed and watched as they are meant?"""

    names = ("metric-misuse", "monitor-mode-reversed")
