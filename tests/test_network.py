"""Arrangements, refusals, and stand-alone networks, against models patched by hand."""

from __future__ import annotations

import copy
import io
from math import comb

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

import resect
from networks import CUSTOM, Frame, Residual, conv
from resect.graph.routes import Start
from resect.models.resnet import CifarResNet


def by_hand(model: CifarResNet, images: Tensor, arrangement: tuple[int | None, ...]) -> Tensor:
    """A pre-activation ResNet under an arrangement, written out."""
    relu = torch.relu
    x = model.stem(images)
    for slot, branch in enumerate(arrangement):
        skip = model.blocks[slot].sc(x)
        if branch is not None:
            block = model.blocks[branch]
            skip = skip + block.c2(relu(block.bn2(block.c1(relu(block.bn1(x))))))
        x = skip
    return model.fc(relu(model.bn(x)).mean((2, 3)))


def test_every_deletion_has_the_bits_of_a_patched_model(net, resnet, batch) -> None:
    for block in net.blocks:
        arrangement = net.intact.without(block.index)
        assert torch.equal(net(batch[0], arrangement), by_hand(resnet, batch[0], arrangement))


def test_swaps_repeats_and_many_deletions_have_the_bits_of_a_patched_model(net, resnet, batch) -> None:
    for arrangement in [
        net.intact.swapped(0, 2),
        net.intact.swapped(4, 5).without(0, 7),
        (0, 0, 1, 3, 5, 5, 6, 8, 7),
        (None,) * 9,
        (2, None, 0, 3, 4, 4, 6, None, 7),
    ]:
        assert torch.equal(net(batch[0], arrangement), by_hand(resnet, batch[0], tuple(arrangement)))


@pytest.mark.slow
def test_hooks_that_zero_a_branch_agree_on_a_bottleneck_network() -> None:
    model = ResNet(Bottleneck, [2, 3, 1, 1]).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.0)
    images = torch.randn(2, 3, 64, 64)
    net = resect.unravel(model, images)
    stages = [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]
    for index in (0, 1, 2, 4, 6):
        hook = stages[index].bn3.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))
        expected = model(images)
        hook.remove()
        assert torch.equal(net(images, net.intact.without(index)), expected)


@pytest.mark.parametrize("name", ["subtracted", "scaled", "fused", "in-place"])
def test_deleting_a_branch_leaves_the_skip(name: str) -> None:
    model = CUSTOM[name][0]().eval()
    images = torch.randn(3, 1, 8, 8)
    net = resect.unravel(model, images)
    expected = model.stem(images)
    if name == "in-place":
        expected = torch.relu(expected)
    assert torch.equal(net(images, net.intact.without(0, 1)), model.fc(expected.mean((2, 3))))


def test_deleting_a_highway_block_closes_its_gate() -> None:
    model = CUSTOM["highway"][0]().eval()
    images = torch.randn(3, 1, 8, 8)
    net = resect.unravel(model, images)
    assert torch.equal(net(images, net.intact.without(0, 1)), model.fc(model.stem(images).mean((2, 3))))


@pytest.mark.parametrize("name", ["parallel", "parallel, grouped"])
def test_parallel_branches_are_deleted_one_by_one(name: str) -> None:
    model = CUSTOM[name][0]().eval()
    images = torch.randn(3, 1, 8, 8)
    net = resect.unravel(model, images)
    x, first = model.stem(images), model.body[0]
    expected = {(0,): x + first.g(x), (1,): x + first.f(x), (0, 1): x}
    for gone, state in expected.items():
        assert torch.equal(net(images, net.intact.without(*gone)), model.fc(model.body[1](state).mean((2, 3))))


def test_deleting_the_branch_of_a_partial_skip_zeroes_all_of_it() -> None:
    model = CUSTOM["part of the channels"][0]().eval()
    images = torch.randn(3, 1, 8, 8)
    net = resect.unravel(model, images)
    x, block = model.stem(images), model.body[0]
    y = torch.cat([x, torch.zeros(3, 3, 8, 8)], dim=1)
    expected = model.fc(model.body[1](block.back(torch.relu(y))).mean((2, 3)))
    assert torch.equal(net(images, net.intact.without(0)), expected)


