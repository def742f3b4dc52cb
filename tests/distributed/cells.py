"""What is compared: features, launchers, and the data and models that they need; made here, without pytest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import COLOURS, make_sentences, save_timm_model, save_tiny_bert, write_csv, write_picture

GLOBAL_BATCH = 12
VALIDATION, TEST = 13, 17  # examples: divisible neither by two nor by three
SGD = {"strategy": "full", "optim": "sgd", "learning_rate": 0.1}
# for what starts solved: with 0.1 one process differs from itself by 5e-5 where it cuts its batch into other parts
GENTLE_SGD = {**SGD, "learning_rate": 0.01}
# with a smaller epsilon Adam makes whole steps of what is rounding alone, such as the gradient of the bias of keys
ADAMW = {"strategy": "full", "optim": "adamw_torch", "learning_rate": 5e-3, "adam_epsilon": 1e-3}


@dataclass(frozen=True)
class Feature:
    """A row of the table.

    Attributes:
        settings: of ``hfft train``, beside those of all.
        data: the kind of data, a name of :func:`make_data`.
        stop_at: the step in which a process gets SIGTERM, in a first run that ``--resume`` then goes on with.
        disagree: whether every process but the first is made to come to other decisions.
        memory: examples of which every process but the first can hold the gradients at a time.
        nan_at: the step in which the last process has a loss that is no number.
        keeps: what the name of an entry of the cache has to begin with.
        stops_early: whether fewer epochs are trained than were asked for.
        trains: whether anything is trained after the solved head.
        others: settings of every process but the first that differ; for data the name of a kind of it.
        refused: what the run is refused with, if it is.
    """

    settings: dict[str, Any]
    data: str = "texts"
    stop_at: int | None = None
    disagree: bool = False
    memory: int | None = None
    nan_at: int | None = None
    keeps: str = ""
    stops_early: bool = False
    trains: bool = True
    others: dict[str, Any] = field(default_factory=dict)
    refused: str = ""


_EARLY = {
    **SGD,
    "learning_rate": 1.0,
    "num_train_epochs": 8,
    "early_stopping_patience": 1,
    "load_best_model_at_end": True,
}
# solved first: of outputs that hardly differ rounding decides which is the larger, and so every metric of ranks; and
# gentler still, for with 0.01 one process differs from itself by 4e-4
_SEVERAL = {**GENTLE_SGD, "learning_rate": 1e-3, "strategy": "lp-ft", "label_delimiter": ";"}

FEATURES = {
    "layer-wise rates (full), SGD": Feature(SGD),
    "layer-wise rates (full), AdamW": Feature(ADAMW),
    "gradual unfreezing, SGD": Feature({**GENTLE_SGD, "strategy": "gradual"}),
    "gradual unfreezing, AdamW": Feature({**ADAMW, "strategy": "gradual"}),
    "freeze": Feature({**SGD, "freeze": 2, "cache_activations": False}),
    "lp-ft": Feature({**GENTLE_SGD, "strategy": "lp-ft"}),
    "auto": Feature({**GENTLE_SGD, "strategy": "auto", "learning_rate": 1e-9, "load_best_model_at_end": True}),
    "linear-probe": Feature({"strategy": "linear-probe", "cache_budget": 1}, keeps="features", trains=False),
    "cached activations": Feature({**SGD, "freeze": 2, "num_train_epochs": 6}, keeps="activations"),
    "cached views": Feature(
        {**SGD, "freeze": 3, "augment": "light", "cached_views": 2, "num_train_epochs": 6},
        data="pictures",
        keeps="activations",
    ),
    "pictures, batch norm, gradual": Feature(
        {**GENTLE_SGD, "strategy": "gradual", "augment": "light"}, data="pictures"
    ),
    "early stopping": Feature(_EARLY, stops_early=True),
    "pooling mean": Feature({**SGD, "pooling": "mean"}),
    "pooling auto": Feature({**GENTLE_SGD, "strategy": "lp-ft", "pooling": "auto", "load_best_model_at_end": True}),
    # random: a head solved behind the architecture's own pooler makes much of rounding
    "lora": Feature({**ADAMW, "strategy": "lora", "head_start": "random", "adapter_layers": "1", "keep_adapter": True}),
    "lora, SIGTERM and --resume": Feature({**ADAMW, "strategy": "lora", "lora_plus_ratio": 4.0}, stop_at=4),
    "SIGTERM and --resume": Feature({**ADAMW, "strategy": "lp-ft"}, stop_at=4),
    "resume between thaws": Feature({**ADAMW, "strategy": "gradual", "num_train_epochs": 4}, stop_at=5),
    "single label, smoothed": Feature({**SGD, "label_smoothing_factor": 0.1}),
    "multi-label": Feature(_SEVERAL, data="several"),
    "multi-label, smoothed": Feature({**_SEVERAL, "label_smoothing_factor": 0.1}, data="several"),
    "regression": Feature({**GENTLE_SGD, "strategy": "lp-ft"}, data="numbers"),
    "bad examples left out": Feature({**SGD, "on_problem": "skip"}, data="bad"),
    "processes that disagree": Feature(
        {**_EARLY, "strategy": "lp-ft", "pooling": "auto", "metric_for_best_model": "log_loss"},
        disagree=True,
        stops_early=True,
    ),
    "processes that disagree, linear-probe": Feature(
        {"strategy": "linear-probe", "pooling": "auto"}, disagree=True, trains=False
    ),
    "batches too large for one": Feature({**SGD, "auto_batch_size": True}, memory=2),
    # gentler, for a step that throws the solved head far makes more of what rounds otherwise in parts
    "too large, gradual, AdamW": Feature(
        {**ADAMW, "learning_rate": 1e-3, "strategy": "gradual", "auto_batch_size": True}, memory=1
    ),
    "a gradient that is no number": Feature({**ADAMW, "on_nan": "skip"}, nan_at=1),
    "regression, smoothed": Feature(
        {**SGD, "label_smoothing_factor": 0.1},
        data="numbers",
        refused="label_smoothing_factor has no place in regression",
    ),
    "no such data": Feature({**SGD, "data": "nowhere"}, refused="--data: there is no file or folder 'nowhere'"),
    "other files on one machine": Feature(
        SGD, others={"data": "texts"}, refused="--data: process 1 of {ranks} has read other examples than process 0"
    ),
    "machines of other precisions": Feature(
        {**SGD, "precision": "fp32"},
        others={"precision": "bf16"},
        refused="--precision: process 0 trains in fp32, process 1 in bf16",
    ),
}


@dataclass(frozen=True)
class Launcher:
    """A column of the table: how processes are started, and how they divide the global batch.

    Attributes:
        ranks: processes.
        nodes: agents of ``torchrun`` that they are divided among.
        accumulation: micro-batches of a step on each rank.
        examples: for training.
    """

    ranks: int
    nodes: int = 1
    accumulation: int = 1
    examples: int = 36

    @property
    def settings(self) -> dict[str, Any]:
        """Sizes of batches."""
        micro_batch = GLOBAL_BATCH // self.ranks // self.accumulation
        return {"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": self.accumulation}


LAUNCHERS = {
    "DDP, 2 ranks": Launcher(2),
    "2 ranks, uneven": Launcher(2, examples=37),  # the last step has one example
    "2 ranks, accumulation 2": Launcher(2, accumulation=2),
    "two nodes": Launcher(2, nodes=2),
    "DDP, 3 ranks": Launcher(3),
    "3 ranks, uneven": Launcher(3, examples=38),  # the last step has two
}


@dataclass
class Material:
    """Data and models below a folder, each made when it is first asked for."""

    root: Path
    made: dict[str, Path] = field(default_factory=dict)

    def settings(self, feature: Feature, launcher: Launcher | None, examples: int) -> dict[str, Any]:
        """Return all settings of a run but the folders that it writes to; ``None`` is one process."""
        model = "resnet" if feature.data == "pictures" else "bert"
        shared: dict[str, Any] = {
            "num_train_epochs": 3,
            "seed": 3,
            "per_device_eval_batch_size": 4,
            "disable_tqdm": True,
        }
        shared["ddp_timeout"] = 100  # seconds after which processes that wait for each other give up
        shared["load_best_model_at_end"] = False  # what training made is compared, also where the solved head is better
        batches = launcher.settings if launcher else {"per_device_train_batch_size": GLOBAL_BATCH}
        places = {"model": self._model(model), "data": self._data(feature.data, examples)}
        return {**shared, **batches, **{name: str(path) for name, path in places.items()}, **feature.settings}

    def others(self, feature: Feature) -> dict[str, str]:
        """Return the settings of every process but the first that differ; data are fewer examples."""
        return {n: str(self._data(v, GLOBAL_BATCH)) if n == "data" else str(v) for n, v in feature.others.items()}

    def _model(self, kind: str) -> Path:
        if kind not in self.made:
            # without dropout, for ranks draw other masks than one process
            no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
            root = self.root / kind
            self.made[kind] = (
                save_tiny_bert(root, **no_dropout) if kind == "bert" else save_timm_model(root, "test_resnet")
            )
        return self.made[kind]

    def _data(self, kind: str, examples: int) -> Path:
        name = f"{kind}-{examples}"
        if name not in self.made:
            self.made[name] = self.root / name
            for seed, (split, count) in enumerate(
                {"train": examples, "validation": VALIDATION, "test": TEST}.items(), start=1
            ):
                make_split(kind, self.made[name], split, count, seed)
        return self.made[name]


def make_split(kind: str, folder: Path, split: str, count: int, seed: int) -> None:
    """Write a split of so many examples that can be used."""
    generator = np.random.default_rng(seed)
    if kind == "pictures":
        for index in range(count):
            name = sorted(COLOURS)[index % len(COLOURS)]
            write_picture(folder / split / name / f"{index}.png", COLOURS[name], generator)
        return
    # of unlike length, so that batches are drawn by it
    texts = [
        (f"{text} {'and this ' * (index % 6)}", name) for index, (text, name) in enumerate(make_sentences(count, seed))
    ]
    if kind == "numbers":
        texts = [(text, f"{len(text) / 7 + generator.normal():.3f}") for text, _ in texts]
    elif kind == "several":
        texts = [(text, f"{name};even" if index % 2 else name) for index, (text, name) in enumerate(texts)]
    elif kind == "bad":
        texts = [("", "animal"), *texts[:5], ("   ", "colour"), ("a text without a label", ""), *texts[5:]]
    write_csv(folder / f"{split}.csv", texts)
