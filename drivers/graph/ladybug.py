"""ladybug, which continues kuzu under another name with the same interface."""

from types import ModuleType

from syscalls.errors import ENODEV


def library() -> ModuleType:
    """The module. Raises ENODEV when it is not installed or does not load."""
    try:
        import ladybug
    except ImportError as error:
        raise ENODEV(
            f"ladybug cannot be loaded: {error}",
            hint="pip install ladybug, or use --graph kuzu",
        ) from error
    module: ModuleType = ladybug
    return module
