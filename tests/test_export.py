"""Pruned networks written for other tools: loaded by them, they are the pruned network; else nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

import resect
from hf_families import FAMILIES, logits, silent_layers
from resect.cli import main
from resect.jobs.lesion import LesionJob
from resect.pruning.export.hugging_face import quiet

E2E = {
    "gpt2": (1, 2), "opt": (0, 2), "llama": (0, 2), "mistral": (1, 2), "qwen2": (0, 2), "qwen3": (1, 2),
    "gemma2": (1,), "gemma3": (0, 2), "gpt_neox": (1, 2), "phi": (0, 2), "mixtral": (1,), "qwen2_moe": (1, 2),
    "vit": (0, 2), "t5": (0, 2), "jamba": (1, 2), "falcon_h1": (0, 2),
}  # fmt: skip


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments), "--quiet"])


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GPT-2 as `save_pretrained` writes it, with a tokenizer's file beside it."""
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    with quiet():
        FAMILIES["gpt2"].make().save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def gpt2(stored: Path) -> resect.Unraveled:
    return resect.unravel(resect.load_model(f"hf:{stored}"))


def test_what_from_pretrained_loads_is_the_pruned_network(gpt2: resect.Unraveled, tmp_path: Path) -> None:
    import transformers

    gone = gpt2.intact.without(range(2, 6))
    done = resect.export(gpt2, gone, f"hf:{tmp_path / 'small'}")
    assert (done.kind, done.path, done.difference) == ("hf", tmp_path / "small", 0)
    assert "it computes what the pruned network does, to the bit." in done.summary()
    for cache in ("without a cache", "with a dynamic cache", "with a static cache"):
        assert f"Generates {cache} what the pruned network does." in done.notes
    with quiet():
        small = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small").eval()
    assert (len(small.transformer.h), small.config.n_layer) == (2, 2)
    example = FAMILIES["gpt2"].example()
    with silent_layers(gpt2.model.transformer.h[1:3]):  # type: ignore[union-attr,operator,arg-type]
        assert torch.equal(logits(small, example), logits(gpt2.model, example))
    assert (tmp_path / "small" / "tokenizer.json").read_text() == "{}"
    assert (tmp_path / "small" / "generation_config.json").is_file()
    card = (tmp_path / "small" / "README.md").read_text()
    assert "GPT2LMHeadModel without 4 of its 8 blocks:\n\n- transformer.h.1.attn\n- transformer.h.1.mlp\n" in card


def test_recipes_name_the_layers(gpt2: resect.Unraveled, tmp_path: Path) -> None:
    gone = gpt2.intact.without(4, 5)
    assert resect.export(gpt2, gone, f"gguf-layers:{tmp_path / 'layers'}").difference is None
    assert (tmp_path / "layers").read_text() == "2\n"
    resect.export(gpt2, gone, f"mergekit:{tmp_path / 'merge.yaml'}")
    recipe = yaml.safe_load((tmp_path / "merge.yaml").read_text())
    assert [part["sources"][0]["layer_range"] for part in recipe["slices"]] == [[0, 2], [3, 4]]  # without their ends
    assert recipe["slices"][0]["sources"][0]["model"] == gpt2.model.config._name_or_path  # type: ignore[union-attr]
    assert recipe["merge_method"] == "passthrough"


def refused(net: resect.Unraveled, gone: Any, target: str) -> str:
    """Why a target is refused."""
    with pytest.raises(resect.ExportError) as error:
        resect.export(net, net.intact.without(gone) if gone is not None else net.intact, target)
    return str(error.value)


