"""What is required of a network, and what to tell a user whose network is otherwise."""

from __future__ import annotations

from resect.errors import InputError
from resect.network.unraveled import Unraveled


def require_unraveled(net: object) -> None:
    """Raise InputError unless `net` is an unravelled network."""
    if not isinstance(net, Unraveled):
        raise InputError(f"`net` must come from resect.unravel(model, example), got {type(net).__name__}.")


def require_blocks(net: Unraveled) -> None:
    """Raise InputError unless `net` is an unravelled network with at least one block."""
    require_unraveled(net)
    if not net.blocks:
        raise InputError(no_joins_message(net))
    if net.batch_dim and net.sliced.captured.batch is None:
        raise InputError(
            f"`net` must take any number of samples to be measured with batch_dim={net.batch_dim}, but its graph holds "
            f"at {net.batch_size}, where nothing tells samples from positions. Unravel a module that transposes inputs "
            "and outputs; running, checking and stand-alone networks work as it is."
        )


def no_joins_message(net: Unraveled) -> str:
    """What to tell a user whose network has no blocks."""
    if net.plain:
        return f"{type(net.model).__name__} has no layer that can be deleted: every one changes the shape."
    return (
        f"{type(net.model).__name__} has no residual joins: none of its additions brings a branch back to the skip it "
        "came from. Its plain layers can be lesioned instead: unravel it with plain=True (--plain on the command line)."
    )


def recorded_message(net: Unraveled) -> str:
    """What to tell a user whose network is a recording; "" for any other."""
    if not net.recorded:
        return ""
    return (
        f"torch.export does not accept {type(net.model).__name__}, so what one forward pass executed was recorded: it "
        f"holds at a batch size of {net.batch_size} and for what Python computed of the weights as they are."
    )
