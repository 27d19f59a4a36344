//! Counters, gauges and histograms with Envoy's names.

pub mod block;
pub mod names;
pub mod scope;
pub mod scrape;
mod used;
