"""What language models still write without some blocks: continuations, copies, closing brackets."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

import resect
from files import TOKENIZER
from resect.cli import main
from resect.data.brackets import brackets_of
from resect.data.names import parse_data_spec
from resect.data.text import Reading
from resect.engines.local import Local, Memory
from resect.pruning import exercises
from resect.pruning.exercises import closing, copying
from resect.pruning.prune import remove
from resect.pruning.written import tables

SIZE, LETTERS = 6, (97, 113)
PAIRS = tuple((ord(a), ord(b)) for a, b in ("()", "[]", "{}"))


def copies(count: int, seed: int) -> Tensor:
    """Random letters twice over, as bytes."""
    drawn = torch.randint(*LETTERS, (count, SIZE), generator=torch.Generator().manual_seed(seed))
    return torch.cat([drawn, drawn], 1)


def batches(tokens: Tensor, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    return [(part[:, :-1], part[:, 1:]) for part in tokens.split(size)]


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    """A model of bytes that has learnt to copy six letters."""
    torch.manual_seed(0)
    sizes = {"n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2}
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=256, bos_token_id=0, eos_token_id=0, initializer_range=0.05, **sizes, **none)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
    for step in range(80):
        tokens = copies(32, step)
        logits = model(tokens).logits[:, SIZE:-1]
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), tokens[:, SIZE + 1 :].flatten()).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def writer(model: GPT2LMHeadModel) -> resect.Unraveled:
    return resect.unravel(model, copies(2, 0))


def row(result: resect.Generation, check: str) -> dict[str, float]:
    return result.table.set_index("check").loc[check].to_dict()


def test_a_network_that_copies_no_longer_does_without_its_attention(writer: resect.Unraveled) -> None:
    attention = [block.index for block in writer.blocks if block.name.endswith("attn")]
    text = [(tokens, F.pad(tokens[:, 1:], (0, 1), value=-100)) for tokens in copies(64, 1000).split(16)]
    result = resect.generation(writer, text, writer.intact.without(attention))
    copied = row(result, "copying")
    assert copied["intact"] > 0.9
    assert copied["pruned"] < 0.3
    assert copied["change"] == pytest.approx(copied["pruned"] - copied["intact"])
    assert copied["change_low"] < copied["change"] < copied["change_high"] < -0.5
    assert result.table["check"].tolist() == [
        "perplexity",
        "continuations",
        "tokens",
        "copying",
    ]  # no brackets are known
    assert "of random sequences it copies" in result.summary()
    assert row(result, "continuations")["intact"] == 1
    nothing = resect.generation(writer, text, writer.intact)
    assert (nothing.table["change"] == 0).all()
    labels = [label.get_text() for label in result.plot().get_yticklabels()]
    assert labels == ["same continuations", "random tokens copied"]


def test_of_a_healed_network_the_healed_one_writes(writer: resect.Unraveled) -> None:
    """Beside the same network with the healed weights, taken apart anew."""
    text, arrangement = batches(copies(64, 1000)), writer.intact.without("transformer.h.0.mlp")
    heal = resect.HealSettings(epochs=2, recipe={"learning_rate": 0.3, "batch_size": 16})
    few = resect.PruneSettings(
        timed=False, generation=resect.GenerationSettings(16, prompt=6, tokens=5, brackets=PAIRS)
    )
    result = remove(writer, text, arrangement, few, calibration=text[:1], heal=heal, training=batches(copies(96, 5)))
    cut = remove(writer, text, arrangement, few, calibration=text[:1]).generation
    assert result.healing is not None and result.generation is not None and cut is not None
    table = result.generation.table
    for name, other in {"cut": "pruned", "cut_change": "change", "cut_change_low": "change_low"}.items():
        assert table[name].tolist() == pytest.approx(cut.table[other].tolist(), rel=1e-9)
    assert table["intact"].tolist() == cut.table["intact"].tolist()
    assert not (table["pruned"] == table["cut"])[:4].any()
    own = copy.deepcopy(writer.model)
    own.load_state_dict(result.healing.network.state_dict(), strict=False)
    again = resect.unravel(own, copies(2, 0))
    alone = resect.generation(again, text, again.intact.without("transformer.h.0.mlp"), few.generation).table
    same = ["perplexity", "copying"]
    assert [row(result.generation, c)["pruned"] for c in same] == pytest.approx(
        alone.set_index("check").loc[same, "pruned"].tolist(), rel=1e-5
    )
    prompts = copies(64, 1000)[:16, :6]
    wanted, length = writer.model.generate(prompts, max_new_tokens=5, do_sample=False), 6  # type: ignore[operator]
    with torch.no_grad():
        written = result.healing.network(wanted).logits[:, length - 1 : -1].argmax(-1)
    parts = (written == wanted[:, length:]).all(1).float().mean()
    assert row(result.generation, "continuations")["pruned"] == pytest.approx(float(parts))
    said = result.generation.summary()
    assert said.startswith("After healing: of 16 continuations of the text, each the likeliest 5 tokens, ")
    assert " Before: of 16 continuations " in said
    (first, _), (second, rows) = tables(table)
    assert (first[2], second[2]) == ("cut", "healed")
    assert rows[0][2] == f"{table['pruned'][0]:.3g}"


def test_what_the_model_does_not_run_at_is_not_timed(writer: resect.Unraveled) -> None:
    long = resect.PruneSettings(timing_length=64, generation=None)
    with pytest.raises(resect.InputError, match=r"`timing_length` must be a length that the model runs at, got 64: "):
        resect.prune(writer, batches(copies(64, 1)), resect.Budget(remove=1), long)


def test_continuations_are_those_of_generate_and_part_where_those_of_the_small_network_do(
    model: GPT2LMHeadModel, writer: resect.Unraveled
) -> None:
    tokens, asked = copies(40, 2000), resect.GenerationSettings(samples=40, prompt=5, tokens=5)
    arrangement = writer.intact.without(1)
    result = resect.generation(writer, batches(tokens), arrangement, asked)
    assert (result.prompt, result.tokens) == (5, 5)
    prompts = tokens[:, :5]
    own = model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=5, do_sample=False)[:, 5:]
    small, written = writer.standalone(arrangement), prompts
    for _ in range(5):
        with torch.no_grad():
            written = torch.cat([written, small(written).logits[:, -1:].argmax(-1)], 1)
    same = (written[:, 5:] == own).long()
    assert 0 < same.all(1).sum() < 40  # or the test says nothing
    assert row(result, "continuations")["pruned"] == pytest.approx(same.all(1).double().mean())
    assert row(result, "tokens")["pruned"] == pytest.approx(same.cumprod(1).sum(1).double().mean())
    assert row(result, "tokens")["intact"] == 5
    lesioned = resect.lesion(writer, batches(tokens), resect.plans.explicit(writer, [arrangement])).table
    assert row(result, "perplexity")["pruned"] == pytest.approx(lesioned["perplexity"][0])


def test_brackets_are_chosen_among_those_that_close(writer: resect.Unraveled) -> None:
    texts = torch.randint(*LETTERS, (24, 30), generator=torch.Generator().manual_seed(5))
    asked = resect.GenerationSettings(samples=24, brackets=PAIRS, before=(10,), seed=3)
    arrangement = writer.intact.without(1)
    result = resect.generation(writer, batches(texts), arrangement, asked)
    sequences = closing(PAIRS, (10,), 24, 29, 3)
    assert sequences is not None
    tokens, targets = sequences
    closers = torch.tensor(sorted(close for _, close in PAIRS))
    for name, runs in (("intact", writer.intact), ("pruned", arrangement)):
        with torch.no_grad():
            chosen = closers[writer(tokens, runs).logits[..., closers].argmax(-1)]
        right = (chosen == targets)[targets != -100].double().mean()
        assert row(result, "brackets")[name] == pytest.approx(float(right))


class Sums(nn.Module):
    """Each token from the sum of all before it; of one length, or of any up to it."""

    def __init__(self, length: int, free: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding, self.branch, self.head = nn.Embedding(128, 8), nn.Linear(8, 8), nn.Linear(8, 128)
        self.position, self.free = nn.Parameter(torch.randn(length, 8)), free

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        state = self.embedding(tokens) + (self.position[: tokens.shape[1]] if self.free else self.position)
        state = state if mask is None else state * mask[..., None]
        return self.head(state + self.branch(state.cumsum(1)))


def test_a_graph_that_holds_one_length_and_masks_beside_the_tokens_give_the_same() -> None:
    tokens, asked = copies(12, 3000), resect.GenerationSettings(samples=8, prompt=4, tokens=3)
    text, whole, cut = batches(tokens, 4), torch.ones(4, 11), torch.ones(4, 11)
    cut[0, -2:] = 0
    values = []
    for free, data in ((True, text), (False, text), (True, [((part, whole), wanted) for part, wanted in text])):
        own = resect.unravel(Sums(11, free), data[0][0])
        table = resect.generation(own, data, own.intact.without(0), asked).table
        values.append(table.drop(columns="check").to_numpy(float))
    for other in values[1:]:
        np.testing.assert_allclose(other, values[0], rtol=1e-5, atol=1e-7)
    few = resect.generation(own, [((part, cut), wanted) for part, wanted in text], own.intact.without(0))
    assert few.continuations.samples == 9  # the first of every four is cut short
    with pytest.raises(resect.DataError, match="of nothing else but masks"):
        resect.generation(own, [((part, whole / 2), wanted) for part, wanted in text], own.intact.without(0))


def test_what_is_no_text_is_refused_and_pruned_without(
    writer: resect.Unraveled, net: resect.Unraveled, batch: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(resect.DataError, match="must be text for a causal language model"):
        resect.generation(net, [batch], net.intact.without(0))
    one_shot = resect.PruneSettings(search="one-shot", score="norm_ratio", timed=False)
    assert resect.prune(net, [batch], resect.Budget(remove=1), one_shot).generation is None
    tokens = copies(8, 1)
    hidden = [
        (tokens.where(tokens <= 100, 0), tokens.where(tokens > 100, -100))
    ]  # in their own place, as of a masked model
    with pytest.raises(resect.DataError, match="whose targets are the tokens that follow"):
        resect.generation(writer, hidden, writer.intact.without(0))
    with pytest.raises(resect.InputError, match="`tokens` must be a whole number of at least 1, got 0"):
        resect.GenerationSettings(tokens=0)
    with pytest.raises(resect.InputError, match=r"give resect\.GenerationSettings\(prompt=\.\.\.\)"):
        resect.generation(writer, batches(tokens), writer.intact, prompt=3)


def test_what_was_written_is_kept(writer: resect.Unraveled, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, text, arrangement = Local(Memory()), batches(copies(20, 1)), writer.intact.without(1)
    first = resect.generation(writer, text, arrangement, engine=engine)

    def rewritten(*arguments: object) -> None:
        raise AssertionError("it was written before")

    monkeypatch.setattr("resect.pruning.writers.Continued.run", rewritten)
    again = resect.generation(writer, text, arrangement, engine=engine)
    assert again.table.equals(first.table)
    result = resect.prune(writer, text * 4, resect.Budget(remove=1), resect.PruneSettings(timed=False, generation=None))
    assert result.generation is None


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(0, 3), st.integers(1, 12), st.integers(0, 99))
def test_copies_are_asked_for_and_brackets_close(room: int, before: int, kinds: int, seed: int) -> None:
    known, start = np.arange(200, 200 + kinds), tuple(range(before))
    copied = copying(known, start, 5, room, seed)
    assert (copied is None) == (kinds < 2 or room - before < 4)
    for tokens, targets in [copied] if copied else []:
        size = (tokens.shape[1] - before) // 2
        assert tokens.shape[1] <= room
        assert torch.equal(tokens[:, before : before + size], tokens[:, before + size :])
        assert torch.equal(targets[:, before + size : -1], tokens[:, before + size + 1 :])
        assert (targets != -100).sum() == 5 * (size - 1)
        if kinds >= size:
            assert all(len(set(sequence)) == size for sequence in tokens[:, before + size :].tolist())
    pairs = [(2 * i, 2 * i + 1) for i in range(kinds)]
    closed = closing(pairs, start, 5, room, seed)
    assert (closed is None) == (kinds < 2 or room < before + 24)
    for tokens, targets in zip(*closed, strict=True) if closed else []:
        opened: list[int] = []
        for token in tokens[before:].tolist():
            if token % 2:
                assert opened.pop() == token - 1
            else:
                opened.append(token)
        assert not opened
        assert targets[targets != -100].tolist() == tokens[-4:].tolist()


def test_brackets_are_found_among_the_tokens() -> None:
    read = Reading("bytes", 32, False, 256)
    assert brackets_of(parse_data_spec("text:x"), read).pairs[:2] == ((40, 41), (91, 93))
    assert brackets_of(parse_data_spec("text:x"), Reading("bytes", 32, False, 92)).pairs == ((40, 41), (60, 62))
    assert brackets_of(parse_data_spec("digits"), read).pairs == ()
    assert brackets_of(parse_data_spec("text:x"), Reading(None)).pairs == ()
    own = brackets_of(parse_data_spec(f"text:x,tokenizer={TOKENIZER}"), None)
    assert len(own.pairs) == 4
    assert own.before == (101,)  # [CLS]
    assert exercises.naming("brackets", None, [41, 93]).key == "brackets [41, 93]:"


def test_a_run_on_text_tells_of_the_writing(model: GPT2LMHeadModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    words = ["".join(map(chr, line)) for line in copies(90, 7).tolist()]
    (tmp_path / "text.txt").write_text("".join(words))
    common = ["prune", f"hf:{tmp_path / 'model'}", f"text:{tmp_path / 'text.txt'},window=30,tokenizer=bytes"]
    common += ["--remove", "1", "--no-timed", "--quiet"]
    out = tmp_path / "run"
    result = CliRunner().invoke(main, [*common, "--out", str(out), "--new-tokens", "5"])
    assert result.exit_code == 0, result.output
    record = resect.Record.read(out)
    table = record.tables["generation"]
    assert table["check"].tolist() == ["perplexity", "continuations", "tokens", "copying", "brackets"]
    assert record.found["generation"]["tokens"] == 5
    assert table["samples"][1:].tolist() == [record.found["samples"]] * 4  # no more than there are
    page = (out / "report.html").read_text()
    for shown in (result.stdout, page):
        for words in ("same continuations", "brackets closed"):
            assert words in shown
        assert "continuations of the text, each the likeliest 5 tokens" in shown
    assert CliRunner().invoke(main, ["show", str(out)]).stdout == result.stdout
    wrong = CliRunner().invoke(main, [*common, "--prompts", "0", "--new-tokens", "5"])
    assert wrong.exit_code == 2
    assert "`--new-tokens` is an option of continuing prompts, but `--prompts` is 0" in wrong.stderr
