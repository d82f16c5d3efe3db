"""What configurations of transformers say of layers, by the kinds of entries that say it; and how each is shortened.

Entries are read as data: a list with an entry for each of n layers, a list of the numbers of layers, a rule on the
number. No family is named. A rule that cannot say the kept layers is left as it is, with the reason: whether it
mattered, the comparison of the layers shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

PER_LAYER = ("layer", "block", "depth", "types", "pattern", "intermediate_size", "sparsity")
"""Parts of the names of lists that have an entry for each layer."""
NEVER = ("token", "architectures", "id2label", "stage_names", "out_features", "depths")
"""Parts of the names of lists that have none, whatever their length; depths have one for each stage."""
NUMBERS = (
    "mlp_only_layers",
    "moe_layers",
    "cross_attention_layers",
    "hybrid_layer_ids",
    "attn_layer_indices",
    "ple_layer_ids",
    "window_block_indices",
    "residual_block_indices",
    "fullatt_block_indexes",
    "global_attn_indexes",
)
"""Lists of the numbers of layers."""
BY_NUMBER = ("per_layer_config", "layer_rope_theta", "pruned_heads")
"""Mappings by the number of a layer."""
CYCLES = ("block_types",)
"""Lists that are repeated until every layer has an entry."""
MORE_LAYERS = ("num_nextn_predict_layers", "num_mtp_layers")
"""Counts of layers behind the last, for multi-token prediction, which no model of transformers runs."""


@dataclass(frozen=True)
class Rule:
    """A rule on the number i of a layer, of n.

    Attributes:
        fields: whose values it reads.
        says: `says(values, i, n)`, which two kinds of layers it tells apart.
        values: `values(m)`, for each field the values that may be tried.
    """

    fields: tuple[str, ...]
    says: Callable[[Sequence[int], int, int], bool]
    values: Callable[[int], Sequence[Sequence[int]]]


def _up_to(least: int, fields: int = 1) -> Callable[[int], Sequence[Sequence[int]]]:
    return lambda m: [range(least, m + 2)] * fields


def _from(field: str) -> Rule:
    return Rule((field,), lambda v, i, n: i >= v[0], _up_to(0))


def _every(field: str) -> Rule:
    return Rule((field,), lambda v, i, n: v[0] > 0 and (i + 1) % v[0] == 0, _up_to(1))


def _period(period: str, offset: str) -> Rule:
    return Rule((period, offset), lambda v, i, n: i % v[0] == v[1], lambda m: [range(1, m + 2), range(m + 1)])


def _interval(v: Sequence[int], i: int, n: int) -> bool:
    return (i + 1) % v[0] == 0 and v[1] <= i <= (v[2] if v[2] >= 0 else n - 1)


RULES = (
    _from("first_k_dense_replace"),
    _from("num_dense_layers"),
    _from("max_window_layers"),
    _from("num_hash_layers"),
    _every("decoder_sparse_step"),
    _every("interleave_moe_layer_step"),
    _every("no_rope_layer_interval"),
    _every("full_attention_interval"),
    _every("sliding_window_pattern"),
    _every("global_attn_every_n_layers"),
    _every("layer_group_size"),
    _period("attn_layer_period", "attn_layer_offset"),
    _period("expert_layer_period", "expert_layer_offset"),
    Rule(("moe_layer_interval", "moe_layer_start_index", "moe_layer_end_index"), _interval, _up_to(0, 3)),
    Rule(("num_kv_shared_layers",), lambda v, i, n: i >= n - v[0], _up_to(0)),
)


@dataclass(frozen=True)
class Reading:
    """How what is ambiguous is read.

    Attributes:
        all_lists: every list of n entries has one for each layer, not only those with a name like it.
        base: the number of the first layer in lists of numbers.
    """

    all_lists: bool = False
    base: int = 0


READINGS = tuple(Reading(all_lists, base) for all_lists, base in product((False, True), (0, 1)))


def shorten(entries: dict[str, Any], n: int, kept: Sequence[int], reading: Reading) -> Iterator[str]:
    """Change all entries but the count to those of the kept layers; yields what could not be said."""
    _mixtures(entries, n, kept)
    for rule in RULES:
        if all(type(entries.get(field)) is int for field in rule.fields):
            yield from _solved(rule, entries, n, kept)
    for name, value in entries.items():
        if name in NUMBERS and isinstance(value, (list, tuple)):
            entries[name] = [kept.index(i - reading.base) + reading.base for i in value if i - reading.base in kept]
        elif name in BY_NUMBER and isinstance(value, dict):
            numbers = {int(i) - reading.base: entry for i, entry in value.items()}
            entries[name] = {kept.index(i) + reading.base: entry for i, entry in numbers.items() if i in kept}
        elif name in CYCLES and isinstance(value, (list, tuple)) and value:
            entries[name] = [value[i % len(value)] for i in kept]
        elif name == "attention_types" and value and not isinstance(value[0], str):  # [[kinds, times], ...]
            kinds = [kind for group, times in value for _ in range(times) for kind in group]
            entries[name] = [[[kinds[i] for i in kept], 1]]
        elif isinstance(value, (list, tuple)) and len(value) == n and _per_layer(name, reading):
            entries[name] = [value[i] for i in kept]
    _backbone(entries, kept)


def _per_layer(name: str, reading: Reading) -> bool:
    if name in NUMBERS or any(part in name for part in NEVER):
        return False
    return reading.all_lists or any(part in name for part in PER_LAYER)


def _solved(rule: Rule, entries: dict[str, Any], n: int, kept: Sequence[int]) -> Iterator[str]:
    """Find values by which the rule says of every kept layer what it said before."""
    before, m = [entries[field] for field in rule.fields], len(kept)
    try:
        wanted = [rule.says(before, i, n) for i in kept]
    except ZeroDivisionError:
        return
    for values in [before, *product(*rule.values(m))]:
        if values[0] == 0 and before[0] != 0 and len(values) > 1:
            continue
        if all(rule.says(values, j, m) == want for j, want in enumerate(wanted)):
            entries.update(zip(rule.fields, values, strict=True))
            return
    told = ", ".join(f"{field}={value}" for field, value in zip(rule.fields, before, strict=True))
    yield f"the rule {told} of the configuration cannot tell the kept layers apart"


def _mixtures(entries: dict[str, Any], n: int, kept: Sequence[int]) -> None:
    """Where dense layers can be listed, list them, as every set of layers can be."""
    step, dense = entries.get("decoder_sparse_step"), entries.get("mlp_only_layers")
    if type(step) is int and isinstance(dense, (list, tuple)):
        now = [i for i in range(n) if i in dense or step < 1 or (i + 1) % step]
        if any(i not in dense for i in now):
            entries.update(decoder_sparse_step=1, mlp_only_layers=now)


def _backbone(entries: dict[str, Any], kept: Sequence[int]) -> None:
    """Outputs of a backbone: the states behind the layers that are kept of those before; their names follow."""
    if "stage_names" in entries:
        del entries["stage_names"]
        entries.pop("out_features", None)
        if entries.get("out_indices"):
            entries["out_indices"] = [sum(i < place for i in kept) for place in entries["out_indices"]]
