"""LoRA: small adapters beside layers that stay as they are, merged in the end and kept by themselves too.

    python examples/lora.py

Expect a model in ``example-lora`` that needs neither hfft nor PEFT, adapters of a few per cent of its size in
``example-lora/adapter``, and the same answers from the base model with those adapters.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import hfft
from hfft.demonstrations import ASSETS


def main() -> None:
    """Train adapters, and compare the merged model with the base model and its adapters."""
    base = str(ASSETS / "tiny-bert-docs")  # google-bert/bert-base-uncased
    result = hfft.finetune(
        model=base,
        data=str(ASSETS / "scipy-topics"),
        output_dir="example-lora",
        strategy="lora",
        lora_rank=8,
        keep_adapter=True,
        num_train_epochs=3,
        max_length=48,  # tokens; what is longer is cut
        overwrite=True,
    )

    merged = AutoModelForSequenceClassification.from_pretrained(result.output_dir)
    adapted = AutoModelForSequenceClassification.from_pretrained(base, num_labels=merged.num_labels)
    adapted = PeftModel.from_pretrained(adapted, f"{result.output_dir}/adapter").eval()
    tokens = AutoTokenizer.from_pretrained(result.output_dir)("Solve a linear system.", return_tensors="pt")
    with torch.no_grad():
        difference = (merged(**tokens).logits - adapted(**tokens).logits).abs().max()
    sizes = [
        Path(result.output_dir, name).stat().st_size
        for name in ("adapter/adapter_model.safetensors", "model.safetensors")
    ]
    print(f"The adapters are {sizes[0] / sizes[1]:.0%} of the model's size; logits differ by {difference:.1e}.")


if __name__ == "__main__":  # data loaders start processes that import this file
    main()
