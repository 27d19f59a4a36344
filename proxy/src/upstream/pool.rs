//! Connections of one shard to one endpoint: idle ones to reuse, requests that wait, connects under way.
//!
//! Invariant: a connection is in use, idle here, or closed; an idle one keeps its receive armed, so a dead one is
//! found by the reaper at once and is never handed out. Requests are served in the order in which they came.
//! As in Envoy each priority has connections of its own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use selvedge_runtime::{
    ConnectOptions, Instant, Keepalive, Mutation, NetError, Rt, Socket, SocketAddress, TaskId,
};

use super::breaker::Limit;
use super::cluster::{ClusterTwin, Host};
use super::endpoint::EndpointStat;
use super::reaper::Token;
use crate::stats::names::{Cluster as Stat, ClusterHist};

/// Why no connection could be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolError {
    /// Breakers: too many requests wait, or run.
    PendingOverflow,
    RequestOverflow,
    ConnectFailed(NetError),
    ConnectTimeout,
    /// A bug of ours.
    Failed,
}

#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) idle: Vec<Idle>,
    waiting: VecDeque<Rc<Waiter>>,
    connecting: u32,
    /// Connections of this shard to this endpoint, in use or idle.
    open: u32,
}

#[derive(Debug)]
pub(super) struct Idle {
    pub(super) conn: UpstreamConn,
    pub(super) since: Instant,
}

impl Idle {
    /// Whether something has come to it: its end, or bytes that nobody asked for.
    pub(super) fn is_dead(&self) -> bool {
        self.conn.socket.has_event() && !self.conn.rt.planted(Mutation::DeadReuse)
    }

    /// Closes it for what has come to it: its end, or bytes that nobody asked for.
    pub(super) fn close(self) {
        match self.conn.socket.poll_recv() {
            //= envoy: data on an idle connection is a protocol error
            Poll::Ready(Ok(Some(_))) => self.conn.cluster.stats.inc(Stat::UpstreamCxProtocolError),
            Poll::Ready(_) => self.conn.ended_by_peer(),
            Poll::Pending => {}
        }
    }
}

#[derive(Debug)]
struct Waiter {
    answer: RefCell<Option<Result<UpstreamConn, PoolError>>>,
    task: Cell<Option<TaskId>>,
}

/// A connection to an endpoint, in use. Dropping it closes it.
#[derive(Debug)]
pub struct UpstreamConn {
    pub socket: Socket,
    pub host: Rc<Host>,
    pub cluster: Rc<ClusterTwin>,
    pub id: u64,
    /// Our own end, asked of the kernel once.
    pub local: Option<SocketAddress>,
    pub(super) priority: usize,
    pub(super) token: Token,
    /// Requests that it has carried, with the current one.
    pub requests: u32,
    pub(super) begun: Instant,
    /// How it ends, for the counters; ours unless told otherwise.
    by_peer: Cell<bool>,
    in_use: Cell<bool>,
    rt: Rt,
}

impl UpstreamConn {
    /// Its last request has ended well: it closes at rest.
    pub fn retire(self) {
        self.in_use.set(false);
    }

    /// The peer ended it: what follows is its doing.
    pub fn ended_by_peer(&self) {
        self.by_peer.set(true);
    }
}

impl Drop for UpstreamConn {
    fn drop(&mut self) {
        let stats = &self.cluster.stats;
        let (by_peer, active) = (self.by_peer.get(), self.in_use.get());
        stats.dec(Stat::UpstreamCxActive);
        stats.inc(Stat::UpstreamCxDestroy);
        stats.inc(if by_peer { Stat::UpstreamCxDestroyRemote } else { Stat::UpstreamCxDestroyLocal });
        if active {
            stats.inc(Stat::UpstreamCxDestroyWithActiveRq);
            stats.inc(if by_peer {
                Stat::UpstreamCxDestroyRemoteWithActiveRq
            } else {
                Stat::UpstreamCxDestroyLocalWithActiveRq
            });
        }
        stats.record(ClusterHist::UpstreamCxLengthMs, self.rt.now().millis_since(self.begun));
        stats.record(ClusterHist::UpstreamRqPerCx, u64::from(self.requests));
        self.host.dec(EndpointStat::CxActive);
        self.cluster.leave(self.priority, Limit::Connections);
        self.cluster.reaper.leave(self.token);
        let starved = {
            let mut pool = self.host.pools[self.priority].borrow_mut();
            pool.open -= 1;
            pool.waiting.len() > pool.connecting as usize
        };
        if starved {
            // Its place under the limit goes to whoever waits.
            try_connect(&self.rt, &self.cluster, &self.host, self.priority);
        }
    }
}

