"""Pretrain the tiny BERT that ships with hfft on the documentation of installed packages.

The text is the docstrings of the standard library and of permissively licensed packages that
hfft's dependencies bring along; scipy, which the shipped classification extract comes from, is
left out, as is every sentence of that extract. Two objectives are trained together: guessing
masked word pieces, and telling from the pooled vector which two passages stem from one place.
The second one makes the pooler, which a classifier reads, useful from the first example on.

    python pretrain_bert.py --exclude scipy-topics/*.csv --output tiny-bert-docs --seed 0
"""

from __future__ import annotations

import argparse
import ast
import csv
import importlib.util
import inspect
import math
import random
import re
import sysconfig
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils.extmath import randomized_svd
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertForPreTraining, PreTrainedTokenizerFast

# Packages under PSF, BSD, MIT or Apache-2.0 terms; one that is not installed is passed over.
# fmt: off
PACKAGES = (
    "numpy", "pandas", "sklearn", "matplotlib", "sympy", "mpmath", "networkx", "torch",
    "torchvision", "transformers", "timm", "datasets", "accelerate", "peft", "evaluate",
    "huggingface_hub", "tokenizers", "safetensors", "joblib", "pyarrow", "fsspec", "rich",
    "jinja2", "yaml", "requests", "aiohttp", "dill",
)
# Tests have no prose, vendored copies may stem from scipy, and the model zoos and compiler
# internals repeat the same few sentences thousands of times.
SKIPPED_FOLDERS = {
    "test", "tests", "testing", "externals", "_vendor", "vendored", "vendor", "models",
    "_inductor", "_dynamo", "site-packages", "dist-packages", "lib2to3", "idlelib", "ensurepip",
    "turtledemo",
}
# fmt: on
OTHER_NAMES = {"sklearn": "scikit-learn", "yaml": "pyyaml"}  # as distributions
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)
LONGEST = 128


class Document(NamedTuple):
    """The prose of one docstring: the package and file it is from, and its sentences."""

    package: str
    file: str
    sentences: list[str]


def normalise(text: str) -> str:
    """Lower-case words and numbers only: two texts that a reader would call equal become equal."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def plain(text: str) -> str:
    """Take the markup of reStructuredText out of one paragraph."""
    text = re.sub(r":\w+(?::\w+)*:`~?([^`<]*?)\s*(?:<[^>`]*>)?`", r"\1", text)
    text = re.sub(r"`([^`<]+?)\s*<[^>`]*>`_*", r"\1", text)
    text = re.sub(r"\[[\w.]+\]_|https?://\S+|\|", " ", text)
    text = re.sub(r"\*\*?(\w[^*]*)\*\*?", r"\1", text.replace("`", ""))
    return " ".join(text.split())


def prose(doc: str) -> Iterator[str]:
    """Yield the sentences of a docstring, leaving out code, tables, signatures and headings."""
    for block in re.split(r"\n\s*\n", inspect.cleandoc(doc)):
        lines = [line.strip() for line in block.splitlines()]
        lines = [s for s in lines if s and not s.startswith(("..", ":param", ":type", "@"))]
        if any(s.startswith((">>>", "$ ", "===", "---", "+--", "~~~")) for s in lines[:2]):
            # What follows the rule below a section heading is text again.
            lines = lines[2:] if len(lines) > 2 and set(lines[1]) <= set("-=~") else []
        # "name : type" introduces a parameter, "name(arguments)" is a signature.
        lines = [s for s in lines if not re.match(r"[\w*.,` ]+ ?: |[\w.]+\(.*\)?$|>>>|\.\.\.", s)]
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z`])", plain(" ".join(lines))):
            words = sentence.split()
            worded = sum(word.strip(".,;:()\"'").isalpha() for word in words)
            if 4 <= len(words) <= 70 and worded >= 0.7 * len(words):
                yield sentence


def docstrings(path: Path) -> Iterator[str]:
    """Yield the docstrings of a source file, and the texts of files made of documentation."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    bare = "docs" in path.stem or "newdocs" in path.stem or path.stem == "topics"
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if bare and isinstance(node, ast.Constant):
            if isinstance(node.value, str) and len(node.value) > 100:
                yield node.value
        elif not bare and isinstance(node, kinds) and (doc := ast.get_docstring(node)):
            yield doc


def read_documents(exclude: list[Path]) -> list[Document]:
    """Collect the pretraining text, every sentence once, without the sentences of the extract."""
    seen: set[str] = set()
    rows: list[str] = []
    for file in exclude:
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                rows.append(normalise(row["text"]))
                seen.update(normalise(s) for s in prose(row["text"]))
    seen.update(rows)
    roots = [("python", Path(sysconfig.get_path("stdlib")))]
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec and spec.origin:
            roots.append((package, Path(spec.origin).parent))
    documents = []
    for package, root in roots:
        for path in sorted(root.rglob("*.py")):
            inner = path.relative_to(root)
            if SKIPPED_FOLDERS & set(inner.parts[:-1]) or "scipy" in str(inner):
                continue
            for doc in docstrings(path):
                fresh = []
                for sentence in prose(doc):
                    key = normalise(sentence)
                    if key not in seen:
                        seen.add(key)
                        fresh.append(sentence)
                if fresh:
                    documents.append(Document(package, f"{package}/{inner}", fresh))
    # A row may still stand in a docstring that is cut into sentences differently.
    texts = [" ".join(normalise(s) for s in document.sentences) for document in documents]
    everything = "\n".join(texts)
    hidden = [row for row in rows if row in everything]
    return [document for document, text in zip(documents, texts, strict=True) if not any(row in text for row in hidden)]


