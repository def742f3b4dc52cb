from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    PrinterCallback,
    RobertaConfig,
    T5Config,
    T5ForSequenceClassification,
    ViTConfig,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from hfft import FineTuningArguments, FineTuningTrainer
from hfft.storage.caching import Cache
from tests.conftest import save_timm_model

ROWS, LAYERS = 24, 4
SIZES = {"hidden_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = {"vocab_size": 40, "max_position_embeddings": 20, "num_labels": 3, "pad_token_id": 0, "eos_token_id": 1}
BERT = BertConfig(**SIZES, **TEXT)
CONFIGS = {
    "bert": BERT,
    "roberta": RobertaConfig(**SIZES, **TEXT),
    "distilbert": DistilBertConfig(dim=16, n_layers=LAYERS, n_heads=2, hidden_dim=24, **TEXT),
    "mpnet": MPNetConfig(**SIZES, **TEXT),
    "deberta-v2": DebertaV2Config(**SIZES, **TEXT, relative_attention=True, pos_att_type=["c2p", "p2c"]),
}


class Padding:
    """Pads to the longest text of the batch."""

    pad_to_multiple_of = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(example["input_ids"]) for example in examples)
        ids = torch.tensor([example["input_ids"] + [0] * (longest - len(example["input_ids"])) for example in examples])
        labels = torch.tensor([example["labels"] for example in examples])
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def texts(rows: int = ROWS) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 14, (2 * ROWS,), generator=generator).tolist()[:rows]
    ids = [[*torch.randint(4, 40, (length,), generator=generator).tolist(), 1] for length in lengths]
    return Dataset.from_dict(
        {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": [n % 3 for n in lengths]}
    )


class Pictures:
    """Noise, always the same for the same index."""

    column_names = ("pixel_values", "labels")

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        return {"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": torch.tensor(index % ROWS % 3)}


class ChangingPictures(Pictures):
    """Pictures of which each epoch draws another view."""

    further_views = True


def text_model(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config)


def vit() -> Any:
    torch.manual_seed(0)
    config = ViTConfig(**SIZES, image_size=32, patch_size=8, num_labels=3, hidden_dropout_prob=0.1)
    return AutoModelForImageClassification.from_config(config)


def timm(folder: Path) -> Any:
    torch.manual_seed(0)
    return AutoModelForImageClassification.from_pretrained(folder, num_labels=3)


class Watched(FineTuningTrainer):
    """Notes the loss of every step, and which modules without children ran in it."""

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        self.losses: list[float] = []
        self.ran: list[set[str]] = []
        self._running: set[str] = set()
        for name, module in model.named_modules():
            if not list(module.children()):
                module.forward = self._noting(name, module.forward)

    def _noting(self, name: str, forward: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            self._running.add(name)
            return forward(*args, **kwargs)

        return noted

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(float(loss))
        self.ran.append(self._running)
        self._running = set()
        return loss


def train(
    model: Any,
    data: Any,
    out: Path,
    cache: Cache | None,
    resume: str | None = None,
    eval_dataset: Any = None,
    **options: Any,
) -> Watched:
    defaults: dict[str, Any] = {
        "num_train_epochs": 5, "per_device_train_batch_size": 5, "learning_rate": 1e-2, "logging_strategy": "steps",
        "logging_steps": 1, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False,
        "disable_tqdm": True, "per_device_eval_batch_size": 7,
    }  # fmt: skip
    args = FineTuningArguments(output_dir=str(out), **{**defaults, **options})
    collator = Padding() if "input_ids" in data.column_names else None
    trainer = Watched(model, args, train_dataset=data, eval_dataset=eval_dataset, data_collator=collator, cache=cache)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def assert_equal(one: Watched, other: Watched) -> None:
    """After the first step: it is the one that records."""
    assert len(one.losses) == len(other.losses) > 0
    assert one.losses == pytest.approx(other.losses, abs=1e-5)
    assert len(set(other.losses)) > 1
    weights = other.model.state_dict()
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(value, weights[name], atol=1e-4, rtol=1e-3, msg=name)


def steps_with(trainer: Watched, part: str) -> int:
    """Return in how many steps after the first, in which recording takes place, anything of a module ran."""
    return sum(any(part in name for name in ran) for ran in trainer.ran[1:])


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 10**9)


GRADUAL = {"strategy": "gradual", "epochs_per_group": 0.8}  # 4 of 25 steps
FREEZE = {"freeze": "3"}


@pytest.mark.parametrize(("kind", "options"), [*((kind, FREEZE) for kind in CONFIGS), ("bert", GRADUAL)])
def test_texts_train_as_without_the_cache(kind, options, tmp_path: Path, cache: Cache):
    plain = train(text_model(CONFIGS[kind]), texts(), tmp_path / "plain", None, **options)
    cached = train(text_model(CONFIGS[kind]), texts(), tmp_path / "cached", cache, **options)
    assert_equal(cached, plain)
    assert steps_with(plain, "embeddings.word_embeddings") == steps_with(plain, "layer.1.") == 24
    # thaws: the head at step 0, then a group every 4 steps, and the stem at step 20
    frozen_for_good = options is FREEZE
    assert steps_with(cached, "embeddings.word_embeddings") == (0 if frozen_for_good else 25 - 20)
    assert steps_with(cached, "layer.1.") == (0 if frozen_for_good else 25 - 12)
    assert steps_with(cached, "layer.2.") == (24 if frozen_for_good else 25 - 8)


@pytest.mark.parametrize("options", [FREEZE, GRADUAL], ids=["freeze", "gradual"])
def test_pictures_train_as_without_the_cache(options, tmp_path: Path, cache: Cache):
    plain = train(vit(), Pictures(), tmp_path / "plain", None, **options)
    cached = train(vit(), Pictures(), tmp_path / "cached", cache, **options)
    assert_equal(cached, plain)
    assert steps_with(plain, "layers.1.") == 24
    assert steps_with(cached, "layers.1.") == (0 if options is FREEZE else 25 - 12)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("test_resnet", {**GRADUAL, "epochs_per_group": 0.6}), ("test_resnet", FREEZE), ("test_vit", FREEZE)],
)
def test_timm_models_train_as_without_the_cache(architecture, options, tmp_path: Path, cache: Cache):
    folder = save_timm_model(tmp_path / "model", architecture)
    plain = train(timm(folder), Pictures(), tmp_path / "plain", None, **options)
    cached = train(timm(folder), Pictures(), tmp_path / "cached", cache, **options)
    assert_equal(cached, plain)
    stem = next(name for name, module in plain.model.named_modules() if isinstance(module, nn.Conv2d))
    assert steps_with(plain, stem) == 24
    assert steps_with(cached, stem) < 15


