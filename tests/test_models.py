"""The networks of resect:, model specs, checkpoints and shipped weights."""

from __future__ import annotations

import os
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import resect
from conftest import randomise_norms
from hf_families import FAMILIES
from resect.data import Samples, load_samples
from resect.jobs.evaluate import mean_error_and_loss
from resect.jobs.source import Source
from resect.models.names import SHIPPED, bare_name, control_for
from resect.models.resnet import CifarResNet
from resect.models.specs import load_card, load_model
from resect.models.vgg import Vgg15
from resect.pruning.export.hugging_face import quiet
from resect.weights import check_finite, load_checkpoint, save_weights


def test_resnet110_has_the_papers_size() -> None:
    model = CifarResNet(110)
    assert len(model.blocks) == 54
    assert sum(isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3) for part in model.modules()) == 109
    assert sum(p.numel() for p in model.parameters()) == 1_730_522  # 1.7 M, He et al. 2016, table 6
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_state_dict_names_are_a_format() -> None:
    names = set(CifarResNet(8, width=4).state_dict())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"stem.weight", "fc.weight", "fc.bias", "blocks.1.sc.weight", "blocks.2.sc.weight"}
    expected |= {f"bn.{part}" for part in norm}
    expected |= {f"blocks.{i}.{bn}.{part}" for i in range(3) for bn in ("bn1", "bn2") for part in norm}
    expected |= {f"blocks.{i}.{c}.weight" for i in range(3) for c in ("c1", "c2")}
    assert names == expected


@pytest.mark.parametrize(("size", "pools"), [(32, {1, 3, 6, 9, 12}), (8, {6, 9, 12})])
def test_vgg_ends_at_one_pixel(size: int, pools: set[int]) -> None:
    model = Vgg15(width=4, size=size)
    assert model.pooled_after == pools
    assert model.eval()(torch.zeros(2, 3, size, size)).shape == (2, 10)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(resect.SpecError, match=r"6m\+2, got 100. The nearest are 98 and 104"):
        CifarResNet(100)
    with pytest.raises(resect.SpecError, match=r"`width` must be .* at least 1, got 0"):
        CifarResNet(20, width=0)
    with pytest.raises(resect.SpecError, match="`size` must be 1, 2, 4, 8, 16 or 32, got 12"):
        Vgg15(size=12)


@pytest.mark.parametrize("name", [name for name in SHIPPED if "digits" in name])
def test_shipped_weights_have_the_error_on_their_card(name: str) -> None:
    test = load_samples("digits")
    loaded = load_model(f"resect:{name}", samples=test)
    error, loss = mean_error_and_loss(loaded.module, test)
    assert loaded.card is not None
    assert error == loaded.card.found["test_error"]
    assert loss == pytest.approx(loaded.card.found["test_loss"], rel=1e-3)
    assert loaded.card.command.startswith("resect train digits --model ")
    assert loaded.card.found["test_error"] < 0.03


@pytest.mark.skipif("RESECT_CIFAR10" not in os.environ, reason="RESECT_CIFAR10 names no folder with CIFAR-10")
@pytest.mark.parametrize("name", [name for name in SHIPPED if "cifar10" in name])
def test_weights_of_cifar10_have_about_the_error_on_their_card(name: str) -> None:
    test = load_samples("cifar10", limit=200)
    loaded = load_model(f"resect:{name}", samples=test)
    assert loaded.card is not None
    wanted = loaded.card.found["test_error"]
    error, _ = mean_error_and_loss(loaded.module, test, batch_size=100)
    assert abs(error - wanted) < 4 * (wanted * (1 - wanted) / 200) ** 0.5


def test_the_package_stays_below_25_megabytes() -> None:
    folder = resources.files("resect.models") / "weights"
    files = [Path(str(entry)) for entry in folder.iterdir()]
    assert sum(file.stat().st_size for file in files) < 24_000_000


def test_specs_take_sizes_from_the_data() -> None:
    digits = load_samples("digits", limit=3)
    model = load_model("resect:resnet8", samples=digits, model_args={"width": 4}).module
    assert model.stem.weight.shape == (4, 1, 3, 3)
    assert load_model("resect:resnet14-original", model_args={"width": 4}).module.preactivation is False
    assert load_model("resect:resnet14-w6").module.stem.weight.shape == (6, 3, 3, 3)


