"""The systemd unit of a vehicle loop."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import InputError

USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
STATE = "/var/lib/roadworthy"


@dataclass(frozen=True)
class UnitOptions:
    """What differs between vehicles. ``watchdog``: seconds without a completed frame until the loop is started anew."""

    source: str
    bundle: str = f"{STATE}/bundles/current"
    log: str = f"{STATE}/log/audit.db"
    user: str = "roadworthy"
    program: str = ""
    memory_mib: int = 2048
    cpu_weight: int = 200
    watchdog: int = 10
    extra: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise InputError for what a unit cannot hold."""
        if not USER.fullmatch(self.user):
            raise InputError(f"user {self.user!r} is no name of a user; give one such as 'roadworthy'")
        numbers = (("memory", self.memory_mib, 1 << 24), ("cpu weight", self.cpu_weight, 10000))
        for name, value, most in (*numbers, ("watchdog", self.watchdog, 86400)):
            if not 1 <= value <= most:
                raise InputError(f"{name} is {value}; give 1 to {most}")
        for word in (self.source, self.bundle, self.log, self.program, *self.extra):
            if re.search(r"[\x00-\x1f\x7f]", word):
                raise InputError(f"{word!r} holds control characters, which a unit cannot")


def quoted(word: str) -> str:
    """Return a word as ExecStart takes it: specifiers and variables escaped, quoted where it must be."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return escaped if re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]+", escaped) else f'"{escaped}"'


def default_program() -> str:
    """Return this installation's ``roadworthy``."""
    return str(Path(sys.executable).with_name("roadworthy"))


def unit_text(options: UnitOptions) -> str:
    """Return the unit as text; raises InputError for values that it cannot hold."""
    options.check()
    command = [
        options.program or default_program(),
        *("audit", options.bundle, "--source", options.source, "--log", options.log),
        *options.extra,
    ]
    return UNIT.format(
        command=" ".join(map(quoted, command)),
        user=options.user,
        memory=options.memory_mib,
        weight=options.cpu_weight,
        watchdog=options.watchdog,
        state=STATE,
    )


UNIT = """\
[Unit]
Description=roadworthy vehicle loop
Documentation=man:systemd.service(5)
StartLimitIntervalSec=0

[Service]
# Ready once the model is loaded; the watchdog is fed by completed frames. Both take longer at the first start.
Type=notify
NotifyAccess=main
ExecStart={command}
TimeoutStartSec=120
WatchdogSec={watchdog}
WatchdogSignal=SIGTERM
TimeoutStopSec=10
TimeoutAbortSec=10
# Always: a loop that ended because its camera went away comes back with it.
Restart=always
RestartSec=2

User={user}
SupplementaryGroups=video
# It writes its log and its caches, and neither the bundles nor the trust that decides on them.
StateDirectory=roadworthy/log
CacheDirectory=roadworthy
RuntimeDirectory=roadworthy
Environment=XDG_RUNTIME_DIR=/run XDG_CACHE_HOME=/var/cache HOME={state}/log
WorkingDirectory={state}/log

MemoryMax={memory}M
MemorySwapMax=0
CPUWeight={weight}
TasksMax=256
OOMPolicy=stop

NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallArchitectures=native
SystemCallFilter=@system-service
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
UMask=0027

[Install]
WantedBy=multi-user.target
"""