def test_what_cannot_be_written_is_refused_with_the_reason_and_leaves_nothing(
    net: resect.Unraveled, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "`target` must be one of hf:PATH, hf-zero:PATH, timm:PATH" in refused(net, 1, "pickle:x")
    assert refused(net, 1, "torc:x").endswith("Close: torch.")
    assert "must be new, or an empty folder, but holds files" in refused(net, 1, f"hf:{tmp_path / 'full'}")
    assert "torch writes a file, but" in refused(net, 1, f"torch:{tmp_path}")
    said = refused(net, 1, f"hf:{tmp_path / 'out'}")
    assert said.startswith("hf can only write models of transformers, but CifarResNet is none.")
    assert [file.name for file in tmp_path.iterdir()] == ["full"]


def test_half_a_layer_has_no_stock_format(gpt2: resect.Unraveled, tmp_path: Path) -> None:
    for kind in ("hf", "mergekit", "gguf-layers"):
        said = refused(gpt2, 4, f"{kind}:{tmp_path / kind}")
        assert "block 4 (transformer.h.2.attn) goes, but transformer.h.2.mlp of the same layer stays" in said
        assert "`hf-zero` writes a checkpoint" in said
    assert "must keep a layer of transformer.h, but all 4" in refused(gpt2, range(8), f"hf:{tmp_path / 'hf'}")
    assert "it is the intact network" in refused(gpt2, None, f"hf:{tmp_path / 'hf'}")
    swapped = gpt2.intact.swapped(0, 2)
    with pytest.raises(resect.ExportError, match="can only express blocks that are removed, but slot 0 runs 2"):
        resect.export(gpt2, swapped, f"hf:{tmp_path / 'hf'}")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_branch_set_to_zero_is_the_pruned_network(gpt2: resect.Unraveled, tmp_path: Path) -> None:
    import transformers

    done = resect.export(gpt2, gpt2.intact.without(4), f"hf-zero:{tmp_path / 'zero'}")
    assert done.difference == 0
    with quiet():
        zeroed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "zero").eval()
    assert not zeroed.transformer.h[2].attn.c_proj.weight.any()
    ids = FAMILIES["gpt2"].example()
    with torch.no_grad():
        assert torch.equal(logits(zeroed, ids), gpt2(ids, gpt2.intact.without(4)).logits)


