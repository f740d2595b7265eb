"""A room for code that nobody trusts, made of Linux namespaces: run as a script by `code.py`.

    python -I -S jail.py ROOM.json

Only the standard library is used, since there are no site packages. What runs sees a file system
of its own, in memory and of a bounded size, with nothing in it but Python and the system's
libraries, which cannot be written. It has no network and no capabilities, and sees no processes but
its own. Three processes hold it:

- this one, outside, whose death ends all of it;
- the first of the new PID namespace, which makes the room; when it ends, the kernel ends whatever
  is left in the room, also what has left its session or process group;
- the worker, which gives up all that could undo the room, and becomes the code.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

READY, REPORTS = b"R", 3
"""What is written on this descriptor when the room is made; the code finds it open, too."""

# Numbers of linux/sched.h, sys/mount.h, linux/mount.h, linux/prctl.h, linux/securebits.h.
_NEWNS, _NEWUTS, _NEWIPC = 0x00020000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV = 1, 2, 4
_REMOUNT, _BIND, _MOVE, _REC, _PRIVATE = 32, 4096, 8192, 16384, 1 << 18
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_PDEATHSIG, _CAPBSET_DROP, _SECUREBITS, _NO_NEW_PRIVS = 1, 24, 28, 38
_NOROOT_LOCKED = 0b11
_CAPS = 64
_DEVICES = ("null", "zero", "random", "urandom")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache")
_NOBODY, _FREE_UIDS = 65534, 1_000_000_000

_libc = ctypes.CDLL(None, use_errno=True)


def main(argv: Sequence[str]) -> int:
    """Makes a room, runs what is in it, and ends as that did; 1 where there can be no room."""
    room: dict[str, Any] = json.loads(Path(argv[1]).read_text("utf-8"))
    os.dup2(room["reports"], REPORTS, inheritable=True)
    _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    root = _apart()
    first = os.fork()
    if first == 0:
        os._exit(_first(room, root))
    return os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) % 256


def _apart() -> bool:
    """Enters namespaces of our own; whether that was as root, without a user namespace."""
    kinds = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        with contextlib.suppress(OSError):
            _call("unshare", kinds)
            return True
    _call("unshare", kinds | _NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    return False


def _first(room: dict[str, Any], root: bool) -> int:
    """The first process of the room: furnishes it, and waits for the worker's end."""
    try:
        _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _furnish(Path(room["at"]), room)
        worker = os.fork()
        if worker == 0:
            _work(room, root)
    except OSError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    os.close(REPORTS)
    while True:
        ended, status = os.wait()
        if ended == worker:
            return os.waitstatus_to_exitcode(status) % 256


def _furnish(at: Path, room: dict[str, Any]) -> None:
    source = (at / "main.py").read_bytes()
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("room", str(at), "tmpfs", _NOSUID | _NODEV, f"size={room['disk']},mode=755")
    for path in dict.fromkeys((*_SYSTEM, room["prefix"])):
        _show(Path(path), at)
    for name in _DEVICES:
        _bound(Path("/dev", name), at)
    home = at / "home"
    home.mkdir()
    home.chmod(0o777)
    (home / "main.py").write_bytes(source)
    os.chdir(at)
    _mount(".", "/", None, _MOVE)
    os.chroot(".")
    os.chdir("/home")


def _show(path: Path, at: Path) -> None:
    """Makes what is there to be seen in the room, and not to be changed."""
    if path.is_symlink():
        (at / path.relative_to("/")).symlink_to(path.readlink())
    elif path.exists() and not (at / path.relative_to("/")).exists():
        _bound(path, at)


def _bound(path: Path, at: Path) -> None:
    inside = at / path.relative_to("/")
    inside.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        inside.mkdir()
    else:
        inside.touch()
    _mount(str(path), str(inside), None, _BIND | _REC)
    device = stat.S_ISCHR(path.stat().st_mode)
    flags = _NOSUID if device else _RDONLY | _NOSUID | _NODEV
    sets = (ctypes.c_uint64 * 4)(flags)
    try:
        size = ctypes.c_size_t(32)
        where = os.fsencode(inside)
        _call("syscall", _SYS_MOUNT_SETATTR, _AT_FDCWD, where, _AT_RECURSIVE, sets, size)
    except OSError:  # A kernel before 5.12: only the top one can be changed.
        was = os.statvfs(inside).f_flag & 0xFFF
        _mount(None, str(inside), None, _REMOUNT | _BIND | flags | was)


def _work(room: dict[str, Any], root: bool) -> None:
    """Gives up what could undo the room, and becomes the code. Never returns, but raises OSError
    for what cannot be given up."""
    for limit, most in room["limits"].items():
        resource.setrlimit(getattr(resource, limit), (most, most))
    for number in range(_CAPS):
        with contextlib.suppress(OSError):
            _call("prctl", _CAPBSET_DROP, number, 0, 0, 0)
    _call("prctl", _SECUREBITS, _NOROOT_LOCKED, 0, 0, 0)
    if root:
        os.setgroups([])
        try:  # A user of its own, so that its processes are counted by themselves.
            own = _FREE_UIDS + room["number"]
            os.setresgid(own, own, own)
            os.setresuid(own, own, own)
        except OSError:
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    python = room["python"]
    env = {"PATH": "/usr/bin:/bin", "HOME": "/home", "TMPDIR": "/home"}
    os.write(REPORTS, READY)
    os.execve(python, [python, "-I", "-S", "main.py"], env)


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    texts = [None if each is None else each.encode() for each in (source, target, kind, options)]
    try:
        _call("mount", *texts[:3], ctypes.c_ulong(flags), texts[3])
    except OSError as error:
        raise OSError(error.errno, f"mount {target}: {os.strerror(error.errno or 0)}") from error


def _call(name: str, *arguments: Any) -> None:
    """A function of libc that says by -1 that it failed. Raises OSError."""
    if getattr(_libc, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv))
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