def test_a_seed_gives_the_same_weights_and_leaves_the_global_state_alone() -> None:
    state = torch.random.get_rng_state()
    one, same, other = (load_model("resect:resnet8", seed=seed).module for seed in (1, 1, 2))
    assert torch.equal(one.stem.weight, same.stem.weight)
    assert not torch.equal(one.stem.weight, other.stem.weight)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
def test_every_branch_of_a_multi_residual_network_is_a_block() -> None:
    network = randomise_norms(load_model("resect:resnet14-w4-x3").module)
    images = torch.randn(2, 3, 8, 8)
    net = resect.unravel(network, images)
    assert len(net.blocks) == 18
    assert net.layers == 36
    assert [block.kind for block in net.blocks[6:9]] == ["projection"] * 3
    for gone in (1, 7):
        kept = network.blocks[gone // 3].branches
        network.blocks[gone // 3].branches = nn.ModuleList([kept[0], kept[2]])
        expected = network(images)
        network.blocks[gone // 3].branches = kept
        assert torch.equal(net(images, net.intact.without(gone)), expected)
    with pytest.raises(resect.SpecError, match="`branches` must be 1 in the original form"):
        load_model("resect:resnet14-x2-original")


def test_the_names_of_trained_networks_are_taken_apart() -> None:
    names = ["resnet110-cifar10-keep23", "resnet110-w8-digits", "vgg15-cifar10", "highway27-cifar10", "resnet20-x2"]
    assert [bare_name(name) for name in names] == ["resnet110", "resnet110-w8", "vgg15", "highway27", "resnet20-x2"]
    assert control_for("digits") == "resect:vgg15-digits"
    assert control_for("cifar10") == "resect:vgg15-w24-cifar10"
    assert control_for("folder") is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet110", "Did you mean resect:resnet110"),
        ("resect:resnet111", r"6m\+2, got 111"),
        ("resect:vgg16", "unknown model spec 'resect:vgg16'. Close: resect:vgg15"),
        ("timm:", "unknown model spec 'timm:'. Known are"),
        ("py::f", "must name a function that can be imported"),
        ("py:os:environ", "must name a function, got _Environ"),
        ("resect:resnet20-digits", "no weights are shipped .* Train them with `resect train digits --model resnet20 "),
        (
            "resect:resnet20-cifar10-x",
            "Train them with `resect train cifar10 --model resnet20 --out resnet20-cifar10-x",
        ),
        ("resect:highway9-original", "unknown model spec"),
        ("torchvison:resnet18", "Did you mean torchvision:"),
        ("torchvision:resnet19", "no model 'resnet19'. Close: resnet"),
        ("timm:resnet19", "timm has no model 'resnet19'"),
        ("py:no_such_module:f", "must name a function that can be imported"),
        ("hf:no/such/folder/here", "cannot be built"),
    ],
)
def test_unknown_specs(spec: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(resect.SpecError, match=message):
        load_model(spec)


def test_vgg_takes_square_images() -> None:
    wide = Samples("wide", torch.zeros(2, 1, 8, 16), torch.zeros(2, dtype=torch.long), 2)
    with pytest.raises(resect.SpecError, match="takes square images, but the samples are 8x16"):
        load_model("resect:vgg15", samples=wide)


def test_shipped_weights_refuse_images_of_other_data() -> None:
    images = Samples("images", torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long), 10)
    digits = Samples("small", torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long), 10)
    for name, there, here, samples in (
        ("resnet110-digits", "1x8x8", "3x32x32", images),
        ("vgg15-digits", "1x8x8", "3x32x32", images),
        ("highway12-cifar10", "3x32x32", "1x8x8", digits),
    ):
        with pytest.raises(resect.SpecError, match=f"takes images {there} .*, but the samples are {here}: they are of"):
            load_model(f"resect:{name}", samples=samples)


