"""What a run shows of itself: steps that are done again replace the first try, and a slow rank is seen among two."""

from __future__ import annotations

from pathlib import Path

from octupus.runs import Run
from octupus.train.metrics import Metrics, keep_until
from tests.numerical.world import metrics

ROW = {"loss": 1.0, "lr": 0.1, "tokens_per_s": 10.0}


def record(run: Run, begin: int, loss: float, forwards: list[float]) -> None:
    """Steps ``begin + 1`` and ``begin + 2``, as a run does that goes on from ``begin``."""
    stage = run.stage("stage1")
    keep_until(stage.metrics, begin)
    with stage.reporting(4, "steps") as reporter:
        shown = Metrics(stage, reporter, "stage1", 4, begin)
        for step in (begin + 1, begin + 2):
            shown.step(step, {**ROW, "loss": loss}, forwards)
        shown.board.close()


def test_tensorboard_forgets_what_is_done_again_also_from_the_first_step(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run(tmp_path)
    for begin, loss in ((0, 9.0), (0, 1.0), (1, 2.0)):
        record(run, begin, loss, [0.1])
    board = EventAccumulator(str(tmp_path / "stage1" / "tensorboard"))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 2.0)]


def test_one_of_two_ranks_that_is_slow_is_named(tmp_path: Path, capsys) -> None:
    run = Run(tmp_path)
    record(run, 0, 1.0, [0.1, 0.4])
    assert metrics(run)[0]["slowest_over_median"] == 4.0
    assert "rank 1 is slow: forward 0.40 s, the median 0.10 s" in capsys.readouterr().out
