"""What SECURITY.md says and no other test shows."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from hfft import UserError
from hfft.arguments import ModelArguments
from hfft.loading import load_config
from tests.test_package import folders

UNSAFE = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "joblib.load", "eval", "exec", "os.system"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"),
}


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def test_no_code_reads_what_may_run_code():
    found = set()
    for folder in folders().values():
        for path in folder.glob("*.py"):
            calls = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))
            found |= {(path.name, name) for call in calls if (name := ast.unparse(call.func)) in UNSAFE}
    assert not found


def test_pickled_weights_are_refused_unopened(tiny_bert: Path, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(tiny_bert, model, ignore=shutil.ignore_patterns("*.safetensors"))
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    with pytest.raises(UserError, match=r"pytorch_model\.bin may run code when it is loaded"):
        load_config(ModelArguments(model=str(model)))
    assert not (tmp_path / "ran").exists()
    pickle.loads((model / "pytorch_model.bin").read_bytes())
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.parametrize("trusted", [False, True])
def test_code_of_a_repository_runs_only_where_it_is_asked_for(
    trusted: bool, tiny_bert: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    model = tmp_path / "model"
    shutil.copytree(tiny_bert, model)
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "of-its-own", "auto_map": {"AutoConfig": "settings.OwnConfig"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "settings.py").write_text(
        "from pathlib import Path\n"
        "from transformers import PretrainedConfig\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class OwnConfig(PretrainedConfig):\n"
        "    model_type = 'of-its-own'\n"
    )
    arguments = ModelArguments(model=str(model), trust_remote_code=trusted)
    if trusted:
        assert load_config(arguments).model_type == "of-its-own"
    else:
        with pytest.raises(UserError, match="cannot be loaded"):
            load_config(arguments)
    assert (tmp_path / "ran").exists() == trusted