/// An idle connection, if a live one is there. Neither waits nor allocates.
pub fn try_take(host: &Rc<Host>, priority: usize) -> Option<UpstreamConn> {
    loop {
        // envoy: the connection that was used last is used first
        let idle = host.pools[priority].borrow_mut().idle.pop()?;
        if idle.is_dead() {
            idle.close();
            continue;
        }
        let mut conn = idle.conn;
        conn.rt.pass("pool take");
        conn.requests += 1;
        conn.in_use.set(true);
        return Some(conn);
    }
}

/// Lets a request use its connection, unless too many run.
//= envoy: counted when a request meets its connection, which then stays idle
pub fn admit(mut conn: UpstreamConn) -> Result<UpstreamConn, PoolError> {
    if conn.cluster.allows(conn.priority, Limit::Requests) {
        return Ok(conn);
    }
    conn.cluster.stats.inc(Stat::UpstreamRqActiveOverflow);
    conn.requests -= 1;
    give(conn);
    Err(PoolError::RequestOverflow)
}

/// A connection for one request: an idle one, else one that comes back or is made.
pub async fn take(
    rt: &Rt,
    cluster: &Rc<ClusterTwin>,
    host: &Rc<Host>,
    priority: usize,
) -> Result<UpstreamConn, PoolError> {
    if let Some(conn) = try_take(host, priority) {
        return Ok(conn);
    }
    if !cluster.allows(priority, Limit::Pending) {
        cluster.stats.inc(Stat::UpstreamRqPendingOverflow);
        return Err(PoolError::PendingOverflow);
    }
    let pending = Pending::new(cluster, host, priority);
    rt.pass("pool wait");
    try_connect(rt, cluster, host, priority);
    poll_fn(|_| pending.poll(rt)).await
}

/// A request that waits; dropping it leaves the queue.
struct Pending<'a> {
    cluster: &'a Rc<ClusterTwin>,
    host: &'a Rc<Host>,
    waiter: Rc<Waiter>,
    priority: usize,
    done: Cell<bool>,
}

impl<'a> Pending<'a> {
    fn new(cluster: &'a Rc<ClusterTwin>, host: &'a Rc<Host>, priority: usize) -> Pending<'a> {
        let waiter = Rc::new(Waiter { answer: RefCell::new(None), task: Cell::new(None) });
        host.pools[priority].borrow_mut().waiting.push_back(Rc::clone(&waiter));
        cluster.stats.inc(Stat::UpstreamRqPendingTotal);
        cluster.stats.inc(Stat::UpstreamRqPendingActive);
        cluster.enter(priority, Limit::Pending);
        Pending { cluster, host, waiter, priority, done: Cell::new(false) }
    }

    fn poll(&self, rt: &Rt) -> Poll<Result<UpstreamConn, PoolError>> {
        match self.waiter.answer.borrow_mut().take() {
            Some(answer) => {
                self.done.set(true);
                Poll::Ready(answer)
            }
            None => {
                self.waiter.task.set(Some(rt.current_task()));
                Poll::Pending
            }
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.cluster.stats.dec(Stat::UpstreamRqPendingActive);
        self.cluster.leave(self.priority, Limit::Pending);
        if !self.done.get() {
            self.cluster.stats.inc(Stat::UpstreamRqCancelled);
            self.host.pools[self.priority].borrow_mut().waiting.retain(|w| !Rc::ptr_eq(w, &self.waiter));
            if let Some(Ok(conn)) = self.waiter.answer.borrow_mut().take() {
                give(conn);
            }
        }
    }
}

