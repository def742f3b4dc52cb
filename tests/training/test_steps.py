"""Steps that do not fit into the memory, and steps whose gradient is no number."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, TrainerCallback

import hfft
from hfft import FineTuningArguments, FineTuningTrainer, UserError
from tests.conftest import make_sentences, write_csv

TOO_LARGE = "CUDA out of memory. Tried to allocate 2.00 GiB"


class Memory(torch.autograd.Function):
    """A device that holds so many examples in a forward or in a backward pass."""

    @staticmethod
    def forward(context: Any, hidden: torch.Tensor, forward: int, backward: int) -> torch.Tensor:
        context.backward = backward
        if len(hidden) > forward:
            raise torch.OutOfMemoryError(TOO_LARGE)
        return hidden.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        if len(gradient) > context.backward:
            raise torch.OutOfMemoryError(TOO_LARGE)
        return gradient, None, None


def limit(model: torch.nn.Module, forward: int = 99, backward: int = 99) -> None:
    """Let the memory be exceeded in the middle of the model: the layers above have their gradients by then."""
    layer = model.bert.encoder.layer[0]
    layer.register_forward_hook(lambda module, inputs, output: Memory.apply(output, forward, backward))


def bert(folder: Path) -> Any:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


class Rows(torch.utils.data.Dataset):
    """Twenty-two texts of random words, for the last step of an epoch to be a smaller one."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(5, 20, (22, 7), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        ids = self.ids[row]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": row % 2}


def train(
    model: Any, out: Path, *, callbacks: list[TrainerCallback] | None = None, **options: Any
) -> FineTuningTrainer:
    defaults = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "optim": "sgd", "learning_rate": 0.1}
    args = FineTuningArguments(
        output_dir=str(out), eval_strategy="no", save_strategy="no", load_best_model_at_end=False, disable_tqdm=True,
        logging_strategy="steps", logging_steps=1, **{**defaults, **options},
    )  # fmt: skip
    trainer = FineTuningTrainer(model, args, train_dataset=Rows(), callbacks=callbacks)
    trainer.train()
    return trainer


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("memory", [{"forward": 3}, {"backward": 3}, {"backward": 1}])
def test_batches_that_do_not_fit_train_the_same_model_in_parts(
    memory, accumulation, tiny_bert, tmp_path, caplog: pytest.LogCaptureFixture
):
    options = {"per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}
    whole = train(bert(tiny_bert), tmp_path, **options)
    model = bert(tiny_bert)
    limit(model, **memory)
    with caplog.at_level(logging.WARNING, "hfft"):
        parts = train(model, tmp_path, auto_batch_size=True, **options)
    expected = weights(whole.model)
    for name, value in weights(model).items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5, msg=name)
    assert parts.state.global_step == whole.state.global_step == 6
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert "out of memory" in caplog.text
    number = {3: 4, 1: 8}[min(memory.values())] // accumulation
    assert parts.guard_notes() == [f"Batches were computed in {number} parts each: the memory did not hold them whole."]


def test_a_loss_that_is_no_sum_over_examples_is_refused(tiny_bert, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=1)
    with pytest.raises(UserError, match="auto_batch_size needs the loss of hfft"):
        train(model, tmp_path, auto_batch_size=True)


