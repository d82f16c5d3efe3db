# %% [markdown]
"""
# Hugging Face's Trainer on a schedule

The Trainer is made inside the schedule, as it asks the model for its inputs.
"""

# %%
import torch
from torch.nn.functional import interpolate
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

import resect

torch.manual_seed(0)

# %% [markdown]
# Scikit-learn's digits, three times as large.

# %%
data = {}
for split in ("train", "test"):
    samples = resect.load_samples("digits", split=split)
    pairs = zip(interpolate(samples.inputs, scale_factor=3), samples.targets.tolist(), strict=True)
    data[split] = [{"pixel_values": image, "labels": digit} for image, digit in pairs]
config = ResNetConfig(
    num_channels=1, embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic", num_labels=10
)
model = ResNetForImageClassification(config)
example = {"pixel_values": data["test"][0]["pixel_values"].expand(2, -1, -1, -1), "labels": torch.tensor([0, 1])}

# %%
net = resect.unravel(model, example)
arguments = TrainingArguments(
    "out/trainer", num_train_epochs=2, per_device_train_batch_size=32, per_device_eval_batch_size=250,
    learning_rate=5e-3, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True,
    metric_for_best_model="error", greater_is_better=False, report_to="none", dataloader_pin_memory=False,
)  # fmt: skip
with net.schedule(resect.schedules.StochasticDepth(0.8)) as scheduled:
    trainer = Trainer(  # made inside, as it asks the model for its inputs
        model, arguments, train_dataset=data["train"], eval_dataset=data["test"],
        compute_metrics=lambda outputs: {"error": (outputs.predictions.argmax(1) != outputs.label_ids).mean()},
    )  # fmt: skip
    trainer.train()
    test_error = trainer.evaluate()["eval_error"]
scheduled.fold()  # for good: the model alone is now what was evaluated
print(f"test error {test_error:.1%}")
