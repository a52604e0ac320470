"""Predicts how well small molecules dissolve in fat, from their graphs."""

from __future__ import annotations

import itertools

import lightning.pytorch as pl
from chemprop import data, models, nn
from fingerprint import fingerprint
from rdkit import Chem
from rdkit.Chem.Crippen import MolLogP

pl.seed_everything(0)
chains = ["C" * n for n in range(1, 9)]
middles = ["", "c1ccccc1", "C1CCCCC1", "C=C", "C(=O)", "CO", "N"]
ends = ["O", "N", "F", "Cl", "C(=O)O", "C#N", "S", "C(F)(F)F"]
molecules = ["".join(parts) for parts in itertools.product(chains, middles, ends)]
points = [
    data.MoleculeDatapoint.from_smi(smiles, [MolLogP(Chem.MolFromSmiles(smiles))])
    for smiles in molecules
]
indices = data.make_split_indices([point.mol for point in points], "random", (0.8, 0.1, 0.1))
parts = data.split_data_by_indices(points, *indices)
training, validation = data.MoleculeDataset(parts[0][0]), data.MoleculeDataset(parts[1][0])
scaler = training.normalize_targets()
validation.normalize_targets(scaler)

model = models.MPNN(
    nn.BondMessagePassing(d_h=64),
    nn.MeanAggregation(),
    nn.RegressionFFN(
        input_dim=64, output_transform=nn.UnscaleTransform.from_standard_scaler(scaler)
    ),
    batch_norm=True,
)
trainer = pl.Trainer(max_epochs=20, accelerator="cpu", enable_progress_bar=False)
trainer.fit(
    model,
    data.build_dataloader(training, batch_size=32),
    data.build_dataloader(validation, batch_size=32, shuffle=False),
)
print(trainer.callback_metrics)
print(fingerprint(model.state_dict(), trainer.callback_metrics))
