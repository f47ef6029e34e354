"""Executes a program in a child that borrows the memory of its parent until then.

A forked child copies the tables of its parent's memory, and whatever either of the two writes to;
the program that it executes throws all of that away. A child that shares the memory, while its
parent waits until it has executed something (``CLONE_VM | CLONE_VFORK``; vfork(2)), copies nothing:
it takes a tenth of the time. `os.posix_spawn` makes such children, but none that dies with its
parent, for only the child itself can ask for that (prctl(2), ``PR_SET_PDEATHSIG``). And Python
cannot run in one, whose objects would be those of the parent.

So the child runs functions of the C library and nothing else: a chain of contexts (makecontext(3)),
each of which is one call and goes on with the next. A chain cannot branch. What may go wrong is
tried by the parent, or it is the last call; whoever wants to know what it was has to fork.

The warden makes the chain, and a guardian, which inherits it, puts in what differs: to make it
would copy more pages. So the guardian has to know how a context looks, which differs from machine
to machine: this is done on x86-64 with the GNU C library, if a context looks as expected and the
first attempt goes as it should.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
from collections.abc import Callable, Sequence
from typing import Final

from eventbus_tasks._process.dispositions import DEFAULT, HANDLED, block_handled, unblock_all
from eventbus_tasks._process.image import PLACES, encode

__all__ = [
    "Loaded",
    "clone",
    "connect",
    "execute",
    "forget",
    "load",
    "prepare",
    "try_out",
    "works",
]

_WORD: Final = 8

_CONTEXT: Final = 128
"""Words for one ``ucontext_t``, which has 121. Places in it, as x86-64 and the C library have it
(``sys/ucontext.h``):"""
_NEXT: Final = 1
_STACK_START: Final = 2
_STACK_SIZE: Final = 4
_FIRST: Final = 13  # registers of arguments: RDI,
_SECOND: Final = 14  # RSI,
_THIRD: Final = 17  # and RDX
_MASK: Final = 37

_NOTES: Final = 8
"""Words at the beginning for what calls point to: the limits of open files, and a byte which says
that the program could not be executed."""
_FAILED: Final = 2

_STACK: Final = 512
"""Words for the stack of a call: each is a system call with next to nothing around it."""

_STEP: Final = 8
"""Words by which the stack of a call ends higher than that of the one before it, which is over
then. So they share one, but for what `makecontext` has written to the end of each."""

_SIZE: Final = 256 * 1024
"""Bytes for everything. A program with more arguments and variables has to be forked."""

_LENGTH: Final = 11 + len(HANDLED)
"""Calls of the chain."""
_UMASK: Final = _NOTES + 2 * _CONTEXT
_DUP: Final = _NOTES + 3 * _CONTEXT
_EXECUTE: Final = _NOTES + (_LENGTH - 3) * _CONTEXT
"""Where those are that are not the same for all programs."""
_IMAGE: Final = _NOTES + _LENGTH * (_CONTEXT + _STEP) + 2 * _STACK

_FLAGS: Final = 0x100 | 0x4000 | int(signal.SIGCHLD)  # CLONE_VM, CLONE_VFORK
_PR_SET_PDEATHSIG: Final = 1
_ANY_DESCRIPTOR: Final = 0xFFFFFFFF
_GAVE_UP: Final = 127
_NAMES: Final = (
    "_exit",
    "close_range",
    "dup2",
    "execve",
    "memset",
    "prctl",
    "setcontext",
    "setrlimit",
    "setsid",
    "signal",
    "umask",
)

_libc = ctypes.PyDLL(None)  # keeps the GIL: the child has no business with it
_pointer = ctypes.c_void_p


def _find() -> dict[str, int]:
    """Return where the functions are; nothing if one is missing, or this was never tried here."""
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        library = None
    long = ctypes.sizeof(_pointer) == _WORD  # the machine of a 32-bit program may have the name
    if os.uname().machine != "x86_64" or not long or not library:
        return {}
    try:
        if _libc.close_range(_ANY_DESCRIPTOR, _ANY_DESCRIPTOR, 0):
            return {}  # a kernel before 5.9, or a filter
        _libc.getcontext.argtypes = [_pointer]
        _libc.clone.argtypes = [_pointer, _pointer, ctypes.c_int, _pointer]
        _libc.makecontext.restype = None
        return {name: ctypes.cast(getattr(_libc, name), _pointer).value or 0 for name in _NAMES}
    except AttributeError:
        return {}


_AT: Final = _find()

clone: Callable[..., int] = _libc.clone if _AT else os.fork
"""How the child is made; a rehearsal replaces it."""


class _Room:
    """The memory that parent and child work in.

    Attributes:
        memory: All of it.
        words: The same, as words.
        content: The part for the image.
        origin: Address of that.
        start: What `clone` is called with: the function, its stack, flags, its argument.
    """

    __slots__ = ("content", "memory", "origin", "start", "words")

    def __init__(self) -> None:
        """Take the memory.

        Raises:
            OSError: There is none.
        """
        self.memory = mmap.mmap(-1, _SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.words = memoryview(self.memory).cast("Q")
        self.content = memoryview(self.memory)[_IMAGE * _WORD :]
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.origin = base + _IMAGE * _WORD
        self.start = (_AT["setcontext"], self.origin, _FLAGS, base + _NOTES * _WORD)

    def fill(self) -> bool:
        """Make the chain; return whether its contexts look as they should."""
        base = self.origin - _IMAGE * _WORD
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.words[1] = hard & 0xFFFFFFFFFFFFFFFF
        calls: list[tuple[str, tuple[int, ...]]] = [
            ("prctl", (_PR_SET_PDEATHSIG, int(signal.SIGKILL))),
            ("setsid", ()),
            ("umask", (0,)),
            ("dup2", (0, 0)),
            ("dup2", (0, 1)),
            ("dup2", (0, 2)),
            ("setrlimit", (int(resource.RLIMIT_NOFILE), base)),
            ("close_range", (3, _ANY_DESCRIPTOR, 0)),
            *[("signal", (number, DEFAULT)) for number in HANDLED],
            ("execve", (0, 0, 0)),
            ("memset", (base + _FAILED * _WORD, 1, 1)),
            ("_exit", (_GAVE_UP,)),
        ]
        stack = base + (_NOTES + _LENGTH * _CONTEXT) * _WORD
        blocked = sum(1 << (number - 1) for number in HANDLED)
        fits = True
        for number, (function, arguments) in enumerate(calls):
            place = _NOTES + number * _CONTEXT
            context = base + place * _WORD
            _libc.getcontext(context)
            last = number == _LENGTH - 1
            self.words[place + _NEXT] = 0 if last else context + _CONTEXT * _WORD
            self.words[place + _STACK_START] = stack
            self.words[place + _STACK_SIZE] = (_STACK + (number + 1) * _STEP) * _WORD
            words = map(_pointer, arguments)
            _libc.makecontext(_pointer(context), _pointer(_AT[function]), len(arguments), *words)
            # What comes before the actions are reset shall wait, instead of vanishing in a handler.
            fits = fits and self.words[place + _MASK] == blocked
            self.words[place + _MASK] = blocked if place < _EXECUTE else 0
            for register, argument in zip((_FIRST, _SECOND, _THIRD), arguments, strict=False):
                fits = fits and self.words[place + register] == argument
        return fits


_room: _Room | None = None


def works() -> bool:
    """Return whether it has been tried out, and works here."""
    return _room is not None


def prepare() -> None:
    """Have the chain ready for one `execute`, here or in a forked child, if it works here.

    No signal is blocked afterwards.
    """
    if _room is not None:
        _fill(_room)


def _fill(room: _Room) -> bool:
    unblock_all()  # whatever our parent had blocked
    block_handled()
    try:
        return room.fill()
    finally:
        unblock_all()


def try_out() -> None:
    """Find out whether it works here, with a program that cannot be executed.

    No signal is blocked afterwards.

    Raises:
        OSError: There is no memory or no descriptor to be had; then it will not be used.
    """
    global _room
    if not _AT or _room is not None:
        return
    room = _Room()
    spec = os.memfd_create("ebt-try", os.MFD_CLOEXEC)
    try:
        os.write(spec, encode(b"/", [b"/"], [b"/"], [], 0o077))
        if not _fill(room):
            return
        _room = room
        works = _try(spec) < 0
        forget()
        if not works:
            _room = None
    except BaseException:
        _room = None
        raise
    finally:
        os.close(spec)


def _try(spec: int) -> int:
    """Execute what cannot be executed; return -1 if that goes as it should."""
    loaded = load(spec, 0, 1024)
    if loaded is None:
        return 0
    connect(spec, spec, spec)
    block_handled()
    try:
        child = execute(loaded)
    finally:
        unblock_all()
    if child > 0:  # it was ended by a signal
        os.waitpid(child, 0)
    return child


class Loaded:
    """A program that is in the memory of the chain, for one `execute`.

    Attributes:
        cwd: Where it works.
        programs: Under which paths it is looked for, and where in the memory each of them is.
    """

    __slots__ = ("cwd", "programs")

    def __init__(self, cwd: bytes, programs: Sequence[tuple[bytes, int]]) -> None:
        """Say what was loaded."""
        self.cwd = cwd
        self.programs = programs


def load(spec: int, start: int, nofile: int) -> Loaded | None:
    """Put a program into the memory, for `execute` here or in a forked child.

    No path is looked at; that may take any time.

    Args:
        spec: File with the `image` of the program.
        start: Where in the file it begins.
        nofile: Its soft limit of open files, or the hard one if that is lower.

    Returns:
        What was loaded; ``None`` if the program has to be forked.

    Raises:
        OSError: The file cannot be read.
    """
    room = _room
    if room is None:
        return None
    size = os.preadv(spec, [room.content], start)
    if not 0 < size < len(room.content):
        return None
    memory, words, origin = room.memory, room.words, room.origin
    paths, arguments, variables = words[_IMAGE], words[_IMAGE + 1], words[_IMAGE + 2]
    words[0] = min(nofile, words[1])
    words[_UMASK + _FIRST] = words[_IMAGE + 3]
    row = _IMAGE + PLACES
    argv = row + 1 + paths
    texts = []
    for number in range(row, argv):
        place = _IMAGE * _WORD + words[number]
        texts.append((memory[place : memory.find(b"\0", place)], origin + words[number]))
    # Places in the image become addresses.
    for number in range(argv, argv + arguments + variables + 2):
        if words[number]:
            words[number] += origin
    words[_EXECUTE + _SECOND] = origin + (argv - _IMAGE) * _WORD
    words[_EXECUTE + _THIRD] = origin + (argv + arguments + 1 - _IMAGE) * _WORD
    (cwd, _), *programs = texts
    return Loaded(cwd, programs)


def connect(stdin: int, stdout: int, stderr: int) -> None:
    """Say what becomes descriptors 0, 1 and 2 of a loaded program; none of these already is."""
    assert _room is not None
    words, number = _room.words, _DUP + _FIRST
    for descriptor in (stdin, stdout, stderr):
        words[number] = descriptor
        number += _CONTEXT


def execute(loaded: Loaded) -> int:
    """Execute a program in a child with a session of its own, which dies with this process.

    Only a process with one thread may do this, one that works in ``/`` and has blocked what is
    `HANDLED`; once, see `prepare`.

    Args:
        loaded: The program, which was connected.

    Returns:
        The child's number; 0 if there is none, because nobody may execute the program, and -1 if it
        could not be executed. A child that was killed before it could is there still, as a zombie.

    Raises:
        OSError: Nobody can work in its directory.
        ValueError: A path is none.
    """
    room = _room
    assert room is not None
    child = 0
    try:
        os.chdir(loaded.cwd)
        for path, address in loaded.programs:
            if os.access(path, os.X_OK, effective_ids=True):
                room.words[_EXECUTE + _FIRST] = address
                child = clone(*room.start)
                if room.words[_FAILED]:
                    os.waitpid(child, 0)
                    child = -1
                break
    finally:
        try:  # `contextlib.suppress` would be ten pages more to copy
            os.chdir("/")
        except OSError:
            pass  # when the program runs, nothing may look as if it did not
    return child


def forget() -> None:
    """Give back the memory, in a process that will execute nothing more; see `prepare`."""
    if _room is not None:
        try:
            _room.memory.madvise(mmap.MADV_DONTNEED)
        except OSError:
            pass  # then it is not given back
