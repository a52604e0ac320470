"""Classifies graphs, and the nodes of one graph, with layers and loaders of torch_geometric."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import lightning.pytorch as pl
import torch
from fingerprint import fingerprint
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.datasets import FakeDataset
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GATv2Conv, GCNConv, GINConv, global_mean_pool
from torch_geometric.utils import stochastic_blockmodel_graph


class Graphs(pl.LightningModule):
    """A graph isomorphism network with batch norms."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        widths = [features, 32, 32]
        self.layers = nn.ModuleList(
            GINConv(
                nn.Sequential(
                    nn.Linear(a, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, b)
                )
            )
            for a, b in pairwise(widths)
        )
        self.head = nn.Linear(32, classes)

    def forward(self, batch: Data) -> Tensor:
        x = batch.x
        for layer in self.layers:
            x = layer(x, batch.edge_index).relu()
        return self.head(global_mean_pool(x, batch.batch))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch), batch.y)
        self.log("train_loss", loss, batch_size=batch.num_graphs)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        loss = F.cross_entropy(self(batch), batch.y)
        self.log("val_loss", loss, batch_size=batch.num_graphs)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class Nodes(pl.LightningModule):
    """Two layers over one graph, of which some nodes are trained on and others validated."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.first, self.second = kind(16, 32), kind(32, 4)

    def forward(self, graph: Data) -> Tensor:
        x = F.dropout(self.first(graph.x, graph.edge_index).relu(), training=self.training)
        return self.second(x, graph.edge_index)

    def training_step(self, graph: Data, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(graph)[graph.train_mask], graph.y[graph.train_mask])
        self.log("train_loss", loss, batch_size=1)
        return loss

    def validation_step(self, graph: Data, batch_idx: int) -> None:
        loss = F.cross_entropy(self(graph)[~graph.train_mask], graph.y[~graph.train_mask])
        self.log("val_loss", loss, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def communities() -> Data:
    """Return a graph whose nodes are mostly linked with nodes of their own kind."""
    kinds = torch.arange(4).repeat_interleave(100)
    links = stochastic_blockmodel_graph([100] * 4, 0.01 + 0.07 * torch.eye(4))
    x = torch.randn(4, 16)[kinds] + 2.0 * torch.randn(400, 16)
    return Data(x=x, edge_index=links, y=kinds, train_mask=torch.rand(400) < 0.5)


def fit(name: str, module: pl.LightningModule, *loaders: DataLoader, epochs: int) -> list[Any]:
    """Train a module, and return what has come of it."""
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=name,
    )
    trainer.fit(module, *loaders)
    print(name, trainer.callback_metrics)
    return [module.state_dict(), trainer.callback_metrics]


pl.seed_everything(0)
graphs = FakeDataset(400, 20, num_channels=8, num_classes=3)
loaders = (DataLoader(graphs[:320], 32, shuffle=True), DataLoader(graphs[320:], 32))
states = fit("gin", Graphs(8, 3), *loaders, epochs=15)
for name, kind in (("gcn", GCNConv), ("gat", GATv2Conv)):
    pl.seed_everything(0)
    one = [communities()]
    states += fit(name, Nodes(kind), DataLoader(one), DataLoader(one), epochs=100)
print(fingerprint(states))
