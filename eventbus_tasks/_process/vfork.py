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

__all__ = ["clone", "execute", "permit", "prepare", "try_out"]

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
_UMASK, _DUP, _EXECUTE = 2, 3, _LENGTH - 3
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
            self.words[place + _MASK] = blocked if number < _EXECUTE else 0
            for register, argument in zip((_FIRST, _SECOND, _THIRD), arguments, strict=False):
                fits = fits and self.words[place + register] == argument
        return fits


_room: _Room | None = None
_permitted = True


def permit(local: bool) -> None:
    """Say whether `execute` may be used: where paths can hang, only a child may look at them."""
    global _permitted
    _permitted = local


def prepare() -> None:
    """Have everything ready for one `execute`, here or in a forked child, if it works here.

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
        if _fill(room):
            child = _execute(room, spec, 0, (spec, spec, spec), 1024)
            if child > 0:  # it was ended by a signal
                os.waitpid(child, 0)
            elif child < 0:
                _room = room
    finally:
        os.close(spec)


def execute(spec: int, start: int, streams: Sequence[int], nofile: int) -> int:
    """Execute a program in a child with a session of its own, which dies with this process.

    Only a process with one thread may do this, and one that works in ``/``; once, see `prepare`.

    Args:
        spec: File with the `image` of the program.
        start: Where in the file it begins.
        streams: What becomes descriptors 0, 1 and 2 of the program; none of these already is.
        nofile: Its soft limit of open files, or the hard one if that is lower.

    Returns:
        The child's number; 0 if there is none, because it could not execute the program. A child
        that was killed before it could is there still, as a zombie.

    Raises:
        OSError: The specification cannot be read, or nobody can work in its directory.
    """
    if _room is None or not _permitted:
        return 0
    child = _execute(_room, spec, start, streams, nofile)
    return child if child > 0 else 0  # noqa: FURB136 - `max` is on a page of its own


def _execute(room: _Room, spec: int, start: int, streams: Sequence[int], nofile: int) -> int:
    """Do what `execute` says; return -1 for a child that could not execute the program."""
    child = failed = 0
    try:
        size = os.preadv(spec, [room.content], start)
        if 0 < size < len(room.content) and _complete(room, streams, nofile):
            block_handled()
            try:
                child = clone(*room.start)
            finally:
                unblock_all()
            failed = room.words[_FAILED]
    finally:
        try:  # `contextlib.suppress` would be ten pages more to copy
            os.chdir("/")
        except OSError:
            pass  # when the program runs, nothing may look as if it did not
        try:
            room.memory.madvise(mmap.MADV_DONTNEED)
        except OSError:
            pass  # then it is not given back
    if failed:
        os.waitpid(child, 0)
        return -1
    return child if child > 0 else 0  # noqa: FURB136 - `max` is on a page of its own


def _complete(room: _Room, streams: Sequence[int], nofile: int) -> bool:
    """Put in what differs, go to the directory of the program, and choose its path, if it has one.

    Places in the image become addresses.
    """
    memory, words, origin = room.memory, room.words, room.origin
    paths, arguments, variables = words[_IMAGE], words[_IMAGE + 1], words[_IMAGE + 2]
    words[0] = min(nofile, words[1])
    words[_NOTES + _UMASK * _CONTEXT + _FIRST] = words[_IMAGE + 3]
    number = _NOTES + _DUP * _CONTEXT + _FIRST
    for stream in streams:
        words[number] = stream
        number += _CONTEXT
    row = _IMAGE + PLACES
    for number in range(row, row + paths + arguments + variables + 3):
        if words[number]:
            words[number] += origin
    to_memory = _IMAGE * _WORD - origin
    place = words[row] + to_memory
    os.chdir(memory[place : memory.find(b"\0", place)])
    for number in range(row + 1, row + 1 + paths):
        place = words[number] + to_memory
        if os.access(memory[place : memory.find(b"\0", place)], os.X_OK, effective_ids=True):
            execute = _NOTES + _EXECUTE * _CONTEXT
            argv = row + 1 + paths
            words[execute + _FIRST] = words[number]
            words[execute + _SECOND] = origin + (argv - _IMAGE) * _WORD
            words[execute + _THIRD] = origin + (argv + arguments + 1 - _IMAGE) * _WORD
            return True
    return False
