//! The kernel, made polite: driver, buffers, tasks, timers, sockets, mailboxes. All unsafe code of the project.
//!
//! One [`Runtime`] a shard, made on the shard's own thread. Its [`Rt`] handle is passed to whoever needs time,
//! randomness or the network: nothing here is global, so that many shards can live on one thread in simulation.

mod addr;
mod batch;
mod buf;
pub mod cpu;
mod driver;
mod epoll;
#[doc(hidden)]
pub mod fuzz;
mod kernel;
pub mod limits;
pub mod listen;
mod mailbox;
pub mod memory;
mod mutation;
mod net;
mod op;
pub mod rng;
#[cfg(feature = "sim")]
pub mod sim;
mod spin;
mod task;
mod time;
mod uring;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

pub use addr::SocketAddress;
pub use buf::{BlockMut, Budget, Chunk, Chunks, Strain};
pub use driver::{DriverChoice, DriverKind, DriverReport, StartError};
pub use listen::{BindOptions, ConnectOptions, Keepalive};
pub use mailbox::{Bell, Event, MailReceiver, MailSender};
#[cfg(feature = "mutations")]
pub use mutation::Trap;
pub use mutation::{Mutation, Planted};
pub use net::{Connect, Listener, Socket};
pub use op::{NetError, RecvClass};
pub use task::TaskId;
pub use time::{Instant, WallTime};

use buf::Group;
use driver::Driver;
use kernel::{Kernel, Notes};
use mailbox::Mail;
use rng::Rng;
use spin::Spin;
use task::Tasks;
use time::{Clock, Source};

/// How a shard's runtime is made.
#[derive(Debug, Clone)]
pub struct Config {
    pub driver: DriverChoice,
    /// How long to watch for work in user space before sleeping, in microseconds; 0: not at all. While watching
    /// finds nothing, it is tried seldom.
    pub spin_us: u32,
    pub budget_bytes: usize,
    pub seed: u64,
    /// The core to stay on.
    pub pin: Option<usize>,
    pub small_bufs: usize,
    pub large_bufs: usize,
    /// A bug that a test plants.
    pub planted: Planted,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            driver: DriverChoice::Auto,
            spin_us: 0,
            budget_bytes: limits::BUDGET_BYTES,
            seed: rng::seed(),
            pin: None,
            small_bufs: limits::SMALL_BUFS,
            large_bufs: limits::LARGE_BUFS,
            planted: Planted::default(),
        }
    }
}

/// What the runtime counts; plain cells, read by the shard itself.
#[derive(Debug, Default)]
pub struct Counters {
    pub turns: Cell<u64>,
    pub completions: Cell<u64>,
    pub recvs: Cell<u64>,
    pub recv_arms: Cell<u64>,
    pub sends: Cell<u64>,
    /// Receives that found no small buffer free.
    pub small_dry: Cell<u64>,
    /// Receives that found no large buffer free.
    pub large_dry: Cell<u64>,
    /// Times that accepting stopped for want of descriptors or memory.
    pub accept_pauses: Cell<u64>,
    /// Requests that were refused since buffers were short; counted by who refuses.
    pub sheds: Cell<u64>,
}

impl Counters {
    pub(crate) fn add(&self, counter: &Cell<u64>, n: u64) {
        counter.set(counter.get() + n);
    }
}

pub(crate) struct Inner {
    pub(crate) tasks: Tasks,
    pub(crate) clock: Clock,
    pub(crate) kernel: RefCell<Kernel>,
    pub(crate) mail: Mail,
    pub(crate) counters: Counters,
    pub(crate) budget: Budget,
    rng: Rng,
    bell: Bell,
    planted: Planted,
    #[cfg(feature = "sim")]
    operations: sim::Operations,
}

impl Inner {
    /// Something was asked of the runtime: a simulated shard that asks without end in one turn is found so.
    #[inline]
    pub(crate) fn operate(&self) {
        #[cfg(feature = "sim")]
        self.operations.count();
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inner")
    }
}

/// One shard's driver and executor.
pub struct Runtime {
    rt: Rt,
    report: DriverReport,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Runtime({:?})", self.report)
    }
}

