"""Commands of resect, put together from what was asked."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

_REPEATED = {
    "model_args": "model-arg",
    "metrics": "metric",
    "beside": "beside",
    "labels": "label",
    "settings": "setting",
    "scores": "score",
    "groups": "group",
    "fits": "fits",
    "heal_settings": "heal-setting",
}
_ON = ("untrained", "timed")  # what is done unless it is switched off


def command_line(verb: str, arguments: Sequence[str], options: Mapping[str, Any]) -> str:
    """`resect VERB ARGUMENTS --option value ...`; what is None, False or empty is left out, and `--no-option` says
    that something is not done which is by default.

    Args:
        options: by their names in code; mappings become K=V, and those that can be repeated are.
    """
    words = ["resect", verb, *arguments]
    for name, value in options.items():
        option = f"--{_REPEATED.get(name, name).replace('_', '-')}"
        if isinstance(value, Mapping):
            value = [f"{key}={item}" for key, item in value.items()]
        if value is False and name in _ON:
            words.append(f"--no-{name}")
        if value is None or value is False or value in ((), []):
            continue
        if value is True:
            words.append(option)
        elif name in _REPEATED:
            words += [word for item in value for word in (option, _text(item))]
        else:
            words += [option, _text(value)]
    return shlex.join(words)


def replaced_options(command: str, gone: Collection[str], options: Mapping[str, Any]) -> str:
    """A command without some options, by their names in code, and with others."""
    kept, dropped = [], False
    for word in shlex.split(command):
        if word.startswith("--"):
            dropped = word.removeprefix("--").replace("-", "_") in gone
        if not dropped:
            kept.append(word)
    return command_line(kept[1], kept[2:], options)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
