"""Which network on which data: the recipe by which a run, or a worker of it, makes both anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resect.data.names import require_data_spec
from resect.data.normalization import Normalization
from resect.errors import DataError, InputError, SpecError, require_one_of, require_whole
from resect.models.names import Value, require_model_spec

if TYPE_CHECKING:  # what is asked is checked, and refused, before torch is imported
    import torch

    from resect.data.samples import SampleSet
    from resect.data.specs import Split
    from resect.models.specs import LoadedModel
    from resect.network.unraveled import Unraveled

DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True)
class Source:
    """One network and the samples it is measured on.

    Attributes:
        model: a model spec, e.g. "resect:resnet110-digits".
        data: a data spec, e.g. "digits"; None where only the network matters.
        checkpoint: weights to load.
        model_args: keyword arguments of the model.
        limit: only the first samples.
        normalize: how pixels become inputs, as in `load_samples`; None for the model's card or configuration, else
            the data spec's own.
        calibrate: on how many of the samples the statistics of batch norms are measured before anything else; 0 to
            leave them as they are.
        seed: of random weights, and of everything that a job draws.
        device: "cpu", "cuda" or "mps".
        dtype: of weights and inputs, one of DTYPES.
        module: a part of the model by its dotted name, which is taken in place of the whole, on the inputs that the
            whole gives it.
        batch_dim: the dimension of the network's inputs and outputs that counts the samples, 1 for (L, B, ...). Data
            have the samples first.
    """

    model: str
    data: str | None = None
    checkpoint: Path | None = None
    model_args: Mapping[str, Value] = field(default_factory=dict)
    limit: int | None = None
    normalize: str | None = None
    calibrate: int = 0
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    module: str | None = None
    batch_dim: int = 0

    def __post_init__(self) -> None:
        require_one_of("dtype", self.dtype, DTYPES)
        if self.calibrate != 0:
            require_whole("calibrate", self.calibrate, 2)
        require_whole("batch_dim", self.batch_dim, 0)
        require_model_spec(self.model)
        if self.data is not None:
            require_data_spec(self.data)
        if self.normalize not in (None, "auto", "card"):
            Normalization.parse(str(self.normalize))  # says what is wrong with it
        elif self.normalize == "auto":
            object.__setattr__(self, "normalize", None)

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Source:
        """The source of a finished run, by what its record says was asked."""
        own = {entry.name: asked[entry.name] for entry in fields(cls) if entry.name in asked}
        return cls(**own | {"checkpoint": Path(own["checkpoint"]) if own.get("checkpoint") else None})

    def card(self) -> Normalization | None:
        """How the card or configuration of the network says that its training normalised."""
        from resect.models.preprocessing import normalization_of

        return normalization_of(self.model, self.checkpoint, self.model_args)

    def samples(self, *like: SampleSet, split: Split = "test") -> SampleSet:
        """Load the samples in this dtype, normalised as this network takes them.

        Args:
            like: loaded by sources of the same data; one that is normalised so is taken.

        The seed does not move the border between training and test samples: trained weights would be tested on
        what they were trained on.
        """
        if self.data is None:
            raise DataError("`data` must name samples, such as digits; there is none.")
        from resect.data import load_samples

        card = self.card()
        for samples in like:
            if samples.prepared is None and self._takes(samples, card):
                return samples
        from resect.models.inputs import ModelInputs

        model = ModelInputs(self.model, self.checkpoint, self.model_args)
        normalize = self.normalize
        samples = load_samples(self.data, split=split, limit=self.limit, normalize=normalize, card=card, model=model)
        return samples.to(self._dtype)

    def _takes(self, samples: SampleSet, card: Normalization | None) -> bool:
        """Whether samples of these data are normalised as this network takes them."""
        there, own = samples.normalization, self.normalize in (None, "card")
        here = card if own else Normalization.parse(str(self.normalize))
        if there is None:
            return own and not (here and here.floats)
        if here is None:
            return own and there.origin == "of the data spec"
        return (there.mean, there.std) == (here.mean, here.std)

    def load(self, samples: SampleSet | None = None) -> LoadedModel:
        """Load the network, on this device and in this dtype.

        Args:
            samples: what it will see, whose channels, classes and size it takes over.

        Raises:
            DataError: nothing says what its inputs look like.
        """
        from resect.models.specs import load_model

        own = {"dtype": self.dtype} if self._reads_dtype else {}
        loaded = load_model(
            self.model,
            checkpoint=self.checkpoint,
            model_args={**self.model_args, **own},
            samples=samples,
            seed=self.seed,
        )
        if loaded.example is None:
            raise DataError(
                f"{self.model} does not say what its inputs look like. Let the factory return (model, example), where "
                "example is a batch of its inputs."
            )
        placed = self.placed(loaded)
        if self.calibrate and samples is not None:
            from resect.measuring.calibration import calibrate

            calibrate(placed.module, samples.limited(self.calibrate).batches(self.calibrate))
        return placed

    def beside(self, text: str) -> Source:
        """SPEC or SPEC@FILE of another network, on the same data; a card of its own goes before `normalize`."""
        spec, checkpoint = split_spec(text)
        other = replace(self, model=spec, checkpoint=checkpoint, model_args={}, module=None, batch_dim=0)
        if other.card() is not None:
            return replace(other, normalize=self.normalize and "card")
        return replace(other, normalize=None if self.normalize == "card" else self.normalize)

    def unravel(
        self, *like: SampleSet, plain: bool = False
    ) -> tuple[Unraveled, SampleSet, tuple[str, ...], bool, bool]:
        """The network, unravelled, the samples (of `like` if one is as it takes them), and the rest of a `Subject`:
        what to warn of, whether some weights are random, whether all are.

        Raises:
            DataError: the samples do not fit the network.
            InputError: the network cannot be captured.
        """
        from resect.jobs.fit import require_outputs, require_run
        from resect.jobs.warn import random_weights, recorded, untouched_norms
        from resect.network.entrance import unravel

        samples = self._turned(self.samples(*like))
        loaded = self.load(samples)
        taken, samples = self.part(loaded), self._given(loaded, samples)
        try:
            net = unravel(taken, plain=plain, batch_dim=self.batch_dim)
        except InputError:
            require_run(taken.module, samples)  # says so if they are why
            raise
        require_outputs(taken.module, samples, batch_dim=self.batch_dim)
        doubts = random_weights(taken) + untouched_norms(taken.module) + recorded(net)
        return net, samples, doubts, bool(taken.random), taken.untrained

    def part(self, loaded: LoadedModel) -> LoadedModel:
        """The part of a model that is asked for, with inputs as the whole gives it; the model itself if none is.

        Raises:
            InputError: there is no such part, or the model does not call it.
        """
        if self.module is None:
            return loaded
        from resect.network.parts import part

        module, example = part(loaded.module, self.module, loaded.example)
        inside = f"{self.module}."
        names = tuple(name.removeprefix(inside) for name in loaded.random if name.startswith(inside))
        return replace(loaded, module=module, example=example, random=names)

    def _turned(self, samples: SampleSet) -> SampleSet:
        """Samples with the dimension that counts them where this network has it."""
        if not self.batch_dim:
            return samples
        from resect.jobs.turned import Turned, samples_to

        return Turned(samples, partial(samples_to, self.batch_dim), f"batch_dim={self.batch_dim}")

    def _given(self, loaded: LoadedModel, samples: SampleSet) -> SampleSet:
        """Samples as the model gives them to the part that is asked for."""
        if self.module is None:
            return samples
        from torch.utils import _pytree as pytree

        from resect.digest import fingerprint
        from resect.jobs.turned import Turned
        from resect.network.parts import given

        def turn(inputs: Any) -> Any:
            return given(loaded.module, str(self.module), pytree.tree_map(self._place, inputs))

        return Turned(samples, turn, f"{self.module} of {self.model} {fingerprint(loaded.module)}")

    def placed(self, loaded: LoadedModel) -> LoadedModel:
        """A model on this device and in this dtype."""
        from torch.utils import _pytree as pytree

        from resect.jobs.fit import placed

        placed(loaded.module, self.device, None if self._reads_dtype else self._dtype)
        return replace(loaded, example=pytree.tree_map(self._place, loaded.example))

    @property
    def _reads_dtype(self) -> bool:
        """Whether weights are read in the dtype: of transformers, which leaves tables of positions in float32."""
        return self.model.startswith("hf:") and not {"dtype", "torch_dtype"} & set(self.model_args)

    @property
    def _dtype(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def _place(self, leaf: Any) -> Any:
        import torch

        if not isinstance(leaf, torch.Tensor):
            return leaf
        return leaf.to(self.device, self._dtype if leaf.is_floating_point() else leaf.dtype)


def split_spec(text: str) -> tuple[str, Path | None]:
    """SPEC or SPEC@FILE into the spec and its checkpoint."""
    if not isinstance(text, str):
        return text, None  # which is refused where it is loaded
    spec, at, file = text.partition("@")
    if at and not file:
        raise SpecError(f"SPEC@FILE must name a file of weights, got {text!r}.")
    return spec, Path(file) if at else None


def slug(spec: str) -> str:
    """A spec as part of a file name: "resnet50" for "timm:resnet50"."""
    name = Path(spec).stem if "/" in spec else spec.rpartition(":")[2]
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