impl Runtime {
    /// Makes the runtime on the calling thread, which must be the one that runs it.
    pub fn new(config: &Config) -> Result<Runtime, StartError> {
        if let Some(core) = config.pin {
            cpu::pin(core);
        }
        let spin = Spin::new(config.spin_us);
        Runtime::over(config, spin, Source::Kernel, |groups, bell, spin| {
            Driver::probe(config.driver, groups, bell.fd(), spin)
        })
    }

    /// Makes a host of a simulated network; any number of them may live on one thread. The configuration's driver,
    /// pin and spin mean nothing to it.
    #[cfg(feature = "sim")]
    pub fn simulated(
        config: &Config,
        world: &sim::World,
        faults: sim::Faults,
    ) -> Result<Runtime, StartError> {
        let source = Source::World(world.clone());
        Runtime::over(config, Spin::new(0), source, |(small, large), bell, _| {
            let driver = sim::Sim::new(
                world,
                faults,
                (Rc::clone(small), Rc::clone(large)),
                bell.clone(),
                config.planted,
            );
            Ok((Driver::Sim(driver), DriverReport { kind: DriverKind::Sim, reason: "simulated".to_owned() }))
        })
    }

    fn over(
        config: &Config,
        spin: Spin,
        source: Source,
        make: impl FnOnce((&Rc<Group>, &Rc<Group>), &Bell, bool) -> Result<(Driver, DriverReport), StartError>,
    ) -> Result<Runtime, StartError> {
        // WHY: the one thing that both drivers can wait on and any thread can ring.
        // SAFETY: no pointers.
        let bell = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if bell < 0 {
            return Err(StartError(format!("eventfd: {}", std::io::Error::last_os_error())));
        }
        // WHY: the descriptor is ours to close.
        // SAFETY: the kernel has just made it for us.
        let bell = Bell::new(unsafe { OwnedFd::from_raw_fd(bell) });
        let budget = Budget::new(config.budget_bytes);
        let small = Group::new(limits::SMALL_BYTES, config.small_bufs, limits::SMALL_BUFS_MAX, &budget);
        let large = Group::new(limits::LARGE_BYTES, config.large_bufs, limits::LARGE_BUFS_MAX, &budget);
        if !small.grow() || !large.grow() {
            return Err(StartError(format!(
                "the byte budget of {} is below the first buffers",
                config.budget_bytes
            )));
        }
        let (driver, report) = make((&small, &large), &bell, spin.is_wanted())?;
        let inner = Inner {
            tasks: Tasks::default(),
            clock: Clock::new(source),
            kernel: RefCell::new(Kernel::new(driver, spin, config.planted)),
            mail: Mail::default(),
            counters: Counters::default(),
            budget,
            rng: Rng::new(config.seed),
            bell,
            planted: config.planted,
            #[cfg(feature = "sim")]
            operations: sim::Operations::default(),
        };
        Ok(Runtime { rt: Rt(Rc::new(inner)), report })
    }

    pub fn handle(&self) -> Rt {
        self.rt.clone()
    }

    pub fn driver(&self) -> &DriverReport {
        &self.report
    }

    /// Runs until `main` is done. `None`: it panicked. Tasks that are still there are dropped with the runtime.
    pub fn run_main<F: Future + 'static>(&self, main: F) -> Option<F::Output>
    where
        F::Output: 'static,
    {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        let main = self.rt.spawn(async move {
            let output = main.await;
            *slot.borrow_mut() = Some(output);
        });
        loop {
            self.rt.0.tasks.run_queued();
            let output = result.borrow_mut().take();
            if output.is_some() || !self.rt.0.tasks.is_live(main) {
                return output;
            }
            self.turn(None);
        }
    }

    /// Runs until `main` is done; panics if `main` does.
    pub fn run<F: Future + 'static>(&self, main: F) -> F::Output
    where
        F::Output: 'static,
    {
        self.run_main(main).expect("the main task did not panic")
    }

