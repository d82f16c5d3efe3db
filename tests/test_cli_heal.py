"""`resect prune --heal`: its record and page, the weights that it keeps, their export, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

import resect
from hf_families import FAMILIES
from resect.cli import main
from resect.jobs.asked_pruning import PruneAsked
from resect.jobs.export import ExportAsked
from resect.jobs.source import Source
from resect.pruning.export.formats import require_weights
from resect.pruning.export.hugging_face import quiet
from resect.pruning.settings import HealSettings
from resect.training import loop
from resect.weights import load_checkpoint, save_weights

COMMON = ["resect:resnet8", "digits", "--model-arg", "width=4", "--limit", "80", "--quiet"]
HEAL = ["--remove", "1", "--no-timed", "--heal", "2", "--heal-setting", "learning_rate=0.1"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["prune", *COMMON, *map(str, arguments)])


def texts(folder: Path) -> tuple[str, str]:
    """Data specs of two files of random letters, written there."""
    specs = []
    for number, name in enumerate(("judged", "trained")):
        letters = torch.randint(65, 91, (2000,), generator=torch.Generator().manual_seed(number))
        (folder / f"{name}.txt").write_text("".join(map(chr, letters.tolist())))
        specs.append(f"text:{folder / name}.txt,tokenizer=bytes,window=16")
    return specs[0], specs[1]


def refused(verb: str, *arguments: str | Path) -> str:
    result = CliRunner().invoke(main, [verb, *map(str, arguments)])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def healed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A finished run, and what the command said."""
    out = tmp_path_factory.mktemp("runs") / "healed"
    result = run(*HEAL, "--candidates", "2", "--recalibrate", "--out", out)
    assert result.exit_code == 0, result.output
    return out, result


def test_a_record_says_what_healing_gave_back(healed: tuple[Path, Result]) -> None:
    out, result = healed
    record = resect.Record.read(out)
    found, table = record.found["healing"], record.tables["healing"]
    assert len(table) == found["candidates"] == 2
    assert (found["epochs"], found["training_samples"], found["samples"], found["left_out"]) == (2, 1297, 60, 0)
    assert (found["recipe"]["learning_rate"], found["recipe"]["shift"], found["recalibrate"]) == (0.1, 1, True)
    chosen = table[table["chosen"]].iloc[0]
    assert (chosen["healed"], chosen["cut"], chosen["gain_high"]) == (found["healed"], found["cut"], found["gain_high"])
    assert chosen["arrangement"] == record.found["arrangement"] == record.tables["front"]["arrangement"].iloc[-1]
    assert found["healed"] < found["cut"] - 0.2  # an untrained network learns in two epochs
    assert found["gain_high"] < 0
    assert found["summary"] in record.found["summary"]
    assert found["summary"] in result.stdout
    assert "Healed (trained for 2 epochs on 1,297 samples; batch norms measured again)" in result.stdout
    assert "1, chosen" in result.stdout or "2, chosen" in result.stdout
    assert record.command.endswith(
        "--remove 1 --no-timed --heal 2 --heal-setting learning_rate=0.1 --candidates 2 --recalibrate"
    )
    assert "training" in record.made_of
    assert (out / "figures" / "healing.png").is_file()
    page = (out / "report.html").read_text()
    figures = page.partition("<h2>Figures</h2>")[2]
    assert 0 < figures.index("What healing gives back") < figures.index("Error against what is removed, before healing")
    assert "healed.safetensors" in page
    assert CliRunner().invoke(main, ["show", str(out)]).stdout == result.stdout
    assert not list((out / "networks").iterdir())


def test_an_export_of_the_run_has_the_healed_weights(healed: tuple[Path, Result], tmp_path: Path) -> None:
    out, _ = healed
    asked = ExportAsked.of(str(out), ("torch:small.pt2",), {})
    net, images = asked.network(), resect.load_samples("digits").first(80)[0]
    small = net.standalone(asked.chosen(net))
    weights = load_file(out / "healed.safetensors")
    assert weights.keys() == small.state_dict().keys()
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in weights.items())
    found = resect.Record.read(out).found["healing"]
    judges = torch.arange(80).reshape(4, 20)[1:].flatten()  # every fourth batch of a quarter chose
    with torch.no_grad():
        wrong = small(images[judges]).argmax(1) != resect.load_samples("digits").first(80)[1][judges]
    assert float(wrong.float().mean()) == pytest.approx(found["healed"])
    assert "Healed (" in asked.origin().measured


