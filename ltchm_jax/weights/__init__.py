"""The models that ship, by name. Standard library only, so that a wrong name is told at once."""

from pathlib import Path

SHIPPED = Path(__file__).parent
DEFAULT_MODEL = "rsscn7"


class ModelError(ValueError):
    """A file of a model can't be found or read."""


def find_model(name_or_path: str | Path | None = None) -> Path:
    """The file of a model: a path, or the name of one that ships with the package.

    Raises:
      ModelError: neither.
    """
    name = DEFAULT_MODEL if name_or_path is None else str(name_or_path)
    if Path(name).is_file():
        return Path(name)
    if (SHIPPED / f"{name}.safetensors").is_file() and "/" not in name:
        return SHIPPED / f"{name}.safetensors"
    names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.safetensors"))) or "none"
    raise ModelError(f"A model is a file or one of the names that ship ({names}), got {name!r}.")
