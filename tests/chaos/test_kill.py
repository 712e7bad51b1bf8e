"""Role features killed with kill -9, at random and at every point of the protocol: nothing lost, nothing doubled."""

from collections.abc import Sequence

import pytest

from stream.event_log import LoggedEvent
from stream.faults import POINTS
from tests.chaos.scene import Scene

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
ONCE = ("P4.fenced", "P5.restored", "P1.acked", "P2.acked")  # the others are passed for each partition


@pytest.mark.parametrize("points", [POINTS[:5], POINTS[5:]], ids=["until-outputs", "in-the-transaction"])
async def test_a_kill_at_every_point_of_the_protocol_leaves_whole_commits_and_exact_rows(
    scene: Scene, events: list[LoggedEvent], points: Sequence[str]
) -> None:
    sent = 0
    for point in points:
        await scene.deployment.publish(events[sent : sent + 1500])
        sent += 1500
        worker = scene.start(f"kill@{point}:{1 if point in ONCE else 2}")
        await scene.fires(worker)
        await scene.whole()
    scene.start()
    await scene.settled()

    await scene.exact(sent)