class USettings(PretrainedConfig):
    model_type = "u-shape"


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.more = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.more(torch.tanh(self.norm(self.dense(x))))


class UTrunk(nn.Module):
    """Goes down and up again; on the way up each block sees what its counterpart on the way down gave."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.blocks = nn.ModuleList([Step() for _ in range(4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        first = self.blocks[0](x)
        second = self.blocks[1](first)
        third = self.blocks[2](second)
        return self.blocks[3](third + second * first * x)


class UModel(PreTrainedModel):
    config_class = USettings
    base_model_prefix = "trunk"

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.trunk = UTrunk()
        self.head = nn.Linear(8, 3)
        self.post_init()

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.head(self.trunk(x)))


def u_data() -> Dataset:
    x = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(0))
    return Dataset.from_dict({"x": x.tolist(), "labels": [row % 3 for row in range(ROWS)]}).with_format("torch")


def u_model() -> UModel:
    torch.manual_seed(0)
    return UModel(USettings())


def test_a_model_of_which_more_goes_up_than_one_output_trains_uncached_and_says_so(
    tmp_path: Path, cache: Cache, caplog
):
    plain = train(u_model(), u_data(), tmp_path / "plain", None, freeze="4")
    with caplog.at_level(logging.WARNING, logger="hfft"):
        cached = train(u_model(), u_data(), tmp_path / "cached", cache, freeze="4")
    assert cached.losses == plain.losses
    assert steps_with(cached, "blocks.0") == 24
    assert [record.getMessage() for record in caplog.records] == [
        "Training computes the frozen layers of UModel in each step: more than the output of trunk.blocks.2 goes up."
    ]
    assert not cache.entries()


def test_an_encoder_decoder_trains_as_without_the_cache(tmp_path: Path, cache: Cache):
    """T5's first block computes the position biases of all: whether it can be cut or not, the losses are the same."""
    settings = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_heads": 2, "vocab_size": 40}

    def make() -> Any:
        torch.manual_seed(0)
        return T5ForSequenceClassification(
            T5Config(**settings, num_labels=3, decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)
        )

    plain = train(make(), texts(), tmp_path / "plain", None, freeze="3")
    assert_equal(train(make(), texts(), tmp_path / "cached", cache, freeze="3"), plain)


