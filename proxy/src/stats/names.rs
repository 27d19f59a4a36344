//! THE TABLES: every stat that we keep, by scope, with Envoy's exact name.
//!
//! Names were read off Envoy 1.40.0's `/stats` for one configuration with every scope below.

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// The numbers of one kind of scope: an enum of slots, and an enum of histograms.
pub trait Table: Copy + 'static {
    const SLOTS: &'static [(&'static str, Kind)];
    const HISTOGRAMS: &'static [&'static str];
    /// The variants' own names: slots, then histograms.
    const VARIANTS: &'static [&'static str];
    type Histogram: Copy + 'static;
    fn slot(self) -> usize;
    fn histogram(h: Self::Histogram) -> usize;
}

/// One table, for those who list all.
#[derive(Debug, Clone, Copy)]
pub struct Listed {
    pub table: &'static str,
    pub prefix: &'static str,
    pub slots: &'static [(&'static str, Kind)],
    pub histograms: &'static [&'static str],
    pub variants: &'static [&'static str],
}

impl Listed {
    pub const fn of<T: Table>(table: &'static str, prefix: &'static str) -> Listed {
        Listed { table, prefix, slots: T::SLOTS, histograms: T::HISTOGRAMS, variants: T::VARIANTS }
    }
}

macro_rules! list {
    ($($table:ident $prefix:literal,)*) => {
        /// Every table with the prefix of its names.
        pub const TABLES: &[Listed] = &[$(Listed::of::<$table>(stringify!($table), $prefix),)*];
    };
}

list! {
    Cluster "cluster.<name>.",
    Remaining "cluster.<name>.circuit_breakers.<priority>.",
    Http "http.<stat_prefix>.",
    Listener "listener.<address>.",
    ListenerHttp "listener.<address>.http.<stat_prefix>.",
    Worker "listener.<address>.worker_<n>.",
    Server "server.",
    Shard "server.selvedge.",
    ClusterManager "cluster_manager.",
    ListenerManager "listener_manager.",
    Filesystem "filesystem.",
    Runtime "runtime.",
    OverloadManager "",
    OverloadAction "overload.<action>.",
    OverloadResource "overload.<resource>.",
    ShrinkHeap "overload.envoy.overload_actions.shrink_heap.",
}

macro_rules! table {
    ($(#[$doc:meta])* $table:ident / $hist:ident {
        counters [$($c:ident = $cn:literal,)*]
        gauges [$($g:ident = $gn:literal,)*]
        histograms [$($h:ident = $hn:literal,)*]
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u16)]
        pub enum $table { $($c,)* $($g,)* }
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u16)]
        pub enum $hist { $($h,)* Never }
        impl $crate::stats::names::Table for $table {
            const SLOTS: &'static [(&'static str, $crate::stats::names::Kind)] = &[
                $(($cn, $crate::stats::names::Kind::Counter),)*
                $(($gn, $crate::stats::names::Kind::Gauge),)*
            ];
            const HISTOGRAMS: &'static [&'static str] = &[$($hn,)*];
            const VARIANTS: &'static [&'static str] =
                &[$(stringify!($c),)* $(stringify!($g),)* $(stringify!($h),)*];
            type Histogram = $hist;
            fn slot(self) -> usize { self as usize }
            fn histogram(h: $hist) -> usize { h as usize }
        }
    };
}

pub(crate) use table;

