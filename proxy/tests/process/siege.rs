//! A proxy with little memory under siege: clients that flood it, clients that read long answers slowly, clients that
//! never finish a head. One well-behaved client must be served all the same, and the memory comes back.
//!
//! `cargo test` besieges it with few; `SELVEDGE_SIEGE=full cargo test --release --test process siege -- --nocapture`
//! with 500 slow readers, 5,000 slow heads and a flood for twenty seconds, under a limit of 256 MB that the kernel
//! enforces where a cgroup can be made here. Both print what came of it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::{ANY, Proxy, SELVEDGE, bootstrap, drivers, listener, run, until};

const BIG: usize = 64 << 20;
/// The first buffers, which are touched one after the other, and what an allocator keeps.
const KEPT: u64 = 12 << 20;

/// How many, and for how long.
struct Size {
    memory_mb: u64,
    readers: usize,
    heads: usize,
    floods: usize,
    lasts: Duration,
}

const SMALL: Size =
    Size { memory_mb: 96, readers: 100, heads: 200, floods: 2, lasts: Duration::from_secs(2) };
const FULL: Size =
    Size { memory_mb: 256, readers: 500, heads: 5000, floods: 8, lasts: Duration::from_secs(20) };

/// Answers `/up/big` with 64 MiB and everything else with two bytes, for ever.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = |mut socket: TcpStream| {
        let piece = [b'x'; 16 * 1024];
        let mut some = [0; 2048];
        let mut head = Vec::new();
        while let Ok(n @ 1..) = socket.read(&mut some) {
            head.extend_from_slice(&some[..n]);
            if !head.ends_with(b"\r\n\r\n") {
                continue;
            }
            let bytes = if head.starts_with(b"GET /up/big") { BIG } else { 2 };
            head.clear();
            let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n").into_bytes();
            answer.extend_from_slice(&piece[..bytes.min(2)]);
            let mut left = bytes - bytes.min(2);
            let mut sent = socket.write_all(&answer);
            while left > 0 && sent.is_ok() {
                sent = socket.write_all(&piece[..left.min(piece.len())]);
                left -= left.min(piece.len());
            }
            if sent.is_err() {
                return;
            }
        }
    };
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let thread = thread::Builder::new().stack_size(256 * 1024);
            thread.spawn(move || serve(socket)).expect("a thread");
        }
    });
    address
}

