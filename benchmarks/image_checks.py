"""What an image of the device runtime must do, each check in a container of its own with a read-only root.

Memory file systems lie where the compose file has them, one folder holds bundles, trust and logs, there is no network,
no capability, and no way to gain one. With docker and podman that is ``run``. buildah cannot run an image read-only, so
its images are mounted and entered by chroot, in name spaces of their own; that needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

STATE, INCOMING = "/var/lib/roadworthy", "/incoming"
LOOP, INSTALLER, ROOT = "10001:10001", "10002:10002", "0:0"
SECONDS = 300.0

DRAW_SIGNS = (
    "import os\nfrom PIL import Image\nos.makedirs('/tmp/signs')\n"
    "for n in range(12): Image.new('RGB', (40, 36), (20 * n, 90, 200)).save(f'/tmp/signs/{n:02}.png')"
)
HEALTHZ = (
    "import urllib.request\n"
    "answer = urllib.request.urlopen('http://127.0.0.1:8080/healthz')\n"
    "print(answer.status, answer.read().decode())"
)


@dataclass(frozen=True)
class Check:
    """A shell script that must succeed in the image; ``user`` None: as whom the image runs by itself."""

    name: str
    script: str
    user: str | None = None


CHECKS = (
    Check("runs as somebody who is not root", 'test "$(id -u):$(id -g)" = 10001:10001'),
    Check("has no compiler", "for each in cc gcc g++ c++ clang ld as make; do fails command -v $each; done"),
    Check("has no pip", "fails command -v pip; fails command -v pip3; fails python -c 'import pip'"),
    Check(
        "has neither torch nor onnx",
        'python -c \'import importlib.util as u; assert not any(map(u.find_spec, ["torch", "onnx", "scipy"]))\'',
    ),
    Check(
        "keeps nothing of the build",
        "for each in /root/.cache /root/.config /root/.pip /etc/pip.conf /run/secrets /source;"
        " do fails test -e $each; done;"
        ' test -z "$(find /var/lib/apt/lists /var/cache/apt /root -type f -size +64k)"',
        ROOT,
    ),
    Check(
        "has the compiled imputer", "python -c 'from edge_runtime.metrics.compiled import library; assert library()'"
    ),
    Check(
        "has its modules compiled",
        "python -c 'import os, edge_runtime.bundle as b, onnxruntime as o; "
        "assert os.path.exists(b.__cached__) and os.path.exists(o.__cached__)'",
    ),
    Check("has a read-only root", "for each in / /etc /opt/roadworthy /home; do fails touch $each/x; done", ROOT),
    Check("installs a bundle", f"roadworthy install {INCOMING}; roadworthy install --list", INSTALLER),
    Check(
        "lets the loop read bundles and trust, and write its log alone",
        f"cd {STATE}; cat bundles/current/manifest.json > log/x; rm log/x;"
        " for each in . bundles bundles/current bundles/current/ trust; do fails touch $each/x; done",
    ),
    Check("verifies it", f"roadworthy verify {STATE}/bundles/current"),
    Check(
        "classifies and explains",
        f'python -c "{DRAW_SIGNS}"; roadworthy classify {STATE}/bundles/current /tmp/signs/03.png;'
        f" roadworthy explain {STATE}/bundles/current /tmp/signs/03.png --method ig --out /tmp/explained.png",
    ),
    Check("audits it", f"roadworthy audit {STATE}/bundles/current --limit 8 --out {STATE}/log/audit"),
    Check(
        "runs the vehicle loop into a log that verifies",
        f'python -c "{DRAW_SIGNS}"; roadworthy audit {STATE}/bundles/current --source /tmp/signs'
        f" --log {STATE}/log/audit.db --every 4; roadworthy log verify {STATE}/log/audit.db;"
        f" roadworthy log copy {STATE}/log/audit.db {STATE}/log/copied.db;"
        " fails python -m edge_runtime.serve.probe --loop",
    ),
    Check(
        "answers /healthz, and its health check knows",
        "fails python -m edge_runtime.serve.probe; roadworthy serve & tries=0;"
        " until python -m edge_runtime.serve.probe; do tries=$((tries + 1)); test $tries -lt 60; sleep 0.5; done;"
        f' python -c "{HEALTHZ}"; kill $!; wait $! || true; fails python -m edge_runtime.serve.probe',
    ),
    Check(
        "signs, trusts and installs the signed bundle, and no other from then on",
        f"export ROADWORTHY_PASSPHRASE='correct horse battery'; cp -r {INCOMING} /tmp/bundle;"
        " roadworthy keys create /tmp/keys; roadworthy sign /tmp/bundle --keys /tmp/keys;"
        " roadworthy trust install /tmp/keys/1.root.json; roadworthy install /tmp/bundle;"
        f" fails roadworthy install {INCOMING}",
        INSTALLER,
    ),
    Check("verifies the signatures", f"roadworthy verify {STATE}/bundles/current | grep 'signatures: version 1'"),
)
# `!` alone does not end a script under `set -e`.
PREAMBLE = 'set -e; fails() { if "$@"; then echo "should have failed: $*"; exit 1; fi; }; '


class Image(Protocol):
    """An image that commands can be run in."""

    def run(self, script: str, user: str | None) -> subprocess.CompletedProcess[str]: ...


def check_image(image: Image, checks: Sequence[Check] = CHECKS) -> dict[str, bool]:
    """Run the checks in order, print each, and return which passed, by name."""
    passed = {}
    for check in checks:
        done = image.run(PREAMBLE + check.script, check.user)
        passed[check.name] = done.returncode == 0
        print(f"{'passed' if passed[check.name] else 'FAILED'}  {check.name}")
        if not passed[check.name]:
            print(done.stdout + done.stderr)
    return passed


@dataclass(frozen=True)
class RunImage:
    """An image of docker or podman; ``volume`` holds the state."""

    engine: str
    name: str
    bundle: Path
    volume: str

    def run(self, script: str, user: str | None) -> subprocess.CompletedProcess[str]:
        command = [
            *(self.engine, "run", "--rm", "--read-only", "--network=none", "--init"),
            *("--cap-drop=ALL", "--security-opt=no-new-privileges"),
            *("--tmpfs=/tmp", "--tmpfs=/run/roadworthy:mode=0700,uid=10001,gid=10001"),
            *(f"--volume={self.volume}:{STATE}", f"--volume={self.bundle}:{INCOMING}:ro"),
            *([f"--user={user}"] if user else []),
            *("--entrypoint=sh", self.name, "-c", script),
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


# Arguments: root, state, bundle, uid, gid, environment ... -- script
ENTER = """
root=$1 state=$2 bundle=$3 uid=$4 gid=$5; shift 5
mount --make-rprivate /
mount --bind "$root" "$root"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=0700,uid=10001,gid=10001 tmpfs "$root/run/roadworthy"
mount --bind "$state" "$root/var/lib/roadworthy"
mount --bind "$bundle" "$root/incoming"
mount -o remount,bind,ro "$root/incoming"
mount -o remount,bind,ro "$root"
ip link set lo up
exec chroot "$root" setpriv --reuid "$uid" --regid "$gid" --clear-groups --no-new-privs --bounding-set=-all \
    --inh-caps=-all env --ignore-environment "$@"
