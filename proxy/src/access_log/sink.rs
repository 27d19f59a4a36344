//! Shard-side buffers and the writer thread that owns every log file.
//!
//! A shard fills a buffer of its own and hands it over when it is full or old. The writer may be slow, its disk
//! full, its pipe blocked: a shard never waits for it. What finds no room is dropped and counted, whole lines at a time.
#![allow(clippy::disallowed_types, reason = "the writer thread is not a shard")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::limits;

/// Counters of the writer, shared with the stats.
#[derive(Debug, Default)]
pub struct WriterStats {
    pub lines_dropped: AtomicU64,
    pub write_completed: AtomicU64,
    pub write_failed: AtomicU64,
    pub reopen_failed: AtomicU64,
}

#[derive(Debug)]
enum Job {
    Write {
        path: Arc<str>,
        bytes: Vec<u8>,
    },
    Reopen,
    /// Everything before this is written when the answer comes.
    Flush(Sender<()>),
}

/// The way to the writer thread; any thread may hold one.
#[derive(Debug, Clone)]
pub struct Writer {
    jobs: Sender<Job>,
    stats: Arc<WriterStats>,
    /// A shard hands its lines over when they are this many bytes. envoy: --file-flush-min-size-kb
    buffer_bytes: usize,
}

impl Writer {
    /// Starts the thread. Lines are handed over in pieces of at least `buffer_bytes`, or when they are old.
    #[allow(clippy::disallowed_methods, reason = "one thread, named, for the life of the process")]
    pub fn start(buffer_bytes: usize) -> io::Result<Writer> {
        let (jobs, inbox) = bounded(limits::LOG_BUFFERS_QUEUED);
        let stats = Arc::new(WriterStats::default());
        let theirs = Arc::clone(&stats);
        std::thread::Builder::new().name("writer".to_owned()).spawn(move || write_all(&inbox, &theirs))?;
        Ok(Writer { jobs, stats, buffer_bytes })
    }

    /// A writer without a thread: lines wait until they are taken.
    #[cfg(any(test, feature = "sim"))]
    pub fn unwritten(buffer_bytes: usize, buffers: usize) -> (Writer, Unwritten) {
        let (jobs, inbox) = bounded(buffers);
        (Writer { jobs, stats: Arc::default(), buffer_bytes }, Unwritten { inbox, lines: RefCell::default() })
    }

    pub fn stats(&self) -> &Arc<WriterStats> {
        &self.stats
    }

    fn post(&self, path: &Arc<str>, bytes: Vec<u8>, lines: u64) {
        let job = Job::Write { path: Arc::clone(path), bytes };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.jobs.try_send(job) {
            self.stats.lines_dropped.fetch_add(lines, Relaxed);
        }
    }

    /// Opens every file anew, for rotation.
    pub fn reopen(&self) {
        // A full queue is itself a reason to try later; the operator asks again.
        let _asked_again = self.jobs.send_timeout(Job::Reopen, Duration::from_secs(1));
    }

    /// Waits until what was handed over is written, at most `patience`.
    pub fn flush(&self, patience: Duration) -> bool {
        let (done, wait) = bounded(1);
        self.jobs.send_timeout(Job::Flush(done), patience).is_ok() && wait.recv_timeout(patience).is_ok()
    }
}

/// What shards handed over to a writer that has no thread.
#[cfg(any(test, feature = "sim"))]
#[derive(Debug)]
pub struct Unwritten {
    inbox: Receiver<Job>,
    lines: RefCell<Vec<String>>,
}

#[cfg(any(test, feature = "sim"))]
impl Unwritten {
    /// Takes what waits, so that there is room again.
    pub fn take(&self) {
        while let Ok(job) = self.inbox.try_recv() {
            if let Job::Write { bytes, .. } = job {
                let text = String::from_utf8_lossy(&bytes);
                self.lines.borrow_mut().extend(text.lines().map(str::to_owned));
            }
        }
    }

    /// Every line so far.
    pub fn lines(&self) -> Vec<String> {
        self.take();
        self.lines.borrow().clone()
    }
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Checks at load that a log can be opened, so that a bad path is an error of the configuration.
pub fn check_path(path: &str) -> io::Result<()> {
    open(path).map(drop)
}

fn write_all(inbox: &Receiver<Job>, stats: &WriterStats) {
    let mut files: HashMap<Arc<str>, Option<File>> = HashMap::new();
    while let Ok(job) = inbox.recv() {
        match job {
            Job::Write { path, bytes } => {
                let file = files.entry(Arc::clone(&path)).or_insert_with(|| open(&path).ok());
                let written = file.as_mut().is_some_and(|f| f.write_all(&bytes).is_ok());
                let counter = if written { &stats.write_completed } else { &stats.write_failed };
                counter.fetch_add(1, Relaxed);
            }
            Job::Reopen => {
                for (path, file) in &mut files {
                    *file = open(path).ok();
                    if file.is_none() {
                        stats.reopen_failed.fetch_add(1, Relaxed);
                    }
                }
            }
            Job::Flush(done) => {
                let _nobody_waits_any_more = done.send(());
            }
        }
    }
}

/// One shard's buffers, one for each file.
#[derive(Debug)]
pub struct ShardLogs {
    writer: Writer,
    files: RefCell<Vec<LogFile>>,
}

#[derive(Debug)]
struct LogFile {
    path: Arc<str>,
    bytes: Vec<u8>,
    /// Of them, those of whole lines: writing one may have failed.
    whole: usize,
    lines: u64,
}

/// Names a file of this shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogId(usize);

impl ShardLogs {
    pub fn new(writer: Writer) -> ShardLogs {
        ShardLogs { writer, files: RefCell::default() }
    }