table! {
    /// One cluster: `cluster.<name>.`
    Cluster / ClusterHist {
        counters [
        AssignmentStale = "assignment_stale",
        AssignmentTimeoutReceived = "assignment_timeout_received",
        AssignmentUseCached = "assignment_use_cached",
        BindErrors = "bind_errors",
        DefaultTotalMatchCount = "default.total_match_count",
        Http1DroppedHeadersWithUnderscores = "http1.dropped_headers_with_underscores",
        Http1MetadataNotSupportedError = "http1.metadata_not_supported_error",
        Http1RequestsRejectedWithUnderscoresInHeaders = "http1.requests_rejected_with_underscores_in_headers",
        Http1ResponseFlood = "http1.response_flood",
        LbHealthyPanic = "lb_healthy_panic",
        LbLocalClusterNotOk = "lb_local_cluster_not_ok",
        LbRecalculateZoneStructures = "lb_recalculate_zone_structures",
        LbSubsetsCreated = "lb_subsets_created",
        LbSubsetsFallback = "lb_subsets_fallback",
        LbSubsetsFallbackPanic = "lb_subsets_fallback_panic",
        LbSubsetsRemoved = "lb_subsets_removed",
        LbSubsetsSelected = "lb_subsets_selected",
        LbZoneClusterTooSmall = "lb_zone_cluster_too_small",
        LbZoneNoCapacityLeft = "lb_zone_no_capacity_left",
        LbZoneRoutingAllDirectly = "lb_zone_routing_all_directly",
        LbZoneRoutingCrossZone = "lb_zone_routing_cross_zone",
        LbZoneRoutingSampled = "lb_zone_routing_sampled",
        MembershipChange = "membership_change",
        OriginalDstHostInvalid = "original_dst_host_invalid",
        RetryOrShadowAbandoned = "retry_or_shadow_abandoned",
        UpdateAttempt = "update_attempt",
        UpdateEmpty = "update_empty",
        UpdateFailure = "update_failure",
        UpdateNoRebuild = "update_no_rebuild",
        UpdateSuccess = "update_success",
        UpstreamCxCloseNotify = "upstream_cx_close_notify",
        UpstreamCxConnectAttemptsExceeded = "upstream_cx_connect_attempts_exceeded",
        UpstreamCxConnectFail = "upstream_cx_connect_fail",
        UpstreamCxConnectTimeout = "upstream_cx_connect_timeout",
        UpstreamCxConnectWith0Rtt = "upstream_cx_connect_with_0_rtt",
        UpstreamCxDestroy = "upstream_cx_destroy",
        UpstreamCxDestroyLocal = "upstream_cx_destroy_local",
        UpstreamCxDestroyLocalWithActiveRq = "upstream_cx_destroy_local_with_active_rq",
        UpstreamCxDestroyRemote = "upstream_cx_destroy_remote",
        UpstreamCxDestroyRemoteWithActiveRq = "upstream_cx_destroy_remote_with_active_rq",
        UpstreamCxDestroyWithActiveRq = "upstream_cx_destroy_with_active_rq",
        UpstreamCxHttp1Total = "upstream_cx_http1_total",
        UpstreamCxHttp2Total = "upstream_cx_http2_total",
        UpstreamCxHttp3Total = "upstream_cx_http3_total",
        UpstreamCxIdleTimeout = "upstream_cx_idle_timeout",
        UpstreamCxMaxDurationReached = "upstream_cx_max_duration_reached",
        UpstreamCxMaxRequests = "upstream_cx_max_requests",
        UpstreamCxNoneHealthy = "upstream_cx_none_healthy",
        UpstreamCxOverflow = "upstream_cx_overflow",
        UpstreamCxPoolOverflow = "upstream_cx_pool_overflow",
        UpstreamCxPreconnectSkipped = "upstream_cx_preconnect_skipped",
        UpstreamCxProtocolError = "upstream_cx_protocol_error",
        UpstreamCxRxBytesTotal = "upstream_cx_rx_bytes_total",
        UpstreamCxTotal = "upstream_cx_total",
        UpstreamCxTxBytesTotal = "upstream_cx_tx_bytes_total",
        UpstreamFlowControlBackedUpTotal = "upstream_flow_control_backed_up_total",
        UpstreamFlowControlDrainedTotal = "upstream_flow_control_drained_total",
        UpstreamFlowControlPausedReadingTotal = "upstream_flow_control_paused_reading_total",
        UpstreamFlowControlResumedReadingTotal = "upstream_flow_control_resumed_reading_total",
        UpstreamHttp3Broken = "upstream_http3_broken",
        UpstreamInternalRedirectFailedTotal = "upstream_internal_redirect_failed_total",
        UpstreamInternalRedirectSucceededTotal = "upstream_internal_redirect_succeeded_total",
        UpstreamRq0Rtt = "upstream_rq_0rtt",
        UpstreamRqActiveOverflow = "upstream_rq_active_overflow",
        UpstreamRqCancelled = "upstream_rq_cancelled",
        UpstreamRqMaintenanceMode = "upstream_rq_maintenance_mode",
        UpstreamRqMaxDurationReached = "upstream_rq_max_duration_reached",
        UpstreamRqPendingFailureEject = "upstream_rq_pending_failure_eject",
        UpstreamRqPendingOverflow = "upstream_rq_pending_overflow",
        UpstreamRqPendingTotal = "upstream_rq_pending_total",
        UpstreamRqPerTryIdleTimeout = "upstream_rq_per_try_idle_timeout",
        UpstreamRqPerTryTimeout = "upstream_rq_per_try_timeout",
        UpstreamRqRetry = "upstream_rq_retry",
        UpstreamRqRetryBackoffExponential = "upstream_rq_retry_backoff_exponential",
        UpstreamRqRetryBackoffRatelimited = "upstream_rq_retry_backoff_ratelimited",
        UpstreamRqRetryLimitExceeded = "upstream_rq_retry_limit_exceeded",
        UpstreamRqRetryOverflow = "upstream_rq_retry_overflow",
        UpstreamRqRetrySuccess = "upstream_rq_retry_success",
        UpstreamRqRxReset = "upstream_rq_rx_reset",
        UpstreamRqRxResetNoError = "upstream_rq_rx_reset_no_error",
        UpstreamRqTimeout = "upstream_rq_timeout",
        UpstreamRqTotal = "upstream_rq_total",
        UpstreamRqTxReset = "upstream_rq_tx_reset",
        ]
        gauges [
        CircuitBreakersDefaultCxOpen = "circuit_breakers.default.cx_open",
        CircuitBreakersDefaultCxPoolOpen = "circuit_breakers.default.cx_pool_open",
        CircuitBreakersDefaultRqOpen = "circuit_breakers.default.rq_open",
        CircuitBreakersDefaultRqPendingOpen = "circuit_breakers.default.rq_pending_open",
        CircuitBreakersDefaultRqRetryOpen = "circuit_breakers.default.rq_retry_open",
        CircuitBreakersHighCxOpen = "circuit_breakers.high.cx_open",
        CircuitBreakersHighCxPoolOpen = "circuit_breakers.high.cx_pool_open",
        CircuitBreakersHighRqOpen = "circuit_breakers.high.rq_open",
        CircuitBreakersHighRqPendingOpen = "circuit_breakers.high.rq_pending_open",
        CircuitBreakersHighRqRetryOpen = "circuit_breakers.high.rq_retry_open",
        LbSubsetsActive = "lb_subsets_active",
        MaxHostWeight = "max_host_weight",
        MembershipDegraded = "membership_degraded",
        MembershipExcluded = "membership_excluded",
        MembershipHealthy = "membership_healthy",
        MembershipTotal = "membership_total",
        UpstreamCxActive = "upstream_cx_active",
        UpstreamCxRxBytesBuffered = "upstream_cx_rx_bytes_buffered",
        UpstreamCxTxBytesBuffered = "upstream_cx_tx_bytes_buffered",
        UpstreamQueueOverloaded = "upstream_queue_overloaded",
        UpstreamRqActive = "upstream_rq_active",
        UpstreamRqPendingActive = "upstream_rq_pending_active",
        Version = "version",
        WarmingState = "warming_state",
        ]
        histograms [
        ExternalUpstreamRqTime = "external.upstream_rq_time",
        InternalUpstreamRqTime = "internal.upstream_rq_time",
        UpstreamCxConnectMs = "upstream_cx_connect_ms",
        UpstreamCxLengthMs = "upstream_cx_length_ms",
        UpstreamRqPerCx = "upstream_rq_per_cx",
        UpstreamRqTime = "upstream_rq_time",
        ]
    }
}

