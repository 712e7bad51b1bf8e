"""Tell whether files have changed, by inode, size and modification time. Start at file_states."""

from collections.abc import Iterable, Mapping
from pathlib import Path

FileState = tuple[int, int, int]  # inode, size, modification time in ns; a file replaced by renaming has another inode
FILES_AT_MOST = 10_000  # of one folder


def file_state(path: Path) -> FileState | None:
    """Return the state of one file, through symbolic links; None if it is missing or its file system fails."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def file_states(paths: Iterable[Path]) -> Mapping[Path, FileState | None]:
    """Return the states of these files, and of all files below those that are folders.

    Blocks for as long as the file system takes: call it in a thread.
    """
    states: dict[Path, FileState | None] = {}
    for path in paths:
        states[path] = file_state(path)
        try:
            for number, inner in enumerate(path.rglob("*") if path.is_dir() else ()):
                if number == FILES_AT_MOST:
                    break
                states[inner] = file_state(inner)
        except OSError:  # it was removed meanwhile, or may not be read
            continue
    return states
