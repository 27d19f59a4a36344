//! Finds idle connections that died or grew old. One task a shard.
//!
//! It is told which connection something has come to, and keeps their ages in order: a turn costs what changed, not
//! what there is. Invariant: a connection has one entry from its making to its end, and at most one timer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use selvedge_runtime::{Instant, Rt, TaskId};

use super::cluster::{ClusterTwin, Host};
use super::pool::{Idle, UpstreamConn};
use crate::config::cluster::Cluster as ClusterConfig;
use crate::stats::names::Cluster as Stat;

/// The number of a connection's entry.
pub(super) type Token = u32;

#[derive(Debug, Default)]
pub struct Reaper {
    task: Cell<Option<TaskId>>,
    entries: RefCell<Vec<Option<Entry>>>,
    free: RefCell<Vec<Token>>,
    timers: RefCell<BTreeSet<(Instant, Token)>>,
}

#[derive(Debug)]
struct Entry {
    host: Rc<Host>,
    cluster: Rc<ClusterTwin>,
    priority: usize,
    begun: Instant,
    due: Instant,
}

impl Entry {
    /// Takes the connection out of its pool, if it is idle and `which` says so.
    fn take(&self, token: Token, which: impl Fn(&Idle) -> bool) -> Option<Idle> {
        let mut pool = self.host.pools[self.priority].borrow_mut();
        let at = pool.idle.iter().position(|idle| idle.conn.token == token)?;
        which(&pool.idle[at]).then(|| pool.idle.remove(at))
    }

    fn idle_since(&self, token: Token) -> Option<Instant> {
        let pool = self.host.pools[self.priority].borrow();
        pool.idle.iter().find(|idle| idle.conn.token == token).map(|idle| idle.since)
    }
}

/// When a connection that is idle since then is to be looked at.
fn due(config: &ClusterConfig, begun: Instant, idle_since: Instant) -> Instant {
    let after = |from: Instant, limit: Option<std::time::Duration>| limit.map_or(Instant::FAR, |d| from + d);
    after(begun, config.max_connection_duration).min(after(idle_since, config.idle_timeout))
}

impl Reaper {
    /// A new connection.
    pub(super) fn enter(
        &self,
        cluster: &Rc<ClusterTwin>,
        host: &Rc<Host>,
        priority: usize,
        begun: Instant,
        rt: &Rt,
    ) -> Token {
        let due = due(cluster.config(), begun, rt.now());
        let entry = Entry { host: Rc::clone(host), cluster: Rc::clone(cluster), priority, begun, due };
        let mut entries = self.entries.borrow_mut();
        let token = match self.free.borrow_mut().pop() {
            Some(token) => token,
            None => {
                entries.push(None);
                Token::try_from(entries.len() - 1).expect("fewer than 2^32 connections")
            }
        };
        entries[token as usize] = Some(entry);
        self.arm(token, due);
        let first = self.timers.borrow().first() == Some(&(due, token));
        if first && let Some(task) = self.task.get() {
            rt.wake(task);
        }
        token
    }

    /// Its end.
    pub(super) fn leave(&self, token: Token) {
        let entry = self.entries.borrow_mut()[token as usize].take();
        if let Some(entry) = &entry {
            self.timers.borrow_mut().remove(&(entry.due, token));
            self.free.borrow_mut().push(token);
        }
        drop(entry);
    }

    /// It is idle: what comes to it now wakes the reaper.
    pub(super) fn watch(&self, conn: &UpstreamConn) {
        if let Some(task) = self.task.get() {
            conn.socket.watch_for(task, conn.token);
        }
    }

    fn arm(&self, token: Token, due: Instant) {
        if due != Instant::FAR {
            self.timers.borrow_mut().insert((due, token));
        }
    }

    /// Starts the task.
    pub fn start(self: &Rc<Reaper>, rt: &Rt) {
        let (reaper, rt_task) = (Rc::clone(self), rt.clone());
        let task = rt.spawn(async move {
            let mut sleep = rt_task.sleep_until(Instant::FAR);
            let mut noted = Vec::new();
            poll_fn(|_| {
                rt_task.take_noted(&mut noted);
                for token in noted.drain(..) {
                    rt_task.contain(|| reaper.look_at(token));
                }
                // Where looking fails it is not tried again and again: the next change of a connection is one more chance.
                let next = rt_task.contain(|| reaper.sweep(rt_task.now()));
                sleep.reset(next.unwrap_or(Instant::FAR));
                let _wakes_this_task = sleep.poll_due();
                Poll::<()>::Pending
            })
            .await;
        });
        self.task.set(Some(task));
    }

    /// Something has come to a connection that was idle.
    fn look_at(&self, token: Token) {
        let gone = {
            let entries = self.entries.borrow();
            let Some(Some(entry)) = entries.get(token as usize) else { return };
            entry.cluster.pass("reaper");
            entry.take(token, |idle| {
                let dead = idle.is_dead();
                if !dead {
                    // The receive was switched to other buffers: it is armed anew.
                    self.watch(&idle.conn);
                }
                dead
            })
        };
        if let Some(idle) = gone {
            idle.close();
        }
    }

    /// Closes what is too old; the answer is when the next grows too old.
    fn sweep(&self, now: Instant) -> Instant {
        loop {
            let first = self.timers.borrow().first().copied();
            let Some((at, token)) = first else { return Instant::FAR };
            if at > now {
                return at;
            }
            self.timers.borrow_mut().remove(&(at, token));
            drop(self.ripe(token, now));
        }
    }

    /// A timer has gone off. The answer is the connection, when its time is over.
    fn ripe(&self, token: Token, now: Instant) -> Option<Idle> {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.get_mut(token as usize)?.as_mut()?;
        let config = entry.cluster.config();
        let aged = config.max_connection_duration.is_some_and(|most| entry.begun + most <= now);
        let since = entry.idle_since(token);
        // In use it is idle from now on at the earliest; that it is too old is seen when it comes back.
        let begun = if since.is_none() && aged { now } else { entry.begun };
        entry.due = due(config, begun, since.unwrap_or(now));
        if entry.due > now || since.is_none() {
            self.arm(token, entry.due);
            return None;
        }
        let stat = if aged { Stat::UpstreamCxMaxDurationReached } else { Stat::UpstreamCxIdleTimeout };
        entry.cluster.stats.inc(stat);
        entry.take(token, |_| true)
    }
}
