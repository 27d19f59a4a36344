//! The executor against a model of who is alive and who was woken.

use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::Bytes;
use crate::task::{TaskId, Tasks};

/// Tasks of one run, and turns of it.
const TASKS: usize = 64;
const TURNS: usize = 64;

/// What the model knows of a task.
#[derive(Debug)]
struct Known {
    id: TaskId,
    live: bool,
    woken: bool,
    polled: bool,
    dropped: bool,
}

/// The executor under test, its model, and the script that both follow.
struct World {
    tasks: Tasks,
    script: Vec<u8>,
    at: Cell<usize>,
    known: RefCell<Vec<Known>>,
    running: Cell<Option<usize>>,
    panics: Cell<u64>,
    clearing: Cell<bool>,
}

/// Tasks that wake, end, spawn and break each other: no wake-up is lost, no dead task runs, each is dropped once.
pub fn tasks(data: &[u8]) {
    let world = Rc::new(World {
        tasks: Tasks::default(),
        script: data.to_vec(),
        at: Cell::new(0),
        known: RefCell::default(),
        running: Cell::new(None),
        panics: Cell::new(0),
        clearing: Cell::new(false),
    });
    for _ in 0..TURNS {
        if world.at.get() == world.script.len() {
            break;
        }
        world.act();
        world.turn();
    }
    world.at.set(world.script.len());
    world.clear();
    world.check();
    assert!(world.known.borrow().iter().all(|k| k.dropped), "each task is dropped in the end");
    assert_eq!(Rc::strong_count(&world), 1, "nothing of a task is left");
}

impl World {
    /// A choice of the script; 0 when it is over.
    fn choose(&self, bound: usize) -> usize {
        let mut bytes = Bytes::new(&self.script[self.at.get()..]);
        let chosen = bytes.below(bound);
        self.at.set(self.script.len() - bytes.rest().len());
        chosen
    }

    /// Does a few things to the tasks: from outside, from within one, or while one is dropped.
    fn act(self: &Rc<Self>) {
        for _ in 0..3 {
            let count = self.known.borrow().len();
            let other = if count > 0 { Some(self.choose(count)) } else { None };
            match (self.choose(8), other) {
                (1 | 2, _) if count < TASKS && !self.clearing.get() => self.spawn(),
                (3, Some(n)) => self.wake(n),
                (4, _) => {
                    if let Some(n) = self.running.get() {
                        self.wake(n);
                    }
                }
                (5, Some(n)) => self.abort(n),
                (6, Some(0)) if !self.clearing.get() => self.clear(),
                _ => return,
            }
        }
    }

    fn spawn(self: &Rc<Self>) {
        let number = self.known.borrow().len();
        let id = self.tasks.spawn(Box::pin(Probe { world: Rc::clone(self), number }));
        let known = Known { id, live: true, woken: true, polled: false, dropped: false };
        self.known.borrow_mut().push(known);
    }

    fn wake(&self, n: usize) {
        let id = self.known.borrow()[n].id;
        self.known.borrow_mut()[n].woken = true;
        self.tasks.wake(id);
    }

    fn abort(&self, n: usize) {
        let id = self.known.borrow()[n].id;
        let live = std::mem::replace(&mut self.known.borrow_mut()[n].live, false);
        self.tasks.abort(id);
        if live && self.running.get() != Some(n) {
            assert!(self.known.borrow()[n].dropped, "an aborted task is dropped where it waits");
        }
    }

    fn clear(&self) {
        let running = self.running.get();
        for (n, known) in self.known.borrow_mut().iter_mut().enumerate() {
            known.live &= running == Some(n);
        }
        self.clearing.set(true);
        self.tasks.clear();
        self.clearing.set(false);
    }

    fn turn(&self) {
        let mut expected = Vec::new();
        for (n, known) in self.known.borrow_mut().iter_mut().enumerate() {
            known.polled = false;
            if known.live && known.woken {
                expected.push(n);
            }
        }
        assert!(expected.is_empty() || self.tasks.has_work());
        self.tasks.run_queued();
        for n in expected {
            let known = &self.known.borrow()[n];
            assert!(known.polled || !known.live, "a wake-up was lost: {known:?}");
        }
        self.check();
    }

    fn check(&self) {
        let known = self.known.borrow();
        for one in &*known {
            assert_eq!(self.tasks.is_live(one.id), one.live, "{one:?}");
            assert_eq!(one.live, !one.dropped, "{one:?}");
        }
        assert_eq!(self.tasks.live.get(), known.iter().filter(|k| k.live).count());
        assert_eq!(self.tasks.panics.get(), self.panics.get());
    }
}

/// A task that does what the script says, and tells the model.
struct Probe {
    world: Rc<World>,
    number: usize,
}

impl Future for Probe {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        let (world, number) = (&self.world, self.number);
        {
            let known = &mut world.known.borrow_mut()[number];
            assert!(known.live && known.woken && !known.polled, "polled without a reason: {known:?}");
            (known.woken, known.polled) = (false, true);
            assert_eq!(world.tasks.current(), known.id);
        }
        world.running.set(Some(number));
        world.act();
        world.running.set(None);
        match world.choose(8) {
            0 | 1 => {
                world.known.borrow_mut()[number].live = false;
                Poll::Ready(())
            }
            2 => {
                world.known.borrow_mut()[number].live = false;
                world.panics.set(world.panics.get() + 1);
                // The hook of a fuzzer ends the process at a panic: this is the rest of one.
                resume_unwind(Box::new("a planted panic"))
            }
            _ => Poll::Pending,
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        {
            let known = &mut self.world.known.borrow_mut()[self.number];
            assert!(!known.dropped && !known.live, "dropped while it lives, or twice: {known:?}");
            known.dropped = true;
        }
        self.world.act();
    }
}
