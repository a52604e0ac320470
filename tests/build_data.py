"""Builders of what a healthy loader gives; the tests change what they are about."""

from lightning_debug.observation import (
    Batch,
    BatchTensor,
    Column,
    DataEntry,
    DataFlow,
    EpochStart,
    Loader,
    RunStart,
    TargetCall,
    Validation,
    ValidationPrints,
)


def start(**changes):
    """Return the start of a run with 20 shuffled batches of 32 samples, with the changes."""
    fields = {"known": True, "batches": 20, "samples": 640, "batch_size": 32, "order": "random"}
    return RunStart(loader=Loader(**fields | changes))


def prints(samples, first=0):
    """Return the fingerprints of samples with these numbers."""
    return tuple((float(i) + 0.5, float(-i) - 0.25) for i in range(first, first + samples))


def inputs(path="batch[0]", **changes):
    """Return 32 different samples of 64 features that go into the model, with the changes."""
    fields = {"input": True, "samples": 32, "features": 64, "low": -2.0, "high": 2.0}
    return BatchTensor(path=path, **fields | {"prints": prints(32), "adjacent": 1.0} | changes)


def targets(*labels, path="batch[1]", **changes):
    """Return targets with these values, of four classes without any, with the changes."""
    labels = tuple(map(float, labels)) or tuple(float(i % 4) for i in range(32))
    fields = {"target": True, "integer": True, "samples": len(labels), "labels": labels}
    fields |= {"low": min(labels), "high": max(labels), "adjacent": 1.0}
    return BatchTensor(path=path, **fields | changes)


def batch(*tensors, step=0, **changes):
    """Return a look at a batch of these tensors; of inputs and targets without any."""
    tensors = tensors or (inputs(prints=prints(32, 32 * step)), targets())
    calls = tuple(TargetCall(low=t.low, high=t.high) for t in tensors if t.target)
    return Batch(step=step, **{"index": step, "tensors": tensors, "targets": calls} | changes)


def epoch_starts(epoch, *numbers):
    """Return the first batches of an epoch, by the numbers of their inputs."""
    return tuple(
        EpochStart(epoch=epoch, index=i, prints={"batch[0]": float(number)})
        for i, number in enumerate(numbers)
    )


def column(index=0, mean=0.0, std=1.0, pull=0.2, **changes):
    """Return a standardised column, with the changes."""
    return Column(index=index, mean=mean, std=std, pull=pull, **changes)


def flow(*columns, **changes):
    """Return what enters a layer with these columns."""
    fields = {"place": "net.0", "columns": columns, "width": len(columns), "rows": 32}
    return DataFlow(entries=(DataEntry(**fields | changes),))


def validation(*found, loss=float("nan"), step=20):
    """Return a pass over the validation data with these fingerprints, one loader each."""
    return Validation(
        step=step,
        loss=loss,
        prints=tuple(
            ValidationPrints(path="batch[0]", loader=i, prints=one) for i, one in enumerate(found)
        ),
    )