table! {
    /// What the breakers of one priority still allow, with `track_remaining`:
    /// `cluster.<name>.circuit_breakers.<priority>.`
    Remaining / RemainingHist {
        counters [
        ]
        gauges [
        RemainingCx = "remaining_cx",
        RemainingCxPools = "remaining_cx_pools",
        RemainingPending = "remaining_pending",
        RemainingRetries = "remaining_retries",
        RemainingRq = "remaining_rq",
        ]
        histograms [
        ]
    }
}

table! {
    /// One connection manager: `http.<stat_prefix>.`
    Http / HttpHist {
        counters [
        DownstreamCxDelayedCloseTimeout = "downstream_cx_delayed_close_timeout",
        DownstreamCxDestroy = "downstream_cx_destroy",
        DownstreamCxDestroyActiveRq = "downstream_cx_destroy_active_rq",
        DownstreamCxDestroyLocal = "downstream_cx_destroy_local",
        DownstreamCxDestroyLocalActiveRq = "downstream_cx_destroy_local_active_rq",
        DownstreamCxDestroyRemote = "downstream_cx_destroy_remote",
        DownstreamCxDestroyRemoteActiveRq = "downstream_cx_destroy_remote_active_rq",
        DownstreamCxDrainClose = "downstream_cx_drain_close",
        DownstreamCxHttp1Total = "downstream_cx_http1_total",
        DownstreamCxHttp2Total = "downstream_cx_http2_total",
        DownstreamCxHttp3Total = "downstream_cx_http3_total",
        DownstreamCxIdleTimeout = "downstream_cx_idle_timeout",
        DownstreamCxMaxDurationReached = "downstream_cx_max_duration_reached",
        DownstreamCxMaxRequestsReached = "downstream_cx_max_requests_reached",
        DownstreamCxOverloadDisableKeepalive = "downstream_cx_overload_disable_keepalive",
        DownstreamCxProtocolError = "downstream_cx_protocol_error",
        DownstreamCxRxBytesTotal = "downstream_cx_rx_bytes_total",
        DownstreamCxSslTotal = "downstream_cx_ssl_total",
        DownstreamCxTotal = "downstream_cx_total",
        DownstreamCxTxBytesTotal = "downstream_cx_tx_bytes_total",
        DownstreamCxUpgradesTotal = "downstream_cx_upgrades_total",
        DownstreamFlowControlPausedReadingTotal = "downstream_flow_control_paused_reading_total",
        DownstreamFlowControlResumedReadingTotal = "downstream_flow_control_resumed_reading_total",
        DownstreamRq1xx = "downstream_rq_1xx",
        DownstreamRq2xx = "downstream_rq_2xx",
        DownstreamRq3xx = "downstream_rq_3xx",
        DownstreamRq4xx = "downstream_rq_4xx",
        DownstreamRq5xx = "downstream_rq_5xx",
        DownstreamRqCompleted = "downstream_rq_completed",
        DownstreamRqFailedPathNormalization = "downstream_rq_failed_path_normalization",
        DownstreamRqHeaderTimeout = "downstream_rq_header_timeout",
        DownstreamRqHttp1Total = "downstream_rq_http1_total",
        DownstreamRqHttp2Total = "downstream_rq_http2_total",
        DownstreamRqHttp3Total = "downstream_rq_http3_total",
        DownstreamRqIdleTimeout = "downstream_rq_idle_timeout",
        DownstreamRqMaxDurationReached = "downstream_rq_max_duration_reached",
        DownstreamRqNonRelativePath = "downstream_rq_non_relative_path",
        DownstreamRqOverloadClose = "downstream_rq_overload_close",
        DownstreamRqRedirectedWithNormalizedPath = "downstream_rq_redirected_with_normalized_path",
        DownstreamRqRejectedViaIpDetection = "downstream_rq_rejected_via_ip_detection",
        DownstreamRqResponseBeforeRqComplete = "downstream_rq_response_before_rq_complete",
        DownstreamRqRxReset = "downstream_rq_rx_reset",
        DownstreamRqTimeout = "downstream_rq_timeout",
        DownstreamRqTooLarge = "downstream_rq_too_large",
        DownstreamRqTooManyPrematureResets = "downstream_rq_too_many_premature_resets",
        DownstreamRqTotal = "downstream_rq_total",
        DownstreamRqTxReset = "downstream_rq_tx_reset",
        DownstreamRqWsOnNonWsRoute = "downstream_rq_ws_on_non_ws_route",
        NoCluster = "no_cluster",
        NoRoute = "no_route",
        PassthroughInternalRedirectBadLocation = "passthrough_internal_redirect_bad_location",
        PassthroughInternalRedirectNoRoute = "passthrough_internal_redirect_no_route",
        PassthroughInternalRedirectPredicate = "passthrough_internal_redirect_predicate",
        PassthroughInternalRedirectTooManyRedirects = "passthrough_internal_redirect_too_many_redirects",
        PassthroughInternalRedirectUnsafeScheme = "passthrough_internal_redirect_unsafe_scheme",
        RqDirectResponse = "rq_direct_response",
        RqOverloadLocalReply = "rq_overload_local_reply",
        RqRedirect = "rq_redirect",
        RqResetAfterDownstreamResponseStarted = "rq_reset_after_downstream_response_started",
        RqTotal = "rq_total",
        RsTooLarge = "rs_too_large",
        TracingClientEnabled = "tracing.client_enabled",
        TracingHealthCheck = "tracing.health_check",
        TracingNotTraceable = "tracing.not_traceable",
        TracingRandomSampling = "tracing.random_sampling",
        TracingServiceForced = "tracing.service_forced",
        ]
        gauges [
        DownstreamCxActive = "downstream_cx_active",
        DownstreamCxHttp1Active = "downstream_cx_http1_active",
        DownstreamCxHttp1SoftDrain = "downstream_cx_http1_soft_drain",
        DownstreamCxHttp2Active = "downstream_cx_http2_active",
        DownstreamCxHttp3Active = "downstream_cx_http3_active",
        DownstreamCxRxBytesBuffered = "downstream_cx_rx_bytes_buffered",
        DownstreamCxSslActive = "downstream_cx_ssl_active",
        DownstreamCxTxBytesBuffered = "downstream_cx_tx_bytes_buffered",
        DownstreamCxUpgradesActive = "downstream_cx_upgrades_active",
        DownstreamRqActive = "downstream_rq_active",
        ]
        histograms [
        DownstreamCxLengthMs = "downstream_cx_length_ms",
        DownstreamRqTime = "downstream_rq_time",
        ]
    }
}

