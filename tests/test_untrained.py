"""The untrained twin: built anew from the spec, calibrated, and measured beside the trained network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import resect
from resect.data import load_samples
from resect.jobs.findings import Study
from resect.jobs.job import Subject
from resect.jobs.source import Source
from resect.jobs.study import StudyJob
from resect.jobs.untrained import Measured, untrained_twin
from resect.measuring.calibration import calibrate
from resect.models.resnet import CifarResNet
from resect.models.specs import load_model
from resect.models.untrained import untrained
from resect.report.study.gallery import drawings
from resect.report.study.untrained import untrained as said
from resect.weights import save_weights

SAMPLES = load_samples("digits", limit=40)
SMALL = {"limit": 40, "repeats": 1, "draws": 2, "sweeps": 2, "gradient_samples": 16, "gradient_batch": 8,
         "path_samples": 16, "path_batch": 8, "control": None}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a ResNet-8 of width 4 that are not those of any seed, with batch statistics of their own."""
    torch.manual_seed(99)
    model = CifarResNet(8, width=4, channels=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.7)
    calibrate(model, SAMPLES.batches(20))
    file = tmp_path_factory.mktemp("weights") / "own.safetensors"
    save_weights(model, file)
    return file


def test_a_study_sets_the_same_network_with_random_weights_beside_the_trained_one(weights: Path) -> None:
    options = {"model_args": {"width": 4}, "checkpoint": weights, "seed": 5, "calibrate": 32}
    study = Study.of(StudyJob.from_options("resect:resnet8", "digits", SMALL | options).run(None))
    twin = study.untrained
    assert twin is not None and twin.lengths is not None and twin.seed == 5

    torch.manual_seed(5)  # by hand
    model = CifarResNet(8, width=4, channels=1).eval()
    calibrate(model, SAMPLES.limited(32).batches(32))
    net, data = resect.unravel(model, SAMPLES.first(2)[0]), SAMPLES.limited(16).batches(8)
    spectrum = resect.path_spectrum(net, data)
    squares = resect.path_squares(net, data, resect.PathSettings(seed=5), sweeps=2)
    np.testing.assert_allclose(twin.lengths["share"], spectrum.share, atol=1e-6)
    np.testing.assert_allclose(twin.lengths["coherence"], squares.coherence(spectrum), rtol=1e-4)
    own = np.median(squares.own_coherence(spectrum), axis=0)
    np.testing.assert_allclose(twin.lengths["coherence_median"], own, rtol=1e-4)
    effective = spectrum.effective()
    assert twin.by_share is not None and twin.by_magnitude is not None
    assert (twin.by_share.low, twin.by_share.high) == (effective.low, effective.high)
    assert twin.depths[0] == pytest.approx(spectrum.multiplicity().effective_depth, abs=1e-5)
    assert twin.longest[0] == twin.by_magnitude.high
    torch.manual_seed(7)  # the third draw
    model = CifarResNet(8, width=4, channels=1).eval()
    calibrate(model, SAMPLES.limited(32).batches(32))
    third = resect.path_spectrum(resect.unravel(model, SAMPLES.first(2)[0]), data).multiplicity().effective_depth
    assert len(twin.depths) == 3 and twin.depths[2] == pytest.approx(third, abs=1e-5) != twin.depths[0]
    assert twin.effective_depth == pytest.approx(np.mean(twin.depths), abs=1e-9)

    trained = study.answers.multiplicity[0].effective_depth
    assert twin.depth_change is not None
    change, low, high = twin.depth_change
    assert change == pytest.approx(trained - twin.effective_depth, abs=1e-5) and low < change < high
    assert "Untrained, with random weights, it has" in said(study)
    assert "untrained" in [drawing.name for drawing in drawings(study)]
    assert study.lengths is not None and not np.allclose(study.lengths["share"], twin.lengths["share"])


def test_the_switch_is_said_and_refused_where_there_are_no_paths() -> None:
    assert "untrained" not in StudyJob.from_options("resect:resnet8", "digits", {"untrained": True}).command()
    with pytest.raises(resect.InputError, match="`untrained` is an option of networks with residual joins"):
        StudyJob.from_options("resect:resnet8", "digits", {"plain": True, "untrained": True})


def test_why_there_is_no_twin_is_said() -> None:
    model = CifarResNet(8, width=4, channels=1).eval()
    subject = Subject(resect.unravel(model, SAMPLES.first(2)[0]), SAMPLES)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def measure(subject: Subject) -> Measured:
        data = subject.samples.limited(4).batches(4)
        parts = (resect.path_spectrum, resect.sample_paths, resect.path_squares)
        return tuple(part(subject.net, data) for part in parts)  # type: ignore[return-value]

    def why(spec: str, **options: object) -> str:
        own: Subject = replace(subject, **options)  # type: ignore[arg-type]
        twin = untrained_twin(Source(spec, "digits"), own, measure(subject), 40, measure, lambda one: measure(one)[:2])
        assert twin.by_share is None and twin.lengths is None
        return str(twin.why_not)

    assert why("resect:resnet8", untrained=True).startswith("the weights of the network under study are random, too")
    assert why("py:own_net:build").startswith("what a py: factory builds may be trained")
    assert "its architecture has other weights (size mismatch for" in why("resect:resnet8")  # of width 16
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert load_model("resect:resnet8").untrained and not load_model("resect:resnet110-digits").untrained


def test_shipped_weights_and_those_of_libraries_are_left_out() -> None:
    trained = load_model("resect:resnet110-digits").module
    twin = untrained(trained, "resect:resnet110-digits", samples=SAMPLES, seed=1)
    again = untrained(trained, "resect:resnet110-digits", samples=SAMPLES, seed=1)
    own = trained.state_dict()
    assert {name: value.shape for name, value in twin.state_dict().items()} == {k: v.shape for k, v in own.items()}
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in twin.state_dict().items())
    assert not torch.equal(twin.state_dict()["stem.weight"], own["stem.weight"])
    state = torch.random.get_rng_state()
    args = {"pretrained": True, "num_classes": 7}  # nothing is fetched
    model = untrained(trained, "timm:resnet10t", model_args=args)
    assert model.state_dict()["fc.weight"].shape[0] == 7
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_of_transformers_is_built_from_its_own_configuration() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=11, n_positions=6)
    trained = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        trained.transformer.wte.weight.fill_(1.0)
    twin = untrained(trained, "hf:nowhere/none", seed=3)
    weight = twin.transformer.wte.weight
    assert weight.shape == (11, 8) and float(weight.detach().std()) == pytest.approx(config.initializer_range, rel=0.3)
    assert bool((trained.transformer.wte.weight == 1).all()) and not twin.training
