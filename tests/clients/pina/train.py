"""Solves a Poisson equation from nothing but the equation: two solvers, one with two optimizers."""

from __future__ import annotations

import lightning.pytorch as pl
from fingerprint import fingerprint
from pina import Trainer
from pina.model import FeedForward
from pina.problem.zoo import Poisson2DSquareProblem
from pina.solver import PhysicsInformedSingleModelSolver, SelfAdaptivePhysicsInformedSolver

states = []
for kind in (PhysicsInformedSingleModelSolver, SelfAdaptivePhysicsInformedSolver):
    pl.seed_everything(0)
    problem = Poisson2DSquareProblem()
    problem.discretise_domain(200, "random")
    solver = kind(problem, FeedForward(input_dimensions=2, output_dimensions=1))
    trainer = Trainer(
        solver=solver,
        max_epochs=150,
        batch_size=50,
        train_size=0.8,
        val_size=0.2,
        accelerator="cpu",
        enable_progress_bar=False,
    )
    trainer.train()
    states += [solver.state_dict(), trainer.callback_metrics]
    print(kind.__name__, trainer.callback_metrics)
print(fingerprint(states))
