"""What /proc says about processes that are measured, and places for their tasks."""

from __future__ import annotations

from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the numbers of the direct children of all threads of a process."""
    threads = Path(f"/proc/{pid}/task")
    while True:
        try:
            lists = [(thread / "children").read_text() for thread in threads.iterdir()]
        except FileNotFoundError:
            continue  # a thread has ended meanwhile, and another one has its children now
        return [int(word) for words in lists for word in words.split()]


def memory_of(pid: int) -> int:
    """Return the bytes of a process; what it shares counts in parts (PSS)."""
    return _rolled_up(pid, "Pss:")


def private_memory(pid: int) -> int:
    """Return the bytes that only this process has, and has written."""
    return _rolled_up(pid, "Private_Dirty:")


def _rolled_up(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ValueError(f"the kernel does not tell {field!r} of {pid}")


def places(count: int) -> list[Path]:
    """Make so many project directories below the current one."""
    made = [Path(f"project-{number}") for number in range(count)]
    for place in made:
        place.mkdir()
    return made