def train_tokenizer(documents: list[Document], size: int) -> PreTrainedTokenizerFast:
    """Train a lower-casing WordPiece vocabulary."""

    def fresh(vocabulary: dict[str, int] | None) -> Tokenizer:
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer

    trained = fresh(None)
    sentences = [sentence for document in documents for sentence in document.sentences]
    normal = map(trained.normalizer.normalize_str, sentences)
    counts = Counter(character for sentence in normal for character in sentence if character != " ")
    ranked = sorted(counts, key=lambda character: (-counts[character], character))[:120]
    # Left to itself, the trainer numbers these pieces in an order that changes from run to run, and
    # breaks ties by their numbers. Taken for special tokens, they keep the order they come in.
    inner = [f"##{character}" for character in sorted(ranked)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=SPECIAL + inner,
        initial_alphabet=sorted(ranked),
        limit_alphabet=len(ranked),
        show_progress=False,
    )
    trained.train_from_iterator(sentences, trainer)
    tokenizer = fresh(trained.get_vocab())  # without the pretence that they are special
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LONGEST,
        **{f"{t.strip('[]').lower()}_token": t for t in SPECIAL},
    )


class Pairs:
    """Draws batches of passage pairs that stem from one docstring or at least from one file."""

    def __init__(self, documents: list[Document], pieces: list[list[list[int]]], seed: int) -> None:
        self.random = random.Random(seed)
        self.pieces = pieces
        files: dict[str, list[int]] = {}
        for number, document in enumerate(documents):
            files.setdefault(document.file, []).append(number)
        self.mates = [files[document.file] for document in documents]
        everything = [n for n in range(len(documents)) if len(pieces[n]) + len(self.mates[n]) > 2]
        self.by_package: dict[str, list[int]] = {}
        for number in everything:
            self.by_package.setdefault(documents[number].package, []).append(number)
        # The square root keeps the largest packages from drowning the others.
        self.packages = list(self.by_package)
        self.weights = [len(members) ** 0.5 for members in self.by_package.values()]

    def passage(self, sentences: list[list[int]], length: int) -> list[int]:
        """Join consecutive sentences, from a random one on, up to a random length."""
        start = self.random.randrange(len(sentences))
        room = self.random.randint(length // 3, length) - 2
        joined: list[int] = []
        for sentence in sentences[start:]:
            joined += sentence
            if len(joined) >= room:
                break
        return [CLS, *joined[:room], SEP]

    def pair(self, number: int, length: int) -> tuple[list[int], list[int]]:
        """Two passages that do not overlap."""
        sentences = self.pieces[number]
        mates = self.mates[number]
        if len(sentences) > 1 and (len(mates) == 1 or self.random.random() < 0.5):
            cut = self.random.randrange(1, len(sentences))
            return self.passage(sentences[:cut], length), self.passage(sentences[cut:], length)
        other = number
        while other == number:
            other = self.random.choice(mates)
        return self.passage(sentences, length), self.passage(self.pieces[other], length)

    def batch(self, size: int, length: int) -> Tensor:
        """Draw ``size`` pairs: the first passages, then the second ones, padded."""
        # Within one package, style gives nothing away and only the subject tells pairs apart.
        packages = self.random.choices(self.packages, self.weights, k=size)
        if self.random.random() < 0.5:
            packages = packages[:1] * size
        pairs = [self.pair(self.random.choice(self.by_package[p]), length) for p in packages]
        rows = [first for first, _ in pairs] + [second for _, second in pairs]
        widest = max(map(len, rows))
        return torch.tensor([row + [PAD] * (widest - len(row)) for row in rows])


def word_vectors(pieces: list[list[list[int]]], vocabulary: int, size: int, seed: int) -> Tensor:
    """Vectors of word pieces from their company: PPMI of a window of ten, factorised."""
    texts = [[i for sentence in sentences for i in sentence] for sentences in pieces]
    flat = np.concatenate([np.asarray(text, dtype=np.int64) for text in texts])
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    counts = np.zeros(vocabulary * vocabulary)
    for step in range(1, 11):
        near = owner[step:] == owner[:-step]
        places = flat[:-step][near] * vocabulary + flat[step:][near]
        counts += np.bincount(places, minlength=len(counts)) / step**0.5
    table = counts.reshape(vocabulary, vocabulary)
    table += table.T
    rows = table.sum(1, keepdims=True) + 1
    # Contexts to the power of 3/4, as in word2vec: rare ones would otherwise seem too telling.
    columns = rows.T**0.75 / (rows**0.75).sum()
    gain = np.maximum(np.log((table + 1e-9) / (rows * columns)), 0).astype(np.float32)
    left, values, _ = randomized_svd(gain, size, n_iter=3, random_state=seed)
    vectors = torch.from_numpy(left * values**0.5).float()
    return functional.normalize(vectors - vectors.mean(0), dim=1)


def mask(ids: Tensor, vocabulary: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """BERT's masking: of 15 %, four fifths become [MASK], a tenth random, a tenth stay."""
    chosen = (torch.rand(ids.shape, generator=rng) < 0.15) & (ids >= len(SPECIAL))
    dice = torch.rand(ids.shape, generator=rng)
    noise = torch.randint(len(SPECIAL), vocabulary, ids.shape, generator=rng)
    masked = torch.where(chosen & (dice < 0.8), MASK, ids)
    return torch.where(chosen & (dice > 0.9), noise, masked), chosen


def main() -> None:
    """Read the options, train, and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exclude", type=Path, nargs="+", required=True, help="the extract's CSVs")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--pairs", type=int, default=64, help="passage pairs in a batch")
    parser.add_argument("--lr", type=float, default=1e-3)
    # One thread: on shared cores OpenMP's waiting costs far more than a second core brings.
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    begun = time.perf_counter()
    documents = read_documents(args.exclude)
    tokenizer = train_tokenizer(documents, 5000)
    flat = [s for d in documents for s in d.sentences]
    encoded = iter(tokenizer.backend_tokenizer.encode_batch(flat, add_special_tokens=False))
    pieces = [[next(encoded).ids for _ in d.sentences] for d in documents]
    total = sum(len(s) for d in pieces for s in d)
    print(f"{len(documents)} docstrings, {len(flat)} sentences, {total} word pieces", flush=True)

    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=LONGEST,
        initializer_range=0.05,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForPreTraining(config).train()
    # Starting from vectors that already know which words keep company saves most of the training:
    # from random ones, the pooled vectors stay all but equal for many hundred steps.
    vectors = word_vectors(pieces, config.vocab_size, config.hidden_size, args.seed)
    scale = config.initializer_range * config.hidden_size**0.5
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[PAD + 1 :] = scale * vectors[PAD + 1 :]
    pairs = Pairs(documents, pieces, args.seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    warmup = max(1, args.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / args.steps)),
    )
    sums = torch.zeros(3)
    for step in range(1, args.steps + 1):
        # Now and then a batch of long passages, so that the last positions are trained too.
        long = step % 8 == 0
        ids = pairs.batch(args.pairs // 3 if long else args.pairs, LONGEST if long else 40)
        inputs, chosen = mask(ids, config.vocab_size, rng)
        output = model.bert(input_ids=inputs, attention_mask=(ids != PAD).long())
        # Only the masked places go through the large output layer.
        logits = model.cls.predictions(output.last_hidden_state[chosen])
        guessing = functional.cross_entropy(logits, ids[chosen])
        # At first all pooled vectors are nearly one, and their differences, not their angles, must
        # be compared for the pooler to learn at all; this help fades out by half-time.
        shared = max(0.0, 1 - 2 * step / args.steps) * output.pooler_output.mean(0)
        first, second = functional.normalize(output.pooler_output - shared, dim=1).chunk(2)
        similar = first @ second.T / 0.1
        target = torch.arange(len(first))
        pairing = (functional.cross_entropy(similar, target) + functional.cross_entropy(similar.T, target)) / 2
        optimizer.zero_grad()
        (guessing + pairing).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        hits = (similar.argmax(1) == target).float().mean()
        sums += torch.stack([guessing.detach(), pairing.detach(), hits])
        if step % 100 == 0:
            shown = " ".join(f"{value:.3f}" for value in (sums / 100).tolist())
            print(f"{step} {shown} {time.perf_counter() - begun:.0f} s", flush=True)
            sums.zero_()

    # Dropout only harms so small a network while it learns, but helps on a few examples.
    trunk = model.bert.eval()
    trunk.config.hidden_dropout_prob = trunk.config.attention_probs_dropout_prob = 0.1
    # Half precision on disk only: the configuration says float32, so that is what loads.
    weights = {name: weight.half() for name, weight in trunk.state_dict().items()}
    trunk.save_pretrained(args.output, state_dict=weights)
    (args.output / "model.safetensors").chmod(0o644)  # written for its owner alone
    tokenizer.save_pretrained(args.output)
    card = Path(__file__).with_name("card_bert.md").read_text(encoding="utf-8")
    packages = sorted({document.package for document in documents} - {"python"})
    packages = [OTHER_NAMES.get(package, package) for package in packages]
    card = card.format(
        parameters=f"{trunk.num_parameters():,}",
        vocabulary=config.vocab_size,
        packages=textwrap.fill(", ".join(f"{name} {version(name)}" for name in packages) + ".", 98),
        documents=len(documents),
        pieces=total,
        name=args.output.name,
        seed=args.seed,
        steps=args.steps,
    )
    (args.output / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
