"""What the name of a logged metric says of it, and how code names a module."""

from __future__ import annotations

import re

LOWER = frozenset(
    """loss err error mse rmse mae mape nll perplexity ppl wer cer fid lpips ece""".split()
)
HIGHER = frozenset(
    """acc accuracy top1 top5 f1 fbeta auc auroc auprc iou miou jaccard dice precision recall
    sensitivity specificity map ap bleu rouge meteor cider r2 psnr ssim snr kappa mcc ndcg mrr
    reward""".split()
)
# Words that turn the meaning round, or make something else of it.
TURNS = frozenset("neg negative minus inverse inv reverse adv adversarial one".split())
STAGES = frozenset("train training val valid validation dev eval test".split())
FILLERS = frozenset("epoch step dataloader idx score rate mean avg best ema".split())


def words(name: str) -> list[str]:
    """Return the words of a name in lower case: ``"val/topAcc1"`` -> ``["val", "top", "acc1"]``."""
    parts = re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z][a-z])", name)
    return [part.lower() for part in parts if part]


def better(name: str) -> str:
    """Return ``"min"`` or ``"max"`` where the name says which way is better, else nothing.

    The last word decides that is no stage, number or filler: ``dice_loss`` is a loss, and a
    ``loss_ratio`` is nothing that is known.
    """
    found = words(name)
    if TURNS & set(found):
        return ""
    telling = [word for word in found if word not in STAGES | FILLERS and not word.isdigit()]
    if not telling:
        return ""
    last = telling[-1]
    if last not in LOWER | HIGHER:
        last = last.rstrip("0123456789")
    last = last if last in LOWER | HIGHER else re.sub("^(train|val|valid|test)", "", last)
    if last in LOWER:
        return "min"
    return "max" if last in HIGHER else ""


def of_validation(name: str) -> bool:
    """Tell whether a name is of validation data, as far as it says."""
    found = words(name)
    return any(w.startswith(("val", "dev", "eval", "test")) for w in found)


def expression(path: str) -> str:
    """Return what to type for a module: ``"metrics.2.f1"`` -> ``"self.metrics[2].f1"``."""
    return "self" + "".join(f"[{p}]" if p.isdigit() else f".{p}" for p in path.split("."))
