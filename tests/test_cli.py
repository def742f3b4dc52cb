from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from safetensors.torch import load_file, save_file

from hfft import FineTuningTrainer
from hfft.cli import main
from hfft.commands import COMMANDS
from tests.conftest import make_sentences, write_csv, write_picture


def test_help_and_tasks_import_no_torch():
    script = (
        "import sys; from hfft.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'numpy', 'sklearn', 'jinja2', 'rich'} & set(sys.modules)\n"
        "main(['tasks'])\n"
        "assert not {'torch', 'transformers', 'datasets', 'sklearn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_the_first_line_stands_before_anything_heavy_is_imported(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "hfft.parsing", None)  # importing it now raises
    with pytest.raises(ImportError):
        main(["train"])
    assert capsys.readouterr().out.startswith("hfft ")


def test_tasks_are_listed(capsys):
    assert main(["tasks"]) == 0
    out = capsys.readouterr().out
    assert "image-classification" in out
    assert "text-classification" in out


def test_train_evaluate_predict(tiny_bert: Path, text_folder: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    flags = ["--num_train_epochs", "12", "--learning-rate", "1e-2", "--per_device_train_batch_size", "8"]
    assert main(["train", "--model", str(tiny_bert), "--data", str(text_folder), "--output_dir", str(out), *flags]) == 0
    text = capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert f"{metrics['test_accuracy']:.3f}" in text
    assert "majority class" in text
    assert str(out) in text
    assert text.count("validation loss ") == 13  # that of the start, and one for each epoch
    assert (
        main(
            [
                "evaluate",
                "--model",
                str(out),
                "--data",
                str(text_folder),
                "--output",
                str(tmp_path / "m.json"),
            ]
        )
        == 0
    )
    again = json.loads((tmp_path / "m.json").read_text())
    assert again["test_accuracy"] == pytest.approx(metrics["test_accuracy"])
    predictions = tmp_path / "p.parquet"
    assert (
        main(
            [
                "predict",
                "--model",
                str(out),
                "--input",
                str(text_folder / "test.csv"),
                "--output",
                str(predictions),
            ]
        )
        == 0
    )
    table = Dataset.from_parquet(str(predictions), keep_in_memory=True)
    shipped = Dataset.from_parquet(str(out / "predictions.parquet"), keep_in_memory=True)
    assert table["predicted"] == shipped["predicted"]


def test_a_config_file_runs_and_flags_go_before_it(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    config = tmp_path / "run.yaml"
    settings = {
        "model": str(tiny_bert),
        "data": str(text_folder),
        "learning_rate": "1e-3",
        "num_train_epochs": 1,
    }
    config.write_text(yaml.safe_dump({**settings, "output_dir": str(tmp_path / "from-file")}))
    assert main(["train", "--config", str(config), "--output_dir", str(tmp_path / "from-flag")]) == 0
    assert not (tmp_path / "from-file").exists()
    written = yaml.safe_load((tmp_path / "from-flag" / "run.yaml").read_text())
    assert written["learning_rate"] == 1e-3
    assert written["num_train_epochs"] == 1


@pytest.fixture
def bad(tmp_path: Path, tiny_bert: Path, tiny_timm: Path, image_folder: Path, text_folder: Path) -> dict[str, Path]:
    """Paths that the cases of bad input name."""
    paths = {
        "bert": tiny_bert,
        "timm": tiny_timm,
        "images": image_folder,
        "texts": text_folder,
        "tmp": tmp_path,
    }
    (tmp_path / "empty").mkdir()
    write_csv(tmp_path / "one_class.csv", [(text, "same") for text, _ in make_sentences(9, 1)])
    write_csv(tmp_path / "no_label.csv", make_sentences(9, 1), ("text", "mood"))
    no_weights = tmp_path / "no-weights"
    no_weights.mkdir()
    (no_weights / "config.json").write_text((tiny_bert / "config.json").read_text())
    (tmp_path / "no-config").mkdir()
    shutil.copytree(tiny_bert, tmp_path / "truncated")
    (tmp_path / "truncated" / "model.safetensors").write_bytes(b"\x08\x00")
    shutil.copytree(tiny_bert, tmp_path / "half")
    weights = load_file(tiny_bert / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layer.1." not in name}
    save_file(kept, tmp_path / "half" / "model.safetensors", metadata={"format": "pt"})
    for name in ("cat", "dog"):
        write_picture(tmp_path / "broken" / name / "1.png", (9, 9, 9), __import__("numpy").random.default_rng(0))
    (tmp_path / "broken" / "dog" / "2.png").write_bytes(b"no picture")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    yamls = {
        "broken.yaml": "model: [unclosed",
        "hostile.yaml": "model: !!python/object/apply:os.system ['touch hacked']",
        "key.yaml": "modle: x",
        "list.yaml": "- model",
    }
    for name, text in yamls.items():
        (tmp_path / name).write_text(text)
    return paths


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model {bert} --data {tmp}/txets", "--data: there is no file or folder"),
        ("--model {bert} --data {tmp}/no_lable.csv", "Did you mean 'no_label.csv'?"),
        ("--model {tmp}/nothing --data {texts}", "--model: there is no file or folder"),
        ("--model {bert}", "--data is needed"),
        ("--data {texts}", "--model is needed"),
        ("--model {bert} --data {tmp}/empty", "holds nothing to train on"),
        ("--model {bert} --data {tmp}/one_class.csv", "only one class, 'same'"),
        ("--model {bert} --data {tmp}/no_label.csv", "no label column"),
        ("--model {bert} --data {texts} --label_column lable", "no column 'lable'"),
        ("--model {bert} --data {texts} --text_column txt", "--text_column: there is no column 'txt'"),
        ("--model {timm} --data {tmp}/broken", "2.png"),
        ("--model {bert} --data {texts} --task text-clasification", "Did you mean 'text-classification'?"),
        ("--model {bert} --data {texts} --strategy ful", "Did you mean 'full'?"),
        ("--model {bert} --data {texts} --layer_decya 1", "Did you mean '--layer_decay'?"),
        ("--model {bert} --data {texts} --layer_decay -0.5", "layer_decay must be more than 0"),
        ("--model {bert} --data {texts} --weight_decay -1", "weight_decay must be at least 0"),
        ("--model {bert} --data {texts} --num_train_epochs nan", "num_train_epochs must be a finite number"),
        ("--model {bert} --data {texts} --learning_rate fast", "--learning_rate"),
        ("--model {bert} --data {texts} --per_device_train_batch_size 0", "per_device_train_batch_size"),
        ("--model {bert} --data {texts} --validation_size 1.5", "validation_size must be"),
        ("--model {bert} --data {texts} --lr_scheduler_type linaer", "lr_scheduler_type"),
        ("--model {bert} --data {texts} --max_length 4000", "--max_length: the model reads at most 48"),
        ("--model {bert} --data {texts} --augment strong", "--augment: text-classification knows none"),
        ("--model {bert} --data {texts} --optim galore_adamw", "optim"),
        ("--model {bert} --data {texts} --push_to_hub", "push_to_hub: HF_HUB_OFFLINE is set."),
        ("--model {bert} --data {texts} --metric_for_best_model acuracy", "metric_for_best_model"),
        ("--model {bert} --data {texts} stray", "'stray' belongs to no flag"),
        ("--model {tmp}/no-weights --data {texts}", "has no weights"),
        ("--model {tmp}/no-config --data {texts}", "has no config.json"),
        ("--model {bert} --data {images}", "cannot do image-classification"),
        ("--model {timm} --data {texts}", "cannot do text-classification"),
        ("--model {bert} --data {texts} --config {tmp}/broken.yaml", "no valid YAML"),
        ("--model {bert} --data {texts} --config {tmp}/hostile.yaml", "no valid YAML"),
        ("--model {bert} --data {texts} --config {tmp}/key.yaml", "Did you mean 'model'?"),
        ("--model {bert} --data {texts} --config {tmp}/list.yaml", "must hold lines of the form name: value"),
        ("--model {bert} --data {texts} --output_dir {tmp}/full", "holds no run"),
        ("--model {bert} --data {texts} --output_dir {tmp}/one_class.csv", "one_class.csv' is a file"),
        ("--model {bert}/config.json --data {texts}", "is a file; wanted is a folder with config.json"),
        ("--model {timm} --data {images} --group_column author", "is a folder of files; name a table"),
        ("--model {bert} --data {texts} --early_stopping_patience 2 --validation_size 0", "needs a validation split"),
        ("--model {bert} --data {texts} --strategy linear-probe --head_start random", "which trains no head"),
        ("--model {bert} --data {texts} --lr_scheduler_kwargs [1]", "lr_scheduler_kwargs"),
        (
            "--model {bert} --data {texts} --lr_scheduler_type reduce_lr_on_plateau "
            '--lr_scheduler_kwargs {{"patients":1}}',
            "--lr_scheduler_type: ",
        ),
        (
            "--model {bert} --data {texts} --metrics no_such_metric",
            "--metrics: 'no_such_metric' cannot be loaded",
        ),
    ],
)
def test_bad_input_is_one_message_and_no_folder(bad, flags, message, capsys, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    argv = flags.format(**bad).split()
    if "--output_dir" not in argv:
        argv += ["--output_dir", str(tmp_path / "out")]
    assert main(["train", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("hfft: ")
    assert "Traceback" not in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["predict", "--model", "x"], "--input"),
        (["evaluate", "--model", "m", "--data", "d", "--splt", "test"], "Did you mean '--split'?"),
        (["predict", "--model", "m", "--input", "i", "--output", "o.txt"], ".csv or .parquet"),
        (["evaluate", "--model", "./nowhere", "--data", "d"], "--model: there is no file or folder"),
        (["evaluate", "--model", "m", "--data", "d", "--batch_size", "0"], "0 is no whole number above 0"),
        (["check"], "--data"),
    ],
)
def test_misuse_of_commands_is_exit_code_2(argv, message, capsys):
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_without_a_command_the_commands_are_shown(capsys):
    assert main([]) == 2
    shown = capsys.readouterr().out
    assert all(f"    {name} " in shown for name in COMMANDS)


def test_every_field_of_the_trainer_is_shown_when_asked_for(capsys):
    assert main(["train", "--help"]) == 0
    assert "--adam_beta1" not in capsys.readouterr().out
    assert main(["train", "--help_all"]) == 0
    assert "--adam_beta1" in capsys.readouterr().out


def test_a_demo_replaces_nothing_but_a_demo(capsys, tmp_path: Path):
    (tmp_path / "file").touch()
    assert main(["demo", "--output_dir", str(tmp_path / "file")]) == 2
    assert "file' is a file" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert main(["demo", "--output_dir", str(tmp_path / "mine"), "--overwrite"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_debug_shows_the_traceback(capsys):
    assert main(["--debug", "train", "--data", "nowhere", "--model", "m"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("strategy", "after_epochs", "code"), [("full", 0, 130), ("lp-ft", 0, 75), ("full", 2, 75)])
def test_an_interrupt_keeps_the_checkpoint_and_says_how_to_go_on(
    tiny_bert, text_folder, tmp_path: Path, capsys, monkeypatch, strategy, after_epochs, code
):
    original = FineTuningTrainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.epoch >= after_epochs:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    flags = ["--num_train_epochs", "4", "--per_device_train_batch_size", "8", "--output_dir", str(tmp_path / "out")]
    argv = ["train", "--model", str(tiny_bert), "--data", str(text_folder), "--strategy", strategy, *flags]
    with monkeypatch.context() as patch:
        patch.setattr(FineTuningTrainer, "training_step", training_step)
        assert main(argv) == code
    told = capsys.readouterr().err
    assert ("--resume" in told) == (code == 75)
    assert code == 75 or told.endswith("hfft: interrupted.\n")
    assert main([*argv, "--resume"]) == 0
    assert (tmp_path / "out" / "metrics.json").is_file()
