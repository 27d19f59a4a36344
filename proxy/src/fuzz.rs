//! The fuzz targets. Each is a function of bytes that lives beside the code that it fuzzes, and panics where a promise
//! of that code does not hold.
//!
//! `fuzz/` runs them under libFuzzer; `tests/corpus.rs` replays what was found.

/// A target: any bytes.
pub type Target = fn(&[u8]);

/// By the name of the target, of its file in `fuzz/fuzz_targets/` and of its folder in `fuzz/corpus/`. Sorted.
pub const TARGETS: &[(&str, Target)] = &[
    ("access_log_format", crate::access_log::fuzz::format),
    ("bootstrap", crate::config::fuzz::bootstrap),
    ("chunks", selvedge_runtime::fuzz::chunks),
    ("h1_body", crate::http::h1::fuzz::body),
    ("h1_forward_request", crate::http::h1::fuzz::forward_request),
    ("h1_forward_response", crate::http::h1::fuzz::forward_response),
    ("h1_request", crate::http::h1::fuzz::request),
    ("h1_response", crate::http::h1::fuzz::response),
    ("regex", crate::config::fuzz::regex),
    ("route", crate::route::fuzz::choice),
    ("tasks", selvedge_runtime::fuzz::tasks),
    ("timers", selvedge_runtime::fuzz::timers),
];
