"""What the text of a data spec says, before anything is read."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from resect.errors import SpecError, require_text

KINDS = ("digits", "cifar10", "npz", "py")
LIKE = 0.7  # how alike two names must be for one to be suggested in the place of the other


def require_data_spec(spec: str) -> None:
    """Raise SpecError unless the text is that of a data spec."""
    own = "Samples of your own are resect.Samples, or (inputs, targets) batches."
    require_text("a data spec", spec, "digits", own)
    kind, _, rest = spec.partition(":")
    if {"digits": spec == "digits", "cifar10": True, "npz": bool(rest), "py": ":" in rest}.get(kind):
        return
    raise SpecError(
        f"unknown data spec {spec!r}.{_hint(spec)} Known are digits, cifar10:DIR, npz:FILE and py:pkg.mod:factory."
    )


def _hint(spec: str) -> str:
    """What may be meant by a spec that is none."""
    kind, _, rest = spec.partition(":")
    if kind == "digits":
        meant = "digits"
    elif Path(spec).suffix in (".npz", ".npy"):
        meant = f"npz:{spec}"
    elif os.path.isdir(spec):  # which takes text that can be no path
        meant = f"cifar10:{spec}"
    elif re.fullmatch(r"[a-z_][\w.]*:[a-z_]\w*", spec, re.IGNORECASE) and kind not in KINDS:
        meant = f"py:{spec}"
    else:
        close = difflib.get_close_matches(kind.lower().replace("-", ""), KINDS, n=1, cutoff=LIKE)
        meant = f"{close[0]}:{rest}".removesuffix(":") if close and close[0] != spec else ""
    return f" Did you mean {meant}?" if meant else ""
