"""Whether files of a configuration have changed, by when each was written and its size."""

from pathlib import Path


def stamps(directory: Path) -> dict[Path, tuple[int, int]]:
    """When each file of the configuration changed last, in nanoseconds, and its size in bytes."""
    files = [
        *directory.glob("*.yaml"),
        *directory.glob("routes/*.yaml"),
        *directory.glob("policies/*.yaml"),
        *directory.glob("prompts/**/*"),
    ]
    found = {}
    for file in files:
        try:
            if file.is_file():
                told = file.stat()
                found[file] = (told.st_mtime_ns, told.st_size)
        except OSError:  # gone in between
            continue
    return found