table! {
    /// The codec of HTTP/1, all listeners: `http1.`
    Http1 / Http1Hist {
        counters [
        DroppedHeadersWithUnderscores = "dropped_headers_with_underscores",
        MetadataNotSupportedError = "metadata_not_supported_error",
        RequestsRejectedWithUnderscoresInHeaders = "requests_rejected_with_underscores_in_headers",
        ResponseFlood = "response_flood",
        ]
        gauges [
        ]
        histograms [
        ]
    }
}

table! {
    /// One listener: `listener.<address>.`
    Listener / ListenerHist {
        counters [
        DownstreamCxDestroy = "downstream_cx_destroy",
        DownstreamCxOverflow = "downstream_cx_overflow",
        DownstreamCxOverloadReject = "downstream_cx_overload_reject",
        DownstreamCxTotal = "downstream_cx_total",
        DownstreamCxTransportSocketConnectTimeout = "downstream_cx_transport_socket_connect_timeout",
        DownstreamGlobalCxOverflow = "downstream_global_cx_overflow",
        DownstreamListenerFilterError = "downstream_listener_filter_error",
        DownstreamListenerFilterRemoteClose = "downstream_listener_filter_remote_close",
        DownstreamPreCxTimeout = "downstream_pre_cx_timeout",
        ExtensionConfigMissing = "extension_config_missing",
        NetworkExtensionConfigMissing = "network_extension_config_missing",
        NoFilterChainMatch = "no_filter_chain_match",
        ]
        gauges [
        DownstreamCxActive = "downstream_cx_active",
        DownstreamPreCxActive = "downstream_pre_cx_active",
        ]
        histograms [
        ConnectionsAcceptedPerSocketEvent = "connections_accepted_per_socket_event",
        DownstreamCxLengthMs = "downstream_cx_length_ms",
        ]
    }
}