def test_dropout_above_the_cut_draws_the_same_numbers(tmp_path: Path, cache: Cache):
    noisy = BertConfig(**SIZES, **TEXT, hidden_dropout_prob=0.4, attention_probs_dropout_prob=0.4)
    quiet = BertConfig(**SIZES, **TEXT, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    with_dropout, without = (train(text_model(c), texts(), tmp_path, None, freeze="3") for c in (noisy, quiet))
    cached = train(text_model(noisy), texts(), tmp_path, cache, freeze="3")
    assert_equal(cached, with_dropout)
    assert max(abs(one - other) for one, other in zip(with_dropout.losses, without.losses, strict=True)) > 1e-3


@pytest.mark.parametrize(("freeze", "recomputed"), [("2", 0), ("4", 24)])
def test_what_is_drawn_with_numpy_is_drawn_anew_in_each_step(
    freeze: str, recomputed: int, tmp_path: Path, cache: Cache
):
    """wav2vec2 hides other stretches of a sound each time it is heard, also in front of blocks that are frozen."""

    def make() -> Any:
        torch.manual_seed(0)
        convolutions = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (5, 4), "num_feat_extract_layers": 2}
        positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8}
        hidden = {"mask_time_prob": 0.4, "mask_time_length": 4, "layerdrop": 0.0, "num_labels": 3}
        return Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SIZES, **convolutions, **positions, **hidden))

    sounds = torch.randn(ROWS, 1000, generator=torch.Generator().manual_seed(0))
    data = Dataset.from_dict({"input_values": sounds.tolist(), "labels": [row % 3 for row in range(ROWS)]})
    losses = []
    for folder, kept in (("plain", None), ("cached", cache)):
        np.random.seed(0)
        trainer = train(make(), data.with_format("torch"), tmp_path / folder, kept, freeze=freeze)
        losses.append(trainer.losses)
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert steps_with(trainer, "conv_layers") == recomputed  # most of what 4 freezes lies behind what is drawn
    assert steps_with(trainer, "encoder.layers.0") == 24


