"""Embeds counts of genes in cells: variational autoencoders, one of which labels cells too."""

from __future__ import annotations

import scvi
from fingerprint import fingerprint

scvi.settings.seed = 0
cells = scvi.data.synthetic_iid(batch_size=400, n_genes=60)
settings = {"accelerator": "cpu", "enable_progress_bar": False, "check_val_every_n_epoch": 1}

scvi.model.SCVI.setup_anndata(cells, batch_key="batch")
plain = scvi.model.SCVI(cells, n_hidden=32, n_latent=4)
plain.train(max_epochs=20, train_size=0.8, **settings)

scvi.model.SCANVI.setup_anndata(
    cells, labels_key="labels", unlabeled_category="unknown", batch_key="batch"
)
labelling = scvi.model.SCANVI(cells, n_hidden=32, n_latent=4)
labelling.train(max_epochs=10, train_size=0.8, **settings)

scvi.model.TOTALVI.setup_anndata(
    cells, batch_key="batch", protein_expression_obsm_key="protein_expression"
)
both = scvi.model.TOTALVI(cells, n_latent=4)
both.train(max_epochs=10, train_size=0.8, **settings)

models = [plain, labelling, both]
for model in models:
    print(
        type(model).__name__, {name: float(h.iloc[-1].iloc[0]) for name, h in model.history.items()}
    )
print(
    fingerprint(
        [model.module.state_dict() for model in models],
        [m.trainer.callback_metrics for m in models],
    )
)