/// Connects, unless the limit has no room.
fn try_connect(rt: &Rt, cluster: &Rc<ClusterTwin>, host: &Rc<Host>, priority: usize) {
    if !cluster.allows(priority, Limit::Connections) {
        cluster.stats.inc(Stat::UpstreamCxOverflow);
        let pool = host.pools[priority].borrow();
        //= envoy: a pool without any connection makes one, lest its requests wait for ever
        if pool.open > 0 || pool.connecting > 0 {
            return;
        }
    }
    start_connect(rt, cluster, host, priority);
}

/// Connects in a task of its own: the connection goes to whoever waits longest, or becomes idle.
fn start_connect(rt: &Rt, cluster: &Rc<ClusterTwin>, host: &Rc<Host>, priority: usize) {
    host.pools[priority].borrow_mut().connecting += 1;
    cluster.stats.inc(Stat::UpstreamCxTotal);
    cluster.stats.inc(Stat::UpstreamCxActive);
    cluster.stats.inc(Stat::UpstreamCxHttp1Total);
    host.inc(EndpointStat::CxTotal);
    host.inc(EndpointStat::CxActive);
    cluster.enter(priority, Limit::Connections);
    let (rt, cluster, host) = (rt.clone(), Rc::clone(cluster), Rc::clone(host));
    let begun = rt.now();
    let attempt = Attempt { rt: rt.clone(), cluster, host, priority, begun, error: Some(PoolError::Failed) };
    rt.spawn(async move {
        match connect(&attempt.rt, &attempt.cluster, &attempt.host).await {
            Ok(socket) => attempt.succeeded(socket),
            Err(error) => attempt.failed(error),
        }
    });
}

/// A connect under way: whatever becomes of it, its place is given back, and who waits for it learns of its end.
struct Attempt {
    rt: Rt,
    cluster: Rc<ClusterTwin>,
    host: Rc<Host>,
    priority: usize,
    begun: Instant,
    /// How it ends; `None`: well. A failure of ours unless told otherwise.
    error: Option<PoolError>,
}

impl Attempt {
    fn failed(mut self, error: PoolError) {
        self.error = Some(error);
    }

    fn succeeded(mut self, socket: Socket) {
        self.rt.pass("pool connect");
        let (rt, begun, priority) = (self.rt.clone(), self.begun, self.priority);
        let (cluster, host) = (Rc::clone(&self.cluster), Rc::clone(&self.host));
        cluster.stats.record(ClusterHist::UpstreamCxConnectMs, rt.now().millis_since(begun));
        let token = cluster.reaper.enter(&cluster, &host, priority, begun, &rt);
        let id = cluster.next_connection.get();
        cluster.next_connection.set(id + 1);
        let conn = UpstreamConn {
            local: socket.local_addr(),
            socket,
            host,
            cluster,
            id,
            priority,
            token,
            requests: 0,
            begun,
            by_peer: Cell::new(false),
            in_use: Cell::new(false),
            rt,
        };
        self.error = None;
        conn.host.pools[priority].borrow_mut().open += 1;
        drop(self);
        give(conn);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.host.pools[self.priority].borrow_mut().connecting -= 1;
        if let Some(error) = self.error {
            let lived_ms = self.rt.now().millis_since(self.begun);
            connect_failed(&self.cluster, &self.host, self.priority, error, lived_ms, &self.rt);
        }
    }
}

