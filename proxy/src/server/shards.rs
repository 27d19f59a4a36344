//! The threads of the shards.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "control thread")]

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};
use selvedge_runtime::{Config, DriverKind, DriverReport, MailSender, Rt, Runtime, Strain, cpu};
use tokio::sync::mpsc::UnboundedSender;

use super::Bound;
use super::control::Core;
use super::machine::Input;
use crate::limits;
use crate::shard::{self, Changes, Letter, Parts};
use crate::stats::block::Block;
use crate::stats::names::Shard as Stat;
use crate::stats::scope::ScopeName;

/// A running shard, as the control thread knows it.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) letters: MailSender<Letter>,
    pub(super) driver: DriverReport,
    pub(super) thread: JoinHandle<()>,
}

impl Shard {
    /// Waits until the shard has ended.
    pub(super) fn join(self) {
        if self.thread.join().is_err() {
            crate::log::critical("main", "a shard ended in a panic");
        }
    }
}

/// Tells the control thread that a shard's thread has ended, whatever it ended of.
struct Ended(usize, UnboundedSender<Input>);

impl Drop for Ended {
    fn drop(&mut self) {
        let _the_process_ends_too = self.1.send(Input::ShardEnded(self.0));
    }
}

/// Starts all shards; each owns its sockets from here on. `changes` gives what each shall look at.
pub(super) fn start(
    core: &Arc<Core>,
    bound: Vec<Bound>,
    changes: impl Fn(usize) -> Arc<Changes>,
    ended: &UnboundedSender<Input>,
) -> Result<Vec<Shard>, String> {
    let count = core.process.shards;
    let mut sockets: Vec<Vec<(usize, OwnedFd)>> = (0..count).map(|_| Vec::new()).collect();
    for (listener, bound) in bound.into_iter().enumerate() {
        for (shard, own) in bound.sockets.into_iter().enumerate() {
            sockets[shard].extend(own.into_iter().map(|fd| (listener, fd)));
        }
    }
    // Only a process that has the machine to itself stays on its cores: many small ones would meet on the first.
    let cores = Some(cpu::allowed_cores()).filter(|cores| cores.len() == count && count > 1);
    let mut shards = Vec::new();
    for (number, sockets) in sockets.into_iter().enumerate() {
        let options = &core.plan.options;
        let process = Arc::clone(&core.process);
        let epoch = process.epoch();
        let parts = Parts { shard: number, process, epoch, sockets, changes: changes(number) };
        let config = Config {
            driver: options.driver,
            spin_us: options.spin_us,
            budget_bytes: core.plan.memory.shard_bytes,
            pin: cores.as_ref().map(|cores| cores[number]),
            planted: core.plan.planted,
            ..Config::default()
        };
        let (ready, started) = bounded(1);
        let told = ended.clone();
        let thread = std::thread::Builder::new()
            .name(format!("wrk:worker_{number}"))
            .spawn(move || {
                let _at_the_end = Ended(number, told);
                run(&config, parts, &ready);
            })
            .map_err(|e| format!("no thread for shard {number}: {e}"))?;
        let answer = started.recv().map_err(|_| format!("shard {number} ended at its start"))?;
        let (letters, driver) = answer.map_err(|e| format!("shard {number} cannot start: {e}"))?;
        shards.push(Shard { letters, driver, thread });
    }
    Ok(shards)
}

type Ready = Result<(MailSender<Letter>, DriverReport), String>;

fn run(config: &Config, parts: Parts, ready: &Sender<Ready>) {
    let runtime = match Runtime::new(config) {
        Ok(runtime) => runtime,
        Err(error) => {
            let _control_waits = ready.send(Err(error.to_string()));
            return;
        }
    };
    let rt = runtime.handle();
    let stats = parts
        .process
        .registry
        .scope(ScopeName::new("server.selvedge.", "server.selvedge", &[]))
        .block(parts.shard);
    let on_ring = runtime.driver().kind == DriverKind::Uring;
    stats.inc(if on_ring { Stat::ShardsOnIoUring } else { Stat::ShardsOnEpoll });
    tell_numbers(&rt, stats);
    let (sender, receiver) = rt.mailbox(limits::SHARD_LETTERS);
    let _control_waits = ready.send(Ok((sender, runtime.driver().clone())));
    let (process, number) = (Arc::clone(&parts.process), parts.shard);
    // What a task may do is contained there: this is for a shard whose own affairs have failed.
    match catch_unwind(AssertUnwindSafe(|| runtime.run_main(shard::run(rt, parts, receiver)))) {
        Ok(Some(())) => {}
        Ok(None) => shard::tell_lost(&process, number, "its connections are closed"),
        Err(_told_by_the_hook) => {
            shard::tell_lost(&process, number, "its connections are closed, its memory is left alone");
            runtime.abandon();
        }
    }
}

/// Shows what the runtime counts: panics at once, the rest every second.
fn tell_numbers(rt: &Rt, stats: Arc<Block<Stat>>) {
    let of_panics = Arc::clone(&stats);
    rt.on_panic(move |_| of_panics.inc(Stat::Panics));
    let own = rt.clone();
    rt.spawn(async move {
        let (mut was_busy, mut seen) = (false, 0);
        loop {
            own.sleep(limits::RUNTIME_STATS_EVERY).await;
            let counters = own.counters();
            stats.set(Stat::AcceptPauses, counters.accept_pauses.get());
            stats.set(Stat::LargeBuffersDry, counters.large_dry.get());
            stats.set(Stat::SmallBuffersDry, counters.small_dry.get());
            stats.set(Stat::RequestsShed, counters.sheds.get());
            stats.set(Stat::BudgetUsed, own.budget().used() as u64);
            let recvs = counters.recvs.get();
            let busy = own.budget().strain() > Strain::None || recvs - seen >= limits::BUSY_RECVS;
            seen = recvs;
            if std::mem::replace(&mut was_busy, busy) && !busy && own.has_grown() {
                own.give_back();
            }
        }
    });
}
