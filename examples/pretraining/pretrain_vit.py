"""Pretrain the tiny ViT that ships with hfft on glyphs drawn with matplotlib's fonts.

The network learns to tell letters and symbols apart under heavy distortion. Digits, in any form
that Unicode calls a number, are left out, so a digit data set is new to the result. Only the trunk
is kept: the glyph classifier is thrown away.

    python pretrain_vit.py --output tiny-vit-glyphs --seed 0
"""

from __future__ import annotations

import argparse
import math
import time
import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

SIZE = 32
CANVAS = 40  # glyphs are stored a little larger than needed, so that scaling up stays sharp
FONTS = (
    *(f"DejaVuSans{s}.ttf" for s in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{s}.ttf" for s in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{s}.ttf" for s in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{s}.ttf" for s in ("", "Bol", "Italic", "BolIta")),
)
# "TONE" letters are digits borrowed as letters. Arrows come in hundreds of near-equal forms, which
# would take up the capacity that curves and loops need.
SKIPPED_NAMES = ("DIGIT", "NUMBER", "NUMERAL", "TONE", "ARROW", "HARPOON")
# Share of each batch seen through a grid of that many pixels a side before being enlarged.
RESOLUTIONS = ((8, 0.45), (10, 0.10), (12, 0.10), (16, 0.15), (SIZE, 0.20))
ENLARGING = ("bilinear", "bilinear", "bicubic", "nearest")


def is_wanted(char: str) -> bool:
    """Whether a character is a letter or symbol, and no digit in any dress."""
    name = unicodedata.name(char, "")
    if not name or any(word in name for word in SKIPPED_NAMES):
        return False
    # NFKD undresses superscript, circled and bracketed digits; accents make near-duplicates.
    parts = unicodedata.normalize("NFKD", char)
    if len(parts) != 1 or any(unicodedata.category(c).startswith("N") for c in char + parts):
        return False
    return unicodedata.category(char) in {"Lu", "Ll", "Lo", "Sm", "Sc", "Po"}


def draw(char: str, font: ImageFont.FreeTypeFont) -> np.ndarray | None:
    """Draw one character, crop it to its ink and fit it in the middle of a square canvas."""
    page = Image.new("L", (192, 192))
    ImageDraw.Draw(page).text((96, 96), char, fill=255, font=font, anchor="mm")
    box = page.getbbox()
    if box is None or max(box[2] - box[0], box[3] - box[1]) < 12:
        return None  # blank, or a dot that says nothing once enlarged
    ink = page.crop(box)
    scale = (CANVAS - 8) / max(ink.size)
    width, height = (max(1, round(side * scale)) for side in ink.size)
    canvas = Image.new("L", (CANVAS, CANVAS))
    small = ink.resize((width, height), Image.Resampling.BOX)
    canvas.paste(small, ((CANVAS - width) // 2, (CANVAS - height) // 2))
    return np.asarray(canvas)


def glyph_bank(least_fonts: int = 8) -> tuple[Tensor, Tensor, list[str]]:
    """Draw every wanted character in every font: images (uint8), class of each, class names."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    maps = [set(FT2Font(str(folder / name)).get_charmap()) for name in FONTS]
    fonts = [ImageFont.truetype(str(folder / name), 64) for name in FONTS]
    images: list[np.ndarray] = []
    labels: list[int] = []
    classes: list[str] = []
    seen: set[bytes] = set()
    for code in sorted(set().union(*maps)):
        char = chr(code)
        if not is_wanted(char) or sum(code in m for m in maps) < least_fonts:
            continue
        drawn = [draw(char, f) for f, m in zip(fonts, maps, strict=True) if code in m]
        kept = [image for image in drawn if image is not None]
        # Latin, Greek and Cyrillic capitals share many shapes: the first one stands for all.
        if len(kept) < least_fonts or kept[0].tobytes() in seen:
            continue
        seen.add(kept[0].tobytes())
        images += kept
        labels += [len(classes)] * len(kept)
        classes.append(char)
    return torch.from_numpy(np.stack(images)), torch.tensor(labels), classes


def distort(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Turn clean glyphs (B, H, W in 0..255) into distorted RGB images in -1..1.

    ``strength`` from 0 to 1 scales how far shapes, strokes and colours stray, and how many
    images lose resolution.
    """
    n = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(n, *(shape or (1, 1, 1)), generator=rng) * (high - low) + low

    x = images.float().div(255).unsqueeze(1)
    # Stroke weight: part of the way towards a dilated or an eroded copy, at most twice dilated.
    weight = uniform(-0.9, 1.6) * strength
    x = x + weight.clamp(0, 1) * (functional.max_pool2d(x, 3, 1, 1) - x)
    x = x + (weight - 1).clamp(min=0) * (functional.max_pool2d(x, 3, 1, 1) - x)
    x = x - (-weight).clamp(min=0) * (x + functional.max_pool2d(-x, 3, 1, 1))
    # Shape: rotation, shear, unequal scale, shift, and a smooth warp in place of handwriting.
    angle, shear, shift_x, shift_y = (uniform(-0.3, 0.3, 4) * strength).unbind(1)
    wide = 1 + strength * uniform(-0.15, 0.75, 1)[:, 0]
    tall = 1 + strength * uniform(-0.2, 0.3, 1)[:, 0]
    cos, sin = angle.cos(), angle.sin()
    rows = (cos * wide, shear - sin * wide, shift_x / 2, sin * tall, cos * tall, shift_y / 2)
    grid = functional.affine_grid(torch.stack(rows, 1).view(n, 2, 3), [n, 1, SIZE, SIZE], False)
    bumps = torch.randn(n, 2, 4, 4, generator=rng) * uniform(0.0, 0.13) * strength
    warp = functional.interpolate(bumps, size=SIZE, mode="bicubic", align_corners=True)
    x = functional.grid_sample(x, grid + warp.permute(0, 2, 3, 1), align_corners=False)
    # Blur by a share, then sensor noise at the lower resolution that small scans have.
    x = x + uniform(0.0, 1.0) * strength * (functional.avg_pool2d(x, 3, 1, 1) - x)
    parts: list[Tensor] = []
    start = 0
    for side, share in RESOLUTIONS:
        stop = n if side == SIZE else start + round(n * share * strength)
        if stop == start:
            continue
        part = functional.adaptive_avg_pool2d(x[start:stop], side)
        part = part / part.amax((1, 2, 3), keepdim=True).clamp(min=0.3)
        noise = torch.randn(part.shape, generator=rng)
        part = part + 0.12 * strength * torch.rand(len(part), 1, 1, 1, generator=rng) * noise
        if side < SIZE:
            mode = ENLARGING[int(torch.randint(len(ENLARGING), (1,), generator=rng))]
            part = functional.interpolate(part, size=SIZE, mode=mode)
        parts.append(part)
        start = stop
    # Ink and paper: mostly bright on dark and grey, at times coloured or the other way round.
    x = torch.cat(parts).clamp(0, 1) ** (1 + strength * uniform(-0.4, 0.5))
    tint = uniform(0.0, 0.4, 3, 1, 1) * (uniform(0, 1) < 0.3 * strength)
    paper = uniform(0.0, 0.2) * strength + tint.flip(1) / 2
    x = paper + (1 - uniform(0.0, 0.3) * strength - tint - paper) * x
    return torch.where(uniform(0, 1) < 0.15 * strength, 1 - x, x) * 2 - 1


def main() -> None:
    """Read the options, train, and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    # One thread: on shared cores OpenMP's waiting costs far more than a second core brings.
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    images, labels, classes = glyph_bank()
    print(f"{len(images)} glyphs of {len(classes)} classes", flush=True)
    config = ViTConfig(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        image_size=SIZE,
        patch_size=8,
        num_labels=len(classes),
        initializer_range=0.08,  # about 1 / sqrt(width); the usual 0.02 starts far slower here
    )
    model = ViTForImageClassification(config).train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    warmup = max(1, args.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / args.steps)),
    )
    begun, running, hits = time.perf_counter(), 0.0, 0.0
    for step in range(1, args.steps + 1):
        rows = torch.randint(len(images), (args.batch,), generator=rng)
        # Easy glyphs first: at full strength from the start, nothing is learnt for minutes.
        strength = min(1.0, step / (0.4 * args.steps))
        logits = model(pixel_values=distort(images[rows], strength, rng)).logits
        loss = functional.cross_entropy(logits, labels[rows], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running += loss.item()
        hits += (logits.argmax(1) == labels[rows]).float().mean().item()
        if step % 200 == 0:
            spent = time.perf_counter() - begun
            print(f"{step} {running / 200:.3f} {hits / 200:.3f} {spent:.0f} s", flush=True)
            running = hits = 0.0

    # The glyph classes mean nothing to a user, so the configuration must not carry them.
    trunk = model.vit.eval()
    trunk.config.num_labels = 2
    # Half precision on disk only: the configuration says float32, so that is what loads.
    weights = {name: weight.half() for name, weight in trunk.state_dict().items()}
    trunk.save_pretrained(args.output, state_dict=weights)
    (args.output / "model.safetensors").chmod(0o644)  # written for its owner alone
    size = {"height": SIZE, "width": SIZE}
    ViTImageProcessor(size=size, do_convert_rgb=True).save_pretrained(args.output)
    card = Path(__file__).with_name("card_vit.md").read_text(encoding="utf-8")
    card = card.format(
        parameters=f"{trunk.num_parameters():,}",
        classes=len(classes),
        glyphs=len(images),
        name=args.output.name,
        seed=args.seed,
        steps=args.steps,
    )
    (args.output / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
