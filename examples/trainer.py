"""Hugging Face's Trainer on a schedule."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

import resect


def train(model: ResNetForImageClassification, data: dict[str, list[dict[str, Any]]], folder: str) -> float:
    """Train a model; return the part of the test samples that it gets wrong."""
    example = {"pixel_values": data["test"][0]["pixel_values"].expand(2, -1, -1, -1), "labels": torch.tensor([0, 1])}
    net = resect.unravel(model, example)
    arguments = TrainingArguments(
        folder, num_train_epochs=2, per_device_train_batch_size=32, per_device_eval_batch_size=250, learning_rate=5e-3,
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="error",
        greater_is_better=False, report_to="none", dataloader_pin_memory=False,
    )  # fmt: skip
    with net.schedule(resect.schedules.StochasticDepth(0.8)) as scheduled:
        trainer = Trainer(  # made inside, as it asks the model for its inputs
            model, arguments, train_dataset=data["train"], eval_dataset=data["test"],
            compute_metrics=lambda found: {"error": (found.predictions.argmax(1) != found.label_ids).mean()},
        )  # fmt: skip
        trainer.train()
        error = trainer.evaluate()["eval_error"]
    scheduled.fold()  # for good: the model alone is now what was evaluated
    return float(error)


def main() -> float:
    """Train a small ResNet on scikit-learn's digits, three times as large."""
    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=1, embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic", num_labels=10
    )
    data = {}
    for split in ("train", "test"):
        samples = resect.load_samples("digits", split=split)
        images = F.interpolate(samples.inputs, scale_factor=3)
        pairs = zip(images, samples.targets.tolist(), strict=True)
        data[split] = [{"pixel_values": image, "labels": digit} for image, digit in pairs]
    with tempfile.TemporaryDirectory() as folder:
        found = train(ResNetForImageClassification(config), data, folder)
    print(f"test error {found:.1%}")
    return found


if __name__ == "__main__":
    main()
