"""BaseModel: what the card of the pretrained model says of it, and what of that binds the model trained from it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hfft.arguments import ModelArguments
from hfft.paths import hub_info, last_part, model_file

# Licences, by their names on the Hub, that allow any use of what is derived; copyleft ones if it keeps the licence.
_FREE = frozenset(
    [
        *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "zlib", "ncsa"),
        *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "pddl"),
        *("unlicense", "wtfpl", "postgresql", "ms-pl", "bsl-1.0", "ecl-2.0", "afl-3.0", "osl-3.0", "artistic-2.0"),
        *("mpl-2.0", "epl-1.0", "epl-2.0", "eupl-1.1", "eupl-1.2", "lgpl", "lgpl-2.1", "lgpl-3.0", "gfdl"),
        *("gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0", "odc-by", "cdla-permissive-1.0", "cdla-permissive-2.0"),
    ]
)
_NON_COMMERCIAL = re.compile(r"-nc\b|non-?commercial")
_NO_DERIVATIVES = re.compile(r"-nd\b")
_RESEARCH_ONLY = re.compile(r"research|apple-amlr")
_OTHER = "other"

# How the files of licences begin, without blanks and punctuation.
_TEXTS = (
    ("apachelicenseversion20", "apache-2.0"),
    ("mitlicense", "mit"),
    ("attributionnoncommercialsharealike40", "cc-by-nc-sa-4.0"),
    ("attributionnoncommercialnoderivatives40", "cc-by-nc-nd-4.0"),
    ("attributionnoncommercial40", "cc-by-nc-4.0"),
)
_LICENSE_FILES = frozenset({"license", "licence", "copying"})


@dataclass(frozen=True)
class BaseModel:
    """What is known of a pretrained model.

    Attributes:
        name: its Hub id, or the name of its folder.
        hub_id: the id on the Hub, of a local folder the one that its card names.
        license: by its name on the Hub, such as ``apache-2.0``; ``None`` where none is known.
        license_name: of a licence that the Hub has no name for.
        license_link: where it stands.
        languages: codes such as ``en``.
        gated: whether its owners let in those alone who accept their terms.
    """

    name: str = ""
    hub_id: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    languages: tuple[str, ...] = ()
    gated: bool = False

    @classmethod
    def of(cls, arguments: ModelArguments) -> BaseModel:
        """Read the card of a local folder, of the cache, or of the Hub, which is asked once unless offline."""
        model = str(arguments.model)
        is_local = Path(model).exists()
        card = _metadata(model_file(arguments, "README.md"))
        info = None if is_local else hub_info(model, arguments.revision)
        license = _license(card.get("license"))
        license_name = _word(card.get("license_name"))
        if license is None and is_local:
            license, license_name = _license_of_file(Path(model))
        based_on = _hub_id(card.get("base_model"))
        languages = card.get("language")
        words = [_word(language) for language in (languages if isinstance(languages, list) else [languages])]
        return cls(
            name=last_part(model),
            hub_id=based_on if is_local else model,
            license=license,
            license_name=license_name if license == _OTHER else None,
            license_link=_link(card.get("license_link"), None if is_local else model) if license == _OTHER else None,
            languages=tuple(word for word in words if word),
            gated=bool(getattr(info, "gated", False)),
        )

    def restriction(self) -> str | None:
        """Return what binds the model that is trained from this one, as a sentence, or ``None`` where nothing does."""
        told = ["is gated: its owners' terms go with what is trained from it"] if self.gated else []
        if self.license is None:
            told.append("names no licence: find out what it allows before what is trained from it is passed on")
        elif _NON_COMMERCIAL.search(self.license):
            told.append(f"is under {self.license}, which forbids commercial use of what is trained from it")
        elif _NO_DERIVATIVES.search(self.license):
            told.append(f"is under {self.license}, which forbids passing on what is trained from it")
        elif _RESEARCH_ONLY.search(f"{self.license} {self.license_name}".lower()):
            told.append(f"is under {self._shown}, which allows research alone")
        elif self.license not in _FREE:
            told.append(f"is under {self._shown}, which may limit the use of what is trained from it: read its terms")
        return f"The base model '{self.name}' {'; it '.join(told)}." if told else None

    @property
    def _shown(self) -> str:
        named = f"a licence of its own ({self.license_name})" if self.license_name else "a licence of its own"
        return named if self.license == _OTHER else str(self.license)


def _metadata(card: Path | None) -> dict[str, Any]:
    """Return the metadata of a card; empty where there are none, or none that can be read."""
    from huggingface_hub import metadata_load

    try:
        return (metadata_load(card) if card is not None else None) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def _license(value: Any) -> str | None:
    """Return a licence by its name on the Hub; of several the first that is not free for every use."""
    names = [name.lower() for each in (value if isinstance(value, list) else [value]) if (name := _word(each))]
    names = [name for name in names if name != "unknown"]
    return next((name for name in names if name not in _FREE), names[0] if names else None)


def _license_of_file(folder: Path) -> tuple[str | None, str | None]:
    """Return the licence that a folder's own file holds, and its name where the Hub has none for it."""
    for path in sorted(folder.iterdir()):
        if path.name.lower().partition(".")[0] in _LICENSE_FILES and path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                head = re.sub(r"[\W_]", "", file.read(1000).lower())
            return next(((name, None) for text, name in _TEXTS if text in head), (_OTHER, f"see {path.name}"))
    return None, None


def _word(value: Any) -> str | None:
    """Return a text of the card that is a name, and nothing that terminals or Markdown would take for more."""
    return value if isinstance(value, str) and re.fullmatch(r"[\w .,+()/-]{1,100}", value) else None


def _hub_id(value: Any) -> str | None:
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", first) else None


def _link(value: Any, hub_id: str | None) -> str | None:
    """Return where a licence can be read by everybody: an address, or a file in the base model's repository."""
    if not isinstance(value, str) or re.search(r"[\s<>\"'`\\]", value):
        return None
    if value.startswith(("https://", "http://")):
        return value
    return f"https://huggingface.co/{hub_id}/blob/main/{value}" if hub_id is not None else None
