//! Compiles access loggers: where to, in which format, for which requests. Writes nothing.

use std::sync::Arc;

use crate::route::matchers::HeaderMatcher;

/// One access logger.
#[derive(Debug, Clone)]
pub struct AccessLog {
    pub target: LogTarget,
    pub format: LogFormat,
    pub filter: LogFilter,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    File(Arc<str>),
    Stdout,
    Stderr,
}

/// A format as configured; checked and compiled by `access_log::format`.
#[derive(Debug, Clone, PartialEq)]
pub enum LogFormat {
    /// Envoy's default line.
    Default,
    Text {
        text: Arc<str>,
        omit_empty: bool,
    },
    Json {
        fields: Arc<JsonTree>,
        omit_empty: bool,
        sort: bool,
        /// `typed_json_format`/`log_format.json_format`: numbers stay numbers.
        typed: bool,
    },
}

/// The shape of a JSON format: leaves that are strings are formats.
#[derive(Debug, Clone, PartialEq)]
pub enum JsonTree {
    Null,
    Bool(bool),
    Number(f64),
    Format(Box<str>),
    List(Vec<JsonTree>),
    Object(Vec<(Box<str>, JsonTree)>),
}

/// Which requests a logger writes.
#[derive(Debug, Clone)]
pub enum LogFilter {
    Always,
    Status(Compare),
    DurationMs(Compare),
    NotHealthCheck,
    Traceable,
    Sample {
        numerator: u64,
        denominator: u64,
        independent: bool,
    },
    And(Vec<LogFilter>),
    Or(Vec<LogFilter>),
    Header(HeaderMatcher),
    /// Short names of response flags; empty: any flag.
    Flags(Vec<Box<str>>),
    GrpcStatus {
        statuses: Vec<i32>,
        exclude: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compare {
    pub op: CompareOp,
    pub value: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareOp {
    Eq,
    Ge,
    Le,
    Ne,
}
