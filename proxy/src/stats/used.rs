//! Which numbers count as used although they are zero, for `?usedonly`.
//!
//! Envoy marks a number when it is written. A shard's write is a plain add here, so a gauge that is zero is taken
//! as used when what it goes with was counted.

/// A stat and the one in its scope that is counted with it; none: it is written at the start.
//= envoy: Metric::used
const USED_WITH: [(&str, Option<&str>); 31] = [
    ("circuit_breakers.default.cx_open", Some("upstream_cx_total")),
    ("circuit_breakers.default.cx_pool_open", Some("upstream_cx_total")),
    ("circuit_breakers.default.rq_open", Some("upstream_rq_total")),
    ("circuit_breakers.default.rq_pending_open", Some("upstream_rq_pending_total")),
    ("compilation_settings.fips_mode", None),
    ("downstream_cx_active", Some("downstream_cx_total")),
    ("downstream_cx_http1_active", Some("downstream_cx_http1_total")),
    ("downstream_cx_rx_bytes_buffered", Some("downstream_cx_total")),
    ("downstream_cx_ssl_active", Some("downstream_cx_ssl_total")),
    ("downstream_cx_upgrades_active", Some("downstream_cx_upgrades_total")),
    ("downstream_pre_cx_active", Some("downstream_cx_total")),
    ("downstream_rq_active", Some("downstream_rq_total")),
    ("dynamic_unknown_fields", None),
    ("membership_degraded", Some("membership_total")),
    ("membership_excluded", Some("membership_total")),
    ("membership_healthy", Some("membership_total")),
    ("state", None),
    ("static_unknown_fields", None),
    ("total_connections", None),
    ("total_filter_chains_draining", Some("listener_stopped")),
    ("total_listeners_active", Some("listener_added")),
    ("total_listeners_draining", Some("listener_stopped")),
    ("total_listeners_warming", None),
    ("upstream_cx_active", Some("upstream_cx_total")),
    ("upstream_cx_rx_bytes_buffered", Some("upstream_cx_total")),
    ("upstream_cx_tx_bytes_buffered", Some("upstream_cx_total")),
    ("upstream_rq_active", Some("upstream_rq_total")),
    ("upstream_rq_pending_active", Some("upstream_rq_pending_total")),
    ("warming_clusters", None),
    ("warming_state", None),
    ("wip_protos", None),
];

/// Whether a stat that is zero was written. `counted` tells it of another in its scope.
pub(super) fn although_zero(stat: &str, counted: impl Fn(&str) -> bool) -> bool {
    match USED_WITH.binary_search_by_key(&stat, |(name, _)| *name) {
        Ok(at) => USED_WITH[at].1.is_none_or(counted),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::names::TABLES;

    #[test]
    fn the_list_is_sorted_and_names_stats() {
        assert!(USED_WITH.is_sorted_by(|a, b| a.0 < b.0));
        for (stat, with) in USED_WITH {
            let holds = |name: &str| {
                let mut tables = TABLES.iter().filter(|t| t.slots.iter().any(|(n, _)| *n == stat));
                tables.any(|t| t.slots.iter().any(|(n, _)| *n == name))
            };
            assert!(holds(stat) && with.is_none_or(holds), "{stat} with {with:?}");
        }
    }

    #[test]
    fn zero_gauges() {
        let after = |counted: &'static [&str]| move |name: &str| counted.contains(&name);
        assert!(although_zero("state", after(&[])));
        assert!(although_zero("downstream_cx_active", after(&["downstream_cx_total"])));
        assert!(!although_zero("downstream_cx_active", after(&["downstream_rq_total"])));
        assert!(!although_zero("downstream_cx_http2_active", after(&["downstream_cx_total"])));
    }
}