/// A group of the kernel's that holds a process to its memory. `None`: it cannot be made here.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(bytes: u64) -> Option<Cgroup> {
        let name = format!("selvedge-siege-{}", std::process::id());
        for (root, limit) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let group = Cgroup(PathBuf::from(root).join(&name));
            if fs::create_dir(&group.0).is_ok() && fs::write(group.0.join(limit), bytes.to_string()).is_ok() {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It can go when its last process is gone.
        for _ in 0..1000 {
            if fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Bytes of memory that belong to the process alone.
fn private(proxy: &Proxy) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/statm", proxy.child.id())).unwrap_or_default();
    let mut pages = text.split(' ').skip(1).map(|n| n.parse::<u64>().unwrap_or(0));
    let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(shared) * 4096
}

#[derive(Default)]
struct Seen {
    served: AtomicU64,
    refused: AtomicU64,
    lost: AtomicU64,
    flooded: AtomicU64,
    peak: AtomicU64,
    over: AtomicBool,
}

/// One request on a connection that is made anew when it is gone. The answer's status.
fn ask(to: SocketAddr, held: &mut Option<TcpStream>, request: &[u8]) -> Option<u16> {
    if held.is_none() {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        *held = Some(stream);
    }
    let mut stream = held.take()?;
    stream.write_all(request).ok()?;
    let mut answer = Vec::new();
    let mut some = [0; 4096];
    loop {
        let n = stream.read(&mut some).ok().filter(|n| *n > 0)?;
        answer.extend_from_slice(&some[..n]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: "))?;
        if body.len() < length.parse().ok()? {
            continue;
        }
        if !head.contains("connection: close") {
            *held = Some(stream);
        }
        return head.get(9..12)?.parse().ok();
    }
}

const SMALL_REQUEST: &[u8] = b"GET /up/small HTTP/1.1\r\nhost: h\r\n\r\n";

/// Asks every few milliseconds, and counts.
fn behave(to: SocketAddr, seen: &Seen) {
    let mut held = None;
    while !seen.over.load(Relaxed) {
        let count = match ask(to, &mut held, SMALL_REQUEST) {
            Some(200) => &seen.served,
            Some(_) => &seen.refused,
            None => &seen.lost,
        };
        count.fetch_add(1, Relaxed);
        thread::sleep(Duration::from_millis(4));
    }
}

fn flood(to: SocketAddr, seen: &Seen) {
    let mut held: [Option<TcpStream>; 8] = Default::default();
    while !seen.over.load(Relaxed) {
        for (n, held) in held.iter_mut().enumerate() {
            if n % 4 == 0 {
                *held = None;
            }
            seen.flooded.fetch_add(u64::from(ask(to, held, SMALL_REQUEST) == Some(200)), Relaxed);
        }
    }
}

/// Connections that ask for a long answer and take a little of it now and then.
fn read_slowly(to: SocketAddr, count: usize, seen: &Seen) {
    let open = |_| {
        let mut stream = TcpStream::connect(to).ok()?;
        stream.write_all(b"GET /up/big HTTP/1.1\r\nhost: h\r\n\r\n").ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    };
    let mut readers: Vec<TcpStream> = (0..count).filter_map(open).collect();
    let mut some = [0; 4096];
    while !seen.over.load(Relaxed) {
        readers.retain_mut(|reader| match reader.read(&mut some) {
            Ok(n) => n > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        thread::sleep(Duration::from_millis(20));
    }
}

/// Connections that add to a head that never ends.
fn begin_slowly(to: SocketAddr, count: usize, seen: &Seen) {
    let open = |_| {
        let mut stream = TcpStream::connect(to).ok()?;
        stream.write_all(b"GET /up/small HTTP/1.1\r\nhost: h\r\n").ok()?;
        Some(stream)
    };
    let mut heads: Vec<TcpStream> = (0..count).filter_map(open).collect();
    while !seen.over.load(Relaxed) {
        for head in heads.chunks_mut(64) {
            head.iter_mut().for_each(|head| drop(head.write_all(b"x-more: and more and more\r\n")));
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn besiege(proxy: &Proxy, to: SocketAddr, size: &Size) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    thread::scope(|scope| {
        scope.spawn(|| read_slowly(to, size.readers, &seen));
        scope.spawn(|| begin_slowly(to, size.heads, &seen));
        for _ in 0..size.floods {
            scope.spawn(|| flood(to, &seen));
        }
        scope.spawn(|| behave(to, &seen));
        let end = Instant::now() + size.lasts;
        while Instant::now() < end {
            seen.peak.fetch_max(private(proxy), Relaxed);
            thread::sleep(Duration::from_millis(20));
        }
        seen.over.store(true, Relaxed);
    });
    seen
}

#[test]
fn besieged() {
    let full = std::env::var("SELVEDGE_SIEGE").is_ok_and(|s| s == "full");
    let size = if full { FULL } else { SMALL };
    let limit = size.memory_mb << 20;
    for driver in drivers() {
        let main = listener("main", ANY, "stat_prefix: main");
        let config = bootstrap("", &[main], upstream());
        let cgroup = if full { Cgroup::new(limit) } else { None };
        let join =
            cgroup.as_ref().map_or(String::new(), |c| format!("echo $$ > {}/cgroup.procs;", c.0.display()));
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("ulimit -n 20000; {join} exec \"$0\" \"$@\"")).arg(SELVEDGE);
        let memory = size.memory_mb.to_string();
        let args = ["--concurrency", "1", "--driver", driver, "--memory-mb", &memory];
        let mut proxy = Proxy::start_by(shell, &config, if cgroup.is_some() { &args[..4] } else { &args });
        let to: SocketAddr = proxy.listener("main").parse().expect("an address");
        let before = private(&proxy);
        let seen = besiege(&proxy, to, &size);
        assert!(
            proxy.child.try_wait().expect("a child").is_none(),
            "{driver}: it died: {}",
            proxy.output("stderr")
        );
        let [served, refused, lost] = [&seen.served, &seen.refused, &seen.lost].map(|n| n.load(Relaxed));
        let share = served as f64 * 100.0 / (served + refused + lost).max(1) as f64;
        until("the end of the connections", || proxy.stat("http.main.downstream_cx_active") == 0);
        assert_eq!(proxy.stat("server.selvedge.panics"), 0, "{driver}");
        let mib = |bytes: u64| bytes >> 20;
        let end = Instant::now() + crate::process::PATIENCE;
        let mut after = private(&proxy);
        while after >= before + KEPT && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
            after = private(&proxy);
        }
        eprintln!(
            "{driver}: {served} served, {refused} refused, {lost} lost: {share:.2} %; the flood had {}; private memory \
             {} MiB, {} at most of {}, {} afterwards; shed {}; held by {}",
            seen.flooded.load(Relaxed),
            mib(before),
            mib(seen.peak.load(Relaxed)),
            size.memory_mb,
            mib(after),
            proxy.stat("server.selvedge.requests_shed"),
            if cgroup.is_some() { "a cgroup" } else { "--memory-mb" },
        );
        assert!(share >= 95.0 && served > 50, "{driver}: {served} served, {refused} refused, {lost} lost");
        assert!(after < before + KEPT, "{driver}: {after} bytes stay, of {before} before");
        assert!(seen.peak.load(Relaxed) <= limit, "{driver}: {} bytes", seen.peak.load(Relaxed));
        drop(proxy);
    }
}

const UPLOAD: usize = 4 << 20;

/// Reads a body of that size after each head, and answers.
fn swallows() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = |mut socket: TcpStream| {
        let (mut some, mut come, mut head) = ([0; 64 * 1024], 0, Vec::new());
        while let Ok(n @ 1..) = socket.read(&mut some) {
            if head.ends_with(b"\r\n\r\n") {
                come += n;
            } else {
                let at = some[..n].windows(4).position(|w| w == b"\r\n\r\n").map_or(n, |at| at + 4);
                head.extend_from_slice(&some[..at]);
                come += n - at;
            }
            if come == UPLOAD {
                (come, head) = (0, Vec::new());
                if socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
                    return;
                }
            }
        }
    };
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            thread::spawn(move || serve(socket));
        }
    });
    address
}

