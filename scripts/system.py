"""Sees to the programs of the system that a target needs: `python3 scripts/system.py nginx …`.

A program that is missing is installed from Debian's or Ubuntu's packages where this user may do so
(root, or sudo that asks no password); else the one command that mends it is printed. Exit codes:
0 all there, 1 something is missing. Standard library only.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

PACKAGES = {
    "nginx": "nginx-light",
    "redis-server": "redis-server",
    "postgres": "postgresql",
    "chromium": "chromium",
}
"""The package that holds each program."""

AS_GOOD = {"chromium": ("chromium-browser", "google-chrome", "google-chrome-stable")}
"""Programs that do as well."""

PLACES = "/usr/sbin:/sbin:/usr/lib/postgresql/17/bin:/usr/lib/postgresql/15/bin"
"""Where Debian puts servers: not on every user's PATH."""


def missing(programs: Sequence[str]) -> list[str]:
    """The packages that are to be installed for `programs`, in the order asked."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), PLACES))

    def there(program: str) -> bool:
        names = (program, *AS_GOOD.get(program, ()))
        return any(shutil.which(name, path=path) is not None for name in names)

    return [PACKAGES[program] for program in programs if not there(program)]


def privilege() -> list[str] | None:
    """What goes before a command that only root may run; None if this user may not."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None:
        return None
    asked = subprocess.run([sudo, "-n", "true"], capture_output=True, check=False)
    return [sudo, "-n"] if asked.returncode == 0 else None


def install(packages: Sequence[str]) -> str | None:
    """Installs `packages`. Returns why it could not be done, or None when it was."""
    before = privilege()
    apt = shutil.which("apt-get")
    if apt is None or before is None:
        return "this user may not install packages" if apt else "this system has no apt-get"
    # A server that a test starts on a port of its own must not also be started by the system.
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"]
    print(f"==> {' '.join(packages)} from the system's packages", flush=True)
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", *packages]):
        done = subprocess.run(
            [*before, *quiet, apt, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            return f"apt-get {arguments[0]} failed: {done.stderr.strip()[-500:]}"
    return None


def main(programs: Sequence[str]) -> int:
    """Installs what is missing of `programs`, or says the command that would."""
    if unknown := [program for program in programs if program not in PACKAGES]:
        print(f"unknown: {', '.join(unknown)}; known are {', '.join(PACKAGES)}", file=sys.stderr)
        return 1
    wanted = missing(programs)
    if not wanted:
        return 0
    reason = install(wanted)
    if reason is None:
        return 0
    print(
        f"{', '.join(wanted)} needed, and {reason}. Run:\n"
        f"    sudo apt-get install {' '.join(wanted)}",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