def test_exports_that_would_lose_the_healing_are_refused(healed: tuple[Path, Result], tmp_path: Path) -> None:
    out, _ = healed
    target = f"torch:{tmp_path / 'small.pt2'}"
    assert "mergekit is a recipe for the original checkpoint" in refused("export", out, f"mergekit:{tmp_path / 'm'}")
    assert "`--without` says what goes, but" in refused("export", out, "--without", "0", target)
    with pytest.raises(resect.ExportError, match=r"gguf-layers is a recipe .* which has not the healed weights"):
        require_weights([f"gguf-layers:{tmp_path / 'l'}"], "timm:vit")
    weights = out / "healed.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-4] + b"\0\0\0\1")
        assert "must hold the healed weights of the run, but others lie there" in refused("export", out, target)
        weights.unlink()
        assert "must hold the healed weights of the run, but is gone" in refused("export", out, target)
    finally:
        weights.write_bytes(kept)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_archive_has_the_healed_weights(healed: tuple[Path, Result], tmp_path: Path) -> None:
    out, file = healed[0], tmp_path / "small.pt2"
    result = CliRunner().invoke(main, ["export", str(out), f"torch:{file}", "--quiet"])
    assert result.exit_code == 0, result.output
    asked = ExportAsked.of(str(out), (), {})
    net, images = asked.network(), resect.load_samples("digits").first(5)[0]
    assert torch.equal(torch.export.load(file).module()(images), net.standalone(asked.chosen(net))(images))


