"""Stand-alone networks are modules like any other: torch's own tools find their layers and work on them."""

from __future__ import annotations

import copy
import io
import multiprocessing
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig, prepare, quantize_dynamic
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.swa_utils import AveragedModel, update_bn

import resect
from resect.models.resnet import CifarResNet

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))

_QUANTISATION = pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")


@cache
def _made() -> resect.Unraveled:
    torch.manual_seed(0)
    return resect.unravel(CifarResNet(8, width=4, channels=1).eval(), X)


@pytest.fixture
def small() -> nn.Module:
    return _made().without(1)


def _saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _from_state(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = _made().without(1)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


def _traced(module: nn.Module) -> nn.Module:
    return torch.jit.trace(module, X)


def _exported(module: nn.Module, strict: bool = False) -> nn.Module:
    sizes = torch.export.ShapesCollection()
    images = X.clone()
    sizes[images] = {0: torch.export.Dim.AUTO}
    return torch.export.export(module, (images,), dynamic_shapes=sizes, strict=strict).module()


def _with_swapped_weights(module: nn.Module) -> Callable[[Tensor], Any]:
    tensors = {name: value.clone() for name, value in module.state_dict().items()}
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return lambda images: torch.func.functional_call(module, tensors, (images,))


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "torch.save of the module": _saved,
    "torch.save of its state": _from_state,
    "torch.jit.trace": _traced,
    "torch.export": _exported,
    "torch.compile": lambda module: torch.compile(module, fullgraph=True, backend="aot_eager"),
    "functional_call": _with_swapped_weights,
    "averaged": AveragedModel,
    "weight norm": lambda module: (weight_norm(module.stem), module)[1],
}


@pytest.mark.parametrize("name", COPIES)
def test_it_computes_the_same_after(name: str, small: nn.Module) -> None:
    expected = small(X)
    assert torch.equal(expected, _made()(X, _made().intact.without(1)))
    same = COPIES[name](small)
    torch.testing.assert_close(same(X), expected, rtol=1e-6, atol=0 if name != "weight norm" else 1e-6)


def test_an_export_of_it_has_a_free_batch_and_names_the_layers(small: nn.Module) -> None:
    assert _exported(small)(X[:3]).shape == (3, 10)
    again = resect.unravel(small, X)
    assert [b.name for b in again.blocks] == ["blocks.0", "blocks.2"]
    assert again.check(X).identical


@pytest.mark.slow
def test_inductor_and_strict_export(small: nn.Module) -> None:
    expected = small(X)
    torch.testing.assert_close(torch.compile(small, fullgraph=True)(X), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(_exported(small, strict=True)(X), expected)


def test_types_and_layouts(small: nn.Module) -> None:
    expected = small(X)
    torch.testing.assert_close(copy.deepcopy(small).double()(X.double()), expected.double(), rtol=1e-4, atol=1e-4)
    assert copy.deepcopy(small).bfloat16()(X.bfloat16()).dtype == torch.bfloat16
    last = copy.deepcopy(small).to(memory_format=torch.channels_last)
    assert last.blocks.get_submodule("2").c1.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last(X.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)


def test_its_layers_have_the_models_names_and_run(small: nn.Module) -> None:
    model, seen = dict(_made().model.named_modules()), []
    layers = {name: part for name, part in small.named_modules() if isinstance(part, (nn.Conv2d, nn.Linear))}
    assert layers.keys() == {n for n, p in model.items() if isinstance(p, (nn.Conv2d, nn.Linear))} - {
        "blocks.1.c1",
        "blocks.1.c2",
    }
    for name, layer in layers.items():
        assert str(layer) == str(model[name])
        layer.register_forward_hook(lambda module, given, output, name=name: seen.append(name))
    small(X)
    assert sorted(seen) == sorted(layers)
    wanted = [name for name in model[""].state_dict() if not name.startswith(("blocks.1.c", "blocks.1.bn"))]
    assert sorted(small.state_dict()) == sorted(wanted)


def test_it_says_what_it_is_and_what_is_gone() -> None:
    net = _made()
    assert "CifarResNet without 1 of 3 blocks: blocks.1\n" in str(net.without(1))
    assert "Standalone(\n  CifarResNet\n" in str(net.standalone(net.intact))
    assert "CifarResNet as twice,1,- without 1 of 3 blocks: blocks.2\n" in str(net.standalone("twice,1,-"))
    assert net.without(1).arrangement == net.intact.without(1)


def test_hooks_of_the_model_do_not_act_twice() -> None:
    model = CifarResNet(8, width=4, channels=1).eval()
    model.stem.register_forward_hook(lambda module, given, output: output * 2)
    net = resect.unravel(model, X)
    assert torch.equal(net.standalone(net.intact)(X), model(X))


@_QUANTISATION
def test_pruning_and_quantisation_take_hold_of_its_layers(small: nn.Module) -> None:
    expected = small(X).detach()
    pruned = copy.deepcopy(small)
    prune.l1_unstructured(pruned.fc, "weight", amount=0.5)
    assert not torch.equal(pruned(X), expected)
    prune.remove(pruned.fc, "weight")
    assert (pruned.fc.weight == 0).sum() == pruned.fc.weight.numel() // 2
    observed = copy.deepcopy(small)
    observed.qconfig = get_default_qconfig("fbgemm")
    observed = prepare(observed)
    observed(X)
    assert float(observed.fc.activation_post_process.max_val) == pytest.approx(expected.max().item())
    quantised = quantize_dynamic(small, {nn.Linear})
    assert not isinstance(quantised.fc, nn.Linear)
    torch.testing.assert_close(quantised(X), expected, rtol=0.1, atol=0.05)


@_QUANTISATION
def test_layers_of_a_transformer_run_and_tied_weights_stay_one() -> None:
    config = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99}
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(num_hidden_layers=2, num_key_value_heads=2, tie_word_embeddings=True, **config)
    ).eval()
    ids = torch.randint(0, 99, (2, 9))
    net = resect.unravel(model, {"input_ids": ids})
    small = net.without(2, 3)
    assert torch.equal(small(input_ids=ids).logits, net({"input_ids": ids}, net.intact.without(2, 3)).logits)
    layer = sum(p.numel() for p in model.model.layers[1].parameters())
    assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in model.parameters()) - layer
    assert sum(isinstance(part, nn.Linear) for part in small.modules()) == 7
    assert not torch.equal(quantize_dynamic(small, {nn.Linear})(input_ids=ids).logits, small(input_ids=ids).logits)


