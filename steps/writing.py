"""Whether this process may write into a folder; if not, who may, and what can be changed."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from steps.errors import OutOfResources, Problem, StepError, UserError

UNPRIVILEGED = 1000  # an example, if this process is root
DENIED = (errno.EACCES, errno.EPERM)
FULL = (errno.ENOSPC, errno.EDQUOT)


def write_error(code: str, where: str, folder: Path) -> StepError | None:
    """Return the error if a folder cannot be made, or no file be written in it; None if both are possible.

    `where` is the parameter that names the folder. The error is OutOfResources for a full disk, else UserError.
    """
    there = nearest_there(folder.absolute())
    expected, fix = "a folder that can be written", "name another folder"
    if not there.is_dir():
        return UserError(Problem(code, where, f"{folder}, where {there} is a file", expected, fix))
    refusal = _refusal(there)
    if refusal is None:
        return None
    found = f"{folder}, where {there} cannot be written"
    if refusal.errno in FULL:
        from steps.volumes import volume_of  # which imports this module

        volume = volume_of(there)
        return OutOfResources(Problem(code, where, f"{found}: its disk is full, {volume}", expected, volume.way_out))
    if refusal.errno in DENIED:
        found, expected, fix = f"{found}: it {owners(there)}", "a folder that this user can write", ways_out(there)
    elif refusal.errno == errno.EROFS:
        found, fix = f"{found}: its file system is read-only", "mount it without readOnly, or name another folder"
    return UserError(Problem(code, where, found, expected, fix))


def nearest_there(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists and can be looked at."""
    for one in (path, *path.parents):
        try:
            one.stat()
        except OSError:
            continue
        return one
    return path


def can_be_written(folder: Path) -> bool:
    """Return whether this user may write in a folder; tried, because root has every permission, even in /proc.

    A full disk is no matter of permission, and told by what is written next.
    """
    refusal = _refusal(folder)
    return refusal is None or refusal.errno in FULL


def owners(path: Path) -> str:
    """Say whom a file or folder belongs to, what they may do, and who asks."""
    seen = path.stat()
    mode = stat.filemode(seen.st_mode)
    groups = sorted({os.getegid(), *os.getgroups()})
    mine = f"group {groups[0]}" if len(groups) == 1 else f"groups {', '.join(map(str, groups))}"
    return (
        f"belongs to user {seen.st_uid} and group {seen.st_gid} ({mode}), and this step runs as user {os.geteuid()}, "
        f"{mine}"
    )


def ways_out(path: Path) -> str:
    """Say how this user could be allowed to write a file or folder."""
    from steps.running import LOCAL_ROOT  # which imports this module

    seen = path.stat()
    user, group = (os.geteuid(), os.getegid()) if os.geteuid() else (UNPRIVILEGED, UNPRIVILEGED)
    mount = mount_of(path)
    chown = f"change the owner (chown -R {user}:{group} {path if mount == Path('/') else mount})"
    if LOCAL_ROOT in os.environ:
        return f"{chown}, or name another place"
    who = "let a group write there and name it as pod_security.run_as_group of the cluster profile"
    if seen.st_mode & stat.S_IWGRP and seen.st_gid not in {os.getegid(), *os.getgroups()}:
        who = f"set pod_security.run_as_group of the cluster profile to {seen.st_gid}, which may write there"
    elif seen.st_mode & stat.S_IWUSR and seen.st_uid != 0:
        who = f"set pod_security.run_as_user of the cluster profile to {seen.st_uid}, who may write there"
    return f"{chown}, use a storage class whose volumes every user can write, or {who}"


def mount_of(path: Path) -> Path:
    """Return where the file system of an existing path is mounted."""
    return next((one for one in (path, *path.parents) if os.path.ismount(one)), path)


def _refusal(folder: Path) -> OSError | None:
    try:
        Path(tempfile.mkdtemp(prefix=".finetune-", dir=folder)).rmdir()
    except OSError as error:
        return error
    return None


def with_home(path: str | Path) -> Path:
    """Return a path with ~ and ~user replaced by a home folder; of a user who has none it stays, as in a shell."""
    return Path(os.path.expanduser(path))  # the method of Path raises RuntimeError