def test_deleting_a_block_with_nested_blocks_deletes_them() -> None:
    model = CUSTOM["restoration"][0]().eval()
    images = torch.randn(3, 1, 8, 8)
    net = resect.unravel(model, images)
    bare = model.fc(model.stem(images).mean((2, 3)))
    assert torch.equal(net(images, net.intact.without(3)), bare)
    with pytest.raises(resect.ArrangementError, match="its branch holds blocks of its own"):
        net(images, (0, 1, 2, 0))


def test_arrangements_are_tuples(net) -> None:
    assert net.intact == tuple(range(9))
    assert net.intact.without(3, 5) == (0, 1, 2, None, 4, None, 6, 7, 8)
    assert repr(net.intact.swapped(0, 1)) == "Arrangement(1, 0, 2, 3, 4, 5, 6, 7, 8)"


def test_refusals_name_the_slot_and_both_shapes(net, batch) -> None:
    with pytest.raises(resect.ArrangementError, match="one entry for each of the 9 slots, got 2"):
        net(batch[0], (0, 1))
    with pytest.raises(resect.ArrangementError, match="blocks 0 to 8, None, a Variant or a Parallel, got 9 in slot 0"):
        net(batch[0], (9, 1, 2, 3, 4, 5, 6, 7, 8))
    with pytest.raises(resect.ArrangementError, match="one of the 9 blocks, 0 to 8, got 12"):
        net.intact.without(12)
    message = r"slot 0 \(blocks.0\) cannot run branch 4 .* \(B, 4, 8, 8\) .* \(B, 8, 4, 4\)"
    with pytest.raises(resect.ArrangementError, match=message):
        net(batch[0], net.intact.swapped(0, 4))


def test_wrong_inputs_are_named(net, batch) -> None:
    with pytest.raises(resect.InputError, match=r"input 0 of shape \(B, 1, H, W\) float32 .*, got \(6, 3, 8, 8\)"):
        net(torch.zeros(6, 3, 8, 8))
    with pytest.raises(resect.InputError, match="structure of the example"):
        net((batch[0], batch[0]))
    with pytest.raises(resect.InputError, match=r"the model can run, got input 0 \(1, 3, 8, 8\).*`stem`"):
        resect.unravel(net.model, torch.zeros(1, 3, 8, 8))
    with pytest.raises(resect.InputError, match=r"must be a torch.nn.Module, got str"):
        resect.unravel("resnet", batch[0])


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.fc(x)
        return x


def test_a_model_that_cannot_be_exported_is_told_where() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Branching()))
    with pytest.raises(resect.ExportError, match=r"module `1.0` \(test_network.py:\d+: `if x.sum\(\) > 0:`\)"):
        resect.unravel(model, torch.zeros(2, 4))


def test_the_model_comes_back_untouched(batch) -> None:
    resnet = CifarResNet(8, width=4, channels=1).train()
    resnet.blocks[0].eval()
    resnet.fc.weight.requires_grad_(False)
    before = copy.deepcopy(resnet)
    net = resect.unravel(resnet, batch[0])
    net(batch[0])
    net.without(1)
    resect.lesion(net, [batch], resect.plans.single(net))
    resect.path_spectrum(net, [batch])
    with pytest.raises(resect.InputError, match="must be a batch that the model can run"):
        resect.unravel(resnet, torch.zeros(1))
    assert [m.training for m in resnet.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in resnet.parameters()] == [p.requires_grad for p in before.parameters()]
    assert all(p.grad is None for p in resnet.parameters())
    pairs = zip(resnet.state_dict().items(), before.state_dict().items(), strict=True)
    assert all(name == other and torch.equal(value, kept) for (name, value), (other, kept) in pairs)
    assert vars(resnet).keys() == vars(before).keys()


def test_the_network_follows_the_models_parameters(net, resnet, batch) -> None:
    with torch.no_grad():
        resnet.fc.bias.add_(1.0)
    assert torch.equal(net(batch[0]), resnet(batch[0]))


