"""DataLoaders, lists of batches, and samples of a user's own, as data of every verb."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import resect
from resect.data import load_samples
from resect.data.loaders import Loader
from resect.jobs.source import Source

INPUTS = torch.arange(60.0).view(10, 6)
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])


def loader() -> Loader:
    return Loader("own", DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=4))


@pytest.mark.parametrize("size", [1, 3, 4, 7, 10, 99])
def test_batches_of_a_loader_are_cut_to_the_size_that_is_asked_for(size: int) -> None:
    batches = list(loader().batches(size))
    assert [len(targets) for _, targets in batches] == [len(part) for part in TARGETS.split(size)]
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), INPUTS)
    assert len(loader().batches(size)) == len(batches)


def test_a_loader_answers_what_samples_answer() -> None:
    samples = loader()
    assert (len(samples), samples.shape, samples.classes) == (10, (6,), 3)
    assert torch.equal(samples.targets_only(), TARGETS)
    assert torch.equal(samples.limited(5).first(99)[0], INPUTS[:5])
    assert samples.to(torch.float64).first()[0].dtype == torch.float64
    assert samples.digest() == loader().digest() != samples.limited(9).digest()
    with pytest.raises(resect.DataError, match="`limit` must be at least 1, got -1"):
        samples.limited(-1)
    with pytest.raises(resect.DataError, match="`batch-size` must be at least 1, got 0"):
        samples.batches(0)
    with pytest.raises(resect.DataError, match="must give batches that can be read again, but generator is used up"):
        Loader("own", (pair for pair in [(INPUTS, TARGETS)]))


def test_several_inputs_are_cut_together() -> None:
    batches = [
        {"a": INPUTS[:3], "b": TARGETS[:3, None], "labels": TARGETS[:3]},
        {"a": INPUTS[3:], "b": TARGETS[3:, None], "labels": TARGETS[3:]},
    ]
    first, *_ = Loader("own", batches).batches(5)
    assert torch.equal(first[0]["a"], INPUTS[:5])
    assert torch.equal(first[0]["b"], TARGETS[:5, None])
    assert torch.equal(first[1], TARGETS[:5])


OWN = """
import resect, torch
from torch.utils.data import DataLoader, TensorDataset
known = resect.load_samples("digits", limit=40)
def loaded():
    return DataLoader(TensorDataset(known.inputs, known.targets), batch_size=16)
def listed():
    return [(known.inputs[:30], known.targets[:30]), (known.inputs[30:], known.targets[30:])]
def generated():
    return iter(listed())
class Own:
    classes, shape = 10, (1, 8, 8)
    def first(self, count=1):
        return known.inputs[:count], known.targets[:count]
    def batches(self, size):
        yield from ((known.inputs[i:i + size], known.targets[i:i + size]) for i in range(0, 40, size))
    def digest(self):
        return "own"
"""


@pytest.mark.parametrize("factory", ["loaded", "listed", "Own"])
def test_factories_give_loaders_and_samples_of_their_own(
    factory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"own_{factory}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    known = load_samples("digits", limit=40)
    spec = f"py:own_{factory}:{factory}"
    found = resect.evaluate(spec, "resect:vgg15-digits", limit=33, batch_size=8).tables["networks"]
    expected = resect.evaluate("digits", "resect:vgg15-digits", limit=33, batch_size=8).tables["networks"]
    assert found["error"].tolist() == expected["error"].tolist()
    assert found["loss"].tolist() == expected["loss"].tolist()
    samples = Source("resect:vgg15-digits", spec).samples()
    assert torch.equal(samples.first(40)[0], known.inputs)
    assert samples.classes == 10
    assert samples.digest() != samples.limited(3).digest()


def test_a_generator_of_a_factory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_generated.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(resect.DataError, match="own_generated:generated must give batches that can be read again"):
        load_samples("py:own_generated:generated")


def test_functions_of_the_library_read_samples_of_a_users_own(
    net: resect.Unraveled, batch: tuple[Tensor, Tensor]
) -> None:
    class Own:
        def __init__(self) -> None:
            self.sizes: list[int] = []

        def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
            self.sizes.append(size)
            yield batch

    own = Own()
    plan = resect.plans.explicit(net, [])
    assert resect.lesion(net, own, plan).intact_error == resect.lesion(net, [batch], plan).intact_error
    assert own.sizes == [500]
    resect.lesion(net, own, plan.removing("mean"))
    assert own.sizes == [500] * 3  # read twice
