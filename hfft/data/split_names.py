"""What splits are called, and the columns that every split gets."""

UNSPLIT = "all"
LABEL = "label"
REFERENCE = "reference"
GROUP = "group"

SPLIT_OF = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
