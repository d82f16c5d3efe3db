"""Lengths of sequences and sizes of images are free where the model takes others."""

from __future__ import annotations

import inspect
import io

import pytest
import torch
from torch import Tensor, nn

import resect
from networks import Frame, Residual, conv


class Language(nn.Module):
    """A small causal language model with a table of 24 positions; a mask of its inputs is optional."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 8), nn.Embedding(24, 8)
        self.blocks = nn.ModuleList(nn.ModuleList([nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)]) for _ in "ab")
        self.head = nn.Linear(8, 11)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        length = input_ids.shape[1]
        x = self.words(input_ids) + self.places(torch.arange(length))
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        if attention_mask is not None:
            seen = seen & attention_mask.bool()[:, None, None, :]
        for norm, qkv, out in self.blocks:
            q, k, v = qkv(norm(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
            x = x + out(attended.transpose(1, 2).flatten(2))
        return self.head(x) * scale


def ids(*shape: int) -> Tensor:
    return torch.randint(11, shape)


@pytest.fixture(scope="module")
def model() -> Language:
    torch.manual_seed(0)
    return Language().eval()


@pytest.fixture(scope="module")
def net(model: Language) -> resect.Unraveled:
    return resect.unravel(model, ids(2, 6))


@pytest.mark.parametrize("length", [1, 2, 5, 6, 13, 24])
def test_a_sequence_of_any_length_has_the_bits_of_the_model(net, length: int) -> None:
    assert net.check(ids(3, length)).identical


class Mapped(nn.Module):
    """Makes its mask by a function of two places, as language models do that were made for older torch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in "ab")

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1])
        seen = torch.vmap(torch.vmap(lambda here, there: there <= here, (None, 0)), (0, None))(places, places)
        for layer in self.layers:
            x = x + seen.to(x.dtype) @ layer(x).relu()
        return x


def test_a_mask_that_is_mapped_over_places_has_any_length() -> None:
    net = resect.unravel(Mapped().eval(), torch.randn(2, 6, 8))
    assert len(net.blocks) == 2 and not net.recorded
    for size in ((3, 9, 8), (1, 4, 8)):
        assert net.check(torch.randn(size)).identical


def test_what_the_model_cannot_run_is_a_sentence(net) -> None:
    too_long = r"longer than the table of positions\. Its tables have \d+ and 24 rows"
    with pytest.raises(resect.InputError, match=too_long):
        net(ids(2, 25))
    with pytest.raises(resect.InputError, match=too_long):
        net.without(0)(ids(2, 25))
    with pytest.raises(resect.InputError, match=r"input 0 of shape \(B, L\) int64 as the example has, got \(2, 3, 4\)"):
        net(ids(2, 3, 4))


def test_a_stand_alone_network_generates(net) -> None:
    small = net.without(1)
    text = ids(1, 1)
    for _ in range(10):
        text = torch.cat([text, small(text)[:, -1:].argmax(-1)], 1)
    again = text[:, :1]
    for _ in range(10):
        again = torch.cat([again, net(again, net.intact.without(1))[:, -1:].argmax(-1)], 1)
    assert torch.equal(text, again)


def test_lesions_and_paths_run_on_batches_of_several_lengths(net, model) -> None:
    data = [(ids(3, length), ids(3, length)) for length in (4, 9, 6)]
    result = resect.lesion(net, data, resect.plans.single(net))
    each = [(model(inputs).detach().flatten(0, 1), targets.flatten()) for inputs, targets in data]
    wanted = sum(nn.functional.cross_entropy(*pair, reduction="sum") for pair in each) / sum(len(t) for _, t in each)
    assert result.intact_mean("loss") == pytest.approx(float(wanted), rel=1e-5)
    assert resect.path_spectrum(net, data).sum_error < 1e-5


def test_masks_must_be_as_long_as_the_text(model) -> None:
    net = resect.unravel(model, {"input_ids": ids(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)})
    text, mask = ids(3, 9), torch.ones(3, 9, dtype=torch.long)
    mask[0, :4] = 0
    assert net.check({"input_ids": text, "attention_mask": mask}).identical
    with pytest.raises(resect.InputError, match="one size there, got 9 for dimension 1 of input_ids and 7"):
        net({"input_ids": text, "attention_mask": mask[:, 2:]})
    with pytest.raises(resect.InputError, match="one batch size, got 3 for dimension 0 of input_ids and 2"):
        net({"input_ids": text, "attention_mask": mask[1:]})


