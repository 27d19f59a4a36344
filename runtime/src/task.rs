//! Tasks of one shard: a slab of futures and a queue of those that have something to do.
//!
//! A leaf future registers the *current task* where it waits; the waker in the context does nothing. So on a shard
//! use this crate's leaf futures, plain `async`/`await` and `poll_fn`, which all run in the task that polls them.
//! Invariant: a task stands in the queue at most once. A panic ends its task only.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Waker};

/// Names a task; the number of a finished one is not taken for its successor's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskId {
    index: u32,
    generation: u32,
}

impl TaskId {
    pub(crate) const NONE: TaskId = TaskId { index: u32::MAX, generation: 0 };

    /// Of no task: names a timer's owner where there are none.
    pub(crate) fn numbered(n: u32) -> TaskId {
        TaskId { index: n, generation: 1 }
    }
}

type BoxedTask = Pin<Box<dyn Future<Output = ()>>>;

struct Slot {
    generation: u32,
    queued: bool,
    /// Absent while it is polled, and in a free slot.
    future: Option<BoxedTask>,
    live: bool,
}

#[derive(Default)]
pub(crate) struct Tasks {
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<u32>>,
    queue: RefCell<VecDeque<u32>>,
    current: Cell<Option<TaskId>>,
    pub(crate) live: Cell<usize>,
    pub(crate) panics: Cell<u64>,
    on_panic: RefCell<Option<PanicHook>>,
}

type PanicHook = Box<dyn Fn(&str)>;

