//! Every bound of the data path, derived.

/// A shard's log buffer is handed over at this size: big writes, little delay. envoy: --file-flush-min-size-kb 64
pub const LOG_BUFFER_BYTES: usize = 64 * 1024;
/// What `--file-flush-min-size-kb` may ask for at most: queued buffers must not become gigabytes.
pub const LOG_BUFFER_KB_MAX: u32 = 1024;
/// Room kept beyond it for the line that crosses it.
pub const LOG_LINE_BYTES: usize = 4 * 1024;
/// Buffers that wait for the writer thread: 64 MiB of lines at most.
/// stat: `server.selvedge.access_log_lines_dropped`
pub const LOG_BUFFERS_QUEUED: usize = 1024;
/// Letters to one shard that it has not read, besides those of control: one says that something has changed, and the
/// next is due when it was read.
pub const SHARD_LETTERS: usize = 1;
/// Shortest time between two rounds of the overload manager: each reads files, and a shorter one would keep a core busy.
/// envoy: none
pub const OVERLOAD_REFRESH_MIN: std::time::Duration = std::time::Duration::from_millis(10);
/// Bytes of a file that a resource monitor reads: a number, or the first lines of one of the kernel's tables.
/// stat: `overload.<resource>.failed_updates`
pub const MONITOR_BYTES: u64 = 64 * 1024;
/// Bytes that the process may take for itself after its start: threads' stacks, the allocator's spare pages, admin
/// answers, log lines that wait (of which 64 MiB may, where the writer lags for long: they are dropped before that hurts).
/// envoy: none
pub const OWN_GROWTH_BYTES: u64 = 24 * 1024 * 1024;
/// One part in so many of the memory limit is the kernel's, which charges sockets to the same group. envoy: none
pub const KERNEL_SHARE: u64 = 4;
/// Bytes of a connection with a request, besides buffers: task, socket entry, stream, heads, its upstream connection.
/// Half of what the limit leaves, divided by it, bounds the connections. envoy: none.
/// stat: `listener.<address>.downstream_global_cx_overflow`
pub const CONNECTION_BYTES: u64 = 8 * 1024;
/// How long a connection has waited for a request before `close_idle_http_connections` takes it: a client that is
/// about to ask has asked by then.
pub const CLOSE_IDLE_AFTER: std::time::Duration = std::time::Duration::from_secs(5);
/// How often it is looked whether old epochs of the configuration are held by nobody any more, while there are any.
pub const EPOCHS_SWEPT_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
/// How old the runtime's own numbers may be in the stats.
pub const RUNTIME_STATS_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
/// How often a shard that is leaving looks whether its last connection has gone.
pub const LEAVING_LOOKS_EVERY: std::time::Duration = std::time::Duration::from_millis(50);
/// Receives of a shard in that time from which it is busy. When that ends, memory that it took goes back to the system.
pub const BUSY_RECVS: u64 = 100;
/// Bytes on their way to one side of a stream beyond those that the kernel is sending: two large buffers.
pub const PUMP_BYTES: usize = 128 * 1024;
/// A body of at least this length is read in large buffers, and so is what follows it on its connection until a
/// shorter one comes: a switch costs a cancelled receive, and small buffers that are filled meanwhile.
pub const LARGE_BODY_BYTES: u64 = 32 * 1024;
/// Interim responses before the final one: nobody needs more than a few, and each costs the reading of a head.
/// envoy: none. stat: `cluster.<name>.upstream_cx_protocol_error`
pub const INTERIM_RESPONSES: u32 = 32;
/// Bytes of a body that one filter holds while it looks. envoy: per_connection_buffer_limit_bytes, 1 MiB
pub const FILTER_HOLD_BYTES: usize = 1 << 20;
/// Downstream clusters with fault statistics of their own: clients name them; the others share one name.
/// envoy: none. stat: `http.<stat_prefix>.fault.overflow.delays_injected` and `aborts_injected`
pub const FAULT_DOWNSTREAM_CLUSTERS: usize = 1024;
/// Filters of one chain: the longest that are known in the wild have 30.
pub const FILTERS_PER_CHAIN: usize = 128;
/// Questions and pauses of one stream: one for each filter and way would be many (a guard against a loop).
pub const CALLS_PER_STREAM: u32 = 1024;
/// Bytes of the answer to a filter's question: a reason for a refusal is short. stat: `ext_authz.error`
pub const SIDE_CALL_BYTES: usize = 1 << 20;

/// Depth of a configuration's tree: Envoy's own configurations stay below 40.
pub const CONFIG_DEPTH: usize = 100;
/// Values that a YAML file may expand to through its aliases, unless the file itself is larger.
pub const CONFIG_EXPANSION: usize = 4 * 1024 * 1024;
/// Bytes of a configuration that are read before a source without end is refused: 100,000 clusters with their routes
/// are about 100 MB of YAML.
pub const CONFIG_BYTES: u64 = 256 * 1024 * 1024;
/// Faults of a configuration that are told at once: more than a screen is not read.
pub const CONFIG_FAULTS_TOLD: usize = 20;

/// Shards of a process: more than any machine has cores; each costs a thread and its buffers.
pub const SHARDS: u32 = 4096;
/// Longest time that a shard may look for work before it sleeps, in microseconds: beyond it sleeping costs nothing.
pub const SPIN_US: u32 = 100_000;

/// Connections that the admin server serves at once: scrapers, probes and a few people. envoy: none
pub const ADMIN_CONNECTIONS: usize = 128;
/// Bytes of an admin request's head. envoy: 60 KiB of headers; a filter of stats fits many times.
pub const ADMIN_HEAD_BYTES: usize = 64 * 1024;
/// Bytes of an admin request's body that are read: a form of `/runtime_modify`.
pub const ADMIN_BODY_BYTES: usize = 64 * 1024;
/// Longest pattern that `filter` and its kind may be compiled to.
pub const ADMIN_REGEX_BYTES: usize = 1 << 20;
/// Seconds that an admin client may take for one head, and for taking a response.
pub const ADMIN_PATIENCE_S: u64 = 60;
