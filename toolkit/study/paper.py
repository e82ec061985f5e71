"""The published figures: Tables 1 to 7 of Suwal et al. (arXiv 2509.20148), as data.

Accuracy in %, Gini as the difference to the natural network. Columns in the order of :data:`COLUMNS`, rows by timing.
"""

from __future__ import annotations

from dataclasses import dataclass

COLUMNS = ("natural", "adversarial", "l1", "global", "layered")
ROWS = ("pre", "post-tuned", "post")
GINI_COLUMNS = COLUMNS[1:]
PRUNINGS = COLUMNS[2:]

Row = tuple[float, ...]
ByTiming = dict[str, Row]


@dataclass(frozen=True)
class Published:
    """What the paper says of one network on one data set, trained adversarially at the radius ``eps``.

    ``accuracy`` {timing: row of COLUMNS} is table ``accuracy_table``, ``gini`` {explainer: {timing: row of
    GINI_COLUMNS}} table ``gini_table``.
    """

    title: str
    eps: float
    gini_table: int
    gini: dict[str, ByTiming]
    accuracy_table: int | None = None
    accuracy: ByTiming | None = None


def _rows(*rows: Row) -> ByTiming:
    return dict(zip(ROWS, rows, strict=True))


LISA_VGG = Published(
    title="LISA, VGG-16",
    eps=0.01,
    accuracy_table=1,
    accuracy=_rows(
        (97.6, 97.5, 94.5, 93.9, 91.3),
        (97.6, 97.5, 95.3, 95.4, 94.9),
        (97.6, 97.5, 94.8, 94.7, 93.8),
    ),
    gini_table=3,
    gini={
        "vg": _rows((-0.03, -0.04, -0.05, -0.21), (-0.03, 0.00, 0.00, -0.01), (-0.03, 0.00, 0.00, 0.00)),
        "ig": _rows((-0.05, -0.04, -0.05, -0.25), (-0.05, 0.00, -0.01, 0.00), (-0.05, 0.00, 0.00, 0.00)),
        "sg": _rows((-0.04, -0.05, -0.06, -0.21), (-0.04, 0.00, 0.01, 0.00), (-0.04, 0.00, 0.00, 0.00)),
    },
)
GTSRB_VGG = Published(
    title="GTSRB, VGG-16",
    eps=0.01,
    accuracy_table=2,
    accuracy=_rows(
        (99.9, 99.2, 98.1, 99.5, 94.4),
        (99.2, 98.6, 99.9, 99.9, 98.1),
        (99.2, 98.6, 99.9, 99.9, 96.9),
    ),
    gini_table=4,
    gini={
        "vg": _rows((0.03, 0.00, 0.00, -0.02), (0.03, 0.00, 0.00, 0.00), (0.03, 0.00, 0.00, 0.00)),
        "ig": _rows((0.01, 0.00, 0.00, -0.04), (0.01, 0.00, 0.00, -0.01), (0.01, 0.00, 0.00, 0.00)),
        "sg": _rows((0.03, 0.00, 0.00, -0.02), (0.03, 0.00, 0.00, -0.01), (0.03, 0.00, 0.00, 0.00)),
    },
)
LISA_RESNET = Published(
    title="LISA, ResNet-18",
    eps=0.01,
    accuracy_table=6,
    accuracy=_rows(
        (98.3, 84.2, 97.1, 96.1, 95.1),
        (98.3, 84.2, 96.8, 98.8, 99.4),
        (98.3, 84.2, 97.4, 97.9, 89.1),
    ),
    gini_table=7,
    gini={
        "vg": _rows((-0.03, 0.01, 0.00, -0.01), (-0.03, 0.00, 0.00, -0.02), (-0.03, -0.01, 0.02, 0.00)),
        "ig": _rows((-0.01, 0.01, 0.00, 0.00), (-0.01, 0.00, 0.02, 0.00), (-0.01, 0.00, 0.00, -0.01)),
        "sg": _rows((-0.06, 0.02, 0.00, -0.01), (-0.06, -0.01, 0.03, 0.00), (-0.06, 0.00, 0.00, -0.02)),
    },
)
LISA_RESNET_STRONG = Published(
    title="LISA, ResNet-18, adversarial training at eps 0.1",
    eps=0.1,
    gini_table=5,
    gini={
        "vg": {"post-tuned": (-0.01, 0.00, 0.00, -0.01)},
        "ig": {"post-tuned": (-0.03, 0.00, -0.01, 0.00)},
        "sg": {"post-tuned": (-0.01, 0.00, 0.01, 0.00)},
    },
)

SUBJECTS: dict[str, tuple[Published, ...]] = {
    "lisa-vgg": (LISA_VGG,),
    "gtsrb-vgg": (GTSRB_VGG,),
    "lisa-resnet": (LISA_RESNET, LISA_RESNET_STRONG),
}
"""What a subject of a study can be compared with."""