"""


@dataclass(frozen=True)
class MountedImage:
    """An image of buildah, mounted at ``root``; ``config`` is what the image says of its user and environment."""

    root: Path
    state: Path
    bundle: Path
    config: Mapping[str, Any]

    def run(self, script: str, user: str | None) -> subprocess.CompletedProcess[str]:
        uid, _, gid = (user or self.config["User"]).partition(":")
        command = [
            *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER, "sh"),
            *(str(self.root), str(self.state), str(self.bundle), uid, gid),
            *(*self.config["Env"], "sh", "-c", script),
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


@contextlib.contextmanager
def mounted(storage: Path, name: str, bundle: Path) -> Iterator[MountedImage]:
    """Mount an image of buildah as a container of its own, with a fresh state, and remove both afterwards."""
    container = buildah(storage, "from", name)
    try:
        root = Path(buildah(storage, "mount", container))
        config = json.loads(buildah(storage, "inspect", "--type=image", name))["Docker"]["config"]
        (root / INCOMING.lstrip("/")).mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="roadworthy-image-") as folder:
            os.chmod(folder, 0o755)
            state = Path(folder) / "state"
            # As an engine fills a new volume: with what the image has there, and its owners.
            subprocess.run(["cp", "--archive", f"{root}{STATE}", str(state)], check=True)
            incoming = Path(folder) / "bundle"
            shutil.copytree(bundle, incoming)
            yield MountedImage(root, state, incoming, config)
    finally:
        buildah(storage, "rm", container)


def buildah(storage: Path, *arguments: str) -> str:
    """Run buildah on the storage that docker/build.sh uses and return what it printed."""
    options = ["--root", str(storage / "images"), "--runroot", str(storage / "run"), "--storage-driver", "vfs"]
    return subprocess.run(
        ["buildah", *options, *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