def test_shipped_weights_take_samples_that_lack_some_digits() -> None:
    few = Samples("few", torch.zeros(2, 1, 8, 8), torch.tensor([0, 3]), 4)
    assert load_model("resect:vgg15-digits", samples=few).module.fc.out_features == 10


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_off_with_and_without_pretrained_weights(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    heads = torchvision.models.get_model(name, weights=None, aux_logits=True, init_weights=False)
    state = heads.state_dict()  # stands for the download
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda *_, **__: state)
    for pretrained in (False, True):
        module = load_model(f"torchvision:{name}", model_args={"pretrained": pretrained}).module
        assert not [key for key in module.state_dict() if key.lower().startswith("aux")]
        assert torch.equal(module.fc.weight, heads.fc.weight) is pretrained
        assert isinstance(module.train()(torch.zeros(2, 3, 299, 299)), torch.Tensor)


def test_arguments_that_do_not_exist_are_refused() -> None:
    with pytest.raises(resect.SpecError, match="does not take these arguments"):
        load_model("resect:resnet8", model_args={"depht": 3})


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(resect.SpecError, match=r"needs timm, which is not installed: pip install 'resect\[vision\]'"):
        load_model("timm:resnet18")


def test_torchvision_timm_and_factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_model("torchvision:resnet18").example.shape == (1, 3, 224, 224)
    assert load_model("timm:resnet10t").example.shape == (1, 3, 176, 176)
    (tmp_path / "own_factory.py").write_text(
        "import torch\ndef build(width=4):\n    return torch.nn.Linear(width, 2), torch.zeros(1, width)\n"
    )
    monkeypatch.chdir(tmp_path)
    loaded = load_model("py:own_factory:build", model_args={"width": 6})
    assert loaded.example.shape == (1, 6)
    assert not loaded.module.training
    with pytest.raises(resect.SpecError, match=r"does not take these arguments: .*'depth'"):
        load_model("py:own_factory:build", model_args={"depth": 6})


def test_a_hugging_face_folder(tmp_path: Path) -> None:
    import transformers

    config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50, bos_token_id=0, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    loaded = load_model(f"hf:{tmp_path}")
    assert type(loaded.module).__name__ == "GPT2LMHeadModel"
    assert len(resect.unravel(loaded.module, loaded.example).blocks) == 4


