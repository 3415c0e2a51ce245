"""The error tree on the wire: to a google.rpc.Status with ErrorInfo, BadRequest and RetryInfo, and back.

Both directions stand here so that they cannot drift apart. Knows nothing of any call.
"""

from typing import cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from tunewright.chassis.errors import TunewrightError, Unavailable, from_dict

DOMAIN = "tunewright"
RETRY_AFTER_SECONDS = 2


def to_status(error: TunewrightError) -> grpc.Status:
    """Return the status a server ends a call with."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata={"remedy": error.remedy})
    details: list[AnyMessage] = [_packed(info)]
    if error.violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in error.violations
        ]
        details.append(_packed(error_details_pb2.BadRequest(field_violations=fields)))
    if error.retryable:
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=RETRY_AFTER_SECONDS))))
    code = code_pb2.Code.Value(error.code.name)
    return rpc_status.to_status(status_pb2.Status(code=code, message=error.message, details=details))


def from_rpc_error(error: grpc.RpcError) -> TunewrightError:
    """Return the member of the tree that a failed call carries; a call without details is mapped by its code."""
    status = rpc_status.from_call(cast("grpc.Call", error))
    document: dict[str, object] = {"message": error.details() or str(error.code()), "violations": []}
    for detail in status.details if status is not None else ():
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            document |= {"reason": info.reason, "remedy": info.metadata.get("remedy", "")}
        elif detail.Unpack(bad):
            document["violations"] = [{"field": f.field, "description": f.description} for f in bad.field_violations]
    if "reason" not in document:
        return _without_details(error)
    return from_dict(document)


def _without_details(error: grpc.RpcError) -> TunewrightError:
    code, text = error.code(), error.details() or ""
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        return Unavailable(f"a service does not answer: {text}")
    by_code = {cls.code: cls for cls in reversed(TunewrightError.__subclasses__())}
    return by_code.get(code, TunewrightError)(f"{code.name}: {text}")


def _packed(
    message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
