"""Supervised inference: hanging runs are ended, failing ones reported, and the next one works again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.errors import EngineError
from edge_runtime.loop.engine import Engine, EngineOptions, HangingError, Supervisor
from edge_runtime.preprocess import normalize
from tests.edge_runtime.loop.hanging import HANGS, hanging_files
from tests.edge_runtime.tiny_bundle import SPEC, TinyNetwork, images, write_tiny_bundle

CALM = normalize(images(2) // 2, SPEC)
HANGING = normalize(np.full((1, SPEC.height, SPEC.width, 3), HANGS, np.uint8), SPEC)


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory, network: TinyNetwork) -> Bundle:
    """A bundle whose classifier never ends for white images."""
    return open_bundle(write_tiny_bundle(tmp_path_factory.mktemp("hanging") / "bundle", hanging_files(network)))


class Stuck:
    """What an engine does that does not even heed the order to terminate."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def run(self, outputs: list[str], feeds: dict[str, Any], options: Any) -> list[Any]:
        time.sleep(self.seconds)
        return [np.zeros(1)]


def test_it_computes_what_the_network_computes(tiny: Bundle, network: TinyNetwork) -> None:
    engine = Engine(tiny, EngineOptions(threads=1))
    engine.warm_up(("vg", "ig", "sg"))
    prediction = engine.classify(CALM)
    assert prediction.target.tolist() == network.logits(CALM).argmax(axis=1).tolist()
    assert engine.explainer.explain(CALM, target=prediction.target).valid.all()
    engine.close()


def test_a_hanging_inference_is_terminated_and_the_next_one_works(hanging: Bundle) -> None:
    engine = Engine(hanging, EngineOptions(threads=1, timeout=1.0))
    before = engine.classify(CALM)
    begin = time.monotonic()
    with pytest.raises(HangingError, match=r"took over 1 s and was terminated"):
        engine.classify(HANGING)
    assert time.monotonic() - begin < 20
    assert not engine.exhausted
    engine.rebuild()
    assert engine.rebuilt == 1
    assert np.array_equal(engine.classify(CALM).logits, before.logits)
    engine.close()


def test_an_engine_that_cannot_be_terminated_loses_its_thread() -> None:
    supervisor = Supervisor(0.05)
    with pytest.raises(HangingError, match="could not be terminated"):
        supervisor.run(Stuck(3), ["logits"], {})  # type: ignore[arg-type]
    assert supervisor.abandoned == 1
    assert len(supervisor.run(Stuck(0), ["logits"], {})) == 1  # type: ignore[arg-type]
    supervisor.close()


def test_a_result_at_the_last_moment_counts() -> None:
    supervisor = Supervisor(0.05)
    assert len(supervisor.run(Stuck(0.3), ["logits"], {})) == 1  # type: ignore[arg-type]
    supervisor.close()


def test_a_failing_inference_is_one_line(tiny: Bundle) -> None:
    engine = Engine(tiny, EngineOptions(threads=1))
    with pytest.raises(EngineError, match="inference failed: ") as caught:
        engine._supervisor.run(engine.classifier.session, ["no such output"], {})
    assert "\n" not in str(caught.value)
    assert engine.classify(CALM).valid.all()
    engine.close()


def test_a_stop_does_not_wait_for_the_timeout(hanging: Bundle) -> None:
    engine = Engine(hanging, EngineOptions(threads=1, timeout=600), stopping=lambda: True)
    begin = time.monotonic()
    with pytest.raises(HangingError):
        engine.classify(HANGING)
    assert time.monotonic() - begin < 30
    engine.close()


def test_warm_up_has_no_timeout(tmp_path: Path, tiny: Bundle) -> None:
    engine = Engine(tiny, EngineOptions(threads=1, timeout=1e-9))
    engine.warm_up(())
    assert engine._supervisor.timeout == 1e-9
    engine.close()
