//! Text, JSON and Prometheus output.
