"""kuzu, the default. Its last release is 0.11.3; ``ladybug`` continues it."""

from types import ModuleType

from syscalls.errors import ENODEV


def library() -> ModuleType:
    """The module. Raises ENODEV when it is not installed or does not load."""
    try:
        import kuzu
    except ImportError as error:
        raise ENODEV(
            f"kuzu cannot be loaded: {error}", hint="pip install kuzu, or use --graph memory"
        ) from error
    module: ModuleType = kuzu
    return module
