"""The examples run as they stand, as scripts and as notebooks, and what they print is what plain PyTorch says."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("own_accelerate")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LOOPS = ("accelerate_loop", "compiled", "timm_loop", "trainer")  # on a schedule; test_scheduled checks what they show


@dataclass(frozen=True)
class Ran:
    """What an example left behind: its names, its text and its folder."""

    names: dict[str, Any]
    text: str
    out: Path

    def __getattr__(self, name: str) -> Any:
        return self.names[name]

    def numbers(self, pattern: str) -> list[float]:
        """The numbers in the sentence that fits a pattern."""
        (groups,) = re.findall(pattern, self.text)
        return [
            float(group.replace(",", "").replace("−", "-"))
            for group in ([groups] if isinstance(groups, str) else groups)
        ]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[[str], Ran]:
    """Run an example in an empty folder, without a network."""

    def run(name: str) -> Ran:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.chdir(tmp_path)
        names = runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
        return Ran(names, capsys.readouterr().out, tmp_path / "out")

    return run


def hooked(change: Callable[[Tensor], Tensor], *modules: nn.Module) -> Any:
    """The modules' outputs (the first one, of several) changed on their way."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    @contextmanager
    def while_hooked() -> Iterator[None]:
        handles = [module.register_forward_hook(hook) for module in modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    return while_hooked()


def silent(*modules: nn.Module) -> Any:
    """The branches that end in these modules deleted: they add zero."""
    return hooked(torch.zeros_like, *modules)


def error(model: nn.Module, test: Any) -> float:
    with torch.no_grad():
        return float((model(test.inputs).argmax(1) != test.targets).double().mean())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "timm_loop" else pytest.mark.slow) for name in LOOPS]
)
def test_loops_run_and_learn(name: str, ran: Callable[[str], Ran]) -> None:
    example = ran(name)
    assert example.test_error < 0.6  # 0.9 by chance
    assert f"test error {example.test_error:.1%}" in example.text


def test_a_cnn_of_ones_own(ran: Callable[[str], Ran]) -> None:
    example = ran("own_cnn")
    model, test, table = example.model, example.test, example.lesions.table
    without = []
    for block in model.blocks:
        with silent(block.convolution):
            without.append(error(model, test))
    intact = error(model, test)
    assert intact < 0.2 and "bit-identical to the model: True" in example.text
    np.testing.assert_allclose(table["error"], without, atol=1e-6)
    shown, largest = example.numbers(r"intact error (\S+) %, .*largest (\S+) points")
    assert shown == pytest.approx(intact * 100, abs=0.005)
    assert largest == pytest.approx((max(without) - intact) * 100, abs=0.005)

    depth = length_shares(model, [block.convolution for block in model.blocks], test.limited(100)) @ np.arange(7)
    assert example.numbers(r"(\S+) blocks deep on average") == [pytest.approx(depth, abs=0.006)]
    assert_pictures(example, "own_cnn_lesions", "own_cnn_paths")


def length_shares(model: nn.Module, ends: list[nn.Module], samples: Any) -> np.ndarray:
    """The mean shares of all path lengths: the gradient is a polynomial in a factor on every branch's gradient."""
    model, images = model.double(), samples.inputs.double().requires_grad_()
    points, gradients = np.linspace(-1, 1, len(ends) + 1), []
    for point in points:
        with hooked(lambda branch, factor=float(point): factor * branch + (1 - factor) * branch.detach(), *ends):
            loss = F.cross_entropy(model(images), samples.targets, reduction="sum")
        gradients.append(torch.autograd.grad(loss, images)[0].flatten(1).numpy())
    model.float()
    inverse, whole = np.linalg.inv(np.vander(points, increasing=True)), gradients[-1]
    by_length = np.einsum("kp,pnd->knd", inverse, np.array(gradients))
    return np.asarray((np.einsum("knd,nd->kn", by_length, whole) / np.square(whole).sum(1)).mean(1))


