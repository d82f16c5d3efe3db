"""Graphs without operators that write: rewritten here, or by torch where a value is seen through another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from resect.graph.canonical import keep_stopped_gradients
from resect.graph.functional import functional

ROWS = Dim.DYNAMIC


class Plain(nn.Module):
    """A function of a signal, behind a layer."""

    def __init__(self, then: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.norm, self.then = nn.Linear(6, 6), nn.BatchNorm1d(6), then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.norm(self.layer(x)), x)


def exported(then: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> tuple[nn.Module, ExportedProgram]:
    torch.manual_seed(0)
    model = Plain(then).eval()
    with torch.no_grad():
        model.norm.running_mean.normal_()  # type: ignore[union-attr]  # a tensor
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: ROWS}}, strict=False)
    keep_stopped_gradients(program.graph_module)
    return model, program


def writers(program: ExportedProgram) -> list[str]:
    nodes = [node for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    return [str(node.target) for node in nodes if node.target._schema.is_mutable]


def no_grad_table(y: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        table = (x * 2).cos()
    return y * table


def write_view_of(y: Tensor, x: Tensor) -> Tensor:
    y[:, :2].relu_()
    return y + x


def write_base_of(y: Tensor, x: Tensor) -> Tensor:
    part = y[:, :2]
    y.mul_(3)
    return part + x[:, :2]


def write_view_last(y: Tensor, x: Tensor) -> Tensor:
    return y.view(-1, 3).relu_() * 2


def write_dropped_copy(y: Tensor, x: Tensor) -> Tensor:
    same = F.dropout(y, training=False)
    same.add_(1)
    return y + x


def write_type_of_own(y: Tensor, x: Tensor) -> Tensor:
    same = y.type_as(x)
    same.add_(1)
    return y + x


def write_turned(y: Tensor, x: Tensor) -> Tensor:
    y.movedim(0, 1).mul_(2)
    return y + x


def chain(y: Tensor, x: Tensor) -> Tensor:
    y.add_(x)
    z = y.relu_()
    return y - z.sigmoid()


def constant(y: Tensor, x: Tensor) -> Tensor:
    return y * torch.tensor([1.0, 2, 3, 4, 5, 6])


def written_list(y: Tensor, x: Tensor) -> Tensor:
    a, b = y * 2, y * 3
    torch._foreach_add_([a, b], 1.0)
    return a * b


HERE = {
    "chain": chain,
    "constant": constant,
    "no_grad": no_grad_table,
    "write a view that nobody else reads": write_view_last,
    "write a copy that dropout did not make": write_dropped_copy,
    "flatten": lambda y, x: y.unflatten(1, (2, 3)).flatten(1) + x,
    "contiguous": lambda y, x: y.t().contiguous().t() + y.contiguous(),
    "types": lambda y, x: y.to(torch.float64).sum(-1).float() + y.float()[:, 0],
    "in place of any kind": lambda y, x: F.silu(F.hardtanh(y, inplace=True), inplace=True).clamp_(0.1).mul_(x),
    "sizes that Python computes": lambda y, x: y * (x.shape[0] // 2) + max(x.shape[0], 3),
    "chunk": lambda y, x: sum(part.relu() for part in y.chunk(2, 1)),
}
BY_TORCH = {
    "write a view": write_view_of,
    "write what a view shows": write_base_of,
    "write what movedim hands on": write_turned,
    "write what has the type already": write_type_of_own,
    "movedim": lambda y, x: y.movedim(0, 1) @ x,
    "a mask that stays of floats": lambda y, x: y * (1 - y.clone().gt_(0)),
    "a list that is written": written_list,
    "a mapped function": lambda y, x: torch.vmap(lambda row, other: row * other.sum())(y, x),
    "a type that only writing keeps": lambda y, x: y.mul_(x.double()),
}


@pytest.mark.parametrize("name", [*HERE, *BY_TORCH])
def test_nothing_writes_and_no_bit_or_gradient_changes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    then, x = {**HERE, **BY_TORCH}[name], torch.randn(4, 6)
    traced_again, of_torch = [], ExportedProgram.run_decompositions
    monkeypatch.setattr(ExportedProgram, "run_decompositions", lambda *args: traced_again.append(1) or of_torch(*args))
    model, program = exported(then, x)
    got = functional(program)
    assert (bool(traced_again), writers(got)) == (name in BY_TORCH, [])
    for size in (4, 3):
        one = torch.randn(size, 6, requires_grad=True)
        other = one.detach().clone().requires_grad_()
        want, have = model(one), got.module()(other)
        assert torch.equal(want, have)
        want.sum().backward()
        have.sum().backward()
        assert one.grad is not None and other.grad is not None and torch.equal(one.grad, other.grad)


def test_an_input_that_is_written_is_left_to_torch() -> None:
    def write_input(y: Tensor, x: Tensor) -> Tensor:
        x.add_(1)
        return y + x

    _, program = exported(write_input, torch.randn(4, 6))
    outputs = functional(program).graph_signature.output_specs
    assert [output.kind.name for output in outputs] == ["USER_INPUT_MUTATION", "USER_OUTPUT"]
