from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file
from transformers import BertConfig, LlamaConfig

import hfft
from hfft import UserError
from hfft.cli import main
from hfft.planning import plan_layers


def test_the_plan_is_what_a_run_does(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    settings = {"learning_rate": 1e-3, "layer_decay": 0.5, "head_learning_rate": 7e-3}
    result = hfft.finetune(
        model=str(tiny_bert), data=str(text_folder), output_dir=str(tmp_path / "out"), max_steps=1, **settings
    )
    plan = plan_layers(str(tiny_bert), task="text-classification", **settings)
    done = result.trainer.layer_rates()
    assert [(layer.name, layer.learning_rate) for layer in plan.layers] == [(row["name"], row["lr"]) for row in done]
    # all but the classifier, which has three classes there and two here
    assert [layer.parameters for layer in plan.layers[:-1]] == [row["parameters"] for row in done[:-1]]
    assert [layer.factor for layer in plan.layers] == pytest.approx([0.125, 0.25, 0.5, 7.0])


def test_multipliers_are_in_the_rates(tiny_bert: Path, capsys):
    flags = ["--learning_rate", "1e-3", "--layer_decay", "0.5", "--lr_multipliers"]
    assert main(["layers", "--model", str(tiny_bert), *flags, '{"embeddings": 0, "layer.1": 3}']) == 0
    lines = capsys.readouterr().out.splitlines()
    rates = {words[1]: words[5] for line in lines if len(words := line.split()) > 6 and words[0] == "│"}
    assert rates == {"stem": "0.00e+00", "bert.encoder.layer.0": "2.50e-04", "bert.encoder.layer.1": "1.50e-03",
        "head": "1.00e-03"}  # fmt: skip
    assert main(["layers", "--model", str(tiny_bert), "--lr_multipliers", '{"embedings": 0}']) == 2
    assert "'embedings' matches no parameter" in capsys.readouterr().err


def test_a_configuration_is_enough(tmp_path: Path):
    LlamaConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=20
    ).save_pretrained(tmp_path)
    plan = plan_layers(str(tmp_path), task="text-classification", learning_rate=1.0, layer_decay=0.5)
    assert [layer.name for layer in plan.layers] == ["stem", "model.layers.0", "model.layers.1", "head"]
    assert [layer.factor for layer in plan.layers] == [0.125, 0.25, 0.5, 1.0]


def test_no_weights_are_allocated_for_a_large_model(tmp_path: Path):
    """A BERT of 4,096 x 48 would need 40 GB."""
    BertConfig(hidden_size=4096, num_hidden_layers=48, num_attention_heads=32, intermediate_size=16384).save_pretrained(
        tmp_path
    )
    plan = plan_layers(str(tmp_path))
    assert len(plan.layers) == 50
    assert sum(layer.parameters for layer in plan.layers) > 9e9


def test_timm_models_without_a_classifier_are_planned_with_one(tiny_timm: Path):
    plan = plan_layers(str(tiny_timm))
    assert plan.layers[-1].name == "head"
    assert len(load_file(tiny_timm / "model.safetensors")) > 0
    assert plan.layers[-1].factor == pytest.approx(100)  # the default of images: 1e-3 for the head, 1e-5 below


def test_layers_prints_a_table_and_draws_it(tiny_bert: Path, tmp_path: Path, capsys):
    picture = tmp_path / "layers.png"
    assert main(["layers", "--model", str(tiny_bert), "--learning_rate", "1e-3", "--output", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "bert.encoder.layer.1" in out
    assert "7.50e-04" in out
    with Image.open(picture) as image:
        assert image.size[0] > 600
        assert len(image.convert("L").getcolors(256) or []) > 10  # something is drawn


def test_names_are_whole_in_a_narrow_terminal(tmp_path: Path, capsys, monkeypatch):
    from transformers import AlbertConfig

    monkeypatch.setenv("COLUMNS", "40")
    AlbertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=16, vocab_size=20).save_pretrained(tmp_path)
    assert main(["layers", "--model", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "albert.encoder.albert_layer_groups.0.albert_layers.0" in out
    assert "12 layers share the parameters of 1 block" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--layer_decay", "2"], "layer_decay must be"),
        (["--output", "layers.txt"], ".png"),
        (["--strategy", "ful"], "Did you mean 'full'?"),
        (["--layer_patterns", "embed"], "match no pattern"),
        (["--task", "image-classification"], "cannot do image-classification"),
        (["--laier_decay", "1"], "Did you mean '--layer_decay'?"),
    ],
)
def test_misuse_is_exit_code_2(flags, message, tiny_bert: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["layers", "--model", str(tiny_bert), *flags]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_follows_given_patterns(tiny_bert: Path, text_folder: Path, tmp_path: Path):
    patterns = [r"embeddings|layer\.0", r"layer\.1", "pooler|classifier"]
    with pytest.raises(UserError, match="match no pattern"):
        hfft.finetune(
            model=str(tiny_bert), data=str(text_folder), output_dir=str(tmp_path / "out"), layer_patterns=patterns[1:]
        )
    assert not (tmp_path / "out").exists()
    result = hfft.finetune(
        model=str(tiny_bert),
        data=str(text_folder),
        output_dir=str(tmp_path / "out"),
        layer_patterns=patterns,
        learning_rate=1e-3,
        layer_decay=0.5,
        max_steps=1,
    )
    rows = result.trainer.layer_rates()
    assert [row["lr"] for row in rows] == [0.25e-3, 0.5e-3, 1e-3]
    planned = plan_layers(str(tiny_bert), layer_patterns=patterns).layers
    assert [layer.name for layer in planned] == [row["name"] for row in rows]
    assert (
        plan_layers(str(tiny_bert), layer_patterns=patterns).layers[0].name == result.trainer.layer_rates()[0]["name"]
    )


def test_the_plan_says_when_each_layer_thaws_and_what_never_trains(tiny_bert: Path):
    def trains(**settings):
        return [layer.trains for layer in plan_layers(str(tiny_bert), strategy="gradual", **settings).layers]

    assert trains() == ["after 50 % of the run", "after 33 % of the run", "after 17 % of the run", "from step 1"]
    assert trains(epochs_per_group=0.5) == ["after 1.5 epochs", "after 1 epochs", "after 0.5 epochs", "from step 1"]
    assert trains(freeze=["stem"])[0] == "never"


def test_a_probe_trains_nothing(tiny_vit: Path):
    layers = plan_layers(str(tiny_vit), task="image-classification", strategy="linear-probe").layers
    assert [layer.trains for layer in layers] == [*["never"] * (len(layers) - 1), "solved"]
    assert not any(layer.learning_rate for layer in layers)
