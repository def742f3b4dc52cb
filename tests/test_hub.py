from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from transformers import pipeline

import hfft
from hfft.cli import main
from tests.hub_server import TOKEN, Hub, serve

FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
KEPT_BACK = {"run.yaml", "predictions.parquet", "report.html", "metrics.json", "data_report.json"}
QUICK = {"max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "save_strategy": "epoch"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The Hub is a server on this machine, and the user is logged in."""
    hub = Hub()
    server = serve(hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def run(tiny_bert: Path, text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("run") / "out"
    hfft.finetune(model=str(tiny_bert), data=str(text_folder), output_dir=str(out), **QUICK)
    return out


def test_the_model_arrives_byte_for_byte_and_nothing_else_does(hub: Hub, run: Path):
    (run / "training_args.bin").write_bytes(b"a pickle")
    (run / "notes.txt").write_text("mine")
    assert hfft.push(run, "me/words", private=True) == f"{hub.url}/me/words"
    arrived = hub.files["me/words", "main"]
    assert set(arrived) == FILES
    for name in FILES - {"README.md"}:
        assert arrived[name] == (run / name).read_bytes()
    card = arrived["README.md"].decode()
    assert card == (run / "README.md").read_text().replace("THIS_FOLDER_OR_REPOSITORY", "me/words")
    assert 'model="me/words"' in card
    assert hub.visibility == {"me/words": "private"}
    assert hub.commits == ["Upload model"]


def test_what_was_pushed_answers_as_the_run_does(hub: Hub, run: Path, tmp_path: Path):
    hfft.push(run, "words")  # a name alone is one's own
    for name, content in hub.files["me/words", "main"].items():
        (tmp_path / name).write_bytes(content)
    text = "this is red and blue"
    assert pipeline("text-classification", str(tmp_path))(text) == pipeline("text-classification", str(run))(text)


def test_report_and_predictions_go_along_when_asked_for(hub: Hub, run: Path, recwarn):
    hfft.push(run, "me/words", include_report=True, include_predictions=True, commit_message="All of it")
    assert set(hub.files["me/words", "main"]) == FILES | {"report.html", "metrics.json", "predictions.parquet"}
    assert hub.commits == ["All of it"]
    assert not [warning for warning in recwarn if "data file" in str(warning.message)]


def test_a_branch_is_made_and_pushed_to(hub: Hub, run: Path):
    hfft.push(run, "me/words", revision="second")
    assert set(hub.files["me/words", "second"]) == FILES
    assert hub.files["me/words", "main"] == {}


def test_pushing_again_replaces_what_is_there(hub: Hub, run: Path):
    hub.visibility["me/words"] = "public"
    hub.files["me/words", "main"] = {"config.json": b"old", "other.txt": b"somebody's"}
    hfft.push(run, "me/words")
    assert hub.files["me/words", "main"]["config.json"] == (run / "config.json").read_bytes()
    assert hub.files["me/words", "main"]["other.txt"] == b"somebody's"


@pytest.mark.parametrize(
    ("refuse", "repo_id", "reason"),
    [
        ({"/preupload/": 401}, "me/words", "the Hub does not accept the token (401): refused by the test"),
        ({}, "others/words", "the token may not write there (403): You don't have the rights to create a model"),
        ({"/commit/": 403}, "me/words", "the token may not write there (403)"),
        ({"/preupload/": 404}, "me/words", "there is no such repository or revision"),
        (
            {"PUT /lfs/": 403},
            "me/words",
            "Error while uploading 'model.safetensors' to the Hub: the token may not write",
        ),
        (
            {"PUT /lfs/": 0},
            "me/words",
            "Error while uploading 'model.safetensors' to the Hub: the Hub cannot be reached",
        ),
        ({"/api/repos/create": 0}, "me/words", "the Hub cannot be reached"),
        ({}, "me/wo rds", "Repo id must use alphanumeric"),
    ],
)
def test_a_push_that_fails_leaves_both_sides_as_they_were(
    hub: Hub, run: Path, monkeypatch, capsys, refuse: dict[str, int], repo_id: str, reason: str
):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its own retries
    hub.visibility["me/words"] = "public"
    hub.files["me/words", "main"] = {"config.json": b"old"}
    hub.refuse = refuse
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    argv = ["--model", str(run), "--repo_id", repo_id, "--private", "--token", TOKEN, "--commit_message", "a b"]
    assert main(["push", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"hfft: --repo_id: '{run}' was not pushed to '{repo_id}': {reason}")
    quoted = f"'{repo_id}'" if " " in repo_id else repo_id
    command = f"hfft push --model {run} --repo_id {quoted} --private --token YOUR_TOKEN --commit_message 'a b'"
    assert error.endswith(f"The model stays in '{run}'. To try again: {command}\n")
    assert error.count("\n") == 1
    assert TOKEN not in error
    assert hub.files["me/words", "main"] == {"config.json": b"old"}
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_without_network_or_token_nothing_is_asked(hub: Hub, run: Path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(hfft.UserError, match=r"HF_HUB_OFFLINE is set\. The model stays in"):
            hfft.push(run, "me/words")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(hfft.UserError, match=r"there is no token\. Log in with `hf auth login`, or set HF_TOKEN"):
        hfft.push(run, "me/words")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({}, {}, "has no config.json, so it is no model"),
        ({"config.json": "{}"}, {}, r"has no weights: no \*.safetensors file"),
        ({"config.json": "{}", "pytorch_model.bin": "x"}, {}, "pytorch_model.bin may run code"),
        ({"config.json": "{}", "model.safetensors": "x"}, {"include_report": True}, "has no report.html to include"),
    ],
)
def test_what_is_no_model_is_not_pushed(hub: Hub, tmp_path: Path, content, options, message):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    with pytest.raises(hfft.UserError, match=message):
        hfft.push(folder, "me/words", **options)
    with pytest.raises(hfft.UserError, match=r"--model: there is no file or folder.*Did you mean 'folder'"):
        hfft.push(tmp_path / "foldr", "me/words")
    assert hub.asked == []


def test_the_command_pushes_and_needs_no_torch(hub: Hub, run: Path, tmp_path: Path):
    script = (
        "import sys; from hfft.cli import main\n"
        f"assert main(['push', '--model', {str(run)!r}, '--repo_id', 'me/words']) == 0\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
    )
    online = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path)}
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | online
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"Pushed: {hub.url}/me/words\n")
    assert set(hub.files["me/words", "main"]) == FILES
    assert TOKEN not in done.stdout + done.stderr


