"""Text as windows of tokens, next and masked."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel, GPT2Config, GPT2LMHeadModel

import resect
from files import TOKENIZER, prose
from resect.cli import main
from resect.data import load_samples
from resect.data.names import parse_data_spec
from resect.data.text import windows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, and small language models with the tokenizer of all-MiniLM-L6-v2 (and without)."""
    folder = tmp_path_factory.mktemp("text")
    prose(folder, 1500)
    torch.manual_seed(0)
    own = {"vocab_size": 30522, "bos_token_id": 101, "eos_token_id": 102}
    sizes = {"n_positions": 48, "n_embd": 16, "n_layer": 2, "n_head": 2}
    bert = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    models = {
        "gpt2": GPT2LMHeadModel(GPT2Config(**own, **sizes)),
        "bytes": GPT2LMHeadModel(GPT2Config(vocab_size=256, bos_token_id=0, eos_token_id=0, **sizes)),
        "bert": BertForMaskedLM(BertConfig(max_position_embeddings=48, **bert)),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        if name != "bytes":
            AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder / name)
    return folder


TEXT = st.text(st.sampled_from("ab c\nπ"), min_size=3, max_size=60)


@settings(deadline=None)
@given(TEXT, st.integers(1, 20), st.integers(1, 20))
def test_every_token_is_predicted_once_from_all_that_its_window_holds(text: str, window: int, stride: int) -> None:
    window, stride = max(window, stride), min(window, stride)
    tokens = list(text.encode())
    room = min(window, len(tokens) - 1)
    spec = parse_data_spec(f"text:x,window={window},stride={min(stride, room)}")
    samples = windows(spec, text, None)
    assert samples.inputs.shape[1] == room
    seen = []
    for inputs, targets in zip(samples.inputs.tolist(), samples.targets.tolist(), strict=True):
        start = len(seen) - targets.count(-100)  # of the window among all tokens
        assert tokens[start : start + room] == inputs
        seen += [target for target in targets if target != -100]
    assert seen == tokens[1:]


def test_perplexity_is_that_of_the_guide_of_hugging_face(folder: Path) -> None:
    """https://huggingface.co/docs/transformers/perplexity, whose windows hold one token more, that is only a target."""
    model = GPT2LMHeadModel.from_pretrained(folder / "gpt2").eval()
    tokens = torch.tensor(AutoTokenizer.from_pretrained(TOKENIZER)((folder / "prose.txt").read_text())["input_ids"])[
        None
    ]
    window, stride, done, total = 48, 16, 0, 0.0
    for begin in range(0, tokens.shape[1], stride):
        end = min(begin + window + 1, tokens.shape[1])
        begin = end - window - 1  # ours: the last window is a whole one
        part = tokens[:, begin:end]
        labels = part.clone()
        labels[:, : -(end - done)] = -100
        with torch.no_grad():
            logits = model(part[:, :-1]).logits
        total += F.cross_entropy(logits[0], labels[0, 1:], ignore_index=-100, reduction="sum").item()
        done = end
        if end == tokens.shape[1]:
            break
    command = ["evaluate", f"text:{folder}/prose.txt,stride=16", f"hf:{folder}/gpt2", "--quiet", "--format", "json"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["tables"]["networks"]
    assert row["perplexity"] == pytest.approx(math.exp(total / (tokens.shape[1] - 1)), rel=1e-4)
    assert row["prepared"] == f"tokens of {folder}/gpt2, windows of 48, stride 16, next tokens predicted"


def test_masked_tokens_are_targets_and_the_same_again(folder: Path) -> None:
    spec = f"text:{folder}/prose.txt,tokenizer={TOKENIZER},task=masked-token,window=32"
    samples, tokenizer = load_samples(spec), AutoTokenizer.from_pretrained(TOKENIZER)
    tokens = tokenizer((folder / "prose.txt").read_text(), add_special_tokens=False)["input_ids"]
    counted = samples.targets != -100
    assert set(samples.inputs[:, 0].tolist()) == {tokenizer.cls_token_id}
    assert set(samples.inputs[:, -1].tolist()) == {tokenizer.sep_token_id}
    assert not counted[:, 0].any()
    assert not counted[:, -1].any()
    whole = torch.where(counted, samples.targets, samples.inputs)[:-1, 1:-1].reshape(-1)
    assert whole.tolist() == tokens[: len(whole)]
    assert 0.1 < counted.sum().item() / len(tokens) < 0.2
    masks = (samples.inputs[counted] == tokenizer.mask_token_id).float().mean().item()
    assert 0.65 < masks < 0.95
    assert torch.equal(load_samples(spec).inputs, samples.inputs)
    assert torch.equal(load_samples(spec, limit=2).inputs, samples.inputs[:2])
    assert not torch.equal(load_samples(f"{spec},seed=1").inputs, samples.inputs)


def test_a_masked_language_model_is_taken_for_what_it_is(folder: Path) -> None:
    table = resect.evaluate(f"text:{folder}/prose.txt", f"hf:{folder}/bert").tables["networks"]
    assert "windows of 48, stride 46, masked tokens predicted" in table["prepared"][0]


def test_lesions_of_a_language_model(folder: Path, tmp_path: Path) -> None:
    command = ["lesion", f"hf:{folder}/gpt2", f"text:{folder}/prose.txt", "--limit", "4", "--batch-size", "2"]
    result = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "run"), "--quiet"])
    assert result.exit_code == 0, result.output
    assert "Files became inputs: tokens of" in result.stdout
    record = resect.Record.read(tmp_path / "run")
    assert "perplexity" in record.tables["lesions"]
    assert record.found["prepared"].endswith("windows of 48, stride 48, next tokens predicted")


