"""Models on a schedule with what stands around them: checkpointing, compiling, mixed precision, averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from timm.models.vision_transformer import VisionTransformer
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, TrainingArguments, default_data_collator

import resect
from resect.models.resnet import CifarResNet
from resect.network.calls import Calls
from resect.network.schedules import FixedCount, Full, Progressive, Schedule, StochasticDepth
from resect.network.unraveled import Unraveled

Gradients = dict[str, Tensor | None]


def gradients(model: nn.Module) -> Gradients:
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


def by_hand(resnet: CifarResNet, x: Tensor, running: Sequence[int]) -> Tensor:
    """The network on some of its blocks."""
    x = resnet.stem(x)
    for i, block in enumerate(resnet.blocks):
        x = block(x) if i in running else block.sc(x)
    return resnet.fc(F.relu(resnet.bn(x)).mean((2, 3)))


def require_close(found: Gradients, expected: Gradients) -> None:
    for name, value in expected.items():
        assert (found[name] is None) == (value is None), name
        assert value is None or torch.allclose(found[name], value, atol=1e-5), name


Loss = Callable[[nn.Module, Tensor, Tensor, bool], Tensor]


def one_call(model: nn.Module, x: Tensor, y: Tensor, reentrant: bool) -> Tensor:
    return F.cross_entropy(checkpoint(model, x, use_reentrant=reentrant), y)


def two_of_the_same(model: nn.Module, x: Tensor, y: Tensor, reentrant: bool) -> Tensor:
    return one_call(model, x, y, reentrant) + 2 * one_call(model, x, y, reentrant)


def two_in_one(model: nn.Module, x: Tensor, y: Tensor, reentrant: bool) -> Tensor:
    def both(x: Tensor) -> Tensor:
        return F.cross_entropy(model(x * 1), y) + 2 * F.cross_entropy(model(x), y)

    return checkpoint(both, x, use_reentrant=reentrant)


def nested(model: nn.Module, x: Tensor, y: Tensor, reentrant: bool) -> Tensor:
    return checkpoint(lambda x: two_of_the_same(model, x * 1, y, reentrant), x, use_reentrant=reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("loss", [one_call, two_of_the_same, two_in_one, nested])
def test_what_is_checkpointed_has_the_gradients_of_the_blocks_it_drew(
    net: Unraveled, resnet: CifarResNet, batch, loss: Loss, reentrant: bool
) -> None:
    x, y = batch[0].requires_grad_(), batch[1]
    calls = 1 if loss is one_call else 2
    drawn = [FixedCount(4).running(9, step, resect.seeds.generator_for(7, "blocks", step)) for step in range(3 * calls)]
    with net.schedule(FixedCount(4), seed=7) as scheduled:
        resnet.train()
        found = []
        for step in range(3):
            loss(resnet, x, y, reentrant).backward()
            assert scheduled.step == calls * (step + 1)
            assert scheduled.running == tuple(sorted(drawn[scheduled.step - 1]))
            found.append(gradients(resnet))
    for step in range(3):
        now = drawn[calls * step : calls * (step + 1)]
        sum((i + 1) * F.cross_entropy(by_hand(resnet, x, blocks), y) for i, blocks in enumerate(now)).backward()
        require_close(found[step], gradients(resnet))


@pytest.mark.parametrize("reentrant", [True, False])
def test_graphs_that_wait_are_computed_again_in_any_order(
    net: Unraveled, resnet: CifarResNet, batch, reentrant: bool
) -> None:
    x, y = batch[0].requires_grad_(), batch[1]
    with net.schedule(FixedCount(3)) as scheduled:
        resnet.train()
        losses, running = [], []
        for _ in range(3):
            losses.append(one_call(resnet, x, y, reentrant))
            running.append(scheduled.running)
        assert len(set(running)) == 3
        found = []
        for i in (1, 0, 1, 2):  # the second twice
            losses[i].backward(retain_graph=True)
            found.append(gradients(resnet))
        assert scheduled.step == 3
    for i, seen in zip((1, 0, 1, 2), found, strict=True):
        F.cross_entropy(by_hand(resnet, x, running[i]), y).backward()
        require_close(seen, gradients(resnet))


def test_what_computes_a_forward_again_in_another_way_is_refused(net: Unraveled, resnet: CifarResNet, batch) -> None:
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            ctx.save_for_backward(x)
            return resnet(x)

        @staticmethod
        def backward(ctx, gradient):  # type: ignore[no-untyped-def]
            resnet(ctx.saved_tensors[0])

    with net.schedule(FixedCount(3)) as scheduled:
        resnet.train()
        with pytest.raises(resect.InputError, match=r"must be computed again by torch\.utils\.checkpoint"):
            Own.apply(batch[0].requires_grad_()).sum().backward()
        assert scheduled.step == 1


@dataclass(frozen=True)
class Fixed(Schedule):
    """What one writes oneself."""

    drawn: object
    factors: object = (0.5,) * 9
    asked: list[int] = field(default_factory=list)

    def running(self, blocks: int, step: int, generator: torch.Generator) -> frozenset[int]:
        self.asked.append(step)
        return frozenset({0}) if step == 0 else self.drawn  # type: ignore[return-value]

    def survival(self, blocks: int) -> tuple[float, ...]:
        return self.factors  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("drawn", "shown"),
    [({99, 3}, "99"), ([9, 12], "9"), ({1.5}, r"\{?1\.5"), ({"a"}, r"\{?'a'"), (None, "None")],
)
def test_a_schedule_of_ones_own_that_draws_no_blocks_is_refused(
    net: Unraveled, resnet: CifarResNet, batch, drawn: object, shown: str
) -> None:
    with net.schedule(Fixed(drawn)) as scheduled:
        resnet.train()
        resnet(batch[0])
        message = f"`schedule` must choose blocks of this network, but Fixed does not in step 1: .* {shown}"
        for _ in range(2):
            with pytest.raises(resect.InputError, match=message):
                resnet(batch[0])
        assert (scheduled.step, scheduled.running) == (1, (0,))


@pytest.mark.parametrize("factors", [(0.5,) * 8, (0.5,) * 8 + (0,), (0.5,) * 8 + (float("nan"),), 0.5, ("a",) * 9])
def test_a_schedule_of_ones_own_scales_every_block(net: Unraveled, factors: object) -> None:
    with pytest.raises(
        resect.InputError, match="`survival` of Fixed must give a finite number above 0 for each of the 9"
    ):
        net.schedule(Fixed({0}, factors))


def test_blocks_may_be_drawn_as_numbers_of_any_kind(net: Unraveled, resnet: CifarResNet, batch) -> None:
    with net.schedule(Fixed([*torch.tensor([4, 2, 2])])) as scheduled:
        resnet.train()
        for _ in range(2):
            resnet(batch[0])
    assert scheduled.running == (2, 4)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (FixedCount, [("a",), (0,), (2.5,), (True,), (None,)]),
        (StochasticDepth, [("a",), (0,), (1.5,), (True,), (None,), (float("nan"),), ([0.5],)]),
        (Progressive, [("a", 3), (0, 3), (2, "b"), (2, 0), (2, 1.5)]),
    ],
)
def test_what_schedules_are_not_made_of(kind: type, values: list[tuple[object, ...]]) -> None:
    for given in values:
        with pytest.raises(resect.InputError, match=r"`(keep|last|steps)`.* must be a .*, got"):
            kind(*given)


def test_a_refused_call_is_no_step(net: Unraveled, resnet: CifarResNet, batch) -> None:
    with net.schedule(FixedCount(3), seed=1) as scheduled:
        resnet.train()
        resnet(batch[0])
        before = scheduled.running
        for wrong in (torch.zeros(2, 3, 8, 8), "a", torch.zeros(2, 1, 8, 8, dtype=torch.float64)):
            with pytest.raises(resect.InputError):
                resnet(wrong)
        with pytest.raises(resect.InputError, match="must be those of the example, `x`: too many positional"):
            resnet(batch[0], batch[0])
        assert (scheduled.step, scheduled.running) == (1, before)
        resnet(x=batch[0])  # by name, as it would be without a schedule
        assert scheduled.step == 2
    with pytest.raises(resect.InputError, match="`seed` must be a whole number of at least 0, got 'a'"):
        net.schedule(FixedCount(3), seed="a")


@pytest.fixture(scope="module")
def vit() -> Unraveled:
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=10, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2
    )
    return resect.unravel(model, torch.zeros(2, 1, 8, 8))


def test_methods_that_pass_the_schedule_by_are_refused(vit: Unraveled, batch) -> None:
    model = vit.model
    with vit.schedule(StochasticDepth(0.5)):
        for training in (True, False):
            model.train(training)
            with pytest.raises(resect.InputError, match=r"calls its `blocks\.0\..*as `forward_features` of timm does"):
                model.forward_features(batch[0])
            assert model(batch[0]).shape == (6, 10)
    assert model.forward_features(batch[0]).shape == (6, 5, 16)
    with vit.schedule(Full()):
        model.eval()
        assert model.forward_features(batch[0]).shape == (6, 5, 16)  # nothing is to be scaled


def test_compiled_models_run_on_the_schedule(net: Unraveled, resnet: CifarResNet, batch) -> None:
    resnet.train()
    before = torch.compile(resnet, backend="eager")
    before(batch[0])
    x, y = batch[0].requires_grad_(), batch[1]
    with net.schedule(FixedCount(3), seed=2) as scheduled:
        found = []
        for compiled in (before, torch.compile(resnet, backend="eager")):
            for _ in range(2):
                F.cross_entropy(compiled(x), y).backward()
                found.append((scheduled.running, gradients(resnet)))
        one_call(compiled, x, y, False).backward()
        found.append((scheduled.running, gradients(resnet)))
        assert scheduled.step == len(found) == 5
        resnet.eval()
        assert torch.equal(compiled(x), resnet(x))
    assert not torch.equal(compiled(x), F.relu(x))
    assert torch.allclose(compiled(x), resnet(x), atol=1e-6)
    resnet.train()
    for running, seen in found:
        F.cross_entropy(by_hand(resnet, x, running), y).backward()
        require_close(seen, gradients(resnet))


class Weighted(nn.Module):
    def forward(self, x: torch.Tensor, weights: list[Any]) -> torch.Tensor:
        return x * float(weights[0][0])


def test_arrays_among_the_constants_of_an_example_are_compared() -> None:
    x, calls = torch.ones(2), Calls(Weighted(), (torch.ones(2), [np.array([1.0, 2.0]), None]))
    assert calls.as_example((x, [np.array([1.0, 2.0]), None]), {})[0] is x
    for other in (np.array([1.0, 3.0]), np.array([1.0]), 1.0):
        with pytest.raises(resect.InputError, match="`weights` was"):
            calls.as_example((x, [other, None]), {})


@pytest.mark.usefixtures("own_accelerate")
def test_mixed_precision_is_prepared_inside_a_schedule(batch) -> None:
    torch.manual_seed(0)
    model = CifarResNet(8, width=4, channels=1)
    x, y = batch
    net = resect.unravel(model, x)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    scheduled = net.schedule(FixedCount(2), seed=3)
    for _ in range(2):  # the wrapper stays, and so it must the second time
        with scheduled:
            model.train()
            assert accelerator.prepare(model) is model
            found = model(x)
            accelerator.backward(F.cross_entropy(found, y))
            seen, running = gradients(model), scheduled.running
            scaled = model.eval()(x)
        folded = scheduled.fold(copy.deepcopy(model))
        assert torch.equal(folded(x), scaled)  # a copy made afterwards runs its own weights
        assert not torch.equal(model(x), scaled)
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            expected = by_hand(model, x, running).float()
            F.cross_entropy(expected, y).backward()
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
        require_close(seen, gradients(model))
    assert scheduled.step == 2


@pytest.mark.parametrize("kind", ["torch", "timm"])
def test_averaged_weights_are_folded_too(net: Unraveled, resnet: CifarResNet, batch, kind: str) -> None:
    if kind == "torch":
        ema = AveragedModel(resnet, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
        update = ema.update_parameters
    else:
        ema = ModelEmaV3(resnet, decay=0.5)
        update = ema.update
    optimizer = torch.optim.SGD(resnet.parameters(), lr=0.1)
    with net.schedule(FixedCount(3)) as scheduled:
        resnet.train()
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(resnet(batch[0]), batch[1]).backward()
            optimizer.step()
            update(resnet)
        during = scheduled.fold(copy.deepcopy(ema.module)).eval()(batch[0])  # to test while it goes on
        resnet.load_state_dict(ema.module.state_dict())
        expected = resnet.eval()(batch[0])
        assert not torch.allclose(ema.module.eval()(batch[0]), expected, atol=1e-3)
        for _ in range(2):
            assert scheduled.fold(ema.module) is ema.module
        assert torch.equal(ema.module(batch[0]), expected)
        assert torch.equal(during, expected)
        assert torch.equal(resnet(batch[0]), expected)  # folding another leaves this one alone
        with pytest.raises(
            resect.InputError, match=r"has no `blocks\.0\.c2\.weight` of shape \(4, 4, 3, 3\).*`module`"
        ):
            scheduled.fold(ema)


class Classifier(nn.Module):
    """Four blocks, which return a loss and take what they do not know, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.Tanh()) for _ in range(4))

    def forward(
        self, x: Tensor, mask: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        for block in self.blocks:
            x = x + block(x)
        return {"loss": F.cross_entropy(x, labels), "logits": x}


@pytest.mark.usefixtures("own_accelerate")
def test_the_trainer_accumulates_the_gradients_of_the_blocks_it_drew(tmp_path: Path) -> None:
    model, data = Classifier(), [{"x": torch.randn(8), "labels": i % 8} for i in range(16)]
    by_hand = copy.deepcopy(model)
    net = resect.unravel(model, {"x": torch.zeros(2, 8), "labels": torch.tensor([0, 1])})
    batches: list[dict[str, Tensor]] = []

    def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        batches.append(default_data_collator(samples))
        return batches[-1]

    def trainer() -> Trainer:
        arguments = TrainingArguments(
            str(tmp_path), max_steps=2, per_device_train_batch_size=4, gradient_accumulation_steps=2, max_grad_norm=0,
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, logging_strategy="no",
        )  # fmt: skip
        optimizers = torch.optim.SGD(model.parameters(), lr=0.1), None
        return Trainer(model, arguments, data_collator=collate, train_dataset=data, optimizers=optimizers)

    outside = trainer()
    with net.schedule(FixedCount(2), seed=6, correction=False) as scheduled:
        with pytest.raises(
            resect.InputError, match=r"got `num_items_in_batch` as well.*made while the schedule is open"
        ):
            outside.train()
        assert scheduled.step == 0
        batches.clear()
        inside = trainer()
        inside.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(inside.optimizer, 1.0)
        inside.train()
        assert scheduled.step == 4
    for step, batch in enumerate(batches[:4]):
        x = batch["x"]
        for block in sorted(FixedCount(2).running(4, step, resect.seeds.generator_for(6, "blocks", step))):
            x = x + by_hand.blocks[block](x)
        (F.cross_entropy(x, batch["labels"]) / 2).backward()
        if step % 2:
            with torch.no_grad():
                for parameter in by_hand.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad
                    parameter.grad = None
    for found, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def test_inputs_may_be_given_by_place_or_by_name() -> None:
    model = Classifier()
    x, labels = torch.randn(3, 8), torch.tensor([0, 1, 2])
    examples = (x, None, labels), {"labels": labels, "x": x}
    for example in examples:
        with resect.unravel(model, example).schedule(Full()) as scheduled:
            model.train()
            expected = model(x, None, labels)
            for found in (model(x, labels=labels), model(x=x, labels=labels, mask=None)):
                assert torch.equal(found["logits"], expected["logits"])
            with pytest.raises(resect.InputError, match=r"those of the example, .*: `labels` was a tensor, got None"):
                model(x, None)
            with pytest.raises(resect.InputError, match=r"got `mask` as well|: `mask` was None, got a tensor"):
                model(x, torch.ones(3, 8), labels)
            assert scheduled.step == 3
