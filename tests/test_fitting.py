"""Searches that are kept to what a format of exports can do without."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import resect
from hf_families import FAMILIES
from resect.cli import main
from resect.jobs.asked_pruning import PruneAsked
from resect.jobs.source import Source
from resect.pruning.export.fitting import Fitted, fitted
from resect.pruning.export.formats import FORMATS
from resect.pruning.export.hugging_face import quiet
from resect.pruning.prune import SEARCHES
from resect.pruning.settings import FITTED

GENERATOR = torch.Generator().manual_seed(3)
DATA = [(torch.randn(6, 1, 8, 8, generator=GENERATOR), torch.randint(0, 10, (6,), generator=GENERATOR)) for _ in "ab"]


@cache
def network(family: str) -> resect.Unraveled:
    with quiet():
        return resect.unravel(FAMILIES[family].make(), FAMILIES[family].example())


def kept(net: resect.Unraveled, kind: str, budget: resect.Budget, **settings: object) -> Fitted:
    return fitted(net, resect.PruneSettings(**settings), budget, [kind])


def test_what_is_named_is_what_there_is() -> None:
    assert set(FORMATS) - set(FITTED) == {"torch", "onnx"}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_halves_of_a_layer_go_together(family: str) -> None:
    net = network(family)
    found = kept(net, "hf", resect.Budget(remove=4))
    assert (found.settings.unit, found.settings.protected, found.budget.remove) == ("layer", (), 2)
    assert found.said == "The search was kept to what hf can do without, each alone: 4 layers of 2 blocks each."
    part = resect.Budget(params=0.5)
    assert kept(net, "hf", part).budget == part
    said = "`remove` must be a multiple of 2, as hf can only do without layers of 2 blocks each, got 3"
    with pytest.raises(resect.InputError, match=said):
        kept(net, "hf", resect.Budget(remove=3))
    assert kept(net, "hf", part, protected=(0,)).settings.protected == (0,)
    for same in (kept(net, "hf-zero", part), kept(net, "hf", part, unit="layer")):  # which hold any of their units
        assert same.said == "" and same.settings.protected == ()
    own = kept(net, "hf", part, unit=[[0, 1], [2], [4, 5]])  # groups of one's own are not widened
    assert own.settings.unit == [[0, 1], [2], [4, 5]]
    assert own.settings.protected == (2, 3, 6, 7)
    assert own.said.endswith("each alone: 2 of 3 groups.")


def test_entries_may_hold_different_numbers_of_units() -> None:
    found = kept(network("t5"), "hf", resect.Budget(params=0.5))
    assert found.settings.unit == "layer"
    assert found.said.endswith("8 layers of 2 to 3 blocks each.")
    with pytest.raises(
        resect.InputError, match=r"`remove` counts blocks, but hf can only do without layers of 2 to 3 bl"
    ):
        kept(network("t5"), "hf", resect.Budget(remove=4))


def test_what_can_hold_no_result_is_refused_with_the_reason() -> None:
    with pytest.raises(resect.ExportError, match=r"it still reads .*LayerNorm"):
        kept(network("bert"), "hf", resect.Budget(remove=2))


@pytest.mark.parametrize("search", SEARCHES)
def test_no_search_removes_what_has_to_stay(net: resect.Unraveled, search: str) -> None:
    """Blocks with a projection, which the format cannot do without: only 3 of a ResNet-20's 9 are left to choose."""
    quick = {"search": search, "timed": False, "generations": 2, "offspring": 4, "protected": ("blocks.1", -1, 4, 5)}
    found = kept(net, "resect", resect.Budget(remove=2), **quick)
    stay = {index for index, block in enumerate(net.blocks) if block.kind == "projection"} | {1, 4, 5, 8}
    assert found.said.endswith("each alone: 7 of 9 blocks.")
    assert set(found.settings.protected) == stay
    for count in (1, 2):
        if search == "window" and count == 2:
            with pytest.raises(resect.InputError, match="no run of consecutive units"):
                resect.prune(net, DATA, resect.Budget(remove=2), found.settings)
            continue
        result = resect.prune(net, DATA, resect.Budget(remove=count), found.settings)
        gone = {i for i, decision in enumerate(result.arrangement) if decision is None}
        assert len(gone) == count and not gone & stay
    with pytest.raises(resect.InputError, match="`remove` must be at most 3 of the 9 blocks, got 4"):
        resect.prune(net, DATA, resect.Budget(remove=4), found.settings)


