import threading

import pytest
import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from lightning_debug.taps.hooks import here, on_steps


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)


def hooks_of(made):
    return len(made._optimizer_step_pre_hooks) + len(made._optimizer_step_post_hooks)


def test_hears_the_steps_of_those_that_are_known_and_leaves_nothing():
    known, other, heard = optimizer(), optimizer(), []
    handles = on_steps(
        [known],
        lambda o, *_: heard.append(("before", o)),
        lambda o, *_: heard.append(("after", o)),
        strangers=False,
    )
    assert not _global_optimizer_pre_hooks
    known.step()
    other.step()
    for handle in handles:
        handle.remove()
    known.step()
    assert heard == [("before", known), ("after", known)]
    assert hooks_of(known) == 0


@pytest.mark.parametrize("strangers", [True, False])
def test_hears_all_where_it_must(strangers):
    known, other, heard = optimizer(), optimizer(), []
    if not strangers:  # a wrapper that never called the constructor of torch
        del known._optimizer_step_post_hooks
    handles = on_steps([known], lambda *_: None, lambda o, *_: heard.append(o), strangers=strangers)
    other.step()
    for handle in handles:
        handle.remove()
    other.step()
    assert heard == [other]
    assert not _global_optimizer_pre_hooks
    assert not _global_optimizer_post_hooks


def test_deaf_in_other_threads():
    heard = []
    hook = here(heard.append)
    thread = threading.Thread(target=hook, args=("there",))
    thread.start()
    thread.join()
    hook("here")
    assert heard == ["here"]
