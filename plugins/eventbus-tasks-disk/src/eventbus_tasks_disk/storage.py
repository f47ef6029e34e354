"""Private directories and files, opened so that nobody can make us write elsewhere.

A project may come from anywhere: what it contains under our names can be a symbolic link, a
FIFO or somebody else's directory. So directories are opened once, without following links,
checked, and then used by descriptor; new files are made with ``O_EXCL``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

__all__ = [
    "ARRIVALS",
    "END_RECORD",
    "JOURNAL",
    "LOGS",
    "MARKDOWN",
    "SUFFIXES",
    "TaskFolder",
    "create_file",
    "find_data",
    "make_private_path",
    "open_directory",
    "open_file",
    "open_private_directory",
]

JOURNAL: Final = ".events.jsonl"
END_RECORD: Final = ".end.json"
MARKDOWN: Final = "-output.md"
LOGS: Final = {"stdout": ".stdout.log", "stderr": ".stderr.log"}
ARRIVALS: Final = ".arrivals.idx"

SUFFIXES: Final = (JOURNAL, *LOGS.values(), ARRIVALS, END_RECORD, MARKDOWN)
"""How the names of all files of a task end."""
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def make_private_path(path: Path) -> None:
    """Make a directory and its parents, as far as they are missing, for this user only.

    Raises:
        OSError: One cannot be made.
    """
    for directory in (*reversed(path.parents), path):
        try:
            directory.mkdir(mode=0o700)
            directory.chmod(0o700)  # a umask may have taken even our own permissions
        except FileExistsError:
            continue
        except OSError:
            # "Read-only file system" and the like are also said of what is there.
            if not directory.is_dir():
                raise


def open_private_directory(parent: Path, name: str) -> int:
    """Open a directory that only this user can enter, and make it if it is missing.

    A directory of this user that others may look into is closed to them.

    Args:
        parent: Where it is; must exist.
        name: Its name in there; never followed if it is a symbolic link.

    Raises:
        OSError: It is something else, belongs to somebody else, or others can write into it.
    """
    above = os.open(parent, _DIRECTORY_FLAGS)
    try:
        try:
            os.mkdir(name, 0o700, dir_fd=above)
            made = True
        except FileExistsError:
            made = False
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(parent / name)) from None
        if made:
            _make_accessible(above, name)
        descriptor = _open_unfollowed(above, name, parent / name)
    finally:
        os.close(above)
    try:
        status = os.fstat(descriptor)
        _check_private(status, parent / name)
        if status.st_mode & 0o077:
            os.fchmod(descriptor, 0o700)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _make_accessible(above: int, name: str) -> None:
    """Give a directory that was just made the mode 0700, whatever the umask has made of it."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        if os.fstat(handle).st_uid == os.geteuid():  # nobody has put another in its place
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
    finally:
        os.close(handle)


def open_directory(parent: Path, name: str) -> int:
    """Open an existing directory for reading, without following a symbolic link.

    Raises:
        OSError: It is not there, something else, or somebody else can write into it.
    """
    above = os.open(parent, _DIRECTORY_FLAGS)
    try:
        descriptor = _open_unfollowed(above, name, parent / name)
    finally:
        os.close(above)
    try:
        _check_private(os.fstat(descriptor), parent / name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_unfollowed(above: int, name: str, path: Path) -> int:
    try:
        return os.open(name, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=above)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            problem = "is not a directory (a symbolic link is not followed)"
            raise NotADirectoryError(errno.ENOTDIR, problem, str(path)) from None
        raise


def _check_private(status: os.stat_result, path: Path) -> None:
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "belongs to another user", str(path))
    if status.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "can be written by other users", str(path))


def create_file(directory: int, name: str, flags: int = os.O_RDWR) -> int:
    """Make a new file, readable and writable by this user only, and return its descriptor.

    Raises:
        FileExistsError: The name is taken, by whatever.
        OSError: It cannot be made.
    """
    flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    os.fchmod(descriptor, 0o600)  # a umask may have taken even our own permissions
    return descriptor


def open_file(directory: int, name: str, flags: int = os.O_RDONLY) -> int:
    """Open a regular file; never waits, whatever the name turns out to be.

    Raises:
        OSError: It is not there, or not a regular file.
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(name, flags, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", name)
    return descriptor


def find_data(file: int, position: int) -> tuple[int, int]:
    """Return where the next bytes of a log begin and end that are there, from a position on.

    Between them are holes: bytes that were lost, or freed by the limit of the task. Both are the
    end of the file when nothing follows. The file's own position is changed.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        begin = os.lseek(file, position, os.SEEK_DATA)
        return begin, os.lseek(file, begin, os.SEEK_HOLE)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    end = os.fstat(file).st_size
    return end, end


