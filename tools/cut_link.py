"""Train on two hosts under MPI, then cut the link between them in the middle: every rank must end, and say why.

sudo python tools/cut_link.py                    # the MPI whose mpiexec lies beside this Python, or is on the PATH

The hosts are network namespaces of this machine, joined by a veth pair, with names and shared memory of their own, so
that MPI has nothing but the link. First examples/data_parallel.py runs to its end, with the losses of one process. Then
the link is cut while it trains. Ranks must end within --timeout and some seconds for MPI, each with a `ParallelError`,
mpiexec with a status other than 0, and once the link is back no process may be left on either host. The namespaces are
removed, whatever happens.

Needs Linux, root, `ip` (iproute2) and `unshare` (util-linux); the status is 2 where they are missing.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "examples" / "data_parallel.py"
BESIDE = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
SLACK = 15.0  # seconds that the ranks have after the timeout, and what is left once the link is back
WAIT = 5.0  # and that mpiexec has once the ranks have ended
AGENT = """#!/bin/sh
# what ssh would be: options, a host, a command
while [ "${{1#-}}" != "$1" ]; do shift; done
case $1 in {first}) space={spaces[0]};; {second}) space={spaces[1]};; *) echo "there is no host $1" >&2; exit 1;; esac
shift
exec ip netns exec $space unshare --uts --ipc sh -c "hostname $space; $*"
"""


def parse_args() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--timeout", type=float, default=3.0, help="seconds that a rank waits for the others")
    add("--ranks", type=int, default=1, help="ranks on each host")
    return parser.parse_args()


def missing() -> str:
    """What this machine lacks, as words."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "root on Linux"
    for name in ("ip", "unshare", "mpiexec"):
        if shutil.which(name, path=BESIDE) is None:
            return name
    try:
        import mpi4py  # noqa: F401
    except ImportError:
        return "mpi4py"
    probe = f"minigrad-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        return "a system that lets network namespaces be made"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return ""


def ip(*words: object) -> str:
    """Run ip."""
    return subprocess.run(["ip", *map(str, words)], check=True, capture_output=True, text=True).stdout