@pytest.mark.slow
def test_the_command_line_exports_a_model_and_what_a_run_removed(stored: Path, tmp_path: Path) -> None:
    done = run(f"hf:{stored}", "--without", "2-5", f"hf:{tmp_path / 'small'}", f"gguf-layers:{tmp_path / 'layers'}")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Loaded in a fresh process, it computes what the pruned network does, to the bit.")
    assert f"    resect export hf:{stored} hf:{tmp_path / 'small'}" in (tmp_path / "small" / "README.md").read_text()
    assert (tmp_path / "layers").read_text() == "1,2\n"
    options = {"limit": 20, "model_args": {"width": 4}, "without": (1,)}
    LesionJob.from_options("resect:resnet8", "digits", options).run(tmp_path / "run")
    done = run(tmp_path / "run", f"torch:{tmp_path / 'net.pt2'}", "--format", "json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["difference"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resect:resnet8", "hf:x"], "one of `--without`, `--arrangement` and `--plan` must say what goes, got none."),
        (
            ["resect:resnet8", "--without", "1", "--arrangement", "0,-,2", "hf:x"],
            "got `--without` and `--arrangement`.",
        ),
        (["resect:resnet8", "--plan", "none.yaml", "hf:x"], "the plan none.yaml cannot be read: No such file"),
        (["resect:resnet8", "--without", "1", "pth:x"], "`KIND:PATH` must be one of hf:PATH,"),
        (["resnet8", "--without", "1", "hf:x"], "unknown model spec 'resnet8'. Did you mean resect:resnet8?"),
        (["runs/none", "hf:x"], "'runs/none' must be the folder of a finished run, or a model spec such as resect:"),
        (["tests", "hf:x"], "'tests' must be the folder of a finished run, or a model spec such as resect:resnet110, "),
        (
            ["resect:resnet8", "--without", "1", "torch:x.onnx"],
            "torch writes a .pt2 file, but x.onnx is called like a file of onnx. Give torch:x.pt2, or onnx:x.onnx.",
        ),
        (
            ["resect:resnet8", "--without", "1", "hf:x.safetensors"],
            "hf writes a folder, but x.safetensors is called like a file of resect. Give hf:x, or resect:x.safet",
        ),
    ],
)
def test_the_command_line_says_what_is_wrong(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert (done.exit_code, said in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.output


@pytest.mark.slow
def test_what_was_written_is_said_beside_all_that_was_refused(tmp_path: Path) -> None:
    targets = [f"resect:{tmp_path / 'a'}", f"torch:{tmp_path / 'net.pt2'}", f"resect:{tmp_path / 'b'}"]
    done = run("resect:resnet8", "--without", "1", *targets, "--model-arg", "width=4")
    assert done.exit_code == 2
    assert done.stderr.count("resect cannot express this network: ") == 2
    assert f"Written: {tmp_path / 'net.pt2'}." in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]


@pytest.mark.slow
def test_the_stand_alone_network_is_written_as_a_program(net: resect.Unraveled, tmp_path: Path) -> None:
    arrangement, file = net.intact.without(1, 4), tmp_path / "small.pt2"
    done = resect.export(net, arrangement, f"torch:{file}")
    assert done.difference == 0
    images = torch.randn(5, *net.example.shape[1:])  # another batch size than the example's
    assert torch.equal(torch.export.load(file).module()(images), net(images, arrangement))


@pytest.mark.slow
@pytest.mark.parametrize("name", E2E)
def test_a_family_exported_in_full(name: str, tmp_path: Path) -> None:
    """Captured, written, loaded in a fresh process, compared to the bit, and its greedy tokens with every cache."""
    family, gone = FAMILIES[name], E2E[name]
    model, example = family.make(), family.example()
    net = resect.unravel(model, example)
    layers = [f"{path}.{i}" for path in family.lists for i in gone]
    blocks = [b.index for b in net.blocks if b.name in layers or b.name.startswith(tuple(f"{x}." for x in layers))]
    done = resect.export(net, net.intact.without(blocks), f"hf:{tmp_path / 'small'}")
    assert done.difference == 0
    said = [note for note in done.notes if note.startswith("Generates")]
    assert len(said) == (0 if family.image else 3)
    assert json.loads((tmp_path / "small" / "config.json").read_text())["architectures"] == [family.model]


@pytest.mark.slow
def test_normalisations_on_the_skip_stay_so_that_a_shorter_bert_is_another_function(tmp_path: Path) -> None:
    family = FAMILIES["bert"]
    net = resect.unravel(family.make(), family.example())
    said = refused(net, (2, 3), f"hf:{tmp_path / 'small'}")
    assert "without the blocks of layer 1 of bert.encoder.layer it still reads" in said
    assert "LayerNorm" in said
    assert resect.export(net, net.intact.without(2, 3), f"hf-zero:{tmp_path / 'zero'}").difference == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "path", "gone", "argument"),
    [
        ("vit_tiny_patch16_224", "blocks", (0, 2), {"depth": 2}),
        ("convnext_atto", "stages.2.blocks", (1, 3), {"depths": [2, 2, 4, 2]}),
    ],
)
def test_timm_makes_the_shorter_network_itself(
    name: str, path: str, gone: tuple[int, ...], argument: dict[str, Any], tmp_path: Path
) -> None:
    import timm

    options = {"depth": 4, "img_size": 32} if "vit" in name else {}
    model = timm.create_model(name, num_classes=5, **options).eval()
    images = torch.randn(2, 3, 32, 32)
    net = resect.unravel(model, images)
    blocks = [b.index for b in net.blocks if b.name.startswith(tuple(f"{path}.{i}" for i in gone))]
    arrangement = net.intact.without(blocks)
    assert resect.export(net, arrangement, f"timm:{tmp_path / 'small'}").difference == 0
    assert argument.items() <= json.loads((tmp_path / "small" / "config.json").read_text())["model_args"].items()
    small = timm.create_model(f"local-dir:{tmp_path / 'small'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(small(images), net(images, arrangement))