def test_inputs_are_given_by_place_or_by_name(net, model) -> None:
    text = ids(2, 7)
    named = resect.unravel(model, {"scale": 1.0, "input_ids": ids(2, 5), "attention_mask": None})
    wanted = model(text)
    for one in (net, named, net.standalone(net.intact), named.standalone(named.intact)):
        assert torch.equal(one(input_ids=text), wanted)
        assert torch.equal(one(text), wanted)
        assert torch.equal(one(input_ids=text, attention_mask=None), wanted)
    assert torch.equal(net(input_ids=text, arrangement=net.intact.without(0)), net.without(0)(text))
    with pytest.raises(resect.InputError, match=r"structure of the example, \(\.\), got \(scale=\.\)"):
        net(scale=1.0)
    with pytest.raises(resect.InputError, match=r"got \(input_ids=\., attention_mask=\.\)"):
        net(input_ids=text, attention_mask=torch.ones(2, 7))
    with pytest.raises(resect.InputError, match=r"structure of the example"):
        net.standalone(net.intact)(words=text)


def test_images_of_any_size_run_through_a_network_that_pools_them() -> None:
    model = Frame(Residual(), nn.Conv2d(6, 6, 3, 2, 1), Residual()).eval()
    net = resect.unravel(model, torch.randn(2, 1, 16, 16))
    small = net.without(0)
    for size in ((16, 16), (8, 8), (20, 33), (4, 5)):
        images = torch.randn(3, 1, *size)
        assert net.check(images).identical
        assert torch.equal(small(images), net(images, net.intact.without(0)))
    assert net.blocks[0].entry_shape == ("B", 6, 16, 16)
    with pytest.raises(resect.InputError, match=r"of shape \(B, 1, H, W\).*Dimension 1 is 1 in the graph"):
        net(torch.randn(2, 3, 16, 16))


def test_images_larger_than_an_example_whose_half_ends_in_a_single_pixel_run(exports: list[bool]) -> None:
    model = Frame(Residual(), nn.Conv2d(6, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1), Residual()).eval()
    net = resect.unravel(model, torch.randn(2, 1, 8, 8))
    assert len(exports) == 1
    for size in (8, 12, 20):
        assert net.check(torch.randn(2, 1, size, size)).identical
    with pytest.raises(resect.InputError, match=r"\(4\) is no size that the network can run, but 5 or 6 is"):
        net(torch.randn(2, 1, 4, 4))


def test_a_size_that_the_model_burns_in_is_named() -> None:
    model = nn.Sequential(conv(1), Residual(1), nn.Flatten(), nn.Linear(64, 3)).eval()
    net = resect.unravel(model, torch.randn(2, 1, 8, 8))
    with pytest.raises(resect.InputError, match=r"input 0 of shape \(B, 1, 8, 8\).*Dimension 2 is 8 in the graph and"):
        net(torch.randn(2, 1, 9, 8))


class Fours(Frame):
    """Takes its pixels in squares of 4."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pixel_unshuffle(x, 4).mean(1, keepdim=True))


def test_a_multiple_that_the_model_needs_is_named() -> None:
    net = resect.unravel(Fours(Residual()).eval(), torch.randn(2, 1, 16, 16))
    assert net.check(torch.randn(2, 1, 24, 8)).identical
    with pytest.raises(resect.InputError, match=r"dimension 2 of input 0 \(18\) is no size that .*, but 16 or 20 is"):
        net(torch.randn(2, 1, 18, 16))


def test_a_deleted_branch_is_a_zero_of_the_size_at_hand() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.head = nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            branch = self.one(x.relu())
            return self.head((x + branch).mean(1)) + torch.cat([branch, branch], 1).cos().sum((1, 2))[:, None]

    net = resect.unravel(Beside().eval(), torch.randn(2, 6, 1))
    x = torch.randn(3, 9, 1)
    deleted = net(x, net.intact.without(0))
    small = net.without(0)
    torch.save(small, file := io.BytesIO())
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), deleted)


def test_the_batch_may_be_the_second_dimension() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=False)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    net = resect.unravel(model, torch.randn(5, 3, 8), batch_dim=1)
    assert len(net.blocks) == 2
    assert set(net.check(torch.randn(7, 4, 8)).differences) == {1, 2, 3, 4}
    assert net.check(torch.randn(7, 4, 8)).identical
    x = torch.randn(6, 2, 8)
    assert torch.equal(net.without(0)(x), net(x, net.intact.without(0)))


def test_an_arrangement_goes_before_or_beside_inputs_by_name(net) -> None:
    tokens = ids(2, 6)
    lesioned = net.intact.without(0)
    expected = net(tokens, lesioned)
    name = next(iter(inspect.signature(net.model.forward).parameters))
    assert torch.equal(net(lesioned, **{name: tokens}), expected)
    assert torch.equal(net(arrangement=lesioned, **{name: tokens}), expected)
    for wrong, message in (
        (lambda: net(lesioned), r"must come before the arrangement: net\(inputs, arrangement\)"),
        (lambda: net((None, 1), **{name: tokens}), r"once each, .*an arrangement is given as arrangement=\.\.\."),
        (lambda: net(tokens, arangement=lesioned), "Close: arrangement"),
        (lambda: net(**{f"{name}s": tokens}), f"Close: {name}"),
    ):
        with pytest.raises(resect.InputError, match=message):
            wrong()
