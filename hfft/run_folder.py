"""The folder of a run: what stands in it by name, and whether a folder is one."""

from __future__ import annotations

from pathlib import Path

RUN_FILE = "run.yaml"
RUN_HEADER = "# Written by hfft."
METRICS_FILE = "metrics.json"
LEARNED_FROM = "learned_from_examples"  # in there, of a solved head that has learned from a drawn validation split, too
PREDICTIONS_FILE = "predictions.parquet"
DATA_FILE = "data_report.json"
CARD_FILE = "README.md"
REPORT_FILE = "report.html"
CROSSVAL_FILE = "crossval.json"
CROSSVAL_SETTINGS = "crossval.yaml"
ADAPTER_FOLDER = "adapter"  # the adapters by themselves, where they are kept
FOLDS = "folds"  # where the runs of the folds stand
REFIT = "refit"  # and the model that is trained on everything behind them
SEARCH_SETTINGS = "search.yaml"
SEARCH = "search"  # where the trials of a search stand, and what its processes lock
TRIALS_FILE = "trials.csv"
TRIALS_TABLE = "trials.parquet"
TRAIN_RUNTIME = "train_runtime"  # among the metrics: seconds
TRAIN_COMMAND = f"hfft train --config {RUN_FILE} --output_dir ANOTHER_FOLDER"
PLACEHOLDER = "THIS_FOLDER_OR_REPOSITORY"  # in the card, where the model is named; a push writes the repository there

# What transformers writes of a model, in patterns of file names: weights, configuration, processor.
MODEL_FILES = (
    *("config.json", "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *("adapter_config.json", "adapter_model.safetensors"),
    *("preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "dict.txt"),
    *("spiece.model", "spm.model", "spm_char.model", "sentencepiece.model", "sentencepiece.bpe.model"),
    *("tokenizer.model", "prophetnet.tokenizer", "entity_vocab.json", "emoji.json", "byte_maps.json"),
)


def header(command: str) -> str:
    """Return the first line of a run's settings."""
    return f"{RUN_HEADER} To make this run again: {command}"


def is_run(folder: Path) -> bool:
    """Say whether the folder holds a run of hfft, a cross-validation or a search."""
    files = (folder / RUN_FILE, folder / CROSSVAL_SETTINGS, folder / SEARCH_SETTINGS)
    return any(file.is_file() and file.read_bytes().startswith(RUN_HEADER.encode()) for file in files)


def is_of_cross_validation(folder: Path) -> bool:
    """Say whether the folder holds a run whose settings alone make another one: its data were divided for it."""
    file = folder / RUN_FILE
    return file.is_file() and file.read_text("utf-8").startswith(header("hfft crossval"))
