//! Compiles access loggers: where to, in which format, for which requests. Writes nothing.

#![expect(deprecated, reason = "the older forms of formats are part of the API")]

use std::sync::Arc;

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3 as file;
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3 as stream;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};

use crate::access_log::format::{DEFAULT, Format, LogCx};
use crate::access_log::json::JsonFormat;
use crate::access_log::sink;
use crate::config::matchers::header_matcher;
use crate::config::rejection::{At, Fault};
use crate::config::runtime_values::RuntimeValues;
use crate::config::values;
use crate::observe::flags::Flags;
use crate::route::matchers::{Fraction, HeaderMatcher};

/// One access logger.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// A file's path; `/dev/stdout` and `/dev/stderr` for the streams.
    pub path: Arc<str>,
    pub format: LogFormat,
    pub filter: LogFilter,
}

impl AccessLog {
    /// Every request, in the default format.
    pub fn default_at(path: &str) -> AccessLog {
        AccessLog { path: Arc::from(path), format: default_format(), filter: LogFilter::Always }
    }
}

/// How a line is written.
#[derive(Debug, Clone)]
pub enum LogFormat {
    Text(Format),
    Json(JsonFormat),
}

impl LogFormat {
    /// Writes one line.
    pub fn write(&self, cx: &LogCx<'_>, out: &mut Vec<u8>) {
        match self {
            LogFormat::Text(format) => format.write(cx, out),
            LogFormat::Json(format) => {
                format.write(cx, out);
                out.push(b'\n');
            }
        }
    }
}