def test_a_plan_needs_no_search() -> None:
    source = Source("resect:resnet8", "digits")
    assert PruneAsked(source, remove=1, fits=("resect",)).command().endswith("--remove 1 --fits resect")
    with pytest.raises(resect.InputError, match="`fits` is an option of a search, but what goes is given"):
        PruneAsked(source, without=(1,), fits=("resect",))
    with pytest.raises(resect.InputError, match="`fits` must be one of hf, hf-zero"):
        PruneAsked(source, remove=1, fits=("torch",))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["prune", *map(str, arguments), "--no-timed", "--quiet"])


@pytest.mark.slow
def test_an_exported_search_of_blocks_removes_whole_layers(tmp_path: Path) -> None:
    import transformers

    with quiet():
        FAMILIES["gpt2"].make().save_pretrained(tmp_path / "gpt2")
    letters = torch.randint(65, 91, (1500,), generator=torch.Generator().manual_seed(2))
    (tmp_path / "text.txt").write_text("".join(map(chr, letters.tolist())))
    words = [f"hf:{tmp_path / 'gpt2'}", f"text:{tmp_path / 'text.txt'},tokenizer=bytes,window=16", "--remove", "4"]
    words += ["--search", "one-shot", "--prompts", "0", "--out", str(tmp_path / "run")]
    done = run(*words, "--export", f"hf:{tmp_path / 'small'}")
    assert done.exit_code == 0, done.output
    record = resect.Record.read(tmp_path / "run")
    assert (record.found["what"], record.found["unit"]) == ("2 of 4 layers", "layer")
    assert record.found["kept_to"] in done.stdout
    assert "--remove 4 --fits hf" in record.command
    with quiet():
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert loaded.config.n_layer == 2
    before = (tmp_path / "run" / "record.json").read_bytes()
    again = run(*words, "--export", f"gguf-layers:{tmp_path / 'layers'}")  # of a run that is over
    assert again.exit_code == 0, again.output
    assert (tmp_path / "run" / "record.json").read_bytes() == before
    assert len((tmp_path / "layers").read_text().split(",")) == 2


@pytest.mark.slow
def test_what_the_search_found_and_no_format_can_hold_is_kept(tmp_path: Path) -> None:
    """Each layer of a stage of a ConvNeXt can go, but not both."""
    with quiet():
        FAMILIES["convnext"].make().save_pretrained(tmp_path / "net")
    images = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0)).numpy()
    np.savez(tmp_path / "data.npz", inputs=images, targets=np.arange(40) % 2)
    out, stage = tmp_path / "run", "convnext.encoder.stages.0.layers"
    words = [f"hf:{tmp_path / 'net'}", f"npz:{tmp_path / 'data.npz'}", "--remove", "2", "--format", "json"]
    groups = ["--group", f"{stage}.0", "--group", f"{stage}.1", "--out", out]
    done = run(*words, *groups, "--export", f"hf:{tmp_path / 'small'}", "--export", f"torch:{tmp_path / 'small.pt2'}")
    assert done.exit_code == 2, done.stderr
    assert json.loads(done.stdout)["found"]["what"] == "2 of 2 groups"
    said = (
        f"error: hf:{tmp_path / 'small'}: hf cannot express this network without layers 0 of the 4 in convnext.encoder"
    )
    assert said in done.stderr
    assert f"Written: {tmp_path / 'small.pt2'}." in done.stderr
    assert f"{out} keeps what was found: `resect export {out} KIND:PATH` writes it." in done.stderr
    assert (tmp_path / "small.pt2").is_file() and not (tmp_path / "small").exists()
