"""Whether anything is mounted where looking something up may take for ever.

Network file systems wait for their servers, and those in user space for a program: a path below
one of them can hold up whoever looks at it for hours. Which paths those are nobody knows without
looking, for any directory on the way may be a link. So this says it for all of them.
"""

from __future__ import annotations

import os
from typing import Final

__all__ = ["Mounts"]

_LOCAL: Final = frozenset(
    (
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "jfs", "reiserfs"),
        *("vfat", "exfat", "ntfs3", "hfsplus", "iso9660", "udf", "squashfs", "erofs", "cramfs"),
        *("rootfs", "ramfs", "tmpfs", "devtmpfs", "overlay", "hugetlbfs", "bdev", "nsfs"),
        *("proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "cpuset", "securityfs"),
        *("debugfs", "tracefs", "configfs", "pstore", "efivarfs", "bpf", "binfmt_misc"),
        *("selinuxfs", "smackfs", "apparmorfs", "fusectl", "resctrl", "binder", "pipefs", "sockfs"),
    )
)
"""Types of file systems that answer, or whose disk is broken."""


class Mounts:
    """What is mounted; follows the kernel's list.

    Attributes:
        descriptor: Is ready with ``POLLPRI`` after a change, or -1; see ``/proc/[pid]/mountinfo``
            in proc(5).
    """

    def __init__(self) -> None:
        """Begin to follow. Where there is no list, anything may be mounted."""
        try:
            self.descriptor = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.descriptor = -1
        self._current = False
        self._local = False

    def change(self) -> None:
        """Something has changed."""
        self._current = False

    def all_local(self) -> bool:
        """Return whether every file system is one that answers."""
        if not self._current and self.descriptor >= 0:
            try:
                self._local = all(map(_is_local, self._lines()))
                self._current = True
            except OSError:
                self._local = False
        return self._local

    def _lines(self) -> list[bytes]:
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        content = b""
        while chunk := os.read(self.descriptor, 65536):
            content += chunk
        return content.splitlines()


def _is_local(line: bytes) -> bool:
    mount, _, rest = line.partition(b" - ")
    kind = rest.split(b" ", 1)[0].decode("ascii", "replace")
    # systemd mounts what the kernel can execute when somebody looks at it: that is the kernel.
    return kind in _LOCAL or (kind == "autofs" and mount.split(b" ")[4].startswith(b"/proc/"))