/// Uploads whose first bytes take so many buffers that each is then given one at a time go on to their end.
#[test]
fn uploads_under_strain_come_to_their_end() {
    for driver in drivers() {
        let main = listener("main", ANY, "stat_prefix: main");
        let config = bootstrap("", &[main], swallows());
        let args = ["--concurrency", "1", "--driver", driver, "--memory-mb", "96"];
        let proxy = Proxy::start_by(Command::new(SELVEDGE), &config, &args);
        let to: SocketAddr = proxy.listener("main").parse().expect("an address");
        let mut request =
            format!("POST /up/ HTTP/1.1\r\nhost: h\r\ncontent-length: {UPLOAD}\r\n\r\n").into_bytes();
        request.resize(request.len() + UPLOAD, b'x');
        let request = &request;
        let upload = || {
            let stream = TcpStream::connect(to).expect("a connection");
            stream.set_write_timeout(Some(crate::process::PATIENCE)).expect("a limit");
            stream.set_read_timeout(Some(crate::process::PATIENCE)).expect("a limit");
            let mut held = Some(stream);
            (0..3).map(|_| ask(to, &mut held, request)).collect::<Vec<_>>()
        };
        let answers: Vec<_> = thread::scope(|scope| {
            let clients: Vec<_> = (0..24).map(|_| scope.spawn(upload)).collect();
            clients.into_iter().flat_map(|client| client.join().expect("an end")).collect()
        });
        // One that finds no buffers at all is refused; none hangs.
        let bad = answers.iter().filter(|status| !matches!(status, Some(200 | 503))).count();
        assert_eq!(bad, 0, "{driver}: {answers:?}");
    }
}

#[test]
fn a_limit_that_is_too_small() {
    for mb in ["0", "16"] {
        let args = ["--config-yaml", "{}", "--disable-hot-restart", "--concurrency", "2", "--memory-mb", mb];
        let ended = run(&args, b"");
        let limit = mb.parse::<u64>().expect("a number") << 20;
        let told = format!(
            "the memory limit of {limit} bytes is too small: 2 shard(s) and this configuration need "
        );
        assert!(ended.code == Some(1) && ended.stderr.contains(&told), "{mb}: {}", ended.stderr);
    }
}