class TaskFolder:
    """The place of one task's files: an open directory, and how their names begin.

    May be used from any thread, also while another one closes it.

    Args:
        directory: Descriptor of the directory; belongs to this object from here on.
        path: Its path, for messages and for those who want to open the files later.
        stem: How the names of the files begin: ``task-7``.
    """

    def __init__(self, directory: int, path: Path, stem: str) -> None:
        self.path = path
        self.stem = stem
        self._directory = directory
        self._lock = threading.Lock()

    @classmethod
    def reserve(
        cls, project_dir: Path, directory: str, task_id: int, uid: str, first: str, flags: int
    ) -> tuple[Self, int]:
        """Make the first file of a task, under a name that no other task has.

        That is ``task-<id>…``; where files of this number are there already, because the
        project was copied or the counter was lost, a part of the UUID is added. Nothing that is
        there is ever overwritten.

        Args:
            project_dir: The project; never made.
            directory: Name of the directory in it; made if it is missing.
            task_id: Number of the task.
            uid: Its UUID.
            first: End of the name of the file to be made.
            flags: How to open it.

        Returns:
            The folder, and the descriptor of the new file.

        Raises:
            OSError: The directory or the file cannot be made.
        """
        descriptor = open_private_directory(project_dir, directory)
        try:
            _keep_out_of_git(descriptor)
            for stem in (f"task-{task_id}", f"task-{task_id}-{uid[:8]}", f"task-{task_id}-{uid}"):
                if any(_is_taken(descriptor, stem + suffix) for suffix in SUFFIXES):
                    continue
                try:
                    file = create_file(descriptor, stem + first, flags)
                except FileExistsError:
                    continue
                return cls(descriptor, project_dir / directory, stem), file
            path = str(project_dir / directory / f"task-{task_id}{first}")
            raise FileExistsError(errno.EEXIST, "files of this task are there already", path)
        except BaseException:
            os.close(descriptor)
            raise

    def path_of(self, suffix: str) -> str:
        """Return the path of one of the files."""
        return str(self.path / (self.stem + suffix))

    def duplicate(self) -> TaskFolder:
        """Return a second object for the same place, which stays open when this one is closed.

        Raises:
            OSError: This one is closed.
        """
        with self._lock:
            if self._directory < 0:
                raise OSError(errno.EBADF, "is not in use any more", str(self.path))
            return TaskFolder(os.dup(self._directory), self.path, self.stem)

    def create(self, suffix: str) -> int:
        """Make one of the files, and open it for reading and writing.

        One that is there, but still empty, was left by an attempt that the engine gave up; that
        one is used. The names are reserved for this task.

        Raises:
            OSError: It is there and not empty, or something else, or cannot be made.
        """
        name = self.stem + suffix
        try:
            return create_file(self._directory, name)
        except FileExistsError:
            descriptor = open_file(self._directory, name, os.O_RDWR)
            status = os.fstat(descriptor)
            if not status.st_size and status.st_nlink == 1 and status.st_uid == os.geteuid():
                return descriptor
            os.close(descriptor)
            raise

    def open(self, suffix: str, flags: int = os.O_RDONLY) -> int:
        """Open one of the files, for reading unless `flags` say otherwise.

        Raises:
            OSError: It is not there, or not a regular file.
        """
        return open_file(self._directory, self.stem + suffix, flags)

    def remove(self, suffix: str) -> None:
        """Remove one of the files, if it is there.

        Raises:
            OSError: It cannot be removed.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.stem + suffix, dir_fd=self._directory)

    def remove_temporary(self, suffix: str) -> None:
        """Remove what attempts to replace one of the files have left that were killed.

        Raises:
            OSError: It cannot be removed.
        """
        for name in os.listdir(self._directory):
            if name.startswith(f".{self.stem}{suffix}."):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._directory)

    def check(self) -> None:
        """Check that the directory still has a place in the file system.

        Raises:
            FileNotFoundError: It was removed.
        """
        if not os.fstat(self._directory).st_nlink:
            problem = "was removed while the task was running"
            raise FileNotFoundError(errno.ENOENT, problem, str(self.path))

    @contextlib.contextmanager
    def replace(self, suffix: str) -> Iterator[int]:
        """Write one of the files so that it appears whole and durable, or not at all.

        Yields:
            The descriptor of a new file, which gets the name when the block has succeeded.

        Raises:
            FileNotFoundError: The directory was removed; it is not made again.
            OSError: The file cannot be written.
        """
        self.check()
        temporary = f".{self.stem}{suffix}.{os.urandom(4).hex()}"
        descriptor = create_file(self._directory, temporary)
        try:
            yield descriptor
            os.fsync(descriptor)
            os.rename(
                temporary,
                self.stem + suffix,
                src_dir_fd=self._directory,
                dst_dir_fd=self._directory,
            )
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self._directory)
            raise
        finally:
            os.close(descriptor)
        self.sync()

    def sync(self) -> None:
        """Make the names in the directory durable.

        Raises:
            OSError: The file system says that it cannot.
        """
        os.fsync(self._directory)

    def close(self) -> None:
        """Let go of the directory."""
        with self._lock:
            descriptor, self._directory = self._directory, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_taken(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _keep_out_of_git(directory: int) -> None:
    """Keep agents from committing our files; one that is there already is left alone."""
    with contextlib.suppress(OSError):  # what cannot be written here will be said of the journal
        descriptor = create_file(directory, ".gitignore", os.O_WRONLY)
        try:
            os.write(descriptor, b"*\n")
        finally:
            os.close(descriptor)