impl Tasks {
    pub(crate) fn spawn(&self, future: BoxedTask) -> TaskId {
        let mut slots = self.slots.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot { generation: 0, queued: false, future: None, live: false });
            u32::try_from(slots.len() - 1).expect("fewer than 2^32 tasks")
        });
        let slot = &mut slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        (slot.future, slot.live) = (Some(future), true);
        let id = TaskId { index, generation: slot.generation };
        drop(slots);
        self.live.set(self.live.get() + 1);
        self.wake(id);
        id
    }

    pub(crate) fn current(&self) -> TaskId {
        self.current.get().unwrap_or(TaskId::NONE)
    }

    pub(crate) fn wake(&self, id: TaskId) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(id.index as usize) else { return };
        if slot.generation == id.generation && slot.live && !slot.queued {
            slot.queued = true;
            self.queue.borrow_mut().push_back(id.index);
        }
    }

    pub(crate) fn wake_all(&self) {
        let mut queue = self.queue.borrow_mut();
        for (index, slot) in (0u32..).zip(self.slots.borrow_mut().iter_mut()) {
            if slot.live && !std::mem::replace(&mut slot.queued, true) {
                queue.push_back(index);
            }
        }
    }

    pub(crate) fn is_live(&self, id: TaskId) -> bool {
        self.slots.borrow().get(id.index as usize).is_some_and(|s| s.generation == id.generation && s.live)
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.queue.borrow().is_empty()
    }

    /// Ends a task where it waits. A task that aborts itself ends when it next waits.
    pub(crate) fn abort(&self, id: TaskId) {
        let future = {
            let mut slots = self.slots.borrow_mut();
            let Some(slot) = slots.get_mut(id.index as usize) else { return };
            if slot.generation != id.generation || !slot.live {
                return;
            }
            slot.live = false;
            slot.future.take()
        };
        if future.is_some() {
            self.contain(|| drop(future));
            self.release(id.index);
        }
    }

    /// Polls each task that stands in the queue now, once.
    pub(crate) fn run_queued(&self) {
        let batch = self.queue.borrow().len();
        for _ in 0..batch {
            let Some(index) = self.queue.borrow_mut().pop_front() else { return };
            self.poll(index);
        }
    }

    fn poll(&self, index: u32) {
        let (mut future, id) = {
            let mut slots = self.slots.borrow_mut();
            let slot = &mut slots[index as usize];
            slot.queued = false;
            let Some(future) = slot.future.take() else { return };
            (future, TaskId { index, generation: slot.generation })
        };
        self.current.set(Some(id));
        let mut context = Context::from_waker(Waker::noop());
        let outcome = self.contain(|| future.as_mut().poll(&mut context));
        self.current.set(None);
        if outcome.is_some_and(|polled| polled.is_pending()) {
            let mut slots = self.slots.borrow_mut();
            let slot = &mut slots[index as usize];
            if slot.live {
                slot.future = Some(future);
                return;
            }
        }
        self.contain(|| drop(future));
        self.release(index);
    }

    /// Catches and counts a panic: `None`.
    pub(crate) fn contain<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        catch_unwind(AssertUnwindSafe(f)).map_err(|payload| self.report(&*payload)).ok()
    }

    fn release(&self, index: u32) {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[index as usize];
        (slot.live, slot.future) = (false, None);
        self.free.borrow_mut().push(index);
        self.live.set(self.live.get() - 1);
    }

    fn report(&self, payload: &(dyn Any + Send)) {
        self.panics.set(self.panics.get() + 1);
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("a panic without a message");
        if let Some(hook) = &*self.on_panic.borrow() {
            hook(text);
        }
    }

    pub(crate) fn set_panic_hook(&self, hook: PanicHook) {
        *self.on_panic.borrow_mut() = Some(hook);
    }

    /// Drops every task, where it waits.
    pub(crate) fn clear(&self) {
        let all = self.slots.borrow().len();
        for index in 0..all {
            let future = self.slots.borrow_mut()[index].future.take();
            if future.is_some() {
                self.contain(|| drop(future));
                self.release(u32::try_from(index).expect("fewer than 2^32 tasks"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::rc::Rc;
    use std::task::Poll;

    use super::*;

    /// A task that counts its polls and never ends.
    fn counting(tasks: &Tasks) -> (TaskId, Rc<Cell<u32>>) {
        let polls = Rc::new(Cell::new(0));
        let own = Rc::clone(&polls);
        let id = tasks.spawn(Box::pin(poll_fn(move |_| {
            own.set(own.get() + 1);
            Poll::Pending
        })));
        (id, polls)
    }

    #[test]
    fn many_wakes_are_one_poll() {
        let tasks = Tasks::default();
        let (id, polls) = counting(&tasks);
        (0..3).for_each(|_| tasks.wake(id));
        tasks.run_queued();
        assert_eq!((polls.get(), tasks.has_work()), (1, false));
        tasks.run_queued();
        tasks.wake(id);
        tasks.run_queued();
        assert_eq!(polls.get(), 2);
    }

    #[test]
    fn what_is_woken_while_others_run_waits_for_the_next_turn() {
        let tasks = Rc::new(Tasks::default());
        let (first, polls) = counting(&tasks);
        tasks.run_queued();
        let own = Rc::clone(&tasks);
        tasks.spawn(Box::pin(async move { own.wake(first) }));
        tasks.run_queued();
        assert_eq!((polls.get(), tasks.has_work()), (1, true));
        tasks.run_queued();
        assert_eq!(polls.get(), 2);
    }

    #[test]
    fn a_finished_task_is_not_taken_for_its_successor() {
        let tasks = Tasks::default();
        let gone = tasks.spawn(Box::pin(async {}));
        tasks.run_queued();
        assert!(!tasks.is_live(gone));
        let (heir, polls) = counting(&tasks);
        assert_eq!(heir.index, gone.index, "the slot is used again");
        tasks.run_queued();
        tasks.wake(gone);
        tasks.abort(gone);
        assert_eq!((tasks.has_work(), tasks.is_live(heir), polls.get()), (false, true, 1));
    }

    #[test]
    fn a_task_that_aborts_itself_ends_when_it_waits() {
        let tasks = Rc::new(Tasks::default());
        let (own, reached) = (Rc::clone(&tasks), Rc::new(Cell::new(false)));
        let seen = Rc::clone(&reached);
        tasks.spawn(Box::pin(async move {
            own.abort(own.current());
            seen.set(true);
            pending::<()>().await;
        }));
        tasks.run_queued();
        assert_eq!((reached.get(), tasks.live.get(), tasks.current()), (true, 0, TaskId::NONE));
    }

    #[test]
    fn a_contained_panic_is_counted_and_told() {
        let tasks = Tasks::default();
        let told = Rc::new(RefCell::new(String::new()));
        let log = Rc::clone(&told);
        tasks.set_panic_hook(Box::new(move |text| log.borrow_mut().push_str(text)));
        assert_eq!(tasks.contain(|| 7), Some(7));
        assert_eq!(tasks.contain(|| panic!("planted")), None::<()>);
        assert_eq!((tasks.panics.get(), &**told.borrow()), (1, "planted"));
    }
}