table! {
    /// One connection manager on one listener: `listener.<address>.http.<stat_prefix>.`
    ListenerHttp / ListenerHttpHist {
        counters [
        DownstreamRq1xx = "downstream_rq_1xx",
        DownstreamRq2xx = "downstream_rq_2xx",
        DownstreamRq3xx = "downstream_rq_3xx",
        DownstreamRq4xx = "downstream_rq_4xx",
        DownstreamRq5xx = "downstream_rq_5xx",
        DownstreamRqCompleted = "downstream_rq_completed",
        ]
        gauges [
        ]
        histograms [
        ]
    }
}

table! {
    /// One listener on one shard: `listener.<address>.worker_<n>.`
    Worker / WorkerHist {
        counters [
        DownstreamCxTotal = "downstream_cx_total",
        ]
        gauges [
        DownstreamCxActive = "downstream_cx_active",
        ]
        histograms [
        ]
    }
}

table! {
    /// The process: `server.`
    Server / ServerHist {
        counters [
        DebugAssertionFailures = "debug_assertion_failures",
        DroppedStatFlushes = "dropped_stat_flushes",
        DynamicUnknownFields = "dynamic_unknown_fields",
        EnvoyBugFailures = "envoy_bug_failures",
        EnvoyNotifications = "envoy_notifications",
        MainThreadWatchdogMegaMiss = "main_thread.watchdog_mega_miss",
        MainThreadWatchdogMiss = "main_thread.watchdog_miss",
        StaticUnknownFields = "static_unknown_fields",
        WipProtos = "wip_protos",
        Worker0WatchdogMegaMiss = "worker_0.watchdog_mega_miss",
        Worker0WatchdogMiss = "worker_0.watchdog_miss",
        ]
        gauges [
        CompilationSettingsFipsMode = "compilation_settings.fips_mode",
        Concurrency = "concurrency",
        DaysUntilFirstCertExpiring = "days_until_first_cert_expiring",
        HotRestartEpoch = "hot_restart_epoch",
        Live = "live",
        MemoryAllocated = "memory_allocated",
        MemoryHeapSize = "memory_heap_size",
        MemoryPhysicalSize = "memory_physical_size",
        ParentConnections = "parent_connections",
        SecondsUntilFirstOcspResponseExpiring = "seconds_until_first_ocsp_response_expiring",
        State = "state",
        StatsRecentLookups = "stats_recent_lookups",
        TotalConnections = "total_connections",
        Uptime = "uptime",
        Version = "version",
        ]
        histograms [
        InitializationTimeMs = "initialization_time_ms",
        ]
    }
}

