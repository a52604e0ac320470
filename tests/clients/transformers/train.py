"""Trains small models of transformers with random weights, one after the other."""

from __future__ import annotations

import sys

import lightning.pytorch as pl
from architectures import ARCHITECTURES, Wrapped, train
from fingerprint import fingerprint

states = []
for name in sys.argv[1:] or ARCHITECTURES:
    pl.seed_everything(0, verbose=False)
    architecture = ARCHITECTURES[name]
    states.append(train(Wrapped(architecture), architecture.data(), name))
    print(name, {k: float(v) for k, v in states[-1].items() if "loss" in k}, flush=True)
print(fingerprint(states))