    fn turn(&self, at_most: Option<Duration>) {
        let inner = &*self.rt.0;
        #[cfg(feature = "sim")]
        inner.operations.begin_turn();
        let now = inner.clock.now.get();
        let wait = if inner.tasks.has_work() {
            Some(Duration::ZERO)
        } else {
            let timer = inner.clock.patience();
            let kernel = inner.kernel.borrow().patience(now);
            [timer, kernel, at_most].into_iter().flatten().min()
        };
        let notes = Notes {
            tasks: &inner.tasks,
            counters: &inner.counters,
            budget: &inner.budget,
            woken: &inner.mail.woken,
        };
        inner.kernel.borrow_mut().turn(wait, now, &notes);
        let mut due = Vec::new();
        inner.clock.tick(&mut due);
        for task in due {
            inner.tasks.wake(task);
        }
        if inner.mail.woken.take() {
            for task in inner.mail.take() {
                inner.tasks.wake(task);
            }
        }
        inner.counters.add(&inner.counters.turns, 1);
    }

    /// After a panic outside of any task: what it knows can be trusted with nothing more. Tasks are dropped where they
    /// wait, sockets close at once, and the memory that the kernel might still write to is never used again.
    pub fn abandon(self) {
        let this = ManuallyDrop::new(self);
        let inner = &*this.rt.0;
        for _ in 0..limits::LAST_WORDS {
            inner.tasks.clear();
        }
        inner.tasks.contain(|| inner.kernel.borrow_mut().scuttle());
    }

    /// Drops every task, and turns until the kernel has nothing of ours any more (at most a second).
    pub fn wind_down(&self) {
        let inner = &*self.rt.0;
        inner.kernel.borrow_mut().stop_all();
        let end = inner.clock.source.monotonic() + Duration::from_secs(1);
        while inner.clock.source.monotonic() < end {
            // What is dropped may start something, which goes too; then the queue names only the dead.
            for _ in 0..limits::LAST_WORDS {
                inner.tasks.clear();
            }
            inner.tasks.run_queued();
            let kernel = inner.kernel.borrow();
            if kernel.socks.in_use() == 0 && !kernel.accepting() {
                return;
            }
            drop(kernel);
            self.turn(Some(Duration::from_millis(10)));
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.wind_down();
    }
}

/// The handle of a shard's runtime: time, randomness, tasks, network. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rt(Rc<Inner>);

impl Rt {
    /// The time of this turn: read once, when the turn began.
    pub fn now(&self) -> Instant {
        self.0.clock.now.get()
    }

    /// A real reading of the clock (about 28 ns): for the few stamps that need it.
    pub fn now_fine(&self) -> Instant {
        self.0.clock.source.monotonic()
    }

    /// The wall clock of this turn.
    pub fn wall_now(&self) -> WallTime {
        self.0.clock.wall()
    }

    /// The wall clock at a monotonic instant, by this turn's offset between the two.
    pub fn wall_at(&self, at: Instant) -> WallTime {
        let (now, wall) = (self.now().0, self.wall_now().0);
        WallTime(wall.saturating_add(at.0).saturating_sub(now))
    }

    /// Whether that bug is planted here.
    #[inline]
    pub fn planted(&self, mutation: Mutation) -> bool {
        self.0.planted.is(mutation)
    }

    /// Panics where a test has planted that.
    #[inline]
    #[track_caller]
    pub fn pass(&self, place: &'static str) {
        self.0.planted.pass(place);
    }

    pub fn random(&self) -> u64 {
        self.0.rng.next()
    }

    /// Starts a task. It is polled first in the next turn.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) -> TaskId {
        self.0.tasks.spawn(Box::pin(future))
    }

    /// Ends a task where it waits; what it owns is dropped.
    pub fn abort(&self, task: TaskId) {
        self.0.tasks.abort(task);
    }

    /// Ends every task but the current one, where it waits.
    pub fn clear_other_tasks(&self) {
        self.0.tasks.clear();
    }

    pub fn current_task(&self) -> TaskId {
        self.0.tasks.current()
    }

    pub fn wake(&self, task: TaskId) {
        self.0.tasks.wake(task);
    }

    /// Wakes every task: something has changed that they look at whenever they run.
    pub fn wake_all(&self) {
        self.0.tasks.wake_all();
    }