table! {
    /// What only this proxy has, over all shards: `server.selvedge.`
    Shard / ShardHist {
        counters [
        AcceptPauses = "accept_pauses",
        AccessLogLinesDropped = "access_log_lines_dropped",
        LargeBuffersDry = "large_buffers_dry",
        Panics = "panics",
        RequestsShed = "requests_shed",
        ShardsLost = "shards_lost",
        SmallBuffersDry = "small_buffers_dry",
        ]
        gauges [
        BudgetUsed = "budget_used",
        LiveEpochs = "live_epochs",
        ShardsOnEpoll = "shards_on_epoll",
        ShardsOnIoUring = "shards_on_io_uring",
        ]
        histograms [
        ]
    }
}

table! {
    /// All clusters: `cluster_manager.`
    ClusterManager / ClusterManagerHist {
        counters [
        ClusterAdded = "cluster_added",
        ClusterModified = "cluster_modified",
        ClusterRemoved = "cluster_removed",
        ClusterUpdated = "cluster_updated",
        ClusterUpdatedViaMerge = "cluster_updated_via_merge",
        UpdateMergeCancelled = "update_merge_cancelled",
        UpdateOutOfMergeWindow = "update_out_of_merge_window",
        ]
        gauges [
        ActiveClusters = "active_clusters",
        WarmingClusters = "warming_clusters",
        ]
        histograms [
        ]
    }
}

