//! The status of a gRPC call, as trailers, head or HTTP status tell it. Knows no other part of gRPC.

use crate::access_log::format::{FormatError, LogCx};
use crate::http::message::{Fields, HeaderId};

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Camel,
    Snake,
    Number,
}

impl Form {
    /// In the words between the parentheses of `GRPC_STATUS`.
    pub(crate) fn of(argument: &str) -> Result<Form, FormatError> {
        match argument {
            "" | "CAMEL_STRING" => Ok(Form::Camel),
            "SNAKE_STRING" => Ok(Form::Snake),
            "NUMBER" => Ok(Form::Number),
            _ => Err(FormatError(
                "GrpcStatusFormatter only supports CAMEL_STRING, SNAKE_STRING or NUMBER.".to_owned(),
            )),
        }
    }

    pub(crate) fn write(self, status: i64, out: &mut Vec<u8>) -> bool {
        let named = usize::try_from(status).ok().and_then(|n| NAMES.get(n));
        match (self, named) {
            (Form::Camel, Some((camel, _))) => out.extend_from_slice(camel.as_bytes()),
            (Form::Snake, Some((_, snake))) => out.extend_from_slice(snake.as_bytes()),
            _ => out.extend_from_slice(status.to_string().as_bytes()),
        }
        true
    }
}

/// What is told and is no number.
const INVALID: i64 = -1;

/// `None`: the request was no call of gRPC.
//= envoy: Grpc::Common::getGrpcStatus
pub(crate) fn status(cx: &LogCx<'_>) -> Option<i64> {
    let kind = cx.request.fields.get(HeaderId::ContentType)?;
    let rest = kind.strip_prefix(b"application/grpc")?;
    if !matches!(rest.first(), None | Some(b'+')) {
        return None;
    }
    let told = |fields: &Fields| {
        let text = fields.get_named(b"grpc-status").filter(|text| !text.is_empty())?;
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        Some(number.filter(|n| *n >= 0).unwrap_or(INVALID))
    };
    let by_trailers = cx.trailers.and_then(|t| told(&t.0));
    by_trailers.or_else(|| cx.response.and_then(|r| told(&r.fields))).or_else(|| cx.info.status.map(of_http))
}

/// What a status of HTTP means for a call. //= envoy: httpToGrpcStatus
fn of_http(status: u16) -> i64 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];