@pytest.mark.slow
def test_a_refitted_llama_in_half_precision_is_loaded_by_transformers(tmp_path: Path) -> None:
    import transformers

    with quiet():
        FAMILIES["llama"].make().bfloat16().save_pretrained(tmp_path / "llama")
    judged, trained = texts(tmp_path)
    out, small = tmp_path / "run", tmp_path / "small"
    words = [f"hf:{tmp_path / 'llama'}", judged, "--remove", "1", "--unit", "layer", "--no-timed", "--prompts", "0"]
    more = [
        "--refit",
        "--heal-data",
        trained,
        "--dtype",
        "bfloat16",
        "--candidates",
        "1",
        "--out",
        str(out),
        "--export",
        f"hf:{small}",
    ]
    result = CliRunner().invoke(main, ["prune", *words, *more, "--quiet"])
    assert result.exit_code == 0, result.output
    weights, there = load_file(out / "healed.safetensors"), load_file(small / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    kept = sorted({int(name.split(".")[2]) for name in weights if name.startswith("model.layers.")})
    name = "mlp.down_proj.weight"
    for new, old in enumerate(kept):
        assert torch.equal(there[f"model.layers.{new}.{name}"], weights[f"model.layers.{old}.{name}"])
    with quiet():
        assert len(transformers.AutoModelForCausalLM.from_pretrained(small).model.layers) == 3


@pytest.mark.slow
def test_from_pretrained_loads_the_healed_weights(tmp_path: Path) -> None:
    """A GPT-2 without a layer: transformers' own layers, renumbered, with the weights that were trained."""
    import transformers

    with quiet():
        FAMILIES["gpt2"].make().save_pretrained(tmp_path / "gpt2")
    judged, trained = texts(tmp_path)
    words = [f"hf:{tmp_path / 'gpt2'}", judged, "--remove", "1", "--unit", "layer", "--no-timed", "--prompts", "0"]
    heal = ["--heal", "1", "--heal-data", trained, "--heal-setting", "learning_rate=0.1", "--distill", "0.5"]
    out, small = tmp_path / "run", tmp_path / "small"
    more = ["--candidates", "1", "--out", str(out), "--export", f"hf:{small}", "--quiet"]
    result = CliRunner().invoke(main, ["prune", *words, *heal, *more])
    assert result.exit_code == 0, result.output
    weights = load_file(out / "healed.safetensors")
    with quiet():
        loaded = transformers.AutoModelForCausalLM.from_pretrained(small)
    there = loaded.state_dict()
    assert (loaded.config.n_layer, len(loaded.transformer.h)) == (3, 3)
    kept = sorted({int(name.split(".")[2]) for name in weights if name.startswith("transformer.h.")})
    assert len(kept) == 3
    before, name = load_file(tmp_path / "gpt2" / "model.safetensors"), "mlp.c_fc.weight"
    for new, old in enumerate(kept):
        assert torch.equal(there[f"transformer.h.{new}.{name}"], weights[f"transformer.h.{old}.{name}"])
        assert not torch.equal(before[f"transformer.h.{old}.{name}"], weights[f"transformer.h.{old}.{name}"])


def test_a_killed_healing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in its second epoch, it ends with the weights of one that was not."""
    step, steps = loop._Training._step, 0

    def dying(self: loop._Training, number: int) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 25:
            raise KeyboardInterrupt
        return step(self, number)

    options = [*HEAL, "--candidates", "1"]
    assert run(*options, "--out", tmp_path / "whole").exit_code == 0
    monkeypatch.setattr(loop._Training, "_step", dying)
    killed = run(*options, "--out", tmp_path / "run")
    assert killed.exit_code == 130
    assert "the same command goes on from there" in killed.stderr
    (checkpoint,) = (tmp_path / "run" / "networks").iterdir()
    assert checkpoint.suffix == ".checkpoint"
    assert run(*options, "--out", tmp_path / "run").exit_code == 0
    whole, again = (load_file(tmp_path / name / "healed.safetensors") for name in ("whole", "run"))
    assert steps < 25 + 2 * 20  # of two epochs, one was there
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert not checkpoint.exists()


def test_without_a_run_folder_the_weights_are_said_to_be_lost() -> None:
    result = run("--without", "1", "--no-timed", "--recalibrate", "--format", "json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert any("The healed weights are not kept" in text for text in record["found"]["warnings"])
    assert len(record["tables"]["healing"]) == 1
    assert "weights" not in record["found"]["healing"]


def test_a_refit_needs_no_training_and_its_network_is_exported(tmp_path: Path) -> None:
    result = run(
        "--without", "1", "--no-timed", "--refit", "--out", tmp_path / "run", "--export", f"torch:{tmp_path}/s.pt2"
    )
    assert result.exit_code == 0, result.output
    found = resect.Record.read(tmp_path / "run").found["healing"]
    assert (found["refit"], found["epochs"], found["recipe"], found["recalibrate"]) == (True, 0, None, False)
    said = "Not healed: " if found["strength"] is None else f"ridge {found['strength']:g}"
    assert said in found["summary"]
    assert (tmp_path / "s.pt2").exists()


def test_what_means_nothing_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.npz"
    some = resect.load_samples("digits", limit=40)
    np.savez(file, inputs=some.inputs.numpy(), targets=some.targets.numpy())
    network = ["resect:resnet8", "--model-arg", "width=4", "--quiet"]
    for options, said in (
        (["--remove", "1", "--distill", "0.5"], "`--distill` is an option of a training, but `--heal` is not given"),
        (
            ["--remove", "1", "--candidates", "2"],
            "`--candidates` is an option of healing, which `--heal`, `--refit` or `--recalibrate` asks for",
        ),
        (["--remove", "1", "--heal", "1", "--temperature", "3"], "of distillation, but `--distill` is 0"),
        (["--without", "1", "--heal", "1", "--candidates", "2"], "`--candidates` is an option of a search"),
        (["--remove", "1", "--heal", "1", "--heal-setting", "epochs=3"], "`--heal-setting` must be one of batch_size"),
        (["--remove", "1", "--heal", "1", "--heal-data", "tea"], "tea"),
        (
            ["--remove", "1", "--heal", "1", "--module", "blocks"],
            "for whole models whose inputs have the samples first",
        ),
    ):
        assert said in refused("prune", *COMMON, *options), options
    own = refused("prune", *network, f"npz:{file}", "--remove", "1", "--heal", "1", "--out", tmp_path / "run")
    assert "must have training samples beside those that choose and judge" in own
    assert "Name others with --heal-data DATA" in own
    assert not (tmp_path / "run").exists()


def test_defaults_are_those_of_the_library() -> None:
    source = Source("resect:resnet8", "digits")
    assert PruneAsked(source, remove=1).healing() is None
    assert PruneAsked(source, remove=1, heal=HealSettings.epochs).healing() == HealSettings()
    only = PruneAsked(source, remove=1, recalibrate=True).healing()
    assert only == HealSettings(epochs=0, recalibrate=True)
    assert PruneAsked(source, remove=1, refit=True).healing() == HealSettings(epochs=0, refit=True)
    words = HealSettings().training(images=False)
    assert words is not None
    assert (words.shift, words.learning_rate) == (0, 0.01)


def test_tied_weights_are_written_once_and_found_again(tmp_path: Path) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False)
            self.last.weight = self.first.weight

    one, other = Tied(), Tied()
    save_weights(one, tmp_path / "tied.safetensors")
    assert list(load_file(tmp_path / "tied.safetensors")) == ["first.weight"]
    load_checkpoint(other, tmp_path / "tied.safetensors")
    assert torch.equal(other.last.weight, one.first.weight)