def train(tiny_bert: Path, text_folder: Path, out: Path, **settings: object) -> list[str]:
    flags = {"model": tiny_bert, "data": text_folder, "output_dir": out, **QUICK, "push_to_hub": "true", **settings}
    return ["train", *(f"--{name}={value}" for name, value in flags.items())]


def test_a_run_pushes_its_finished_model(hub: Hub, tiny_bert, text_folder, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert main(train(tiny_bert, text_folder, out, hub_model_id="me/mine", hub_token=TOKEN, hub_private_repo=True)) == 0
    assert f"Pushed: {hub.url}/me/mine\n" in capsys.readouterr().out
    arrived = hub.files["me/mine", "main"]
    assert set(arrived) == FILES
    assert arrived["model.safetensors"] == (out / "model.safetensors").read_bytes()
    assert b"test examples" in arrived["README.md"]
    assert hub.commits == ["End of training"]
    assert hub.visibility == {"me/mine": "private"}
    for path in out.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    written = yaml.safe_load((out / "run.yaml").read_text())
    assert not [name for name in written if "hub" in name]


def test_a_run_whose_push_fails_is_complete(hub: Hub, tiny_bert, text_folder, tmp_path: Path, capsys):
    hub.refuse = {"PUT /lfs/": 403}
    out = tmp_path / "out"
    assert main(train(tiny_bert, text_folder, out)) == 2
    error = capsys.readouterr().err
    assert "Error while uploading 'model.safetensors' to the Hub: the token may not write there (403)" in error
    assert f"hfft push --model {out} --repo_id me/out" in error
    assert {path.name for path in out.iterdir() if path.is_file()} == FILES | KEPT_BACK
    assert "test_accuracy" in json.loads((out / "metrics.json").read_text())
    hub.refuse = {}
    assert main(["push", *shlex.split(error.split("hfft push ")[1])]) == 0
    assert set(hub.files["me/out", "main"]) == FILES


def test_a_trainer_s_own_push_holds_the_model_alone(hub: Hub, tiny_bert, text_folder, tmp_path: Path):
    result = hfft.finetune(
        model=str(tiny_bert),
        data=str(text_folder),
        output_dir=str(tmp_path / "out"),
        push_to_hub=True,
        hub_model_id="me/mine",
        **QUICK,
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert result.trainer.push_to_hub("Once more") == f"{hub.url}/me/mine"
    assert set(hub.files["me/mine", "main"]) == FILES
    assert hub.commits == ["End of training", "Once more"]
    assert (tmp_path / "out" / "README.md").read_text() == card


@pytest.mark.parametrize(
    ("refuse", "settings", "message"),
    [
        ({"whoami": 401}, {}, "push_to_hub: the Hub does not accept the token (401)"),
        ({"whoami": 0}, {}, "push_to_hub: the Hub cannot be reached"),
        ({}, {"hub_model_id": "others/x"}, "push_to_hub: there is no repository 'others/x' to push to: the token may"),
        ({}, {"hub_strategy": "every_save"}, "hub_strategy every_save has no place here: a checkpoint holds pickles"),
        ({}, {"hub_strategy": "checkpoint"}, "Use end, which pushes the finished model."),
        ({}, {"hub_strategy": "all_checkpoints"}, "hub_strategy all_checkpoints has no place here"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_anything_is_trained(
    hub: Hub, tiny_bert, text_folder, tmp_path: Path, capsys, refuse, settings, message
):
    hub.refuse = refuse
    assert main(train(tiny_bert, text_folder, tmp_path / "out", **settings)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert not hub.visibility