@pytest.mark.slow
def test_a_loss_of_ones_own(ran: Callable[[str], Ran]) -> None:
    example = ran("own_loss")
    stem, *layers, norm, head = example.model
    test, digits = example.test, np.arange(10)

    def off(without: int | None) -> float:
        with torch.no_grad():
            x = stem(test.inputs)
            for i, layer in enumerate(layers):
                x = x if i == without else x + nn.Sequential(*layer)(x)
            chances = head(norm(x)).softmax(1).double().numpy()
        return float(np.mean([p @ abs(digits - t) for p, t in zip(chances, test.targets.tolist(), strict=True)]))

    costs = [off(i) for i in range(len(layers))]
    np.testing.assert_allclose(example.lesions.table["loss"], costs, rtol=1e-4)
    intact, worst, change = example.numbers(r"off by (\S+); without \S+ by (\S+), (\S+) \[")
    assert [intact, worst] == [pytest.approx(off(None), abs=6e-4), pytest.approx(max(costs), abs=6e-4)]
    assert change == pytest.approx(max(costs) - off(None), abs=6e-4)
    assert "of 64 paths" in example.text  # 2^6
    assert_pictures(example, "own_loss")


@pytest.mark.slow
def test_pruning_a_vision_transformer(ran: Callable[[str], Ran]) -> None:
    example = ran("prune_vit")
    model, test, small = example.model, example.test, example.small
    parts = [model.get_submodule(name) for name in example.least]
    norms = [model.get_submodule(re.sub("mlp$", "norm2", re.sub("attn$", "norm1", name))) for name in example.least]
    gone = sum(p.numel() for part in (*parts, *norms) for p in part.parameters())
    whole = sum(p.numel() for p in model.parameters())
    with silent(*parts):
        lesioned = error(model, test)
    left, of, without = example.numbers(r"(\S+) of (\S+) parameters, test error (\S+)%")
    assert (left, of, without) == (whole - gone, whole, pytest.approx(lesioned * 100, abs=0.06))
    assert example.numbers(r"damage (\S+) points") == [pytest.approx((lesioned - error(model, test)) * 100, abs=0.005)]
    trained, intact = example.numbers(r"epochs: test error (\S+)%; the whole network errs on (\S+)%")
    assert [trained, intact] == [pytest.approx(error(m, test) * 100, abs=0.06) for m in (small, model)]
    assert "its outputs are the same: True" in example.text
    assert not [name for name in example.saved["weights"] if name.startswith(tuple(example.least))]
    assert_pictures(example, "prune_vit")


@pytest.mark.slow
def test_the_blocks_of_a_gpt2(ran: Callable[[str], Ran]) -> None:
    example = ran("gpt2")
    model, test = example.model, example.test
    branches = {block.name: model.get_submodule(block.name) for block in example.net.blocks}

    def perplexity(*without: nn.Module) -> float:
        with torch.no_grad(), silent(*without):
            logits = model(input_ids=test[:, :-1]).logits
        return float(F.cross_entropy(logits.flatten(0, 1), test[:, 1:].flatten()).exp())

    expected = {name: perplexity(branch) for name, branch in branches.items()}
    np.testing.assert_allclose(example.lesions.table["perplexity"], list(expected.values()), rtol=1e-4)
    intact, least, most = example.numbers(r"Perplexity (\S+); without \S+ (\S+), without \S+ (\S+)\.")
    assert intact == pytest.approx(perplexity(), abs=0.006) and intact < 20  # 256 by chance
    assert [least, most] == [pytest.approx(f(expected.values()), abs=0.006) for f in (min, max)]
    with silent(branches[example.least["name"]]):
        assert example.write(model, example.start, 60) == example.write(example.small, example.start, 60)
    assert repr(example.write(model, example.start, 60)) in example.text
    assert_pictures(example, "gpt2")