/// Which requests a logger writes.
#[derive(Debug, Clone)]
pub enum LogFilter {
    Always,
    Status(Compare),
    DurationMs(Compare),
    NotHealthCheck,
    Traceable,
    Sample(Fraction),
    And(Vec<LogFilter>),
    Or(Vec<LogFilter>),
    Header(HeaderMatcher),
    /// No flags: any flag.
    Flags(Vec<Flags>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compare {
    pub op: CompareOp,
    pub value: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareOp {
    Eq,
    Ge,
    Le,
    Ne,
}

/// Compiles a list of loggers held by `field` of `message`.
pub fn list(
    configs: &[accesslog::AccessLog],
    runtime: &RuntimeValues,
    message: &'static str,
    at: &At<'_>,
) -> Result<Vec<AccessLog>, Fault> {
    configs
        .iter()
        .enumerate()
        .map(|(i, one)| logger(one, runtime, &at.item(message, "access_log", i)))
        .collect()
}

fn logger(config: &accesslog::AccessLog, runtime: &RuntimeValues, at: &At<'_>) -> Result<AccessLog, Fault> {
    use accesslog::access_log::ConfigType;
    let filter = match &config.filter {
        None => LogFilter::Always,
        Some(own) => filter(own, runtime, &at.field("AccessLog", "filter"))?,
    };
    let here = at.field("AccessLog", "typed_config").unpacked();
    let Some(ConfigType::TypedConfig(any)) = &config.config_type else {
        return Err(at.refuse(format!(
            "Didn't find a registered implementation for '{}' with type URL: ''",
            config.name
        )));
    };
    let (path, format) = match values::type_name(any) {
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => {
            let own: file::FileAccessLog = values::unpack(any, &here)?;
            if own.path.is_empty() {
                let path = here.field("FileAccessLog", "path");
                return Err(path.violates("value length must be at least 1 characters"));
            }
            sink::check_path(&own.path).map_err(|e| {
                let reason = e.to_string();
                let reason = reason.split(" (os").next().unwrap_or(&reason);
                here.refuse(format!("unable to open file '{}': {reason}", own.path))
            })?;
            let format = file_format(own.access_log_format.as_ref(), &here)?;
            (Arc::from(own.path.as_str()), format)
        }
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            let own: stream::StdoutAccessLog = values::unpack(any, &here)?;
            let format = own.access_log_format.map(|f| {
                let stream::stdout_access_log::AccessLogFormat::LogFormat(format) = f;
                format
            });
            (Arc::from("/dev/stdout"), substitution(format.as_ref(), &here)?)
        }
        "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
            let own: stream::StderrAccessLog = values::unpack(any, &here)?;
            let format = own.access_log_format.map(|f| {
                let stream::stderr_access_log::AccessLogFormat::LogFormat(format) = f;
                format
            });
            (Arc::from("/dev/stderr"), substitution(format.as_ref(), &here)?)
        }
        _ => return Err(here.not_implemented()),
    };
    Ok(AccessLog { path, format, filter })
}

fn default_format() -> LogFormat {
    LogFormat::Text(Format::compile(DEFAULT, false).expect("Envoy's default format compiles"))
}

fn file_format(
    config: Option<&file::file_access_log::AccessLogFormat>,
    at: &At<'_>,
) -> Result<LogFormat, Fault> {
    use file::file_access_log::AccessLogFormat as Given;
    match config {
        None => Ok(default_format()),
        Some(Given::Format(text)) if text.is_empty() => Ok(default_format()),
        Some(Given::Format(text)) => self::text(text, false, &at.field("FileAccessLog", "format")),
        Some(Given::LogFormat(format)) => {
            substitution(Some(format), &at.field("FileAccessLog", "log_format"))
        }
        Some(Given::TypedJsonFormat(fields)) => {
            json(fields, false, &at.field("FileAccessLog", "typed_json_format"))
        }
        Some(Given::JsonFormat(_)) => Err(at.field("FileAccessLog", "json_format").not_implemented()),
    }
}

/// A `SubstitutionFormatString`.
pub fn substitution(
    config: Option<&core::SubstitutionFormatString>,
    at: &At<'_>,
) -> Result<LogFormat, Fault> {
    use core::substitution_format_string::Format as Given;
    let Some(config) = config else { return Ok(default_format()) };
    const MESSAGE: &str = "SubstitutionFormatString";
    match &config.format {
        Some(Given::TextFormat(text)) => {
            self::text(text, config.omit_empty_values, &at.field(MESSAGE, "text_format"))
        }
        Some(Given::JsonFormat(fields)) => {
            json(fields, config.omit_empty_values, &at.field(MESSAGE, "json_format"))
        }
        Some(Given::TextFormatSource(source)) => {
            let here = at.field(MESSAGE, "text_format_source");
            let bytes = crate::config::route_action::data(source, usize::MAX, &here)?;
            text(&String::from_utf8_lossy(&bytes), config.omit_empty_values, &here)
        }
        None => Err(at.lacks("format")),
    }
}

fn text(text: &str, omit_empty: bool, at: &At<'_>) -> Result<LogFormat, Fault> {
    Format::compile(text, omit_empty).map(LogFormat::Text).map_err(|e| at.refuse(e.to_string()))
}

fn json(fields: &Struct, omit_empty: bool, at: &At<'_>) -> Result<LogFormat, Fault> {
    let format = JsonFormat::compile(&object(fields), omit_empty).map_err(|e| at.refuse(e.to_string()))?;
    Ok(LogFormat::Json(format))
}

fn object(fields: &Struct) -> serde_json::Value {
    fields.fields.iter().map(|(k, v)| (k.clone(), value(v))).collect::<serde_json::Map<_, _>>().into()
}

fn value(value: &Value) -> serde_json::Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(b)) => (*b).into(),
        Some(Kind::NumberValue(n)) => number(*n),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::ListValue(list)) => list.values.iter().map(self::value).collect(),
        Some(Kind::StructValue(fields)) => object(fields),
    }
}

/// A whole number is written as one, as in Envoy.
fn number(n: f64) -> serde_json::Value {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if n.fract() == 0.0 && n.abs() <= EXACT_MAX {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within the range, as was asked")]
        return (n as i64).into();
    }
    serde_json::Number::from_f64(n).map_or(serde_json::Value::Null, Into::into)
}

