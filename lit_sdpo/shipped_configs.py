"""The configurations that come with the package, by name."""

from __future__ import annotations

from pathlib import Path

#: The files that come with the package: in a wheel's own folder, else those of the repository.
_PACKAGE = Path(__file__).parent
SHIPPED = next((p for p in (_PACKAGE / "shipped", _PACKAGE.parent / "configs") if p.is_dir()), _PACKAGE / "shipped")


def shipped(name: str) -> Path | None:
    """The file that comes with the package under a name, such as ``micro/sdpo`` or ``configs/micro/sdpo.yaml``.

    Args:
        name: Path below ``configs/``; that and ``.yaml`` may be left out.
    """
    path = SHIPPED / f"{name.removeprefix('configs/').removesuffix('.yaml')}.yaml"
    inside = ".." not in path.parts and path.is_relative_to(SHIPPED)
    return path if inside and path.is_file() else None


def shipped_names() -> list[str]:
    """Names of all files that come with the package."""
    return sorted(path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.rglob("*.yaml"))