def test_batch_norm_that_trains_is_refused(tiny_timm, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(tiny_timm, num_labels=2)
    options = {"auto_batch_size": True, "freeze_batch_norm": False, "output_dir": str(tmp_path), "eval_strategy": "no"}
    args = FineTuningArguments(**options, save_strategy="no", load_best_model_at_end=False)
    with pytest.raises(UserError, match="no place with freeze_batch_norm false"):
        FineTuningTrainer(model, args)


def test_one_example_that_does_not_fit_is_an_error_in_a_sentence(tiny_bert, tmp_path):
    model = bert(tiny_bert)
    limit(model, forward=0)
    with pytest.raises(UserError, match="Step 1: the memory does not hold one example"):
        train(model, tmp_path, auto_batch_size=True)


def test_evaluation_in_halves_gives_the_same_predictions(tiny_bert, tmp_path):
    model = bert(tiny_bert)
    args = FineTuningArguments(
        output_dir=str(tmp_path), auto_batch_size=True, per_device_eval_batch_size=8, disable_tqdm=True,
        eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    trainer = FineTuningTrainer(model, args)
    whole = trainer.predict(Rows())
    limit(model, forward=3)
    halves = trainer.predict(Rows())
    torch.testing.assert_close(torch.from_numpy(halves.predictions), torch.from_numpy(whole.predictions))
    assert (halves.label_ids == whole.label_ids).all()
    assert halves.metrics["test_loss"] == pytest.approx(whole.metrics["test_loss"], abs=1e-6)


def test_a_run_that_runs_out_of_memory_says_what_helps(tiny_bert, tmp_path, monkeypatch):
    write_csv(tmp_path / "train.csv", make_sentences(12, 1))
    forward = torch.nn.Embedding.forward

    def full(module: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and ids.dim() == 2 and len(ids) > 2:
            raise torch.OutOfMemoryError(TOO_LARGE)
        return forward(module, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", full)
    settings: dict[str, Any] = {
        "model": str(tiny_bert), "data": str(tmp_path / "train.csv"), "num_train_epochs": 1, "disable_tqdm": True,
        "per_device_train_batch_size": 4, "test_size": 0.3,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"memory of the device is too small\. --auto_batch_size true"):
        hfft.finetune(**settings, output_dir=str(tmp_path / "out"))
    result = hfft.finetune(**settings, output_dir=str(tmp_path / "again"), auto_batch_size=True)
    assert any("in 2 parts each" in note for note in result.record.notes)


class Poison(TrainerCallback):
    """Gives the model gradients that are no numbers in some steps."""

    def __init__(self, steps: list[int], where: Callable[[Any], torch.nn.Module], value: float = float("nan")) -> None:
        self.steps, self.where, self.value, self.seen = steps, where, value, []  # type: ignore[var-annotated]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.model = kwargs["model"]

        def hook(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
            return output * self.value if module.training and state.global_step + 1 in self.steps else None

        self.where(self.model).register_forward_hook(hook)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append(weights(self.model))


def test_a_gradient_that_is_no_number_stops_with_step_examples_and_layer(tiny_bert, tmp_path):
    poison = Poison([2], lambda model: model.classifier)
    model = bert(tiny_bert)
    with pytest.raises(UserError) as error:
        train(model, tmp_path, callbacks=[poison], train_sampling_strategy="sequential")
    assert str(error.value).startswith("Step 2: the loss is no number (nan). The gradients of all layer groups are")
    assert "Its examples: example 8, example 9, example 10, example 11, example 12, example 13" in str(error.value)
    # what was trained before is as it was
    assert all(torch.equal(value, poison.seen[1][name]) for name, value in weights(model).items())


def test_the_layer_where_gradients_stop_being_numbers_is_named(tiny_bert, tmp_path):
    class Root(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, hidden: torch.Tensor) -> torch.Tensor:
            return hidden.clone()

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * float("inf")

    model = bert(tiny_bert)
    model.bert.encoder.layer[0].register_forward_hook(lambda module, inputs, output: Root.apply(output))
    with pytest.raises(UserError, match=r"Step 1: the gradient is no number\. .* layer group bert\.encoder\.layer\.0 "):
        train(model, tmp_path)


def test_skip_leaves_the_step_out_and_goes_on(tiny_bert, tmp_path):
    poison = Poison([2, 3], lambda model: model.classifier)
    model = bert(tiny_bert)
    trainer = train(
        model, tmp_path, callbacks=[poison], on_nan="skip", optim="adamw_torch", weight_decay=0.1, warmup_steps=0
    )
    first, second, third, fourth, fifth, _ = poison.seen
    assert all(torch.equal(second[name], third[name]) and torch.equal(third[name], fourth[name]) for name in second)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(fourth[name], fifth[name]) for name in first)
    assert trainer.state.global_step == 6
    [note] = trainer.guard_notes()
    assert note.startswith("2 of 6 steps were left out (on_nan skip)")
    assert note.endswith(": 2, 3.")


def test_skip_gives_up_after_ten_steps_in_a_row(tiny_bert, tmp_path):
    poison = Poison([*range(3, 99)], lambda model: model.classifier)
    with pytest.raises(UserError, match="Steps 3 to 12: the loss is no number"):
        train(bert(tiny_bert), tmp_path, callbacks=[poison], on_nan="skip", num_train_epochs=9)


def test_a_run_names_the_rows_of_the_table(tiny_bert, tmp_path, monkeypatch):
    write_csv(tmp_path / "train.csv", make_sentences(8, 1))
    monkeypatch.setattr(
        "hfft.trainer.FineTuningTrainer._loss",
        lambda trainer, outputs, *args, **kwargs: outputs["logits"].sum() * torch.nan,
    )
    with pytest.raises(UserError, match=r"Step 1: the loss is no number \(nan\).* row \d+, row \d+"):
        hfft.finetune(
            model=str(tiny_bert), data=str(tmp_path / "train.csv"), output_dir=str(tmp_path / "out"), test_size=0.4,
            validation_size=0, disable_tqdm=True,
        )  # fmt: skip