def test_standalone_has_no_trace_of_what_is_deleted(net, resnet, batch) -> None:
    small = net.without(1, 3)
    assert torch.equal(small(batch[0]), net(batch[0], net.intact.without(1, 3)))
    names = set(small.state_dict())
    # Block 3 keeps its projection: that is its skip.
    expected = {n for n in resnet.state_dict() if not n.startswith(("blocks.1.", "blocks.3."))} | {"blocks.3.sc.weight"}
    assert names == expected
    assert not any(small_p is p for small_p in small.parameters() for p in resnet.parameters())
    again = copy.deepcopy(small)
    assert torch.equal(again(batch[0]), small(batch[0]))


def test_standalone_state_survives_a_file(net, batch) -> None:
    small, other = net.without(2), net.without(2)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(batch[0]), small(batch[0]))


def test_standalone_trains_with_batch_statistics(net, resnet, batch) -> None:
    small = net.without(4).train()
    reference = copy.deepcopy(resnet).train()
    loss = nn.functional.cross_entropy(small(batch[0]), batch[1])
    expected = nn.functional.cross_entropy(by_hand(reference, batch[0], tuple(net.intact.without(4))), batch[1])
    assert torch.equal(loss, expected)
    assert torch.equal(small.bn.running_mean, reference.bn.running_mean)
    assert not torch.equal(small.bn.running_mean, resnet.bn.running_mean)
    loss.backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_train_graph_updates_batch_norms_like_the_model(net, resnet, batch) -> None:
    reference = copy.deepcopy(resnet).train()
    assert torch.equal(net.train_graph(batch[0]), reference(batch[0]))
    for name, value in reference.state_dict().items():
        assert torch.equal(value, resnet.state_dict()[name]), name


def test_a_fingerprint_tells_graphs_and_weights_apart(net, resnet, batch) -> None:
    before = net.fingerprint()
    assert len(before) == 32
    assert resect.unravel(copy.deepcopy(resnet), batch[0]).fingerprint() == before
    assert resect.unravel(resnet, batch[0], plain=True).fingerprint() != before
    weights = copy.deepcopy(resnet.state_dict())
    with torch.no_grad():
        resnet.fc.bias[0] += 1e-3
    assert net.fingerprint() != before
    resnet.load_state_dict(weights)
    assert net.fingerprint() == before
    resnet.bn.running_mean[0] += 1
    assert net.fingerprint() != before


def test_what_others_ask_a_network(net) -> None:
    assert (net.slices, net.batch_size) == (1 + 9 + 1, None)
    assert [(entry.label, entry.shape, entry.dtype) for entry in net.inputs] == [
        ("input 0", (None, 1, None, None), torch.float32)
    ]
    assert net.allowing(resect.Variant.BRANCH_ONLY) == tuple(range(9))
    assert net.allowing(resect.Variant.TWICE) == (0, 1, 2, 4, 5, 7, 8)  # 3 and 6 change the shape
    assert net.arrangement([None, *range(1, 9)]) == net.intact.without(0)
    with pytest.raises(resect.ArrangementError, match="one entry for each of the 9 slots, got 1"):
        net.arrangement([0])
    assert net.routes().counts.paths == tuple(comb(9, k) for k in range(10))
    assert net.routes(Start(skipped=7)).counts.paths == (1, 2, 1) + (0,) * 7


def test_a_tied_parameter_has_all_its_nodes() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mlp, self.out = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9)
            self.out.weight, self.unused = self.embed.weight, nn.Parameter(torch.zeros(1))

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            return self.out(x + torch.tanh(self.mlp(x)))

    net = resect.unravel(Tied(), torch.arange(4).view(2, 2))
    read = {name: sum(len(node.users) for node in net.parameter_nodes(name)) for name in net.model.state_dict()}
    assert read == {"embed.weight": 2, "mlp.weight": 1, "mlp.bias": 1, "out.weight": 2, "out.bias": 1, "unused": 0}
    assert net.parameter_nodes("out.weight") == net.parameter_nodes("embed.weight")