fn filter(
    config: &accesslog::AccessLogFilter,
    runtime: &RuntimeValues,
    at: &At<'_>,
) -> Result<LogFilter, Fault> {
    use accesslog::access_log_filter::FilterSpecifier as F;
    const MESSAGE: &str = "AccessLogFilter";
    let several = |filters: &[accesslog::AccessLogFilter], field, message| {
        let here = at.field(MESSAGE, field);
        if filters.len() < 2 {
            let inner = here.field(message, "filters");
            return Err(inner.violates("value must contain at least 2 item(s)"));
        }
        let compiled = filters.iter().enumerate();
        compiled.map(|(i, f)| filter(f, runtime, &here.item(message, "filters", i))).collect()
    };
    match &config.filter_specifier {
        Some(F::StatusCodeFilter(own)) => {
            let here = at.field(MESSAGE, "status_code_filter");
            compare(own.comparison.as_ref(), runtime, "StatusCodeFilter", &here).map(LogFilter::Status)
        }
        Some(F::DurationFilter(own)) => {
            let here = at.field(MESSAGE, "duration_filter");
            compare(own.comparison.as_ref(), runtime, "DurationFilter", &here).map(LogFilter::DurationMs)
        }
        Some(F::NotHealthCheckFilter(_)) => Ok(LogFilter::NotHealthCheck),
        Some(F::TraceableFilter(_)) => Ok(LogFilter::Traceable),
        Some(F::RuntimeFilter(own)) => {
            let here = at.field(MESSAGE, "runtime_filter");
            let default = match &own.percent_sampled {
                Some(share) => values::fraction(share, &here.field("RuntimeFilter", "percent_sampled"))?,
                None => Fraction { numerator: 0, denominator: 100 },
            };
            Ok(LogFilter::Sample(runtime.fraction(&own.runtime_key, default)))
        }
        Some(F::AndFilter(own)) => several(&own.filters, "and_filter", "AndFilter").map(LogFilter::And),
        Some(F::OrFilter(own)) => several(&own.filters, "or_filter", "OrFilter").map(LogFilter::Or),
        Some(F::HeaderFilter(own)) => {
            let here = at.field(MESSAGE, "header_filter");
            let rule_at = here.field("HeaderFilter", "header");
            let Some(rule) = &own.header else { return Err(rule_at.violates("value is required")) };
            header_matcher(rule, &rule_at).map(LogFilter::Header)
        }
        Some(F::ResponseFlagFilter(own)) => {
            let here = at.field(MESSAGE, "response_flag_filter");
            let flags = own.flags.iter().enumerate().map(|(i, name)| {
                let known = Flags::ALL.iter().find(|(_, short, _)| short == name).map(|(flag, ..)| *flag);
                known.ok_or_else(|| {
                    let item = here.item("ResponseFlagFilter", "flags", i);
                    item.refuse(format!("{name} is not a response flag"))
                })
            });
            flags.collect::<Result<_, _>>().map(LogFilter::Flags)
        }
        Some(other) => {
            let field = match other {
                F::GrpcStatusFilter(_) => "grpc_status_filter",
                F::ExtensionFilter(_) => "extension_filter",
                F::MetadataFilter(_) => "metadata_filter",
                _ => "log_type_filter",
            };
            Err(at.field(MESSAGE, field).not_implemented())
        }
        None => Err(at.lacks("filter_specifier")),
    }
}

fn compare(
    config: Option<&accesslog::ComparisonFilter>,
    runtime: &RuntimeValues,
    message: &'static str,
    at: &At<'_>,
) -> Result<Compare, Fault> {
    let here = at.field(message, "comparison");
    let Some(config) = config else { return Err(here.violates("value is required")) };
    let value_at = here.field("ComparisonFilter", "value");
    let Some(value) = &config.value else { return Err(value_at.violates("value is required")) };
    let op = match config.op {
        0 => CompareOp::Eq,
        1 => CompareOp::Ge,
        2 => CompareOp::Le,
        3 => CompareOp::Ne,
        _ => {
            let here = here.field("ComparisonFilter", "op");
            return Err(here.violates("value must be one of the defined enum values"));
        }
    };
    Ok(Compare { op, value: runtime.integer(&value.runtime_key).unwrap_or(u64::from(value.default_value)) })
}