@pytest.mark.slow
def test_the_blocks_of_minilm(ran: Callable[[str], Ran]) -> None:
    example = ran("minilm")
    bert = example.model.bert

    def measured(pairs: list[tuple[str, str]], *without: str) -> tuple[float, float]:
        """Recall at 1 and InfoNCE, of all texts in one batch.

        What a block of BERT adds, before it is normalised, comes from the last linear layer of its branch.
        """
        ends = [example.model.get_submodule(f"{name}.output.dense") for name in without]
        texts = [text for pair in pairs for text in pair]
        tokens = example.tokenizer(texts, truncation=True, max_length=16, padding=True, return_tensors="pt")
        with torch.no_grad(), silent(*ends):
            states = bert(**tokens).last_hidden_state.double()
        means = [own[: int(mask.sum())].mean(0) for own, mask in zip(states, tokens["attention_mask"], strict=True)]
        embedded = F.normalize(torch.stack(means), dim=1)
        scores = (embedded[::2] @ embedded[1::2].T).numpy()
        right = scores.diagonal()
        return float((scores.max(1) == right).mean()), float(np.mean(np.log(np.exp(20 * scores).sum(1)) - 20 * right))

    assert "bit-identical to the model: True" in example.text and len(example.net.blocks) == 12
    table = example.lesions.table.set_index("name")
    for name in ("bert.encoder.layer.0", "bert.encoder.layer.5.attention"):  # an MLP, and an attention
        recall, loss = measured(example.pairs[:120], name)
        assert table["error"][name] == pytest.approx(1 - recall, abs=1e-6)
        assert table["loss"][name] == pytest.approx(loss, abs=1e-4)
        assert example.numbers(rf"\n{re.escape(name)} +(\S+), ") == [pytest.approx(loss, abs=6e-4)]
    held_out = example.pairs[120:240]
    intact, lesioned = measured(held_out)[0], measured(held_out, *example.least)[0]
    assert example.numbers(r"Held-out pairs: recall at 1 is (\S+)%") == [pytest.approx(intact * 100, abs=0.06)]
    recall, change = example.numbers(rf"without {re.escape(', '.join(example.least))}: (\S+)%, (\S+) points")
    assert [recall, change] == pytest.approx([lesioned * 100, (lesioned - intact) * 100], abs=0.06)
    for part in ("attention.self", "attention.output.dense", "intermediate", "output.dense"):  # norms keep their place
        first, second = (bert.encoder.layer[k].get_submodule(part) for k in (1, 2))
        bert.encoder.layer[1].set_submodule(part, second)
        bert.encoder.layer[2].set_submodule(part, first)
    (recall,) = example.numbers(r"layers 1 and 2 swapped: (\S+)%")
    assert recall == pytest.approx(measured(held_out)[0] * 100, abs=0.06)
    assert_pictures(example, "minilm")


def assert_pictures(example: Ran, *names: str) -> None:
    assert {path.stem for path in example.out.glob("*.png")} == set(names)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in example.out.glob("*.png"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_notebooks(path: Path) -> None:
    text = path.read_text()
    assert re.match(r'# %% \[markdown\]\n"""\n# [^\n]+\n\n', text), "the first cell is a title and what it is about"
    assert not re.search(r"^if __name__|^def main", text, re.MULTILINE)
    for cell in re.split(r"^# %%", text, flags=re.MULTILINE)[2:]:
        kind, _, body = cell.partition("\n")
        if kind == " [markdown]":
            assert all(line.startswith("#") for line in body.splitlines() if line)
        else:
            assert not kind
            compile(body, str(path), "exec")


def test_the_readme_lists_the_examples() -> None:
    text = (ROOT / "examples" / "README.md").read_text()
    listed = re.findall(r"^\| \[(\w+\.py)\]\((\w+\.py)\) \|", text, re.MULTILINE)
    assert sorted(listed) == [(path.name, path.name) for path in EXAMPLES]


def test_the_reference_shows_examples_as_they_are() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    shown = re.findall(r"\(\.\./(examples/\w+\.py)\):\n\n```python\n(.*?)```", text, re.DOTALL)
    assert {name for name, _ in shown} == {"examples/timm_loop.py", "examples/trainer.py"}
    named = set(re.findall(r"examples/\w+\.py", text))
    assert {f"examples/{name}.py" for name in LOOPS} == named - {"examples/minilm.py"}
    for name, code in shown:
        assert code in (ROOT / name).read_text(), name