    /// Does what must not end the current task: a panic in it is caught and told as that of a task, and gives `None`.
    pub fn contain<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        self.0.tasks.contain(f)
    }

    /// Panics that were caught so far: each ended its task, or what `contain` did.
    pub fn panics(&self) -> u64 {
        self.0.tasks.panics.get()
    }

    /// Called with the message of each caught panic.
    pub fn on_panic(&self, hook: impl Fn(&str) + 'static) {
        self.0.tasks.set_panic_hook(Box::new(hook));
    }

    pub fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep { inner: Rc::clone(&self.0), entry: None, at }
    }

    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Lets the others run: ends in the next turn.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        poll_fn(|_| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            self.wake(self.current_task());
            Poll::Pending
        })
        .await;
    }

    /// Takes over a bound, listening descriptor.
    pub fn adopt_listener(&self, fd: OwnedFd) -> Result<Listener, NetError> {
        Listener::adopt(&self.0, fd)
    }

    /// Takes over a connected descriptor.
    pub fn adopt_stream(&self, fd: OwnedFd) -> Result<Socket, NetError> {
        Socket::adopt(&self.0, fd)
    }

    pub fn connect(&self, to: &SocketAddress, options: &ConnectOptions) -> Connect {
        Connect::start(&self.0, to, options)
    }

    /// The numbers of watched sockets to which something has come since the last call.
    pub fn take_noted(&self, into: &mut Vec<u32>) {
        self.0.kernel.borrow_mut().take_noted(into);
    }

    pub fn event(&self) -> Event {
        Event::new(&self.0)
    }

    /// A box for letters to this shard, of at most `bound` unread ones.
    pub fn mailbox<T: Send>(&self, bound: usize) -> (MailSender<T>, MailReceiver<T>) {
        MailReceiver::new(bound, self.0.bell.clone(), &self.0)
    }

    /// A heap block charged to the shard's byte budget.
    pub fn block(&self, capacity: usize) -> BlockMut {
        BlockMut::with_capacity(capacity, &self.0.budget)
    }

    /// Whether there are more buffers than at the start.
    pub fn has_grown(&self) -> bool {
        self.0.kernel.borrow().has_grown()
    }

    /// Gives memory back that a busy time took: that of buffers, and of the allocator.
    pub fn give_back(&self) {
        self.0.kernel.borrow().give_back();
        memory::give_back();
    }

    pub fn budget(&self) -> &Budget {
        &self.0.budget
    }

    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Sockets that are open or wait for the kernel's last word.
    pub fn sockets_in_use(&self) -> usize {
        self.0.kernel.borrow().socks.in_use()
    }

    pub fn tasks_live(&self) -> usize {
        self.0.tasks.live.get()
    }
}

/// A timer. Moving it later costs a store: it is armed again only when it fires too early.
pub struct Sleep {
    inner: Rc<Inner>,
    entry: Option<u32>,
    at: Instant,
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sleep({:?})", self.at)
    }
}

impl Sleep {
    pub fn reset(&mut self, at: Instant) {
        self.at = at;
    }

    pub fn deadline(&self) -> Instant {
        self.at
    }

    /// Ready once the deadline has passed. Waits in the wheel for the current task otherwise.
    pub fn poll_due(&mut self) -> Poll<()> {
        self.inner.operate();
        let clock = &self.inner.clock;
        if clock.now.get() >= self.at || self.is_early() {
            return Poll::Ready(());
        }
        if self.at == Instant::FAR {
            return Poll::Pending;
        }
        let (entry, task) = (*self.entry.get_or_insert_with(|| clock.take()), self.inner.tasks.current());
        if !clock.serves(entry, self.at, task) {
            clock.arm(entry, self.at, task);
        }
        Poll::Pending
    }
}

impl Sleep {
    /// A planted bug: it is due a tick before its time.
    #[inline]
    fn is_early(&self) -> bool {
        self.inner.planted.is(Mutation::EarlyTimer)
            && self.inner.clock.now.get() + Duration::from_nanos(time::TICK_NS) >= self.at
    }
}

impl Future for Sleep {
    type Output = ();
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        self.get_mut().poll_due()
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(entry) = self.entry {
            self.inner.clock.give(entry);
        }
    }
}
