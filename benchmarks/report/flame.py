"""Folded stacks as a flame graph: ``python -m benchmarks.report.flame FILE TARGET TITLE``.

Run by the peers' interpreter, which has matplotlib. Width is a function's share of the samples, the
callee stands above its caller; what is under half a percent is left out.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib  # type: ignore[import-not-found]  # in the environment of the peers

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "bench"

from matplotlib import pyplot as plt  # noqa: E402  # after the back-end is chosen
from matplotlib.patches import Rectangle  # type: ignore[import-not-found]  # noqa: E402

LEAST = 0.005
OURS, NATS, LOOP, OTHER = "#0b7285", "#f08c00", "#adb5bd", "#b197fc"
FOLDERS = {"bridge": OURS, "schemas": OURS, "nats": NATS, "asyncio": LOOP}
FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^)]*)\)")


@dataclass
class Node:
    """One function, called from one place."""

    samples: int = 0
    callees: dict[str, Node] = field(default_factory=dict)


def read(lines: list[str]) -> Node:
    """Build the tree; frames of the interpreter's start are left out."""
    root = Node()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        node, samples = root, int(count)
        node.samples += samples
        for frame in _useful(stack.split(";")):
            node = node.callees.setdefault(frame, Node())
            node.samples += samples
    return root


def _useful(frames: list[str]) -> list[str]:
    at = next((at for at, frame in enumerate(frames) if "_run_once" in frame), 0)
    return frames[at:]


def draw(root: Node, target: Path, title: str) -> None:
    """Draw the tree."""
    figure, axis = plt.subplots(figsize=(14, 6), layout="constrained")
    depth = _draw(axis, root, 0.0, -1, root.samples)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, depth + 1)
    axis.axis("off")
    axis.set_title(title, loc="left", fontsize=11)
    figure.savefig(target.with_suffix(".png"), dpi=130, metadata={"Software": None})
    figure.savefig(target.with_suffix(".svg"), metadata={"Date": None, "Creator": None})


def _draw(axis: matplotlib.axes.Axes, node: Node, left: float, level: int, total: int) -> int:
    deepest = level
    for frame, callee in sorted(node.callees.items()):
        width = callee.samples / total
        if width >= LEAST:
            _box(axis, frame, left, level + 1, width)
            deepest = max(deepest, _draw(axis, callee, left, level + 1, total))
        left += width
    return deepest


def _box(axis: matplotlib.axes.Axes, frame: str, left: float, level: int, width: float) -> None:
    found = FRAME.match(frame)
    function, file = (found["function"], found["file"]) if found else (frame, "")
    colour = FOLDERS.get(file.split("/")[0], OTHER)
    axis.add_patch(
        Rectangle((left, level), width, 0.94, facecolor=colour, alpha=0.75, edgecolor="white")
    )
    label = f"{function} {width:.0%}"
    room = int(width * 190)
    if room >= 4:
        shown = label if len(label) <= room else function[: room - 1] + "…"
        axis.text(left + 0.002, level + 0.47, shown, va="center", fontsize=7, clip_on=True)


if __name__ == "__main__":
    tree = read(Path(sys.argv[1]).read_text().splitlines())
    draw(tree, Path(sys.argv[2]), f"{sys.argv[3]} ({tree.samples:,} samples)")
