//! The hands of the control machine in a simulation: letters reach simulated shards, names are answered from a seed.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use selvedge_runtime::sim::World;
use selvedge_runtime::{Instant, MailSender};

use crate::process::Process;
use crate::server::gauges::Gauges;
use crate::server::machine::{Input, Machine, Output, Settings};
use crate::shard::{Changes, Letter};

/// What the process says of its drain.
pub const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The control thread, as one of the simulated hosts.
pub struct Control {
    world: World,
    machine: RefCell<Machine>,
    letters: RefCell<Vec<MailSender<Letter>>>,
    /// What will come, and when.
    coming: RefCell<Vec<(Instant, Input)>>,
    over: Cell<bool>,
}

impl Control {
    pub fn new(world: &World, process: &Arc<Process>, seed: u64) -> Control {
        let settings = Settings { drain_time: DRAIN_TIME, init_only: false };
        let gauges = Arc::new(Gauges::new(process));
        let machine = RefCell::new(Machine::new(process, &gauges, settings, seed));
        Control {
            world: world.clone(),
            machine,
            letters: RefCell::default(),
            coming: RefCell::default(),
            over: Cell::new(false),
        }
    }

    pub fn changes(&self, shard: usize) -> Arc<Changes> {
        self.machine.borrow().changes(shard)
    }

    /// The shards serve, and have these boxes.
    pub fn started(&self, letters: Vec<MailSender<Letter>>) {
        *self.letters.borrow_mut() = letters;
        self.take(Input::Started);
    }

    /// When it has something to do. `None`: never, as things are.
    pub fn next(&self) -> Option<Instant> {
        if self.over.get() {
            return None;
        }
        let coming = self.coming.borrow().iter().map(|(at, _)| *at).min();
        let due = self.machine.borrow().poll_timeout();
        Some(coming.map_or(due, |at| at.min(due))).filter(|at| *at < Instant::FAR)
    }

    /// Does one thing that is due.
    pub fn step(&self) {
        let now = self.world.now();
        let due = self.coming.borrow_mut().extract_if(.., |(at, _)| *at <= now).next();
        self.take(due.map_or(Input::Tick, |(_, input)| input));
    }

    /// A cluster has other endpoints now.
    pub fn endpoints_changed(&self, cluster: usize) {
        for shard in 0..self.letters.borrow().len() {
            if self.changes(shard).note(cluster) {
                self.ring(shard);
            }
        }
    }

    fn ring(&self, shard: usize) {
        let sent = self.letters.borrow()[shard].send(Letter::Changes);
        assert!(sent.is_ok(), "one bell at most is unheard");
    }

    /// Gives the machine an input, and does what it says.
    pub fn take(&self, input: Input) {
        let outputs = self.machine.borrow_mut().poll(self.world.now(), input);
        for output in outputs {
            match output {
                Output::Order(letter) => self.order(letter),
                Output::Ring(shard) => self.ring(shard),
                Output::End(_) => {
                    self.order(Letter::Quit);
                    self.over.set(true);
                }
                Output::Refused(why) => panic!("a snapshot with the same listeners: {why}"),
                Output::Ask(_)
                | Output::Measure
                | Output::State(_)
                | Output::Start
                | Output::Serving(_)
                | Output::ReopenLogs => {}
            }
        }
    }

    fn order(&self, letter: Letter) {
        for letters in self.letters.borrow().iter() {
            assert!(letters.send_control(letter).is_ok(), "few letters");
        }
    }
}
