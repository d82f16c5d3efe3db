"""What runs in the fresh process: load what was written as anyone would, and run it on the given calls.

`python -m resect.pruning.export.child FOLDER` reads `task.pt` there and writes `result.pt`. It imports nothing else of
resect, so that what it loads is what everyone loads; but for the kind `resect`, which resect itself loads.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Run = Callable[[tuple[Any, ...], dict[str, Any]], Any]


def main(folder: Path) -> None:
    """Do the task that lies in a folder."""
    task = torch.load(folder / "task.pt", weights_only=True)
    torch.set_num_threads(task["threads"])
    run, model = LOADERS[task["kind"]](task)
    with torch.no_grad():
        outputs = [named_outputs(run(args, kwargs)) for args, kwargs in task["calls"]]
        result: dict[str, Any] = {"outputs": outputs}
        if task.get("generation"):
            result["generated"] = {mode: _generated(model, mode, task["generation"]) for mode in GENERATED}
    torch.save(result, folder / "result.pt")


def named_outputs(outputs: Any) -> dict[str, Tensor]:
    """The tensors that a model returns, by name; if all are nested, those of the first container."""
    if isinstance(outputs, Tensor):
        return {"": outputs}
    if is_dataclass(outputs) and not isinstance(outputs, Mapping):
        outputs = vars(outputs)
    named = dict(outputs) if isinstance(outputs, Mapping) else dict(enumerate(outputs or ()))
    tensors = {str(name): value for name, value in named.items() if isinstance(value, Tensor)}
    return tensors or next((named_outputs(v) for v in named.values() if isinstance(v, (tuple, list, Mapping))), {})


def _program(task: dict[str, Any]) -> tuple[Run, Any]:
    with open(task["path"], "rb") as file:
        module = torch.export.load(file).module()
    return lambda args, kwargs: module(*args, **kwargs), module


def _onnx(task: dict[str, Any]) -> tuple[Run, Any]:
    session = import_module("onnxruntime").InferenceSession(task["path"], providers=["CPUExecutionProvider"])
    taken = [entry.name for entry in session.get_inputs()]

    def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        found = session.run(None, {name: value.cpu().numpy() for name, value in zip(taken, tensors, strict=True)})
        names = task["outputs"]
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

    return run, session


def _hugging_face(task: dict[str, Any]) -> tuple[Run, Any]:
    transformers: Any = import_module("transformers")
    transformers.logging.disable_progress_bar()
    made = json.loads((Path(task["path"]) / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    options = {"attn_implementation": task["attention"]} if task["attention"] else {}
    model, loading = getattr(transformers, made).from_pretrained(
        task["path"], dtype="auto", output_loading_info=True, **options
    )
    lacking = sorted(loading["missing_keys"]) + sorted(map(str, loading["mismatched_keys"]))
    if lacking:
        raise ValueError(f"from_pretrained finds no weights for {lacking[0]}, and would make random ones")
    return _placed(model, task)


def _timm(task: dict[str, Any]) -> tuple[Run, Any]:
    return _placed(import_module("timm").create_model(f"local-dir:{task['path']}", pretrained=True), task)


def _resect(task: dict[str, Any]) -> tuple[Run, Any]:
    loaded = import_module("resect").load_model(task["spec"], checkpoint=task["path"])
    return _placed(loaded.module.to(getattr(torch, task["dtype"])), task)


def _torchvision(task: dict[str, Any]) -> tuple[Run, Any]:
    folder = Path(task["path"])
    made = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = constructed(made["constructor"], made["arguments"])
    model.load_state_dict(import_module("safetensors.torch").load_file(folder / "model.safetensors"))
    return _placed(model.to(getattr(torch, task["dtype"])), task)


def constructed(constructor: str, arguments: Mapping[str, Any]) -> Any:
    """What a class makes of arguments, in which {"class": NAME} is a class, with "arguments" what it makes of them."""
    return _named(constructor)(**{name: _value(value) for name, value in arguments.items()})


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(entry) for entry in value]
    if isinstance(value, dict):
        kind = _named(value["class"])
        return kind(*map(_value, value["arguments"])) if "arguments" in value else kind
    return value


def _named(name: str) -> Any:
    module, _, kind = name.rpartition(".")
    return getattr(import_module(module), kind)


def _placed(model: Any, task: dict[str, Any]) -> tuple[Run, Any]:
    model = model.eval().to(task["device"])
    return lambda args, kwargs: model(*args, **kwargs), model


LOADERS: dict[str, Callable[[dict[str, Any]], tuple[Run, Any]]] = {
    "torch": _program,
    "onnx": _onnx,
    "hf": _hugging_face,
    "timm": _timm,
    "torchvision": _torchvision,
    "resect": _resect,
}
GENERATED: dict[str, dict[str, Any]] = {
    "without a cache": {"use_cache": False},
    "with a dynamic cache": {"use_cache": True},
    "with a static cache": {"use_cache": True, "cache_implementation": "static"},
}


def _generated(model: Any, mode: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Greedy tokens and the logits of every step, or why there are none."""
    try:
        return generate(model, mode, asked)
    except Exception as error:  # transformers raises whatever it likes for what a family does not support
        return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}


def generate(model: Any, mode: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Greedy tokens (B, L) and logits (B, steps, C) of `asked["inputs"]`, with nothing that stops or weighs them."""
    settings: Any = import_module("transformers").GenerationConfig(
        max_new_tokens=asked["steps"],
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        disable_compile=True,
        pad_token_id=0,
        decoder_start_token_id=asked["start"],
        **GENERATED[mode],
    )
    own, model.generation_config = model.generation_config, settings
    try:
        done = model.generate(**asked["inputs"], generation_config=settings)
    finally:
        model.generation_config = own
    return {"tokens": done.sequences, "logits": torch.stack(done.logits, 1)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
