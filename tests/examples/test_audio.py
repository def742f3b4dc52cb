"""A modality that the core does not know: a package of one file, trained through every command.

What a package for audio classification needs stands in ``examples/audio_classification``; nothing of it is in hfft.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.io import wavfile

from hfft.cli import main
from tests.forkserver import run_hfft
from tests.without_hfft import Pipelines

Command = Callable[..., str]
EXAMPLE = Path(__file__).parents[2] / "examples" / "audio_classification"
MODULE = EXAMPLE / "hfft_audio_classification.py"
RATE = 4000
TONES = {"low": 200.0, "middle": 500.0, "high": 1200.0}  # hertz


def test_the_package_is_one_file_of_at_most_200_lines():
    assert [path.name for path in EXAMPLE.rglob("*.py")] == [MODULE.name]
    assert len(MODULE.read_text("utf-8").splitlines()) <= 200


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip would leave it: its module and the entry point of its pyproject.toml."""
    root = tmp_path_factory.mktemp("site")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text("utf-8"))["project"]
    info = root / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (root / MODULE.name).write_bytes(MODULE.read_bytes())
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [f"{name} = {value}" for name, value in project["entry-points"]["hfft.tasks"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[hfft.tasks]", *points]))
    return root


def write_tone(
    path: Path, hertz: float, generator: np.random.Generator, seconds: float = 0.5, rate: int = RATE
) -> None:
    """Write a noisy tone that begins anywhere in its period."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(int(seconds * rate)) / rate
    sound = np.sin(2 * np.pi * (hertz * times + generator.random())) + 0.1 * generator.standard_normal(len(times))
    wavfile.write(path, rate, (sound * 8000).astype(np.int16))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders under train (10 of each of 3 tones) and test (4 each)."""
    root, generator = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 4)):
        for name, hertz in TONES.items():
            for index in range(count):
                write_tone(root / split / name / f"{index}.wav", hertz, generator)
    return root


def save_wav2vec2(root: Path, norm: str) -> Path:
    """Save a wav2vec2 of three blocks with random weights; those with a norm of layers know what is padding."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, classifier_proj_size=16,
        conv_dim=(16, 16), conv_kernel=(10, 8), conv_stride=(5, 4), num_feat_extract_layers=2,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
        layerdrop=0.0, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer",
    )  # fmt: skip
    Wav2Vec2Model(config).save_pretrained(root)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=norm == "layer").save_pretrained(root)
    return root


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wav2vec2(tmp_path_factory.mktemp("models") / "wav2vec2", "group")


@pytest.fixture
def hfft(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command where the package is installed, in an empty folder; returns what it says."""
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)

    def run(*argv: object, code: int = 0) -> str:
        assert main([*map(str, argv)]) == code, capsys.readouterr()
        return capsys.readouterr().out

    return run


def weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def probe(site: Path, recordings: Path, wav2vec2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a process of its own, that knows of the package what an installed one tells."""
    folder = tmp_path_factory.mktemp("probe")
    flags = ["--strategy", "linear-probe", "--output_dir", "out"]
    done = run_hfft(["train", "--model", wav2vec2, "--data", recordings, *flags], folder, site)
    assert done.returncode == 0, done.stderr
    assert "audio-classification" in done.stdout  # chosen by the data alone
    return folder / "out"


def test_a_probe_leaves_the_trunk_and_shows_the_sounds(probe: Path, wav2vec2: Path):
    before, after = weights(wav2vec2), weights(probe)
    assert all(np.array_equal(before[name], after[f"wav2vec2.{name}"]) for name in before)
    assert json.loads((probe / "metrics.json").read_text())["test_accuracy"] > 0.5
    assert "data:image/jpeg" in (probe / "report.html").read_text("utf-8")
    assert "pipeline_tag: audio-classification" in (probe / "README.md").read_text("utf-8")


@pytest.mark.parametrize("strategy", ["full", "gradual"])
def test_a_strategy_trains_what_it_says(strategy: str, hfft: Command, recordings: Path, wav2vec2: Path, tmp_path: Path):
    flags = ["--strategy", strategy, "--num_train_epochs", 2, "--freeze", "conv_layers", "--validation_size", 0]
    hfft("train", "--model", wav2vec2, "--data", recordings, "--output_dir", "out", *flags)
    before, after = weights(wav2vec2), weights(tmp_path / "out")
    moved = {name for name in before if not np.array_equal(before[name], after[f"wav2vec2.{name}"])}
    assert not {name for name in moved if "conv_layers" in name}
    assert {name.split(".")[2] for name in moved if name.startswith("encoder.layers.")} == {"0", "1", "2"}


def test_the_result_answers_in_a_pipeline_without_hfft(
    probe: Path, hfft: Command, recordings: Path, pipelines: Pipelines, tmp_path: Path
):
    hfft("predict", "--model", probe, "--input", recordings / "test", "--output", "p.csv")
    assert_pipeline_agrees(pipelines, probe, tmp_path, examples=12)


def assert_pipeline_agrees(pipelines: Pipelines, model: Path, folder: Path, examples: int) -> None:
    """Compare the probabilities of p.csv with those of a pipeline in a process that cannot import hfft."""
    with (folder / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == examples
    sounds = [(wavfile.read(row["input"])[1].astype(np.float32) / 32768).tolist() for row in rows]
    answers = pipelines.probabilities("audio-classification", str(model), sounds)
    for row, answer in zip(rows, answers, strict=True):
        for name in TONES:
            assert float(row[f"probability_{name}"]) == pytest.approx(answer[name], abs=1e-5)


def test_evaluate_agrees_with_the_run(probe: Path, hfft: Command, recordings: Path, tmp_path: Path):
    hfft("evaluate", "--model", probe, "--data", recordings, "--output", "e.json")
    told = json.loads((probe / "metrics.json").read_text())
    assert json.loads((tmp_path / "e.json").read_text())["test_accuracy"] == told["test_accuracy"]


def test_of_different_lengths_a_model_answers_as_alone_or_the_run_warns(
    hfft: Command, pipelines: Pipelines, tmp_path: Path
):
    generator = np.random.default_rng(1)
    for name, hertz in TONES.items():
        for index in range(6):
            write_tone(tmp_path / "data" / name / f"{index}.wav", hertz, generator, seconds=0.3 + 0.1 * index)
    for norm in ("layer", "group"):
        model = save_wav2vec2(tmp_path / norm, norm)
        flags = ["--strategy", "linear-probe", "--output_dir", f"out-{norm}", "--validation_size", 0]
        said = hfft("train", "--model", model, "--data", "data", *flags)
        assert ("differ in length" in said) == (norm == "group")
    hfft("predict", "--model", "out-layer", "--input", "data", "--output", "p.csv")
    assert_pipeline_agrees(pipelines, tmp_path / "out-layer", tmp_path, examples=18)


@pytest.fixture
def table(recordings: Path, tmp_path: Path) -> Path:
    """Recordings by path in a column ``path``, and again, in another order, in one that is called ``other``."""
    paths = [str(path) for path in sorted((recordings / "train").rglob("*.wav"))]
    with (tmp_path / "table.csv").open("w", newline="") as file:
        rows = zip(paths, paths[::-1], (Path(path).parent.name for path in paths), strict=True)
        csv.writer(file).writerows([("path", "other", "label"), *rows])
    return tmp_path / "table.csv"


def test_a_table_is_read_by_the_names_that_the_task_knows(hfft: Command, table: Path, tmp_path: Path):
    hfft("check", "--data", table, "--output", "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["task"] == "audio-classification"
    assert not [finding for finding in found["findings"] if finding["severity"] == "error"]


def test_a_column_of_an_input_that_the_core_does_not_know_can_be_named(
    hfft: Command, table: Path, wav2vec2: Path, tmp_path: Path
):
    columns = '{"audio": "other"}'
    flags = ["--strategy", "linear-probe", "--columns", columns, "--output_dir", "out", "--validation_size", 0]
    hfft("train", "--model", wav2vec2, "--data", table, *flags)
    assert yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())["columns"] == {"audio": "other"}
    for more in ((), ("--columns", columns)):  # the run's own, where none is named
        hfft("predict", "--model", "out", "--input", table, "--output", "p.csv", *more)
        with (tmp_path / "p.csv").open() as predicted, table.open() as given:
            assert [row["input"] for row in csv.DictReader(predicted)] == [r["other"] for r in csv.DictReader(given)]
    hfft("train", "--config", tmp_path / "out" / "run.yaml", "--output_dir", "again")
    assert all(
        np.array_equal(weights(tmp_path / "again")[name], value) for name, value in weights(tmp_path / "out").items()
    )


def test_what_cannot_be_decoded_within_bounds_is_named(hfft: Command, tmp_path: Path):
    folder = tmp_path / "data"
    for name, hertz in TONES.items():
        for index in range(5):
            write_tone(folder / name / f"{index}.wav", hertz, np.random.default_rng(index))
    whole = (folder / "low" / "0.wav").read_bytes()
    (folder / "low" / "cut.wav").write_bytes(whole[:30])
    (folder / "low" / "text.wav").write_text("no sound")
    wavfile.write(folder / "low" / "rate.wav", 1_000_000, np.ones(1_000_000, np.int16))
    write_tone(folder / "low" / "short.wav", 200, np.random.default_rng(9), seconds=0.1)
    write_tone(folder / "low" / "long.wav", 200, np.random.default_rng(9), seconds=61)
    wavfile.write(folder / "low" / "nan.wav", RATE, np.full(RATE, np.nan, np.float32))
    wavfile.write(folder / "low" / "silent.wav", RATE, np.zeros(RATE, np.int16))
    with (folder / "low" / "large.wav").open("wb") as file:
        file.truncate(100_000_001)  # bytes, of which the disk holds none
    hfft("check", "--data", folder, "--output", "found.json", code=1)
    findings = json.loads((tmp_path / "found.json").read_text())["findings"]
    reasons = {Path(one["reference"]).stem: one["reason"] for finding in findings for one in finding["offenders"]}
    assert "cannot be read as a WAV recording" in reasons["cut"]
    assert "cannot be read as a WAV recording" in reasons["text"]
    assert "1000000 samples a second" in reasons["rate"]
    assert "lasts 0.1 seconds" in reasons["short"]
    assert "lasts 61 seconds" in reasons["long"]
    assert "no numbers" in reasons["nan"]
    assert "100,000,001 bytes" in reasons["large"]
    assert any("silence" in finding["message"] for finding in findings)


def test_layers_are_read_from_the_code_of_the_model(hfft: Command, wav2vec2: Path):
    said = hfft("layers", "--model", wav2vec2, "--strategy", "gradual")
    names = [
        "feature_extractor.conv_layers.0",
        "feature_projection",
        *(f"encoder.layers.{n}" for n in range(3)),
        "head",
    ]
    places = [said.index(name) for name in names]
    assert places == sorted(places)


def test_cross_validation(hfft: Command, recordings: Path, wav2vec2: Path, tmp_path: Path):
    flags = ["--strategy", "linear-probe", "--folds", 2, "--output_dir", "folds"]
    hfft("crossval", "--model", wav2vec2, "--data", recordings, *flags)
    assert (tmp_path / "folds" / "crossval.json").is_file()


def samples(path: Path) -> np.ndarray:
    """Decode a file with the example's own function."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(MODULE.stem, MODULE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.decode(str(path))[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_every_sample_format_gives_the_same_sound(dtype: type, tmp_path: Path):
    sound = np.sin(np.arange(RATE) / 9) / 2
    scale, zero = {np.uint8: (128, 128), np.int16: (2**15, 0), np.int32: (2**31, 0), np.float32: (1, 0)}[dtype]
    stereo = np.stack([sound, sound], axis=1) * scale + zero
    wavfile.write(tmp_path / "s.wav", RATE, stereo.astype(dtype))
    assert np.abs(samples(tmp_path / "s.wav") - sound).max() < 0.01
