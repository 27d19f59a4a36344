//! Connections of one shard to one endpoint: idle ones to reuse, requests that wait, connects under way.
//!
//! Invariant: a connection is in use, idle here, or closed; an idle one keeps its receive armed, so a dead one is
//! found by the reaper at once and is never handed out. Requests are served in the order in which they came.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::Poll;

use selvedge_runtime::{
    ConnectOptions, Instant, Keepalive, NetError, RecvClass, Rt, Socket, SocketAddress, TaskId,
};

use super::breaker::Limit;
use super::cluster::{ClusterTwin, Host, bump, drop_one};
use crate::stats::names::{Cluster as Stat, ClusterHist};

/// Why no connection could be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolError {
    /// Breakers: too many requests wait, or run.
    PendingOverflow,
    RequestOverflow,
    ConnectFailed(NetError),
    ConnectTimeout,
}

#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Vec<Idle>,
    waiting: VecDeque<Rc<Waiter>>,
    connecting: u32,
    /// Connections of this shard to this endpoint, in use or idle.
    open: u32,
}

#[derive(Debug)]
struct Idle {
    conn: UpstreamConn,
    since: Instant,
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
    /// Requests that it has carried, with the current one.
    pub requests: u32,
    begun: Instant,
    /// How it ends, for the counters; ours unless told otherwise.
    by_peer: Cell<bool>,
    in_use: Cell<bool>,
    rt: Rt,
}

impl UpstreamConn {
    /// Whether another request has used it before: its peer may have closed it unseen.
    pub fn reused(&self) -> bool {
        self.requests > 1
    }

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
        drop_one(&self.host.stats.cx_active);
        self.cluster.shared.breakers[0].dec(Limit::Connections);
        let starved = {
            let mut pool = self.host.pool.borrow_mut();
            pool.open -= 1;
            !pool.waiting.is_empty() && pool.connecting == 0
        };
        if starved {
            // Its place under the limit goes to whoever waits.
            start_connect(&self.rt, &self.cluster, &self.host);
        }
    }
}

/// An idle connection, if a live one is there. Neither waits nor allocates.
pub fn try_take(host: &Rc<Host>) -> Option<UpstreamConn> {
    loop {
        let mut pool = host.pool.borrow_mut();
        // envoy: the connection that was used last is used first
        let idle = pool.idle.pop()?;
        drop(pool);
        if idle.conn.socket.has_event() {
            idle.conn.ended_by_peer();
            continue;
        }
        let mut conn = idle.conn;
        conn.requests += 1;
        conn.in_use.set(true);
        return Some(conn);
    }
}

/// Lets a request use its connection, unless too many run.
//= envoy: counted when a request meets its connection, which then stays idle
pub fn admit(mut conn: UpstreamConn, priority: usize) -> Result<UpstreamConn, PoolError> {
    let cluster = &conn.cluster;
    let (breaker, bounds) = (&cluster.shared.breakers[priority], &cluster.config().breakers[priority]);
    if breaker.allows(bounds, Limit::Requests) {
        return Ok(conn);
    }
    cluster.stats.inc(Stat::UpstreamRqActiveOverflow);
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
    if let Some(conn) = try_take(host) {
        return Ok(conn);
    }
    let (breaker, bounds) = (&cluster.shared.breakers[priority], &cluster.config().breakers[priority]);
    if !breaker.allows(bounds, Limit::Pending) {
        cluster.stats.inc(Stat::UpstreamRqPendingOverflow);
        return Err(PoolError::PendingOverflow);
    }
    let pending = Pending::new(cluster, host, priority);
    let connections = &cluster.shared.breakers[0];
    let alone = {
        let pool = host.pool.borrow();
        pool.open == 0 && pool.connecting == 0
    };
    if connections.allows(&cluster.config().breakers[priority], Limit::Connections) || alone {
        start_connect(rt, cluster, host);
    } else {
        cluster.stats.inc(Stat::UpstreamCxOverflow);
    }
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
        host.pool.borrow_mut().waiting.push_back(Rc::clone(&waiter));
        cluster.stats.inc(Stat::UpstreamRqPendingTotal);
        cluster.stats.inc(Stat::UpstreamRqPendingActive);
        cluster.shared.breakers[priority].inc(Limit::Pending);
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
        self.cluster.shared.breakers[self.priority].dec(Limit::Pending);
        if !self.done.get() {
            self.cluster.stats.inc(Stat::UpstreamRqCancelled);
            self.host.pool.borrow_mut().waiting.retain(|w| !Rc::ptr_eq(w, &self.waiter));
            if let Some(Ok(conn)) = self.waiter.answer.borrow_mut().take() {
                give(conn);
            }
        }
    }
}