class Hosts:
    """Two namespaces and the link between them."""

    def __init__(self, folder: Path) -> None:
        self.folder, number = folder, os.getpid()
        self.mpiexec = str(shutil.which("mpiexec", path=BESIDE))
        version = subprocess.run([self.mpiexec, "--version"], capture_output=True, text=True).stdout
        self.kind = "Open MPI" if "Open MPI" in version else "MPICH"
        self.spaces = [f"mg{number}a", f"mg{number}b"]
        self.links = [f"mgl{number}a", f"mgl{number}b"]
        self.addresses = [f"198.18.{number % 250}.{k}" for k in (1, 2)]  # a net for tests of devices

    def __enter__(self) -> Self:
        try:
            for space in self.spaces:
                ip("netns", "add", space)
            first, second = self.links
            ip("link", "add", first, "netns", self.spaces[0], "type", "veth", "peer", second, "netns", self.spaces[1])
            for space, link, address in zip(self.spaces, self.links, self.addresses):
                ip("-n", space, "address", "add", f"{address}/24", "dev", link)
                ip("-n", space, "link", "set", "lo", "up")
                ip("-n", space, "link", "set", link, "up")
            if seconds_until(self.are_linked, SLACK) > SLACK:  # MPICH passes by a network that is not up yet
                raise TimeoutError(f"the link is not up after {SLACK} s")
            agent = self.folder / "agent"
            agent.write_text(AGENT.format(first=self.addresses[0], second=self.addresses[1], spaces=self.spaces))
            agent.chmod(0o755)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what runs in them, and remove them."""
        for space in self.spaces:
            for pid in self.processes(space):
                os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", space], capture_output=True)

    def processes(self, space: str) -> list[int]:
        """Those of a host."""
        done = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True)
        return [int(word) for word in done.stdout.split()]

    def ranks(self) -> list[int]:
        """The processes on both hosts that run the script themselves."""
        found = []
        for space in self.spaces:
            for pid in self.processes(space):
                words = self.words(pid)
                if words[:1] == [sys.executable] and str(SCRIPT) in words:
                    found.append(pid)
        return found

    @staticmethod
    def words(pid: int) -> list[str]:
        """The command line of a process; none of one that has ended."""
        try:
            return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        except OSError:
            return []

    def sent(self) -> int:
        """Bytes that have gone over the link, both ways."""
        stats = self.shown(0)["stats64"]
        return int(stats["rx"]["bytes"] + stats["tx"]["bytes"])

    def are_linked(self) -> bool:
        """Whether both ends of the link are up, which the kernel sees to some time after it was told."""
        return all(self.shown(end)["operstate"] == "UP" for end in (0, 1))

    def shown(self, end: int) -> dict[str, Any]:
        """What the kernel says of an end of the link."""
        text = ip("-n", self.spaces[end], "-s", "-j", "link", "show", self.links[end])
        return dict(json.loads(text)[0])

    def turn(self, way: str) -> None:
        """Set the link "up" or "down"."""
        ip("-n", self.spaces[0], "link", "set", self.links[0], way)

    def start(self, ranks: int, timeout: float, *options: str) -> "subprocess.Popen[str]":
        """The example under mpiexec on the first host. Each rank writes its errors to a file of its own host."""
        agent, hosts = str(self.folder / "agent"), self.folder / "hosts"
        form = "{} slots={}\n" if self.kind == "Open MPI" else "{}:{}\n"
        hosts.write_text("".join(form.format(address, ranks) for address in self.addresses))
        if self.kind == "Open MPI":
            words = ["--allow-run-as-root", "--prtemca", "plm_ssh_agent", agent, "--hostfile", str(hosts)]
            words += [word for name in ("OMP_NUM_THREADS", "MINIGRAD_TIMEOUT") for word in ("-x", name)]
        else:
            words = ["-launcher", "ssh", "-launcher-exec", agent, "-f", str(hosts), "-iface", self.links[0]]
        errors = self.folder / "errors"
        own = ["sh", "-c", f'exec "$@" 2>>{errors}-${{PMI_RANK-$OMPI_COMM_WORLD_RANK}}', "rank"]
        command = [self.mpiexec, *words, "-n", str(2 * ranks), *own, sys.executable, str(SCRIPT), *options]
        host = ["ip", "netns", "exec", self.spaces[0], "unshare", "--uts", "--ipc"]
        shell = ["sh", "-c", f'hostname {self.spaces[0]}; exec "$@"', "host"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MINIGRAD_TIMEOUT": str(timeout)}
        return subprocess.Popen(
            [*host, *shell, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )


def seconds_until(is_so: Callable[[], bool], limit: float) -> float:
    """How long it took, or the limit."""
    begun = time.monotonic()
    while not is_so() and time.monotonic() - begun < limit:
        time.sleep(0.05)
    return time.monotonic() - begun


def losses(text: str) -> list[str]:
    """What the example prints of its epochs, to four digits."""
    return [f"{float(loss):.4f}" for loss in re.findall(r"loss (\S+)", text)]


def main() -> int:
    """Do it all; the status."""
    args = parse_args()
    lacking = missing()
    if lacking:
        print(f"cut_link: needs {lacking}", file=sys.stderr)
        return 2
    faults = []
    options = ["--batch-size", str(32 * 2 * args.ranks), "--epochs"]
    alone = subprocess.run([sys.executable, str(SCRIPT), *options, "2"], capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory() as folder, Hosts(Path(folder)) as hosts:
        run = hosts.start(args.ranks, 120.0, *options, "2")
        out, _ = run.communicate(timeout=150)
        print(out + f"status {run.returncode}, {hosts.sent() / 1e6:.1f} MB over the link")
        if run.returncode or losses(out) != losses(alone.stdout) or hosts.sent() < 1e6:
            faults.append("the run that was left alone is wrong")
            print(alone.stdout)

        run = hosts.start(args.ranks, args.timeout, *options, "100000")
        assert run.stdout is not None
        for line in run.stdout:
            print(line, end="")
            if line.startswith("epoch   3"):
                break
        if len(hosts.ranks()) != 2 * args.ranks:
            faults.append(f"{len(hosts.ranks())} ranks ran")
        hosts.turn("down")
        took = seconds_until(lambda: not hosts.ranks(), args.timeout + SLACK)
        print(f"all ranks have ended {took:.1f} s after the cut; the timeout is {args.timeout:g} s")
        if hosts.ranks():
            faults.append("ranks are left")
        took += seconds_until(lambda: run.poll() is not None, WAIT)
        if run.poll() is not None:
            print(f"mpiexec has ended {took:.1f} s after the cut")
        elif hosts.kind == "Open MPI":
            print("mpiexec waits for its daemon on the other host, as Open MPI's does, until TCP gives up")
        else:
            faults.append("mpiexec has not ended")
        # what a launcher has started on a host that is cut off may learn of the end when the link is back
        hosts.turn("up")
        took = seconds_until(lambda: not any(map(hosts.processes, hosts.spaces)), SLACK)
        left = [hosts.words(pid) for space in hosts.spaces for pid in hosts.processes(space)]
        print(f"{len(left)} processes are left {took:.1f} s after the link is back")
        faults += [f"a process is left: {words}" for words in left]
        rest = run.stdout.read() if run.poll() is not None else ""
        print("".join(line for line in rest.splitlines(True) if not line.startswith("epoch")) + f"status {run.poll()}")
        if run.poll() == 0:
            faults.append("mpiexec says that all is well")
        for rank in range(2 * args.ranks):
            found = Path(f"{folder}/errors-{rank}").read_text()
            said = [line for line in found.splitlines() if "ParallelError: " in line]
            print(f"rank {rank}: {said[0] if said else found}")
            if not said:
                faults.append(f"rank {rank} does not say why")
    for fault in faults:
        print(f"FAULT: {fault}")
    print(f"{len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
