"""A solved head that training begins less sure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hfft import FineTuningArguments, FineTuningTrainer


class Texts(torch.utils.data.Dataset):
    """Twelve texts of random words, of two classes."""

    def __init__(self) -> None:
        self.ids = torch.randint(5, 20, (12, 7), generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": self.ids[row], "attention_mask": torch.ones(7, dtype=torch.long), "labels": row % 2}


def trainer_of(folder: Path, out: Path, **options: Any) -> FineTuningTrainer:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    torch.nn.init.normal_(model.classifier.weight, std=3.0)
    settings = {"num_train_epochs": 1, "disable_tqdm": True, "use_cpu": True, "logging_strategy": "no", **options}
    args = FineTuningArguments(output_dir=str(out), strategy="lp-ft", **settings)
    data = {"train_dataset": Texts(), "eval_dataset": Texts(), "compute_metrics": lambda prediction: {}}
    return FineTuningTrainer(model=model, args=args, **data)


def test_before_the_first_step_a_softened_head_is_judged_as_it_was_solved(tiny_bert: Path, tmp_path: Path):
    plain, soft = trainer_of(tiny_bert, tmp_path / "plain"), trainer_of(tiny_bert, tmp_path / "soft")
    solved = {name: value.clone() for name, value in soft.model.state_dict().items()}
    soft.soften(soft.model.classifier, 0.25)
    for name, value in soft.model.state_dict().items():
        assert torch.equal(value, solved[name] / 4 if name.startswith("classifier.") else solved[name])
    expected, found = plain.predict(Texts()), soft.predict(Texts())
    torch.testing.assert_close(torch.tensor(found.predictions), torch.tensor(expected.predictions))
    assert soft.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-5)


def test_after_the_first_step_it_is_judged_as_it_is(tiny_bert: Path, tmp_path: Path):
    never = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    trainer = trainer_of(tiny_bert, tmp_path, max_steps=1, **never)
    trainer.soften(trainer.model.classifier, 0.25)
    trainer.train()
    batch = torch.utils.data.default_collate([Texts()[row] for row in range(12)])
    trainer.model.eval()
    with torch.no_grad():
        expected = trainer.model(**batch).logits
    torch.testing.assert_close(torch.tensor(trainer.predict(Texts()).predictions), expected)


def test_the_start_is_loaded_as_it_was_solved_where_it_was_best(tiny_bert: Path, tmp_path: Path):
    trainer = trainer_of(tiny_bert, tmp_path, learning_rate=5.0, eval_on_start=True)
    solved = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.soften(trainer.model.classifier, 0.25)
    trainer.train()
    assert not trainer.state.best_global_step
    assert all(torch.equal(value, solved[name]) for name, value in trainer.model.state_dict().items())


def test_a_scale_of_one_changes_nothing(tiny_bert: Path, tmp_path: Path):
    trainer = trainer_of(tiny_bert, tmp_path)
    solved = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.soften(trainer.model.classifier, 1.0)
    assert all(torch.equal(value, solved[name]) for name, value in trainer.model.state_dict().items())
