"""Which batches are kept."""

import itertools

import torch

from lightning_debug.experiments.kept import EARLY, LARGEST, MOST_BYTES, KeptBatches


def kept(batches):
    made = KeptBatches()
    for batch in batches:
        made.keep(batch)
    return made


def test_the_first_then_ever_fewer():
    made = kept(torch.full((32, 1), float(i)) for i in range(1000))
    found = [int(batch[0]) for batch in made.batches]
    assert found[:16] == list(range(16))
    gaps = [b - a for a, b in itertools.pairwise(found[16:])]
    assert gaps == sorted(gaps)
    assert len(found) < 60
    assert found[-1] > 800


def test_small_batches_are_kept_for_longer():
    made = kept(torch.full((4, 1), float(i)) for i in range(200))
    assert len(made.batches) >= EARLY[1]


def test_copies_and_only_so_many_bytes():
    batch = torch.zeros(64, 2**16)  # 16 MiB
    made = kept([batch] * 100)
    batch += 1.0
    assert not any(bool(b.any()) for b in made.batches)
    assert all(b.nbytes <= LARGEST for b in made.batches)
    assert sum(b.nbytes for b in made.batches) <= MOST_BYTES


def test_what_is_not_made_of_samples_is_not_kept():
    made = kept([(torch.zeros(8, 2), torch.zeros(3))] * 3)
    assert made.failed == "the batch is not made of samples"