    pub fn open(&self, path: &str) -> LogId {
        let mut files = self.files.borrow_mut();
        let found = files.iter().position(|f| &*f.path == path);
        LogId(found.unwrap_or_else(|| {
            files.push(LogFile { path: Arc::from(path), bytes: Vec::new(), whole: 0, lines: 0 });
            files.len() - 1
        }))
    }

    /// Adds one line, which `write` writes.
    pub fn line(&self, id: LogId, write: impl FnOnce(&mut Vec<u8>)) {
        let mut files = self.files.borrow_mut();
        let file = &mut files[id.0];
        if file.bytes.capacity() == 0 {
            file.bytes.reserve(self.writer.buffer_bytes + limits::LOG_LINE_BYTES);
        }
        file.bytes.truncate(file.whole);
        write(&mut file.bytes);
        file.whole = file.bytes.len();
        file.lines += 1;
        if file.bytes.len() >= self.writer.buffer_bytes {
            file.hand_over(&self.writer);
        }
    }

    /// Hands over what has gathered; at the flush interval and at the end.
    pub fn flush(&self) {
        for file in self.files.borrow_mut().iter_mut().filter(|f| !f.bytes.is_empty()) {
            file.hand_over(&self.writer);
        }
    }
}

impl LogFile {
    fn hand_over(&mut self, writer: &Writer) {
        self.bytes.truncate(std::mem::take(&mut self.whole));
        writer.post(&self.path, std::mem::take(&mut self.bytes), std::mem::take(&mut self.lines));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_reach_the_file_in_order_and_a_lost_disk_is_counted() {
        let path = std::env::temp_dir().join(format!("selvedge-log-{}", std::process::id()));
        let text = path.to_str().expect("a path");
        let writer = Writer::start(limits::LOG_BUFFER_BYTES).expect("a thread");
        let logs = ShardLogs::new(writer.clone());
        let (id, full) = (logs.open(text), logs.open("/dev/full"));
        for n in 0..3 {
            logs.line(id, |out| out.extend_from_slice(format!("{n}\n").as_bytes()));
        }
        logs.line(full, |out| out.push(b'x'));
        logs.flush();
        assert!(writer.flush(Duration::from_secs(10)));
        assert_eq!(std::fs::read_to_string(&path).expect("written"), "0\n1\n2\n");
        assert_eq!(writer.stats().write_failed.load(Relaxed), 1);
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn lines_are_handed_over_at_the_size_that_was_asked_for() {
        let (jobs, inbox) = bounded(8);
        let logs = ShardLogs::new(Writer { jobs, stats: Arc::default(), buffer_bytes: 10 });
        let id = logs.open("/dev/null");
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                logs.line(id, |out| out.extend_from_slice(b"four"));
                inbox.len()
            })
            .collect();
        assert_eq!(waiting, [0, 0, 1, 1, 1]);
    }

    #[test]
    fn a_writer_that_lags_costs_lines_not_time() {
        let (jobs, inbox) = bounded(1);
        let writer = Writer { jobs, stats: Arc::default(), buffer_bytes: limits::LOG_BUFFER_BYTES };
        let logs = ShardLogs::new(writer.clone());
        let id = logs.open("/dev/null");
        for _ in 0..3 {
            logs.line(id, |out| out.push(b'x'));
            logs.flush();
        }
        assert_eq!((inbox.len(), writer.stats().lines_dropped.load(Relaxed)), (1, 2));
    }

    /// A reader that stops reading blocks the writer, and nobody else.
    #[test]
    fn a_full_pipe_costs_lines_not_time() {
        use std::os::fd::AsRawFd;
        let (reader, end) = io::pipe().expect("a pipe");
        let path = format!("/proc/self/fd/{}", end.as_raw_fd());
        let writer = Writer::start(limits::LOG_BUFFER_BYTES).expect("a thread");
        let logs = ShardLogs::new(writer.clone());
        let id = logs.open(&path);
        // More than the pipe, the writer's hands and its queue can hold.
        let line = vec![b'x'; limits::LOG_BUFFER_BYTES];
        let lines = limits::LOG_BUFFERS_QUEUED as u64 + 64;
        for _ in 0..lines {
            logs.line(id, |out| out.extend_from_slice(&line));
        }
        let dropped = writer.stats().lines_dropped.load(Relaxed);
        assert!((1..lines).contains(&dropped), "{dropped} of {lines}");
        assert!(!writer.flush(Duration::from_millis(1)), "it is blocked");
        // Without its reader the pipe is broken: what is queued fails, and the writer lives on.
        drop(reader);
        assert!(writer.flush(Duration::from_secs(10)));
        assert!(writer.stats().write_failed.load(Relaxed) > 0);
    }
}