/// Connects in a task of its own: the connection goes to whoever waits longest, or becomes idle.
fn start_connect(rt: &Rt, cluster: &Rc<ClusterTwin>, host: &Rc<Host>) {
    host.pool.borrow_mut().connecting += 1;
    cluster.stats.inc(Stat::UpstreamCxTotal);
    cluster.stats.inc(Stat::UpstreamCxActive);
    cluster.stats.inc(Stat::UpstreamCxHttp1Total);
    bump(&host.stats.cx_total);
    bump(&host.stats.cx_active);
    cluster.shared.breakers[0].inc(Limit::Connections);
    let (rt_task, cluster, host) = (rt.clone(), Rc::clone(cluster), Rc::clone(host));
    rt.spawn(async move {
        let begun = rt_task.now();
        let result = connect(&rt_task, &cluster, &host).await;
        host.pool.borrow_mut().connecting -= 1;
        match result {
            Ok(socket) => {
                cluster.stats.record(ClusterHist::UpstreamCxConnectMs, rt_task.now().millis_since(begun));
                host.pool.borrow_mut().open += 1;
                let id = cluster.next_connection.get();
                cluster.next_connection.set(id + 1);
                give(UpstreamConn {
                    local: socket.local_addr(),
                    socket,
                    host,
                    cluster,
                    id,
                    requests: 0,
                    begun,
                    by_peer: Cell::new(false),
                    in_use: Cell::new(false),
                    rt: rt_task,
                });
            }
            Err(error) => connect_failed(&cluster, &host, error, rt_task.now().millis_since(begun), &rt_task),
        }
    });
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
fn connect_failed(cluster: &ClusterTwin, host: &Host, error: PoolError, lived_ms: u64, rt: &Rt) {
    let stats = &cluster.stats;
    stats.inc(Stat::UpstreamCxConnectFail);
    if error == PoolError::ConnectTimeout {
        stats.inc(Stat::UpstreamCxConnectTimeout);
        stats.inc(Stat::UpstreamCxDestroyLocal);
    } else {
        stats.inc(Stat::UpstreamCxDestroyRemote);
    }
    stats.inc(Stat::UpstreamCxDestroy);
    stats.dec(Stat::UpstreamCxActive);
    stats.record(ClusterHist::UpstreamCxLengthMs, lived_ms);
    bump(&host.stats.cx_connect_fail);
    drop_one(&host.stats.cx_active);
    cluster.shared.breakers[0].dec(Limit::Connections);
    let waiting = std::mem::take(&mut host.pool.borrow_mut().waiting);
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
    if conn.host.removed.get() || conn.socket.has_event() {
        conn.in_use.set(false);
        return;
    }
    let host = Rc::clone(&conn.host);
    let waiter = host.pool.borrow_mut().waiting.pop_front();
    if let Some(waiter) = waiter {
        conn.requests += 1;
        conn.in_use.set(true);
        let rt = conn.rt.clone();
        waiter.give(Ok(conn), &rt);
        return;
    }
    conn.in_use.set(false);
    conn.socket.set_recv_class(RecvClass::Small);
    let reaper = Rc::clone(&conn.cluster.reaper);
    reaper.watch(&conn);
    host.pool.borrow_mut().idle.push(Idle { conn, since: now });
}

/// Closes the idle connections of a host that is gone.
pub(super) fn close_idle(_cluster: &ClusterTwin, host: &Host) {
    let idle = std::mem::take(&mut host.pool.borrow_mut().idle);
    drop(idle);
}

/// Finds idle connections that died or grew old. One task a shard.
#[derive(Debug, Default)]
pub struct Reaper {
    task: Cell<Option<TaskId>>,
    clusters: RefCell<Vec<Weak<ClusterTwin>>>,
}

impl Reaper {
    fn watch(&self, conn: &UpstreamConn) {
        if let Some(task) = self.task.get() {
            conn.socket.watch_for(task);
        }
    }

    /// Starts the task for these clusters.
    pub fn start(self: &Rc<Reaper>, rt: &Rt, clusters: &super::cluster::ClusterSet) {
        *self.clusters.borrow_mut() = clusters.iter().map(Rc::downgrade).collect();
        let (reaper, rt_task) = (Rc::clone(self), rt.clone());
        let task = rt.spawn(async move {
            let mut sleep = rt_task.sleep_until(Instant::FAR);
            poll_fn(|_| {
                let next = reaper.sweep(rt_task.now());
                sleep.reset(next);
                let _wakes_this_task = sleep.poll_due();
                Poll::<()>::Pending
            })
            .await;
        });
        self.task.set(Some(task));
    }

    /// Closes what is dead or too old; the answer is when the next grows too old.
    fn sweep(&self, now: Instant) -> Instant {
        let mut next = Instant::FAR;
        for cluster in self.clusters.borrow().iter().filter_map(Weak::upgrade) {
            let timeout = cluster.config().idle_timeout;
            for host in cluster.hosts.borrow().iter() {
                let mut pool = host.pool.borrow_mut();
                let mut closed = Vec::new();
                let mut at = 0;
                while at < pool.idle.len() {
                    let idle = &pool.idle[at];
                    let expires = timeout.map_or(Instant::FAR, |t| idle.since + t);
                    if idle.conn.socket.has_event() {
                        idle.conn.ended_by_peer();
                        closed.push(pool.idle.remove(at));
                    } else if expires <= now {
                        cluster.stats.inc(Stat::UpstreamCxIdleTimeout);
                        closed.push(pool.idle.remove(at));
                    } else {
                        next = next.min(expires);
                        at += 1;
                    }
                }
                drop(pool);
                drop(closed);
            }
        }
        next
    }
}