def test_tuples_and_dicts_of_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
            return {"logits": x + torch.relu(self.fc(x)) * scale}

    x, scale = torch.randn(3, 4), torch.rand(3, 1)
    for inputs in [(x, scale), {"scale": scale, "x": x}]:
        net = resect.unravel(Two(), inputs)
        assert len(net.blocks) == 1
        assert net.check(inputs).identical
        assert torch.equal(net(inputs, (None,))["logits"], x)


def test_check_sees_a_difference(resnet, batch) -> None:
    net = resect.unravel(resnet, batch[0][:1])
    assert net.check(batch[0]).identical
    net.model.register_forward_hook(lambda _module, _inputs, output: output + 1e-3)
    check = net.check(batch[0])
    assert not check.identical
    assert set(check.differences) == {1, 2, 3, 6}


class OneByOne(Frame):
    """Runs its samples in a Python loop, so that its graph is that of one number of samples."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([super(OneByOne, self).forward(x[i : i + 1]) for i in range(len(x))])


class OddOne(Frame):
    """Treats a batch of one in another way."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.shape[0] > 1 else -super().forward(x)


@pytest.mark.parametrize("size", [1, 3])
def test_a_graph_of_one_batch_size_says_so(size: int) -> None:
    model, images = OneByOne(Residual()).eval(), torch.randn(4, 1, 8, 8)
    net = resect.unravel(model, images[:size])
    assert net.batch_size == size
    assert torch.equal(net(images[:size]), model(images[:size]))
    with pytest.raises(resect.InputError, match=rf"input 0 of shape \({size}, 1, 8, 8\)"):
        net(images)


def test_a_batch_of_one_must_be_like_any_other() -> None:
    with pytest.raises(resect.ExportError, match="OddOne treats a batch of one in another way"):
        resect.unravel(OddOne(Residual()).eval(), torch.randn(1, 1, 8, 8))


class Nested(nn.Module):
    """x + g(f(x) + h(f(x))), all in one module, with batch norms: two blocks in either mode."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g, self.h = conv(6), conv(6), conv(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.f(x)
        return x + self.g(y + self.h(y))


class Shared(nn.Module):
    """One tower on the images and on their mirror images: its batch statistics are updated twice."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(Residual(), Residual())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.tower(x)) * torch.sigmoid(self.tower(x.flip(-1)))


@pytest.mark.parametrize(("body", "blocks"), [(Nested, 2), (Shared, 4)])
def test_the_train_graph_has_the_same_blocks(body, blocks: int) -> None:
    images = torch.randn(4, 1, 8, 8)
    net = resect.unravel(Frame(body()).eval(), images)
    assert [block.name for block in net.train_graph.blocks] == [block.name for block in net.blocks]
    assert len(net.blocks) == blocks
    alone = net.without(0)
    with torch.no_grad():
        assert torch.equal(alone(images), net(images, net.intact.without(0)))
    assert alone.train()(images).requires_grad


def test_inputs_beside_the_batch_keep_their_size() -> None:
    class Support(Frame):
        def forward(self, query: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
            return super().forward(query) + support.mean()

    net = resect.unravel(Support(Residual()).eval(), {"query": torch.randn(1, 1, 8, 8), "support": torch.randn(5)})
    batch = {"support": torch.randn(5), "query": torch.randn(3, 1, 8, 8)}
    assert net.check(batch).identical
    assert net.without(0)(support=batch["support"], query=batch["query"]).shape == (3, 10)
    with pytest.raises(resect.InputError, match=r"structure of the example, \(query=\., support=\.\), got \(\.\)"):
        net.without(0)(batch["query"])


def test_constants_of_either_mode_are_kept_apart() -> None:
    class Scaled(Frame):
        def __init__(self) -> None:
            super().__init__(Residual())
            self.a, self.b = torch.tensor(5.0), torch.tensor(2.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                x = x * self.a
            return super().forward(x) * self.b

    images = torch.randn(4, 1, 8, 8)
    model = Scaled().eval()
    alone = resect.unravel(model, images).without()
    with torch.no_grad():
        assert torch.equal(alone(images), model(images))
        torch.testing.assert_close(alone.train()(images), model.train()(images))
