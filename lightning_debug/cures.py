"""What to type against the operation that makes NaN or infinity."""

from __future__ import annotations

import math

from lightning_debug.observation import NonFiniteBirth

LOGARITHM = "Keep its argument above zero: x.clamp_min(1e-8).log(), or use log_softmax, logsigmoid."
ROOT = "Keep its argument above zero: (x + 1e-8).sqrt(), x.norm(dim=1).clamp_min(1e-8)."
QUOTIENT = "Keep the denominator away from zero: a / b.clamp_min(1e-8), a / (b + 1e-8)."
EXPONENTIAL = (
    "Limit its argument: x.clamp(max=10).exp(), softplus(x), or subtract the maximum first"
    " (softmax, logsumexp)."
)
SOFTMAX = (
    "A row is masked completely. Keep at least one position of each row, or fill with a large"
    " finite number: scores.masked_fill(mask, -1e9)."
)
INVERSE = "Keep its argument inside (-1, 1): x.clamp(-1 + 1e-6, 1 - 1e-6)."
RANGE = (
    "The numbers have grown beyond the range of their type. Normalise the inputs, lower the"
    " learning rate, or use a wider type (precision='bf16-mixed' instead of 16)."
)
MEAN = "It was taken over nothing: skip empty batches and losses of which all targets are ignored."
CURES = {
    LOGARITHM: "log log2 log10 log1p log_ xlogy binary_cross_entropy kl_div logit",
    ROOT: "sqrt sqrt_ rsqrt norm vector_norm linalg_vector_norm linalg_norm std var pow __pow__"
    " __rpow__ cdist pairwise_distance normalize cosine_similarity dist",
    QUOTIENT: "div div_ divide true_divide __truediv__ __rtruediv__ __rdiv__ reciprocal fmod"
    " remainder",
    EXPONENTIAL: "exp exp_ expm1 exp2 cosh sinh logsumexp prod cumprod",
    SOFTMAX: "softmax log_softmax scaled_dot_product_attention multi_head_attention_forward",
    INVERSE: "acos asin arccos arcsin atanh arctanh",
    MEAN: "mean nanmean cross_entropy nll_loss ctc_loss",
}


def cure(birth: NonFiniteBirth) -> str:
    """Return what to type against the operation that a value comes from."""
    found = next((text for text, names in CURES.items() if birth.function in names.split()), RANGE)
    if birth.phase == "backward":
        found += " Inside torch.where, make the branch that is not taken safe as well."
    return found


def describe(birth: NonFiniteBirth) -> str:
    """Return a sentence that names the operation, its line and the range of its operand."""
    at = f" at {birth.line}" if birth.line else ""
    inside = f" in {birth.place}" if birth.place else ""
    span = ""
    if math.isfinite(birth.low):
        span = f", on numbers from {birth.low:.3g} to {birth.high:.3g}"
    if birth.phase == "backward":
        return f" The derivative of {birth.function}{at}{inside} is not{span}."
    return f" It comes from {birth.function}{at}{inside}{span}."
