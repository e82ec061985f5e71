"""The published figures are all there."""

from __future__ import annotations

from toolkit.study import paper


def test_published_tables_are_complete() -> None:
    numbers = set()
    for sources in paper.SUBJECTS.values():
        for source in sources:
            numbers |= {source.gini_table, source.accuracy_table} - {None}
            assert set(source.gini) == {"vg", "ig", "sg"}
            for rows in source.gini.values():
                assert all(len(row) == 4 for row in rows.values())
            assert source.accuracy is None or all(len(row) == 5 for row in source.accuracy.values())
    assert numbers == {1, 2, 3, 4, 5, 6, 7}


def test_rows_are_the_protocols() -> None:
    assert paper.LISA_VGG.accuracy is not None and paper.GTSRB_VGG.accuracy is not None
    assert paper.LISA_VGG.accuracy["post"] == (97.6, 97.5, 94.8, 94.7, 93.8)
    assert paper.GTSRB_VGG.accuracy["post-tuned"][paper.COLUMNS.index("layered")] == 98.1
    assert paper.LISA_RESNET.gini["sg"]["pre"] == (-0.06, 0.02, 0.0, -0.01)