table! {
    /// All listeners: `listener_manager.`
    ListenerManager / ListenerManagerHist {
        counters [
        ListenerAdded = "listener_added",
        ListenerCreateFailure = "listener_create_failure",
        ListenerCreateSuccess = "listener_create_success",
        ListenerInPlaceUpdated = "listener_in_place_updated",
        ListenerModified = "listener_modified",
        ListenerRemoved = "listener_removed",
        ListenerStopped = "listener_stopped",
        ]
        gauges [
        TotalFilterChainsDraining = "total_filter_chains_draining",
        TotalListenersActive = "total_listeners_active",
        TotalListenersDraining = "total_listeners_draining",
        TotalListenersWarming = "total_listeners_warming",
        WorkersPinned = "workers_pinned",
        WorkersStarted = "workers_started",
        ]
        histograms [
        ]
    }
}

table! {
    /// Log files: `filesystem.`
    Filesystem / FilesystemHist {
        counters [
        FlushedByTimer = "flushed_by_timer",
        ReopenFailed = "reopen_failed",
        WriteBuffered = "write_buffered",
        WriteCompleted = "write_completed",
        WriteFailed = "write_failed",
        ]
        gauges [
        WriteTotalBuffered = "write_total_buffered",
        ]
        histograms [
        ]
    }
}

table! {
    /// The runtime layers: `runtime.`
    Runtime / RuntimeHist {
        counters [
        DeprecatedFeatureUse = "deprecated_feature_use",
        LoadError = "load_error",
        LoadSuccess = "load_success",
        OverrideDirExists = "override_dir_exists",
        OverrideDirNotExists = "override_dir_not_exists",
        ]
        gauges [
        AdminOverridesActive = "admin_overrides_active",
        DeprecatedFeatureSeenSinceProcessStart = "deprecated_feature_seen_since_process_start",
        NumKeys = "num_keys",
        NumLayers = "num_layers",
        ]
        histograms [
        ]
    }
}

table! {
    /// What is there without an overload manager too.
    OverloadManager / OverloadManagerHist {
        counters [
        ResetHighMemoryStream = "envoy.overload_actions.reset_high_memory_stream.count",
        ]
        gauges [
        ]
        histograms [
        RefreshIntervalDelay = "overload.refresh_interval_delay",
        ]
    }
}

table! {
    /// One overload action: `overload.<action>.`
    OverloadAction / OverloadActionHist {
        counters [
        ]
        gauges [
        Active = "active",
        ScalePercent = "scale_percent",
        ]
        histograms [
        ]
    }
}

table! {
    /// One resource monitor: `overload.<resource>.`
    OverloadResource / OverloadResourceHist {
        counters [
        FailedUpdates = "failed_updates",
        SkippedUpdates = "skipped_updates",
        ]
        gauges [
        Pressure = "pressure",
        ]
        histograms [
        ]
    }
}

table! {
    /// The action that gives free memory back: `overload.envoy.overload_actions.shrink_heap.`
    ShrinkHeap / ShrinkHeapHist {
        counters [
        ShrinkCount = "shrink_count",
        ]
        gauges [
        ]
        histograms [
        ]
    }
}