def _step(module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    optimiser = torch.optim.SGD(module.parameters(), 0.1)
    module(images).square().mean().backward()
    optimiser.step()
    return {name.removeprefix("module."): value.detach() for name, value in module.named_parameters()}


def test_a_compiled_one_trains_as_it_does(small: nn.Module) -> None:
    wanted = _step(copy.deepcopy(small).train(), X)
    got = _step(torch.compile(copy.deepcopy(small).train(), fullgraph=True, backend="aot_eager"), X)
    for name, value in wanted.items():
        torch.testing.assert_close(got[f"_orig_mod.{name}"], value)


def _in_a_process(rank: int, module: nn.Module, meeting: str, results: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(module))  # sent tensors lie in shared memory
    results.put((rank, {name: value.numpy() for name, value in _step(wrapped, X[rank::2]).items()}))
    torch.distributed.destroy_process_group()


def test_two_processes_take_the_step_of_one(small: nn.Module, tmp_path: Path) -> None:
    wanted = _step(copy.deepcopy(small), X)
    meeting = f"file://{tmp_path}/meeting"
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_in_a_process, args=(rank, small, meeting, results)) for rank in range(2)]
    for process in processes:
        process.start()
    steps = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    for name, value in wanted.items():
        torch.testing.assert_close(torch.from_numpy(steps[0][name]), value, rtol=1e-5, atol=1e-7)
        assert (steps[0][name] == steps[1][name]).all()


@pytest.mark.parametrize("momentum", [None, 0.3])
def test_the_batch_norms_of_a_stand_alone_network_can_be_measured_again(momentum: float | None) -> None:
    model, loader = _made().model, [torch.randn(6, 1, 8, 8) * 2 + 1 for _ in range(3)]
    small, by_hand = _made().without(0), copy.deepcopy(model)
    by_hand.blocks[0] = nn.Identity()
    if momentum is None:
        for network in (small, by_hand):
            update_bn(loader, network)
    else:
        for network in (small, by_hand):
            for part in network.train().modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.momentum = momentum
            for images in loader:
                network(images)
    measured, wanted = small.state_dict(), by_hand.state_dict()
    changed = [name for name in measured if name.endswith(("running_mean", "running_var"))]
    assert not torch.equal(measured[changed[-1]], model.state_dict()[changed[-1]])
    for name in changed:
        torch.testing.assert_close(measured[name], wanted[name], atol=1e-4, rtol=1e-4)