def test_checkpoints_in_every_form(tmp_path: Path) -> None:
    source = CifarResNet(8, width=4)
    save_weights(source, tmp_path / "half.safetensors", torch.float16)
    torch.save(source.state_dict(), tmp_path / "plain.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "nested.pt")
    for name, exact in (("half.safetensors", False), ("plain.pt", True), ("nested.pt", True)):
        target = CifarResNet(8, width=4)
        load_checkpoint(target, tmp_path / name)
        assert target.stem.weight.dtype == torch.float32
        expected = source.stem.weight if exact else source.stem.weight.half().float()
        assert torch.equal(target.stem.weight, expected)


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    module = CifarResNet(8, width=4)
    before = module.stem.weight.clone()
    other = tmp_path / "other.safetensors"
    save_weights(CifarResNet(14, width=4), other)
    with pytest.raises(resect.CheckpointError, match=r"belongs to another network than CifarResNet: .*unexpected"):
        load_checkpoint(module, other)
    save_weights(CifarResNet(8, width=5), other)
    with pytest.raises(resect.CheckpointError, match=r"stem.weight \(5, 3, 3, 3\) instead of \(4, 3, 3, 3\)"):
        load_checkpoint(module, other)
    assert torch.equal(module.stem.weight, before)


def test_checkpoints_that_are_damaged(tmp_path: Path) -> None:
    module = CifarResNet(8, width=4)
    with pytest.raises(resect.CheckpointError, match="there is no file"):
        load_checkpoint(module, tmp_path / "none.pt")
    for name in ("a.safetensors", "a.pt"):
        file = tmp_path / name
        save_weights(module, file) if name.endswith("rs") else torch.save(module.state_dict(), file)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(resect.CheckpointError, match="damaged, truncated or of another kind"):
            load_checkpoint(module, file)
    torch.save(module, tmp_path / "pickled.pt")
    with pytest.raises(resect.CheckpointError, match="damaged, truncated or of another kind"):
        load_checkpoint(module, tmp_path / "pickled.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(resect.CheckpointError, match=r"must hold a state dict .*, got list"):
        load_checkpoint(module, tmp_path / "list.pt")


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    module = CifarResNet(8, width=4)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    state["fc.bias"][3] = float("inf")
    save_file(state, tmp_path / "inf.safetensors")
    with pytest.raises(resect.CheckpointError, match=r"`fc.bias` holds 1 NaN or infinite value of 10"):
        load_checkpoint(module, tmp_path / "inf.safetensors")
    with torch.no_grad():
        module.fc.weight[0] = float("nan")
    with pytest.raises(resect.CheckpointError, match=r"`fc.weight` holds 16 NaN or infinite values"):
        check_finite(module)


def test_weights_that_half_precision_cannot_hold(tmp_path: Path) -> None:
    module = CifarResNet(8, width=4)
    with torch.no_grad():
        module.fc.bias[1] = 1e6
    save_weights(module, tmp_path / "x.safetensors", torch.float16)
    written = load_file(tmp_path / "x.safetensors")
    assert torch.equal(written["fc.bias"], module.fc.bias)  # in single precision, as it is
    assert written["fc.weight"].dtype == torch.float16
    with torch.no_grad():
        module.fc.bias[1] = float("inf")
    with pytest.raises(resect.CheckpointError, match=r"y.safetensors must be finite, but `fc.bias`"):
        save_weights(module, tmp_path / "y.safetensors", torch.float16)
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_tied_weights_and_the_prefix_of_compiled_modules(tmp_path: Path) -> None:
    from safetensors.torch import save_model

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.embed.weight

    saved, loaded = Tied(), Tied()
    save_model(saved, str(tmp_path / "tied.safetensors"))  # keeps one of the two names
    load_checkpoint(loaded, tmp_path / "tied.safetensors")
    assert torch.equal(loaded.head.weight, saved.embed.weight)
    network = CifarResNet(8, width=4)
    torch.save({f"_orig_mod.{name}": value for name, value in network.state_dict().items()}, tmp_path / "compiled.pt")
    other = CifarResNet(8, width=4)
    load_checkpoint(other, tmp_path / "compiled.pt")
    assert torch.equal(other.fc.weight, network.fc.weight)
    torch.save({**network.state_dict(), "epoch": 3}, tmp_path / "more.pt")
    with pytest.raises(resect.CheckpointError, match="got dict with other entries: epoch"):
        load_checkpoint(other, tmp_path / "more.pt")
    with pytest.raises(resect.CheckpointError, match="is a folder"):
        load_checkpoint(other, tmp_path)


def test_a_state_dict_cut_short_anywhere_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "old.pt"
    torch.save(CifarResNet(8, width=2).state_dict(), file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    for part in range(1, 60):
        file.write_bytes(content[: len(content) * part // 60])
        with pytest.raises(resect.CheckpointError, match=r"damaged|belongs to another|state dict"):
            load_checkpoint(CifarResNet(8, width=2), file)


def test_cards_are_records_of_trainings() -> None:
    for name in SHIPPED:
        card = load_card(name)
        assert card.kind == "train"
        assert {"model", "arguments", "data", "test_data", "recipe"} <= card.asked.keys()
        assert 0 < card.found["test_error"] < 0.2
        assert card.command.startswith("resect train ")
        assert card.environment["seconds"] > 0


def test_torchvision_does_not_download_a_backbone_that_nobody_asked_for() -> None:
    loaded = load_model("torchvision:lraspp_mobilenet_v3_large")
    assert len(loaded.random) == sum(1 for _ in loaded.module.parameters())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_hugging_face_weights_are_read_in_a_dtype_and_tables_of_positions_stay(tmp_path: Path, dtype: str) -> None:
    folder = tmp_path / "llama"
    with quiet():
        FAMILIES["llama"].make().bfloat16().save_pretrained(folder)
        wanted = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=dtype)
        module = Source(f"hf:{folder}", dtype=dtype).load().module
        cast = Source(f"hf:{folder}", dtype=dtype, model_args={"dtype": "float16"}).load().module
    assert {parameter.dtype for parameter in module.parameters()} == {getattr(torch, dtype)}
    tables, there = dict(wanted.named_buffers()), dict(module.named_buffers())
    assert tables
    assert all(torch.equal(table, there[name]) and table.dtype == there[name].dtype for name, table in tables.items())
    assert {parameter.dtype for parameter in cast.parameters()} == {getattr(torch, dtype)}
