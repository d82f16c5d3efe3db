"""The processes that train together, as Accelerate sets them up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from resect.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator


def accelerator_on(device: torch.device, unused: bool, logs: Path | None) -> Accelerator:
    """Accelerate on the kind of `device`; `unused`: some parameters have no gradient, as branches do not run."""
    from accelerate import Accelerator  # takes a second, which a study without a training need not wait for
    from accelerate.utils import DistributedDataParallelKwargs, is_tensorboard_available

    if logs and not is_tensorboard_available():
        raise InputError("`logs` needs the package tensorboard. Install it with `pip install 'resect[train]'`.")
    try:
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="no",  # the recipe says it, not the user's configuration of Accelerate
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)],
            log_with="tensorboard" if logs else None,
            project_dir=logs,
        )
    except ValueError as error:  # a process has one precision and one kind of device
        raise InputError(
            "Accelerate must not be set up in another way in the same process, but it is: "
            f"{' '.join(str(error).split())} Start another process."
        ) from error
    if logs:
        accelerator.init_trackers("")
    return accelerator
