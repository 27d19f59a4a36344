//! Letters between threads: a bounded box, and a bell that wakes the shard.
//!
//! Any thread may post; the shard that made the box reads. A full box refuses, and the sender counts or waits.
//! Letters of control have room of their own and are read first, so that no flood of others keeps them out.
//!
//! The bell is an eventfd and not MSG_RING: the control thread alone writes letters, and it has no ring.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use crossbeam_queue::ArrayQueue;

use crate::Inner;
use crate::limits;
use crate::task::TaskId;

/// Rings a shard from any thread.
#[derive(Debug, Clone)]
pub struct Bell {
    fd: Arc<OwnedFd>,
    /// A simulated shard waits on no descriptor.
    #[cfg(feature = "sim")]
    rung: Arc<std::sync::atomic::AtomicBool>,
}

impl Bell {
    pub(crate) fn new(fd: OwnedFd) -> Bell {
        Bell {
            fd: Arc::new(fd),
            #[cfg(feature = "sim")]
            rung: Arc::default(),
        }
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Whether somebody rang since the last [`Bell::silence`].
    #[cfg(feature = "sim")]
    pub(crate) fn is_ringing(&self) -> bool {
        self.rung.load(std::sync::atomic::Ordering::Acquire)
    }

    #[cfg(feature = "sim")]
    pub(crate) fn silence(&self) -> bool {
        self.rung.swap(false, std::sync::atomic::Ordering::AcqRel)
    }

    pub fn ring(&self) {
        #[cfg(feature = "sim")]
        self.rung.store(true, std::sync::atomic::Ordering::Release);
        let one = 1u64;
        // WHY: an eventfd is the one thing that both drivers can wait on.
        // SAFETY: 8 bytes of a word of ours. A full counter means that the bell rings already.
        let _rings_already = unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), 8) };
    }
}

#[derive(Debug)]
struct Letters<T> {
    control: ArrayQueue<T>,
    others: ArrayQueue<T>,
}

/// The sending side.
#[derive(Debug)]
pub struct MailSender<T> {
    letters: Arc<Letters<T>>,
    bell: Bell,
}

impl<T> Clone for MailSender<T> {
    fn clone(&self) -> Self {
        MailSender { letters: Arc::clone(&self.letters), bell: self.bell.clone() }
    }
}

impl<T> MailSender<T> {
    /// Posts a letter, or gives it back when the box is full.
    pub fn send(&self, letter: T) -> Result<(), T> {
        self.letters.others.push(letter)?;
        self.bell.ring();
        Ok(())
    }

    /// Posts a letter of control: it overtakes the others, and a full box has room for it.
    pub fn send_control(&self, letter: T) -> Result<(), T> {
        self.letters.control.push(letter)?;
        self.bell.ring();
        Ok(())
    }
}

/// The shard's side.
#[derive(Debug)]
pub struct MailReceiver<T> {
    letters: Arc<Letters<T>>,
    inner: Rc<Inner>,
}

impl<T> MailReceiver<T> {
    pub(crate) fn new(bound: usize, bell: Bell, inner: &Rc<Inner>) -> (MailSender<T>, MailReceiver<T>) {
        let control = ArrayQueue::new(limits::CONTROL_LETTERS);
        let letters = Arc::new(Letters { control, others: ArrayQueue::new(bound) });
        (
            MailSender { letters: Arc::clone(&letters), bell },
            MailReceiver { letters, inner: Rc::clone(inner) },
        )
    }

    pub fn poll_recv(&self) -> Poll<T> {
        match self.letters.control.pop().or_else(|| self.letters.others.pop()) {
            Some(letter) => Poll::Ready(letter),
            None => {
                self.inner.mail.wait(self.inner.tasks.current());
                Poll::Pending
            }
        }
    }

    pub async fn recv(&self) -> T {
        poll_fn(|_| self.poll_recv()).await
    }
}

/// Tasks that wait for letters; the bell wakes them all, for there are few.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    waiting: RefCell<Vec<TaskId>>,
    pub(crate) woken: Cell<bool>,
}

impl Mail {
    fn wait(&self, task: TaskId) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.contains(&task) {
            waiting.push(task);
        }
    }

    pub(crate) fn take(&self) -> Vec<TaskId> {
        std::mem::take(&mut self.waiting.borrow_mut())
    }
}

/// A wake-up within the shard: whoever waits is woken by the next notify.
#[derive(Debug, Clone)]
pub struct Event {
    inner: Rc<Inner>,
    state: Rc<EventState>,
}

#[derive(Debug, Default)]
struct EventState {
    rung: Cell<bool>,
    waiting: RefCell<Vec<TaskId>>,
}

impl Event {
    pub(crate) fn new(inner: &Rc<Inner>) -> Event {
        Event { inner: Rc::clone(inner), state: Rc::default() }
    }

    /// Wakes whoever waits; with nobody waiting, the next wait ends at once.
    pub fn notify(&self) {
        self.state.rung.set(true);
        for task in self.state.waiting.borrow_mut().drain(..) {
            self.inner.tasks.wake(task);
        }
    }

    pub fn poll_wait(&self) -> Poll<()> {
        if self.state.rung.take() {
            return Poll::Ready(());
        }
        let (task, mut waiting) = (self.inner.tasks.current(), self.state.waiting.borrow_mut());
        if !waiting.contains(&task) {
            waiting.push(task);
        }
        Poll::Pending
    }

    pub async fn wait(&self) {
        poll_fn(|_| self.poll_wait()).await;
    }
}
