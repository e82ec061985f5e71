"""Train, prune, evaluate and export by command: what they write, what they refuse, and what Ctrl-C leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_runtime.bundle import open_bundle
from tests.toolkit.conftest import TINY, Roadworthy, one_line
from toolkit import runs
from toolkit.cli.desktop import DEFAULT_RECIPE


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_train_describes_its_variant(tiny_run: Path) -> None:
    model, info = runs.load(tiny_run)
    assert info.variant.slug == "rendered-vgg_small-w0.25-32-natural-s0"
    assert len(runs.load_history(tiny_run)) == 2
    assert not model.training
    assert not runs.partial_folder(tiny_run).exists()


def test_prune_before_training(roadworthy: Roadworthy, tmp_path: Path) -> None:
    out = tmp_path / "pre"
    arguments = ["--data", TINY, "--width", 0.25, "--epochs", 1, "--prune", "global", "--out", out]
    assert roadworthy("train", *arguments)[0] == 0
    variant = runs.load_info(out).variant
    assert (variant.pruning, variant.amount, variant.timing) == ("global", 0.2, "pre")


@pytest.mark.parametrize("method", ["l1", "global", "layered", "channel", "semi-structured"])
def test_prune_without_fine_tuning(roadworthy: Roadworthy, tiny_run: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / method
    code, said, _ = roadworthy("prune", tiny_run, "--method", method, "--fine-tune", 0, "--out", out)
    assert (code, said.startswith(str(out))) == (0, True)
    variant = runs.load_info(out).variant
    assert (variant.pruning, variant.timing, variant.fine_tune_epochs) == (method, "post", 0)


def test_prune_with_fine_tuning(roadworthy: Roadworthy, tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "channel"
    arguments = ["--method", "channel", "--amount", 0.5, "--fine-tune", 1, "--data", TINY, "--out", out]
    assert roadworthy("prune", tiny_run, *arguments)[0] == 0
    variant = runs.load_info(out).variant
    assert (variant.amount, variant.fine_tune_epochs) == (0.5, 1)
    assert len(runs.load_history(out)) == 1


def test_prune_by_gradients_to_a_share_of_macs(roadworthy: Roadworthy, tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "channel"
    choices = ["--importance", "taylor", "--scope", "global", "--target", "macs", "--amount", 0.3, "--round-to", 4]
    arguments = ["--method", "channel", *choices, "--fine-tune", 0, "--data", TINY, "--out", out]
    code, said, _ = roadworthy("prune", tiny_run, *arguments)
    info = runs.load_info(out)
    assert code == 0 and info.removed["macs"] >= 0.3
    assert f"{info.removed['macs']:.1%} of macs" in said
    assert info.variant.label == "channel-by-taylor-global-macs-round4"
    size = json.loads(roadworthy("evaluate", tiny_run, out, "--data", TINY, "--json")[1])
    assert 1 - size[1]["macs"] / size[0]["macs"] == pytest.approx(info.removed["macs"])


def test_prune_in_steps(roadworthy: Roadworthy, tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "steps"
    arguments = ["--method", "channel", "--steps", 2, "--fine-tune", 2, "--data", TINY, "--out", out]
    assert roadworthy("prune", tiny_run, *arguments)[0] == 0
    assert runs.load_info(out).variant.steps == 2
    assert [row["step"] for row in runs.load_history(out)] == [1, 2]


def test_choices_of_train_reach_the_variant(roadworthy: Roadworthy, tmp_path: Path) -> None:
    out = tmp_path / "pre"
    arguments = ["--prune", "channel", "--importance", "hessian", "--scope", "global", "--data", TINY, "--out", out]
    assert roadworthy("train", "--width", 0.5, "--epochs", 1, *arguments)[0] == 0
    variant = runs.load_info(out).variant
    assert (variant.importance, variant.scope, variant.timing) == ("hessian", "global", "pre")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--importance", "tailor"], "unknown importance 'tailor'; nearest: taylor"),
        (["--target", "speed"], "unknown target 'speed'"),
        (["--steps", 2], "steps 2 need fine-tuning"),
        (["--target", "parameters", "--amount", 0.999], "cannot lose 99.9% of its parameters"),
    ],
)
def test_pruning_refusals_are_one_line(
    roadworthy: Roadworthy, tiny_run: Path, tmp_path: Path, options: list[object], message: str
) -> None:
    arguments = ["--method", "channel", *options, "--fine-tune", 0, "--out", tmp_path / "out"]
    assert message in one_line(roadworthy("prune", tiny_run, *arguments))
    assert not (tmp_path / "out").exists()


def test_adversarial_fine_tuning_travels_with_the_variant(
    roadworthy: Roadworthy, tiny_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "hybrid"
    arguments = ["--method", "channel", "--fine-tune", 1, "--adversarial", 0.02, "--data", TINY, "--out", out]
    assert roadworthy("prune", tiny_run, *arguments)[0] == 0
    variant = runs.load_info(out).variant
    assert (variant.training, variant.fine_tune_eps, variant.label) == ("natural", 0.02, "channel+adversarial-ft")
    assert variant.slug.endswith("-ft1-adversarial0.02-s0")
    refused = roadworthy(
        "prune", tiny_run, "--method", "l1", "--fine-tune", 0, "--adversarial", 0.1, "--out", tmp_path / "other"
    )
    assert "--fine-tune 0" in one_line(refused)


def test_adversarial_training_of_a_channel_pruned_network(roadworthy: Roadworthy, tmp_path: Path) -> None:
    out = tmp_path / "hybrid"
    arguments = ["--width", 0.25, "--epochs", 1, "--prune", "channel", "--adversarial", 0.01, "--data", TINY]
    assert roadworthy("train", *arguments, "--out", out)[0] == 0
    variant = runs.load_info(out).variant
    assert (variant.training, variant.pruning, variant.timing) == ("adversarial", "channel", "pre")
    code, said, _ = roadworthy("evaluate", out, "--data", TINY, "--adversarial", 0.01)
    assert code == 0 and "under attack" in said


def test_evaluate_as_json(roadworthy: Roadworthy, tiny_run: Path) -> None:
    code, out, _ = roadworthy("evaluate", tiny_run, "--data", TINY, "--adversarial", 0.01, "--json")
    assert code == 0
    (row,) = json.loads(out)
    assert row["images"] == 66
    assert 0 <= row["robust_accuracy"] <= row["accuracy"] <= 1
    assert row["macs"] > row["parameters"] == row["nonzero_parameters"]
    assert row["variant"]["architecture"] == "vgg_small"


def test_evaluate_in_words(roadworthy: Roadworthy, tiny_run: Path) -> None:
    code, out, error = roadworthy("evaluate", tiny_run, "--data", TINY)
    assert code == 0
    assert "of 66 images" in out
    assert "132 train, 44 validation, 66 test images" in error


def test_export(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    assert bundle.manifest.variant is not None
    assert bundle.manifest.name == bundle.manifest.variant.slug
    assert len(bundle.golden().images) == 8
    assert len(bundle.audit_set().labels) == 8
    parity = bundle.manifest.gradient_parity
    assert parity is not None
    assert parity.images == 4
    assert parity.residual < 1e-4


def test_export_measures_baselines(roadworthy: Roadworthy, tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert roadworthy("export", tiny_run, "--data", TINY, "--audit-images", 22, "--out", out)[0] == 0
    baselines = open_bundle(out).manifest.baselines
    assert baselines.accuracy is not None
    assert {method: len(values) for method, values in baselines.gini.items()} == {"vg": 22, "ig": 22, "sg": 22}
    # ROAD is measured on images that are classified correctly, which so short a training may not give
    assert set(baselines.road) == ({"vg", "ig", "sg"} if baselines.accuracy else set())


def test_export_without_audit_set(roadworthy: Roadworthy, tiny_run: Path, tmp_path: Path) -> None:
    assert roadworthy("export", tiny_run, "--audit-images", 0, "--out", tmp_path / "bundle")[0] == 0
    assert not open_bundle(tmp_path / "bundle").has("audit_set.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "rendred"], "unknown data set 'rendred'; nearest: rendered"),
        (["--data", "gtsrb:/nowhere"], "/nowhere does not exist"),
        (["--architecture", "vgg_smal"], "unknown model 'vgg_smal'; nearest: vgg_small"),
        (["--recipe", "papper"], "unknown training preset 'papper'; nearest: paper"),
        (["--prune", "chanel"], "unknown pruning method 'chanel'; nearest: channel"),
        (["--split", "trak"], "unknown split 'trak'; nearest: track"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--adversarial", "2"], "eps 2 is outside"),
        (["--adversarial", "0.1", "--attack", "papper"], "unknown attack preset 'papper'"),
        (["--epochs", "0"], "epochs 0 is outside"),
        (["--resume"], "no unfinished training"),
    ],
)
def test_train_refuses(roadworthy: Roadworthy, tmp_path: Path, arguments: list[str], message: str) -> None:
    outcome = roadworthy("train", "--out", tmp_path / "run", *arguments)
    assert message in one_line(outcome)
    assert not list(tmp_path.iterdir())


def test_existing_run_is_refused_and_kept(roadworthy: Roadworthy, tiny_run: Path) -> None:
    before = snapshot(tiny_run)
    started = time.perf_counter()
    assert "already exists" in one_line(roadworthy("train", "--data", TINY, "--out", tiny_run))
    assert "already exists" in one_line(roadworthy("prune", tiny_run, "-m", "l1", "--out", tiny_run))
    assert time.perf_counter() - started < 5, "what exists is found before the data are read"
    assert snapshot(tiny_run) == before


def test_existing_bundle_is_refused_and_kept(roadworthy: Roadworthy, tiny_run: Path, tiny_bundle: Path) -> None:
    before = snapshot(tiny_bundle)
    assert "already exists" in one_line(roadworthy("export", tiny_run, "--data", TINY, "--out", tiny_bundle))
    assert snapshot(tiny_bundle) == before


def test_force_replaces_a_run(roadworthy: Roadworthy, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["--data", TINY, "--width", 0.25, "--epochs", 1, "--out", out]
    assert roadworthy("train", *arguments)[0] == 0
    assert roadworthy("train", *arguments, "--seed", 1, "--force")[0] == 0
    assert runs.load_info(out).variant.seed == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_force_does_not_replace_what_is_no_run(roadworthy: Roadworthy, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    assert "holds no variant.json" in one_line(roadworthy("train", "--data", TINY, "--out", tmp_path, "--force"))
    assert (tmp_path / "letters.txt").read_text() == "dear"


@pytest.mark.parametrize("command", ["prune", "evaluate", "export"])
def test_missing_run(roadworthy: Roadworthy, tmp_path: Path, command: str) -> None:
    more = {"prune": ["-m", "l1", "--out", tmp_path / "out"], "evaluate": [], "export": ["--out", tmp_path / "out"]}
    assert "does not exist" in one_line(roadworthy(command, tmp_path / "none", *more[command]))
    assert not list(tmp_path.iterdir())


def test_unknown_pruning_method(roadworthy: Roadworthy, tiny_run: Path, tmp_path: Path) -> None:
    error = one_line(roadworthy("prune", tiny_run, "-m", "chanels", "--out", tmp_path / "out"))
    assert "unknown pruning method 'chanels'; nearest: channel" in error


def test_a_pruned_run_is_not_pruned_again(roadworthy: Roadworthy, tiny_run: Path, tmp_path: Path) -> None:
    assert roadworthy("prune", tiny_run, "-m", "l1", "--fine-tune", 0, "--out", tmp_path / "l1")[0] == 0
    error = one_line(roadworthy("prune", tmp_path / "l1", "-m", "l1", "--fine-tune", 0, "--out", tmp_path / "again"))
    assert "pruned already" in error


def test_other_classes_are_refused(roadworthy: Roadworthy, tiny_run: Path, tmp_path: Path) -> None:
    import numpy as np

    images = np.zeros((40, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "other.npz", images=images, labels=np.arange(40) % 4)
    _, _, error = outcome = roadworthy(
        "export", tiny_run, "--data", f"npz:{tmp_path / 'other.npz'}", "--out", tmp_path / "b"
    )
    assert outcome[0] == 2
    assert "pass the data that it was trained on" in error.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["other.npz"]


def test_export_needs_one_source(roadworthy: Roadworthy, tiny_run: Path, tmp_path: Path) -> None:
    assert "either a run folder or --from-onnx" in one_line(roadworthy("export", "--out", tmp_path / "b"))
    both = roadworthy("export", tiny_run, "--from-onnx", "model.onnx", "--out", tmp_path / "b")
    assert "either a run folder or --from-onnx" in one_line(both)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--input-size": "big"}, "'big' is no size"),
        ({"--mean": "0.5,0.5"}, "is not three numbers"),
        ({"--std": "0.5,0,0.5"}, "must be above 0"),
        ({"--labels": "/nowhere.txt"}, "cannot be read as text"),
        ({"--labels": None}, "needs --labels as well"),
        ({"--input-size": "48"}, "is not [N, 3, 48, 48]"),
    ],
)
def test_from_onnx_refuses(
    roadworthy: Roadworthy, tiny_bundle: Path, tmp_path: Path, changes: dict[str, str | None], message: str
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(open_bundle(tiny_bundle).labels))
    options = {"--labels": str(labels), "--input-size": "32", "--mean": "0.5", "--std": "0.25"} | changes
    given = [part for option, value in options.items() if value is not None for part in (option, value)]
    outcome = roadworthy("export", "--from-onnx", tiny_bundle / "classifier.onnx", *given, "--out", tmp_path / "b")
    assert message in one_line(outcome)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "holds no labels"), ("stop\nyield\nstop\n", "repeats the label 'stop'"), ("a\nb", "2 labels")],
)
def test_labels_file(roadworthy: Roadworthy, tiny_bundle: Path, tmp_path: Path, content: str, message: str) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text(content)
    options = ["--labels", labels, "--input-size", "32", "--mean", "0.5", "--std", "0.25", "--out", tmp_path / "b"]
    assert message in one_line(roadworthy("export", "--from-onnx", tiny_bundle / "classifier.onnx", *options))


def test_help_names_what_the_tables_hold(roadworthy: Roadworthy) -> None:
    from toolkit import adversarial, models, pruning, recipes

    _, text, _ = roadworthy("train", "--help")
    words = text.replace("\n", " ").replace(",", " ").split()
    for table in (models.ARCHITECTURES, recipes.PRESETS, adversarial.PRESETS, pruning.METHODS):
        assert set(table) <= {word.rstrip(".") for word in words}
    assert DEFAULT_RECIPE in recipes.PRESETS


def epochs_kept(partial: Path) -> int:
    metrics = partial / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.is_file() else 0


def test_ctrl_c_keeps_the_checkpoint_and_resume_goes_on(roadworthy: Roadworthy, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["train", "--data", TINY, "--width", "0.25", "--epochs", "20", "--device", "cpu", "--out", str(out)]
    # a shell that starts the tests in the background has its children ignore SIGINT
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script += "; from toolkit.cli import main; main()"
    with subprocess.Popen([sys.executable, "-c", script, *arguments], stderr=subprocess.PIPE, text=True) as training:
        deadline = time.monotonic() + 120
        while epochs_kept(runs.partial_folder(out)) < 2:
            assert time.monotonic() < deadline
            assert training.poll() is None, training.communicate()
            time.sleep(0.05)
        training.send_signal(signal.SIGINT)
        _, error = training.communicate(timeout=60)
    assert training.returncode == 130
    assert "continue with --resume" in error.strip().splitlines()[-1]
    assert "Traceback" not in error
    assert not out.exists()
    kept = epochs_kept(runs.partial_folder(out))
    assert kept >= 2
    refused = one_line(roadworthy(*arguments))
    assert "holds an unfinished training" in refused
    assert "not finished training; continue with --resume" in one_line(roadworthy("evaluate", out, "--data", TINY))
    assert roadworthy("train", "--data", TINY, "--out", out, "--resume")[0] == 0
    assert len(runs.load_history(out)) == 20
    assert not runs.partial_folder(out).exists()