def forward_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the examples that go through BERT's first layers, in whatever it runs for."""
    from transformers.models.bert.modeling_bert import BertEmbeddings

    seen: list[int] = []
    forward = BertEmbeddings.forward

    def counted(self: Any, input_ids: Any = None, **kwargs: Any) -> Any:
        seen.append(len(input_ids))
        return forward(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(BertEmbeddings, "forward", counted)
    return seen


def test_recording_is_one_pass_and_a_second_run_makes_none(tmp_path: Path, cache: Cache, monkeypatch):
    first = train(text_model(BERT), texts(), tmp_path, cache, freeze="3")
    entries = cache.entries()
    seen = forward_calls(monkeypatch)
    second = train(text_model(BERT), texts(), tmp_path, Cache(cache.root, 10**9), freeze="3")
    trial = sum(seen)
    assert trial < ROWS  # small batches that show where the model can be cut
    assert max(seen) <= 5
    assert second.losses == first.losses
    assert cache.entries() == entries
    assert len(entries) == 1
    # other weights are another prefix, and other rows are recorded beside those that are there
    seen.clear()
    with torch.no_grad():
        (changed := text_model(BERT)).bert.embeddings.word_embeddings.weight.add_(0.1)
    train(changed, texts(), tmp_path, cache, freeze="3")
    assert sum(seen) == trial + ROWS
    seen.clear()
    train(text_model(BERT), texts(ROWS + 6), tmp_path, cache, freeze="3")
    assert ROWS // 4 <= sum(seen) - trial < ROWS + 6


def test_gradual_records_all_cuts_in_one_pass(tmp_path: Path, cache: Cache, monkeypatch):
    train(text_model(BERT), texts(), tmp_path, cache, **GRADUAL)
    assert len(cache.entries()) > 2
    seen = forward_calls(monkeypatch)
    train(text_model(BERT), texts(), tmp_path, cache, **GRADUAL)
    again = sum(seen)
    seen.clear()
    train(text_model(BERT), texts(), tmp_path, Cache(tmp_path / "other", 10**9), **GRADUAL)
    assert sum(seen) == again + ROWS


@pytest.mark.parametrize("step", [9, 14])
def test_a_resumed_run_goes_on_as_the_uninterrupted_one(step, tmp_path: Path, cache: Cache):
    saving = {**GRADUAL, "save_strategy": "steps", "save_steps": step, "save_total_limit": 10}
    whole = train(text_model(BERT), texts(), tmp_path, cache, **saving)
    resumed = train(text_model(BERT), texts(), tmp_path, cache, str(tmp_path / f"checkpoint-{step}"), **saving)
    assert resumed.losses == whole.losses[step:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_without_room_training_is_the_uncached_one(tmp_path: Path, caplog):
    cache = Cache(tmp_path / "cache", 1000)
    plain = train(text_model(BERT), texts(), tmp_path, None, freeze="3")
    assert train(text_model(BERT), texts(), tmp_path, cache, freeze="3").losses == plain.losses
    assert not cache.entries()


@pytest.mark.parametrize("options", [{"cache_activations": False}, {"activation_checkpointing": True}])
def test_where_it_cannot_be_or_is_not_wanted_nothing_is_cached(options, tmp_path: Path, cache: Cache, caplog):
    with caplog.at_level(logging.WARNING, logger="hfft"):
        trainer = train(text_model(BERT), texts(), tmp_path, cache, freeze="3", **options)
    assert steps_with(trainer, "layer.1.") == 24
    assert not cache.entries()
    told = [record.getMessage() for record in caplog.records]
    assert told == (
        [] if "cache_activations" in options
        else ["Frozen layers are computed in each step, because of activation_checkpointing."]
    )  # fmt: skip


def test_gradients_are_accumulated_as_without_the_cache(tmp_path: Path, cache: Cache):
    options = {**GRADUAL, "gradient_accumulation_steps": 2}
    plain = train(text_model(BERT), texts(), tmp_path, None, **options)
    assert_equal(train(text_model(BERT), texts(), tmp_path, cache, **options), plain)


@pytest.mark.parametrize("options", [FREEZE, GRADUAL], ids=["freeze", "gradual"])
def test_epochs_see_the_cached_views_in_turns(options, tmp_path: Path, cache: Cache):
    options = {**options, "cached_views": 2}
    plain = train(vit(), ChangingPictures(), tmp_path / "plain", None, **options)
    cached = train(vit(), ChangingPictures(), tmp_path / "cached", cache, **options)
    assert_equal(cached, plain)
    assert steps_with(cached, "layers.0.") == (0 if "freeze" in options else 25 - 16)
    every = train(vit(), ChangingPictures(), tmp_path / "all", None, **{**options, "cached_views": None})
    assert every.losses[:10] == plain.losses[:10]
    assert every.losses[10:] != plain.losses[10:]


def test_the_validation_split_starts_there_as_well(tmp_path: Path, cache: Cache, monkeypatch):
    evaluating = {"eval_strategy": "epoch", "num_train_epochs": 8, **GRADUAL}
    losses, seen = [], forward_calls(monkeypatch)
    counts = []
    for kept in (None, cache):
        seen.clear()
        trainer = train(text_model(BERT), texts(), tmp_path, kept, eval_dataset=texts(2 * ROWS), **evaluating)
        losses.append([entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry])
        counts.append(sum(seen))
        assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[-1][-1], abs=1e-6)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert len(set(losses[0])) > 3
    assert counts[1] < counts[0]
