from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

import hfft
from hfft import ModelArguments
from hfft.base_model import BaseModel

APACHE = "\n      Apache License\n   Version 2.0, January 2004\n"
NON_COMMERCIAL = "Creative Commons\n\nAttribution-NonCommercial 4.0 International\n"


def base_of(folder: Path, card: str = "", **files: str) -> BaseModel:
    folder.mkdir(exist_ok=True)
    if card:
        (folder / "README.md").write_text(f"---\n{card}\n---\n# A model\n", "utf-8")
    for name, text in files.items():
        (folder / name).write_text(text)
    return BaseModel.of(ModelArguments(model=str(folder)))


@pytest.mark.parametrize(
    ("license", "told"),
    [
        ("apache-2.0", None),
        ("MIT", None),
        ("cc-by-sa-4.0", None),
        ("gpl-3.0", None),
        ("cc-by-nc-4.0", "is under cc-by-nc-4.0, which forbids commercial use of what is trained from it"),
        ("cc-by-nc-sa-4.0", "is under cc-by-nc-sa-4.0, which forbids commercial use"),
        ("fair-noncommercial-research-license", "which forbids commercial use"),
        ("cc-by-nd-4.0", "is under cc-by-nd-4.0, which forbids passing on what is trained from it"),
        ("intel-research", "is under intel-research, which allows research alone"),
        ("llama3", "is under llama3, which may limit the use of what is trained from it: read its terms"),
        ("other", "is under a licence of its own, which may limit the use"),
        ("other\nlicense_name: acme research only", "a licence of its own (acme research only), which allows research"),
        ("unknown", "names no licence: find out what it allows before what is trained from it is passed on"),
        ("[mit, cc-by-nc-4.0]", "is under cc-by-nc-4.0, which forbids commercial use"),
    ],
)
def test_what_a_licence_forbids_is_told(tmp_path: Path, license: str, told: str | None):
    restriction = base_of(tmp_path / "model", f"license: {license}").restriction()
    if told is None:
        assert restriction is None
    else:
        assert restriction is not None
        assert restriction.startswith("The base model 'model' ")
        assert told in restriction
        assert "\n" not in restriction


@pytest.mark.parametrize(
    ("files", "license"),
    [
        ({"LICENSE": APACHE}, "apache-2.0"),
        ({"LICENSE.txt": "MIT License\n\nCopyright"}, "mit"),
        ({"licence.md": NON_COMMERCIAL}, "cc-by-nc-4.0"),
        ({"LICENSE": "Ask us first."}, "other"),
        ({}, None),
    ],
)
def test_a_licence_file_is_read_where_the_card_names_none(tmp_path: Path, files: dict[str, str], license: str | None):
    assert base_of(tmp_path / "model", "tags: [x]", **files).license == license
    assert base_of(tmp_path / "model", "license: mit", **files).license == "mit"


@pytest.mark.parametrize("card", ["license: [unclosed", "- a list", "license: {a: 1}", "license: '<script>|x'"])
def test_a_card_that_cannot_be_read_is_no_licence(tmp_path: Path, card: str):
    base = base_of(tmp_path / "model", card)
    assert base.license is None
    assert "names no licence" in str(base.restriction())


def test_what_the_card_says_is_carried_and_links_are_made_whole(tmp_path: Path):
    card = "license: other\nlicense_name: acme\nlicense_link: LICENSE\nlanguage: [en, de]\nbase_model: owner/first"
    local = base_of(tmp_path / "model", card)
    assert (local.hub_id, local.languages, local.license_name) == ("owner/first", ("en", "de"), "acme")
    assert local.license_link is None  # nobody else has this folder
    assert base_of(tmp_path / "free", "license: mit\nlicense_name: x").license_name is None


def test_a_model_of_the_hub(tmp_path: Path, monkeypatch):
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: acme\nlicense_link: LICENSE\n---\n")
    monkeypatch.setattr("hfft.base_model.model_file", lambda *_: tmp_path / "README.md")
    monkeypatch.setattr("hfft.base_model.hub_info", lambda *_: SimpleNamespace(gated="manual"))
    base = BaseModel.of(ModelArguments(model="owner/model"))
    assert base.hub_id == "owner/model"
    assert base.license_link == "https://huggingface.co/owner/model/blob/main/LICENSE"
    assert base.restriction() == (
        "The base model 'owner/model' is gated: its owners' terms go with what is trained from it; it is under a "
        "licence of its own (acme), which may limit the use of what is trained from it: read its terms."
    )


def test_offline_nothing_is_asked(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: pytest.fail("the Hub was asked"))
    assert BaseModel.of(ModelArguments(model="owner/never-seen")) == BaseModel("owner/never-seen", "owner/never-seen")


def test_a_run_tells_of_it_before_it_trains_and_its_card_repeats_it(tiny_bert, text_folder, tmp_path: Path, capsys):
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(tiny_bert, model)
    (model / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nlanguage: en\nbase_model: owner/first\n---\n")
    hfft.finetune(model=str(model), data=str(text_folder), output_dir=str(out), max_steps=1, logging_steps=1)
    told = "The base model 'model' is under cc-by-nc-4.0, which forbids commercial use of what is trained from it."
    printed = capsys.readouterr().out
    assert printed.count(told) == 1
    assert printed.index(told) < printed.index("validation loss")
    card = ModelCard.load(out / "README.md")
    assert f"**Licence:** {told}" in card.text
    assert (card.data.license, card.data.language, card.data.base_model) == ("cc-by-nc-4.0", ["en"], "owner/first")
    assert str(tmp_path) not in (out / "README.md").read_text()
