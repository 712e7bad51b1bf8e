"""Make aiokafka a full static member of its group: heartbeats and leaving name the instance id, and a fence ends the process.

aiokafka joins with a group instance id, but sends heartbeats without it and never leaves. So of two processes with one id,
each would take the membership from the other for ever. Start at install_static_members.
"""

from contextlib import suppress
from typing import Any

from aiokafka import errors
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.protocol.api import Request, RequestStruct
from aiokafka.protocol.group import (
    HeartbeatRequest,
    HeartbeatResponse_v1,
    JoinGroupRequest,
    LeaveGroupResponse_v1,
)
from aiokafka.protocol.types import Array, Int16, Int32, Schema, String

from stream.process.exit_codes import EXIT_CONFIG, end_process

FENCED_INSTANCE_ID = 82


class _HeartbeatResponse(HeartbeatResponse_v1):  # type: ignore[misc]  # aiokafka has no types
    API_VERSION = 3


class _Heartbeat(RequestStruct):  # type: ignore[misc]  # as above
    API_KEY = 12
    API_VERSION = 3
    RESPONSE_TYPE = _HeartbeatResponse
    SCHEMA = Schema(
        ("group", String("utf-8")),
        ("generation_id", Int32),
        ("member_id", String("utf-8")),
        ("group_instance_id", String("utf-8")),
    )


class StaticHeartbeat(Request[_Heartbeat]):  # type: ignore[misc]  # as above
    """Heartbeat version 3, which names the instance id."""

    API_KEY = 12

    def __init__(self, group: str, generation_id: int, member_id: str, instance_id: str) -> None:
        """Send the heartbeat of one member."""
        self._fields = group, generation_id, member_id, instance_id

    def build(self, request_struct_class: Any) -> Any:
        """Build the request."""
        return request_struct_class(*self._fields)


class _LeaveResponse(LeaveGroupResponse_v1):  # type: ignore[misc]  # as above
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("members", Array(("member_id", String("utf-8")), ("group_instance_id", String("utf-8")), ("error_code", Int16))),
    )


class _Leave(RequestStruct):  # type: ignore[misc]  # as above
    API_KEY = 13
    API_VERSION = 3
    RESPONSE_TYPE = _LeaveResponse
    SCHEMA = Schema(
        ("group", String("utf-8")),
        ("members", Array(("member_id", String("utf-8")), ("group_instance_id", String("utf-8")))),
    )


class StaticLeave(Request[_Leave]):  # type: ignore[misc]  # as above
    """LeaveGroup version 3, which removes a static member."""

    API_KEY = 13

    def __init__(self, group: str, member_id: str, instance_id: str) -> None:
        """Remove one member."""
        self._group, self._members = group, [(member_id, instance_id)]

    def build(self, request_struct_class: Any) -> Any:
        """Build the request."""
        return request_struct_class(self._group, self._members)


_original_send_req = GroupCoordinator._send_req
_original_leave = GroupCoordinator._maybe_leave_group
_original_reset = GroupCoordinator.reset_generation


def install_static_members() -> None:
    """Install the patches; safe to call twice. `leave_on_stop` of a coordinator decides whether its member leaves."""
    GroupCoordinator._send_req = _send_req
    GroupCoordinator._maybe_leave_group = _maybe_leave_group
    GroupCoordinator.reset_generation = _reset_generation
    GroupCoordinator.leave_on_stop = True


async def _send_req(self: Any, request: Any) -> Any:
    """Send a request; end the process if another one has taken the instance id."""
    instance_id = self._group_instance_id
    if instance_id is not None and isinstance(request, HeartbeatRequest):
        request = StaticHeartbeat(self.group_id, self.generation, self.member_id, instance_id)
    response = await _original_send_req(self, request)
    if getattr(response, "error_code", 0) == FENCED_INSTANCE_ID:
        end_process(
            f"setting instance_id: another process joined group {self.group_id} as {instance_id}, expected one process per id: "
            "stop one of them, or give this one an id of its own",
            code=EXIT_CONFIG,
        )
    if instance_id is not None and isinstance(request, StaticHeartbeat) and response.error_code == 0:
        self.asked_again = False
    return response


def _reset_generation(self: Any) -> None:
    """Forget the generation; a static member keeps its member id for one more join, so that the broker can fence it.

    If the broker no longer knows that id, aiokafka resets again, and the member joins as a new one.
    """
    member_id, keeps = self.member_id, self._group_instance_id is not None and not getattr(self, "asked_again", False)
    _original_reset(self)
    if keeps and member_id != JoinGroupRequest.UNKNOWN_MEMBER_ID:
        self.member_id, self.asked_again = member_id, True


async def _maybe_leave_group(self: Any) -> None:
    """Leave the group on a planned stop, also as a static member, unless `leave_on_stop` is false."""
    if self._group_instance_id is None or self.generation <= 0 or not self.leave_on_stop:
        await _original_leave(self)  # which never leaves as a static member
        return
    with suppress(errors.KafkaError):  # the session ends by itself
        await self._send_req(StaticLeave(self.group_id, self.member_id, self._group_instance_id))
    self.reset_generation()