def test_texts_of_bytes(folder: Path) -> None:
    samples = load_samples(f"text:{folder}/prose.txt")
    text = (folder / "prose.txt").read_bytes()
    assert bytes(samples.inputs[0].tolist()) == text[:256]
    assert samples.classes == 256
    spec = f"text:{folder}/prose.txt,tokenizer=bytes"
    table = resect.evaluate(spec, f"hf:{folder}/bytes", limit=4).tables["networks"]
    assert 100 < table["perplexity"][0] < 500
    with pytest.raises(resect.DataError, match=r"needs a tokenizer, and the model comes without.*tokenizer=bytes"):
        resect.evaluate(f"text:{folder}/prose.txt", f"hf:{folder}/bytes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("window=64", r"`window=` must be at most 48, the longest that the model reads, got 64"),
        ("window=8,stride=9", r"`stride=` must be at most the window, 8, or tokens are left out, got 9"),
        ("window=0", r"`window=` of text: must be a whole number of at least 1, got '0'"),
        ("windw=8", r"text: takes the options tokenizer, window, stride, task, seed, got 'windw'.*Did you mean window"),
        ("task=mask", r"`task=` of text: must be one of next-token, masked-token, got 'mask'"),
        ("tokenizer=bytes,task=masked-token", r"the tokenizer bytes has no token for a mask"),
        ("tokenizer=none/here", r"none/here must have a tokenizer that transformers reads, but"),
    ],
)
def test_options_that_are_of_no_use(folder: Path, options: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from resect.models.inputs import ModelInputs

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(resect.InputError, match=message):
        load_samples(f"text:{folder}/prose.txt,{options}", model=ModelInputs(f"hf:{folder}/gpt2"))


def test_what_is_no_text(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(resect.DataError, match="there is no file"):
        load_samples(f"text:{tmp_path}/none.txt")
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(resect.DataError, match="must be text in UTF-8"):
        load_samples(f"text:{tmp_path}/x.txt")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(resect.DataError, match="must hold at least two tokens, got 0"):
        load_samples(f"text:{tmp_path}/x.txt")
    with pytest.raises(
        resect.DataError, match=r"the tokenizer .* must be the model's, but gives token \d+, .* knows 256"
    ):
        resect.evaluate(f"text:{folder}/prose.txt,tokenizer={TOKENIZER}", f"hf:{folder}/bytes")


def test_networks_that_read_other_tokens_are_not_compared(folder: Path) -> None:
    with pytest.raises(resect.DataError, match="must have the same targets for all networks, but their tokenizers"):
        resect.evaluate(f"text:{folder}/prose.txt", f"hf:{folder}/gpt2", f"hf:{folder}/bert", limit=4)
    table = resect.evaluate(f"text:{folder}/prose.txt", *[f"hf:{folder}/gpt2"] * 2, limit=4).tables["networks"]
    assert table["difference"][1] == 0
    assert table["difference_low"][1] < 0 < table["difference_high"][1]
    assert np.isnan(table["p_value"][1])


def test_functions_of_the_library_read_text_with_the_tokenizer_of_the_model(folder: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder / "gpt2").eval()
    net = resect.unravel(model, torch.zeros(1, 24, dtype=torch.long))
    result = resect.lesion(net, f"text:{folder}/prose.txt,window=24", resect.plans.explicit(net, []))
    tokens = AutoTokenizer.from_pretrained(TOKENIZER)((folder / "prose.txt").read_text())["input_ids"]
    assert result.weights.sum() == len(tokens) - 1
    model.config._name_or_path = ""
    with pytest.raises(resect.DataError, match="needs a tokenizer, and the model comes without"):
        resect.lesion(net, f"text:{folder}/prose.txt", resect.plans.explicit(net, []))


def test_a_model_without_a_head_of_tokens_is_refused(folder: Path, tmp_path: Path) -> None:
    small = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(small).save_pretrained(tmp_path)
    with pytest.raises(
        resect.DataError, match="BertModel gives 16 numbers a token, and not one for each of the 30,522"
    ):
        resect.evaluate(f"text:{folder}/prose.txt,tokenizer={TOKENIZER},window=32", f"hf:{tmp_path}", limit=2)