async fn connect(rt: &Rt, cluster: &ClusterTwin, host: &Host) -> Result<Socket, PoolError> {
    let config = cluster.config();
    let seconds = |n: u32| std::time::Duration::from_secs(n.into());
    let options = ConnectOptions {
        source: config.source_address.as_ref().and_then(|a| match a {
            SocketAddress::Ip(a) => Some(*a),
            SocketAddress::Unix(_) => None,
        }),
        keepalive: config.tcp_keepalive.map(|k| Keepalive {
            probes: k.probes,
            idle: k.time_s.map(seconds),
            interval: k.interval_s.map(seconds),
        }),
    };
    let mut attempt = rt.connect(&host.shared.address, &options);
    let mut timeout = rt.sleep(config.connect_timeout);
    poll_fn(|_| {
        if let Poll::Ready(result) = attempt.poll() {
            return Poll::Ready(result.map_err(PoolError::ConnectFailed));
        }
        timeout.poll_due().map(|()| Err(PoolError::ConnectTimeout))
    })
    .await
}

/// Everybody who waits for this endpoint learns of the failure.
fn connect_failed(
    cluster: &ClusterTwin,
    host: &Host,
    priority: usize,
    error: PoolError,
    lived_ms: u64,
    rt: &Rt,
) {
    let stats = &cluster.stats;
    stats.inc(Stat::UpstreamCxConnectFail);
    if error == PoolError::ConnectTimeout {
        stats.inc(Stat::UpstreamCxConnectTimeout);
    }
    let by_peer = matches!(error, PoolError::ConnectFailed(_));
    stats.inc(if by_peer { Stat::UpstreamCxDestroyRemote } else { Stat::UpstreamCxDestroyLocal });
    stats.inc(Stat::UpstreamCxDestroy);
    stats.dec(Stat::UpstreamCxActive);
    stats.record(ClusterHist::UpstreamCxLengthMs, lived_ms);
    host.inc(EndpointStat::CxConnectFail);
    host.dec(EndpointStat::CxActive);
    cluster.leave(priority, Limit::Connections);
    let waiting = std::mem::take(&mut host.pools[priority].borrow_mut().waiting);
    for waiter in waiting {
        stats.inc(Stat::UpstreamRqPendingFailureEject);
        waiter.give(Err(error), rt);
    }
}

impl Waiter {
    fn give(&self, answer: Result<UpstreamConn, PoolError>, rt: &Rt) {
        *self.answer.borrow_mut() = Some(answer);
        if let Some(task) = self.task.get() {
            rt.wake(task);
        }
    }
}

/// Takes a connection back after a request that ended cleanly: the longest waiter gets it, or it becomes idle.
pub fn give(mut conn: UpstreamConn) {
    conn.rt.pass("pool give");
    let config = conn.cluster.config();
    let limit = config.max_requests_per_connection;
    if limit > 0 && conn.requests >= limit {
        conn.in_use.set(false);
        conn.cluster.stats.inc(Stat::UpstreamCxMaxRequests);
        return;
    }
    let now = conn.rt.now();
    if config.max_connection_duration.is_some_and(|max| now.since(conn.begun) >= max) {
        conn.in_use.set(false);
        conn.cluster.stats.inc(Stat::UpstreamCxMaxDurationReached);
        return;
    }
    if conn.socket.has_event() {
        conn.in_use.set(false);
        return;
    }
    let host = Rc::clone(&conn.host);
    let pool = &host.pools[conn.priority];
    let waiter = pool.borrow_mut().waiting.pop_front();
    if let Some(waiter) = waiter {
        conn.requests += 1;
        conn.in_use.set(true);
        let rt = conn.rt.clone();
        waiter.give(Ok(conn), &rt);
        return;
    }
    conn.in_use.set(false);
    // An endpoint that is gone serves who waits for it, and keeps nothing.
    if host.removed.get() {
        return;
    }
    conn.cluster.reaper.watch(&conn);
    pool.borrow_mut().idle.push(Idle { conn, since: now });
}

/// Closes the idle connections of a host that is gone.
pub(super) fn close_idle(host: &Host) {
    for pool in &host.pools {
        let idle = std::mem::take(&mut pool.borrow_mut().idle);
        drop(idle);
    }
}
