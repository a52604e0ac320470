"""Architectures of transformers with random weights, and data that each of them can learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
import transformers as hf
from torch import Tensor, nn
from torch.utils.data import DataLoader

SAMPLES, BATCH, STEPS = 512, 16, 120
VOCABULARY, LENGTH = 48, 16
# Ids that mean something else than a word.
PAD, MASK, START, FIRST = 0, 1, 2, 4

Data = dict[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """A model that is built from a small configuration, what it learns, and how it is called."""

    build: Callable[[], nn.Module]
    data: Callable[[], Data]
    lr: float = 1e-3
    asked: Mapping[str, Any] = field(default_factory=dict)


class Rows(torch.utils.data.Dataset[Data]):
    """Samples of several tensors by name."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(next(iter(self.data.values())))

    def __getitem__(self, index: int) -> Data:
        return {name: values[index] for name, values in self.data.items()}


class Wrapped(pl.LightningModule):
    """What people write around a model of transformers."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.model = architecture.build()
        self.lr = architecture.lr
        self.asked = architecture.asked

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss: Tensor = self.model(**batch, **self.asked).loss
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.model(**batch, **self.asked).loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.01)


def train(module: pl.LightningModule, data: Data, folder: str) -> dict[str, Any]:
    """Train a module for a few epochs, and return all that must not depend on who looks on."""
    held_out = {name: values[:64] for name, values in data.items()}
    data = {name: values[64:] for name, values in data.items()}
    trainer = pl.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(
        module,
        DataLoader(Rows(data), batch_size=BATCH, shuffle=True),
        DataLoader(Rows(held_out), batch_size=BATCH),
    )
    optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
    return {"weights": module.state_dict(), "optimizers": optimizers} | trainer.callback_metrics


# -- what they learn ------------------------------------------------------------------------


def _counting() -> Tensor:
    """Return sequences that count upwards by one, two or three."""
    start = torch.randint(0, VOCABULARY - FIRST, (SAMPLES, 1))
    step = torch.randint(1, 4, (SAMPLES, 1))
    return (start + step * torch.arange(LENGTH)) % (VOCABULARY - FIRST) + FIRST


def next_token() -> Data:
    ids = _counting()
    return {"input_ids": ids, "labels": ids.clone()}


def masked_tokens() -> Data:
    ids = _counting()
    masked = torch.rand(ids.shape) < 0.15
    masked[:, 3] = True
    labels = ids.masked_fill(~masked, -100)
    return {
        "input_ids": ids.masked_fill(masked, MASK),
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
    }


def sentences() -> Data:
    """Return sentences of several lengths; which of two words is more frequent?"""
    ids = torch.randint(FIRST + 2, VOCABULARY, (SAMPLES, LENGTH))
    labels = torch.randint(0, 2, (SAMPLES,))
    told = torch.rand(ids.shape) < 0.4
    ids = torch.where(told, FIRST + labels[:, None], ids)
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (SAMPLES, 1))
    kept = torch.arange(LENGTH) < lengths
    ids = torch.where(kept, ids, PAD)
    return {"input_ids": ids, "attention_mask": kept.long(), "labels": labels}


def reversed_tokens() -> Data:
    ids = _counting()[:, :8]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.flip(1)}


def _stripes(size: int) -> tuple[Tensor, Tensor]:
    """Return images of noisy stripes; which way do they go?"""
    labels = torch.randint(0, 4, (SAMPLES,))
    angle = labels * torch.pi / 4
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    along = angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y
    phase = 2 * torch.pi * torch.rand(SAMPLES, 1, 1)
    image = torch.sin(along * 0.8 + phase)[:, None].repeat(1, 3, 1, 1)
    return image + 0.3 * torch.randn_like(image), labels


def images() -> Data:
    pixels, labels = _stripes(32)
    return {"pixel_values": pixels, "labels": labels}


def masks() -> Data:
    """Return images of squares, and which of two shades each pixel has."""
    pixels = torch.randn(SAMPLES, 3, 32, 32) * 0.3
    labels = torch.zeros(SAMPLES, 32, 32, dtype=torch.long)
    for sample in range(SAMPLES):
        top, left = torch.randint(0, 20, (2,)).tolist()
        shade = int(torch.randint(1, 3, ()))
        labels[sample, top : top + 12, left : left + 12] = shade
        pixels[sample, :, top : top + 12, left : left + 12] += (-1.5, 1.5)[shade - 1]
    return {"pixel_values": pixels, "labels": labels}


def tones() -> Data:
    """Return waves of three tones each, and which they are."""
    labels = torch.randint(FIRST, FIRST + 6, (SAMPLES, 3))
    time = torch.arange(400)
    waves = [torch.sin(time * 0.05 * (label - FIRST + 1)[:, None]) for label in labels.unbind(1)]
    wave = torch.cat(waves, dim=1)
    return {"input_values": wave + 0.1 * torch.randn_like(wave), "labels": labels}


def spectra() -> Data:
    """Return spectrograms of eight notes each, and which they are."""
    labels = torch.randint(FIRST, FIRST + 8, (SAMPLES, 8))
    heard = nn.functional.one_hot((labels - FIRST).repeat_interleave(8, dim=1), 8)
    features = heard.repeat_interleave(2, dim=2).transpose(1, 2).float() * 2 - 0.25
    return {"input_features": features + 0.3 * torch.randn_like(features), "labels": labels}


def captions() -> Data:
    """Return images of a shade, and words for the shade."""
    shade = torch.rand(SAMPLES)
    pixels = torch.randn(SAMPLES, 3, 32, 32) * 0.3 + (shade * 4 - 2)[:, None, None, None]
    word = (shade * (VOCABULARY - FIRST - 1)).long() + FIRST
    ids = torch.randint(FIRST, VOCABULARY, (SAMPLES, 6))
    ids[:, 1:5] = word[:, None]
    ids[:, -1] = VOCABULARY - 1
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels,
    }


def series(past: int = 31) -> Data:
    """Return noisy waves, and how they go on."""
    future, time = 8, torch.arange(past + 8)
    phase, speed = 6.28 * torch.rand(SAMPLES, 1), 0.3 + 0.2 * torch.rand(SAMPLES, 1)
    values = torch.sin(phase + speed * time) + 2.0 + 0.05 * torch.randn(SAMPLES, past + future)
    age = (time / len(time)).repeat(SAMPLES, 1)[..., None]
    return {
        "past_values": values[:, :past],
        "past_time_features": age[:, :past],
        "past_observed_mask": torch.ones(SAMPLES, past),
        "future_values": values[:, past:],
        "future_time_features": age[:, past:],
    }


def patches() -> Data:
    data = series(past=32)
    return {
        "past_values": data["past_values"][..., None],
        "future_values": data["future_values"][..., None],
    }


def unlabelled_images() -> Data:
    return {"pixel_values": _stripes(32)[0]}


# -- what they are --------------------------------------------------------------------------

TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "bos_token_id": START,
    "eos_token_id": START,
}
SEQUENCES = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "bos_token_id": START,
    "eos_token_id": START,
    "decoder_start_token_id": START,
    "forced_eos_token_id": None,
}
IMAGE = {
    "image_size": 32,
    "patch_size": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 4,
}
SERIES = {
    "prediction_length": 8,
    "context_length": 24,
    "lags_sequence": [1, 2, 3, 7],
    "num_time_features": 1,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}


def _small(model: str, configuration: str, *settings: Any, **more: Any) -> Callable[[], nn.Module]:
    """Return what builds a model of transformers from a small configuration of it."""

    def build() -> nn.Module:
        merged: dict[str, Any] = {}
        for part in (*settings, more):
            merged |= part
        made: nn.Module = getattr(hf, model)(getattr(hf, configuration)(**merged))
        return made.train()

    return build


def _wav2vec2() -> nn.Module:
    return _small(
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        TEXT,
        conv_dim=(32, 32, 32),
        conv_kernel=(10, 8, 4),
        conv_stride=(5, 4, 2),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        ctc_loss_reduction="mean",
        mask_time_prob=0.0,
        layerdrop=0.0,
    )()


def _whisper() -> nn.Module:
    return _small(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        SEQUENCES,
        num_mel_bins=16,
        max_source_positions=32,
        max_target_positions=32,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )()


def _clip() -> nn.Module:
    text = TEXT | {"eos_token_id": VOCABULARY - 1, "projection_dim": 32}
    configuration = hf.CLIPConfig(
        text_config=text, vision_config=IMAGE | {"projection_dim": 32}, projection_dim=32
    )
    return hf.CLIPModel(configuration).train()


ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(_small("BertForMaskedLM", "BertConfig", TEXT), masked_tokens, lr=5e-3),
    "roberta": Architecture(
        _small("RobertaForMaskedLM", "RobertaConfig", TEXT), masked_tokens, lr=5e-3
    ),
    "deberta": Architecture(
        _small(
            "DebertaV2ForMaskedLM",
            "DebertaV2Config",
            TEXT,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
        ),
        masked_tokens,
        lr=5e-3,
    ),
    "gpt2": Architecture(
        _small("GPT2LMHeadModel", "GPT2Config", TEXT, n_embd=32, n_layer=2, n_head=4),
        next_token,
    ),
    "llama": Architecture(
        _small("LlamaForCausalLM", "LlamaConfig", TEXT, num_key_value_heads=2), next_token
    ),
    "mistral": Architecture(
        _small("MistralForCausalLM", "MistralConfig", TEXT, num_key_value_heads=2), next_token
    ),
    "mixtral": Architecture(
        _small(
            "MixtralForCausalLM",
            "MixtralConfig",
            TEXT,
            num_key_value_heads=2,
            num_local_experts=4,
            output_router_logits=True,
        ),
        next_token,
    ),
    "gemma": Architecture(
        _small("GemmaForCausalLM", "GemmaConfig", TEXT, num_key_value_heads=2, head_dim=8),
        next_token,
    ),
    "mamba": Architecture(
        _small("MambaForCausalLM", "MambaConfig", TEXT, state_size=8), next_token, lr=3e-3
    ),
    "rwkv": Architecture(
        _small("RwkvForCausalLM", "RwkvConfig", TEXT, attention_hidden_size=32),
        next_token,
        lr=3e-3,
    ),
    "bloom": Architecture(
        _small("BloomForCausalLM", "BloomConfig", TEXT, n_layer=2, n_head=4), next_token
    ),
    "opt": Architecture(
        _small("OPTForCausalLM", "OPTConfig", TEXT, ffn_dim=64, word_embed_proj_dim=32),
        next_token,
    ),
    "distilbert": Architecture(
        _small(
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            TEXT,
            dim=32,
            hidden_dim=64,
            n_layers=2,
            n_heads=4,
        ),
        sentences,
    ),
    "longformer": Architecture(
        _small("LongformerForSequenceClassification", "LongformerConfig", TEXT, attention_window=8),
        sentences,
    ),
    "electra": Architecture(
        _small("ElectraForSequenceClassification", "ElectraConfig", TEXT, embedding_size=32),
        sentences,
    ),
    "perceiver": Architecture(
        _small(
            "PerceiverForSequenceClassification",
            "PerceiverConfig",
            TEXT,
            d_model=32,
            num_latents=8,
            d_latents=32,
            num_self_attends_per_block=2,
            num_cross_attention_heads=4,
            num_self_attention_heads=4,
            qk_channels=32,
            v_channels=32,
        ),
        lambda: {
            ("inputs" if name == "input_ids" else name): values
            for name, values in sentences().items()
        },
    ),
    "t5": Architecture(
        _small(
            "T5ForConditionalGeneration",
            "T5Config",
            TEXT,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=PAD,
        ),
        reversed_tokens,
        lr=3e-3,
    ),
    "bart": Architecture(
        _small("BartForConditionalGeneration", "BartConfig", SEQUENCES), reversed_tokens
    ),
    "vit": Architecture(_small("ViTForImageClassification", "ViTConfig", IMAGE), images),
    "vit_mae": Architecture(
        _small(
            "ViTMAEForPreTraining",
            "ViTMAEConfig",
            IMAGE,
            decoder_hidden_size=32,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=64,
        ),
        unlabelled_images,
    ),
    "convnext": Architecture(
        _small(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            num_labels=4,
            hidden_sizes=[16, 32],
            depths=[1, 1],
            num_stages=2,
            patch_size=2,
        ),
        images,
    ),
    "swin": Architecture(
        _small(
            "SwinForImageClassification",
            "SwinConfig",
            image_size=32,
            patch_size=2,
            embed_dim=16,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
            num_labels=4,
        ),
        images,
    ),
    "resnet": Architecture(
        _small(
            "ResNetForImageClassification",
            "ResNetConfig",
            num_labels=4,
            embedding_size=16,
            hidden_sizes=[16, 32],
            depths=[1, 1],
            layer_type="basic",
        ),
        images,
    ),
    "segformer": Architecture(
        _small(
            "SegformerForSemanticSegmentation",
            "SegformerConfig",
            num_labels=3,
            num_encoder_blocks=2,
            depths=[1, 1],
            sr_ratios=[2, 1],
            hidden_sizes=[16, 32],
            patch_sizes=[3, 3],
            strides=[2, 2],
            num_attention_heads=[2, 4],
            mlp_ratios=[2, 2],
            decoder_hidden_size=32,
        ),
        masks,
    ),
    "wav2vec2": Architecture(_wav2vec2, tones),
    "whisper": Architecture(_whisper, spectra),
    "clip": Architecture(_clip, captions, asked={"return_loss": True}),
    "time_series_transformer": Architecture(
        _small("TimeSeriesTransformerForPrediction", "TimeSeriesTransformerConfig", SERIES),
        series,
    ),
    "informer": Architecture(_small("InformerForPrediction", "InformerConfig", SERIES), series),
    "patchtst": Architecture(
        _small(
            "PatchTSTForPrediction",
            "PatchTSTConfig",
            context_length=32,
            prediction_length=8,
            patch_length=4,
            patch_stride=4,
            d_model=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=64,
            num_input_channels=1,
        ),
        patches,
    ),
}
