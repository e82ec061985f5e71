"""Which device this is: what benchmark records and logs need to tell one device's figures from another's."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import msgspec

from edge_runtime.device import Tree

# Arm's part numbers of the CPUs in NVIDIA's and other likely boards (Arm's Main ID Register; /proc/cpuinfo names none).
ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd42": "Cortex-A78AE",
    "0xd4f": "Neoverse-V2",
    "0xd83": "Neoverse-V3AE",
}


class DeviceIdentity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stays the same while the device runs; None where it is unknown.

    ``board`` is the device tree's or the firmware's name; ``l4t_release`` Jetson Linux's version ("36.4.3");
    ``gpu`` the model that NVIDIA's desktop driver names; ``cores`` counts the CPU's logical cores.
    """

    cpu_model: str | None = None
    cores: int | None = None
    machine: str | None = None
    kernel: str | None = None
    board: str | None = None
    memory_bytes: int | None = None
    gpu: str | None = None
    l4t_release: str | None = None


def device_identity(root: str | Path = "/") -> DeviceIdentity:
    """Return the identity of the device whose file system is at ``root``."""
    tree = Tree(root)
    cpuinfo = tree.text("proc/cpuinfo") or ""
    on_this_device = Path(root) == Path("/")
    return DeviceIdentity(
        cpu_model=_cpu_model(cpuinfo) or (platform.processor() or None if on_this_device else None),
        cores=len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or None,
        machine=tree.text("proc/sys/kernel/arch") or (platform.machine() if on_this_device else None),
        kernel=tree.text("proc/sys/kernel/osrelease"),
        board=tree.text("proc/device-tree/model") or tree.text("sys/class/dmi/id/product_name"),
        memory_bytes=_memory_bytes(tree.text("proc/meminfo") or ""),
        gpu=_gpu(tree),
        l4t_release=l4t_release(tree),
    )


def l4t_release(tree: Tree) -> str | None:
    """Return Jetson Linux's version from lines such as "# R36 (release), REVISION: 4.3, GCID: ...", else None."""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", tree.text("etc/nv_tegra_release") or "")
    return f"{found[1]}.{found[2]}" if found else None


def _cpu_model(cpuinfo: str) -> str | None:
    named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if named:
        return named[1].strip()
    parts = sorted(set(re.findall(r"^CPU part\s*:\s*(0x[0-9a-f]+)$", cpuinfo, re.MULTILINE)))
    return " + ".join(ARM_PARTS.get(part, f"Arm part {part}") for part in parts) or None


def _memory_bytes(meminfo: str) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _gpu(tree: Tree) -> str | None:
    for information in tree.find("proc/driver/nvidia/gpus/*/information"):
        found = re.search(r"^Model:\s*(.+)$", tree.text(information) or "", re.MULTILINE)
        if found:
            return found[1].strip()
    return None
