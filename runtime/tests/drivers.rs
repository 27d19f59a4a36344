//! One set of tests, run on every driver that this kernel offers.
//!
//! Peers are plain blocking std sockets on threads of their own, so that the driver under test is the only one.
#![allow(clippy::disallowed_methods, reason = "peers on threads of their own")]

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use selvedge_runtime::rng::Rng;
use selvedge_runtime::*;

fn config(driver: DriverChoice) -> Config {
    Config { driver, seed: 1, ..Config::default() }
}

/// Runs a test on both drivers. A kernel without io_uring is said loudly, and fails where peers are required.
fn on_each_driver<F: Future<Output = ()> + 'static>(test: impl Fn(Rt) -> F) {
    for driver in [DriverChoice::Uring, DriverChoice::Epoll] {
        let runtime = match Runtime::new(&config(driver)) {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("SKIPPED on {driver:?}: {error}");
                assert!(std::env::var_os("SELVEDGE_REQUIRE_PEERS").is_none(), "a driver is missing: {error}");
                continue;
            }
        };
        let rt = runtime.handle();
        runtime.run(test(rt.clone()));
        runtime.wind_down();
        assert_eq!(rt.sockets_in_use(), 0, "{driver:?}: a socket is left");
        assert_eq!(rt.tasks_live(), 0, "{driver:?}: a task is left");
        // What remains are whole slabs of buffers: no heap block, and no part of one.
        let slab = limits::LARGE_BUFS * limits::LARGE_BYTES;
        assert_eq!(rt.budget().used() % slab, 0, "{driver:?}: a block is left");
    }
}

fn listen(rt: &Rt) -> (Listener, SocketAddress) {
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let fd = listen::bind_listen(&any.into(), &BindOptions::default()).expect("a socket");
    let address = listen::bound_address(&fd).expect("an address");
    (rt.adopt_listener(fd).expect("adopted"), address)
}

fn std_connect(to: &SocketAddress) -> TcpStream {
    let SocketAddress::Ip(to) = to else { panic!("an IP address") };
    let stream = TcpStream::connect(to).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    stream
}

/// The byte at place `n` of a test's stream: no small shift maps it to itself.
fn pattern(n: usize) -> u8 {
    u8::try_from(n % 251).expect("below 251")
}

async fn echo(socket: Socket) {
    while let Ok(Some(chunk)) = socket.recv().await {
        if socket.send(chunk.into()).await.is_err() {
            return;
        }
    }
}

#[test]
fn echoes_many_connections() {
    on_each_driver(|rt| async move {
        let (listener, address) = listen(&rt);
        let client = thread::spawn(move || {
            let mut streams: Vec<TcpStream> = (0..50).map(|_| std_connect(&address)).collect();
            for round in 0..20u8 {
                for stream in &mut streams {
                    stream.write_all(&[round; 33]).expect("sent");
                }
                for stream in &mut streams {
                    let mut back = [0; 33];
                    stream.read_exact(&mut back).expect("echoed");
                    assert_eq!(back, [round; 33]);
                }
            }
        });
        for _ in 0..50 {
            let socket = listener.accept().await.expect("accepted");
            rt.spawn(echo(socket));
        }
        while !client.is_finished() {
            rt.sleep(Duration::from_millis(5)).await;
        }
        client.join().expect("the client is content");
    });
}

#[test]
fn large_bodies_pass_whole_in_both_classes() {
    for class in [RecvClass::Small, RecvClass::Large] {
        on_each_driver(move |rt| async move {
            let (listener, address) = listen(&rt);
            const LEN: usize = 5_000_000;
            let client = thread::spawn(move || {
                let stream = std_connect(&address);
                let mut reader = stream.try_clone().expect("a copy");
                let sender = thread::spawn(move || {
                    let body: Vec<u8> = (0..LEN).map(pattern).collect();
                    (&stream).write_all(&body).expect("sent");
                });
                let mut back = vec![0; LEN];
                reader.read_exact(&mut back).expect("echoed");
                assert!(back.iter().enumerate().all(|(n, &b)| b == pattern(n)), "bytes in order");
                sender.join().expect("sent");
            });
            let socket = listener.accept().await.expect("accepted");
            socket.set_recv_class(class);
            echo(socket).await;
            client.join().expect("the client is content");
        });
    }
}

#[test]
fn pausing_loses_nothing_and_a_slow_reader_is_bounded() {
    on_each_driver(|rt| async move {
        let (listener, address) = listen(&rt);
        const LEN: usize = 3_000_000;
        let client = thread::spawn(move || {
            let mut stream = std_connect(&address);
            let body: Vec<u8> = (0..LEN).map(pattern).collect();
            stream.write_all(&body).expect("sent");
        });
        let socket = listener.accept().await.expect("accepted");
        let mut seen = 0usize;
        let mut round = 0u32;
        while let Some(chunk) = socket.recv().await.expect("bytes") {
            assert!(
                chunk.iter().all(|&b| {
                    let ok = b == pattern(seen);
                    seen += 1;
                    ok
                }),
                "bytes in order"
            );
            round += 1;
            if round.is_multiple_of(7) {
                socket.pause_recv();
                rt.sleep(Duration::from_millis(2)).await;
            }
            let class = if round.is_multiple_of(2) { RecvClass::Large } else { RecvClass::Small };
            socket.set_recv_class(class);
        }
        assert_eq!(seen, LEN);
        client.join().expect("the client is content");
    });
}

#[test]
fn unread_bytes_stop_at_the_credit() {
    on_each_driver(|rt| async move {
        let (listener, address) = listen(&rt);
        let (stop, stopped) = mpsc::channel::<()>();
        let client = thread::spawn(move || {
            let stream = std_connect(&address);
            stream.set_nonblocking(true).expect("non-blocking");
            // As much as the kernel takes, again and again until told to stop.
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                if (&stream).write(&[7; 65536]).is_err() {
                    thread::yield_now();
                }
            }
        });
        let socket = listener.accept().await.expect("accepted");
        socket.watch();
        let before = rt.counters().recvs.get();
        for _ in 0..50 {
            rt.sleep(Duration::from_millis(1)).await;
        }
        // What completes before the cancel takes effect is bounded by the ring's buffers.
        let got = rt.counters().recvs.get() - before;
        assert!(
            got > 0 && got <= limits::SMALL_BUFS as u64,
            "{got} receives for a reader that takes nothing"
        );
        stop.send(()).expect("told");
        drop(socket);
        client.join().expect("the client is content");
    });
}

#[test]
fn ends_and_errors_arrive() {
    on_each_driver(|rt| async move {
        let (listener, address) = listen(&rt);
        let to = address.clone();
        let client = thread::spawn(move || {
            let half = std_connect(&to);
            (&half).write_all(b"last words").expect("sent");
            half.shutdown(std::net::Shutdown::Write).expect("half-closed");
            let mut answer = Vec::new();
            (&half).read_to_end(&mut answer).expect("answered");
            answer
        });
        let socket = listener.accept().await.expect("accepted");
        let mut got = Vec::new();
        while let Some(chunk) = socket.recv().await.expect("bytes") {
            got.extend_from_slice(&chunk);
        }
        assert_eq!(got, b"last words");
        socket.send(Chunk::from_static(b"heard").into()).await.expect("sent after the peer's FIN");
        socket.shutdown_write();
        assert_eq!(client.join().expect("the client is content"), b"heard");

        // A reset by the peer is an error, not an end.
        let client = rt.connect(&address, &ConnectOptions::default()).await.expect("connected");
        let server = listener.accept().await.expect("accepted");
        client.reset_on_close();
        drop(client);
        assert_eq!(server.recv().await.expect_err("a reset"), NetError::Reset);
        drop(listener);
        for _ in 0..100 {
            rt.yield_now().await;
        }
        // Nobody listens any more.
        let refused = rt.connect(&address, &ConnectOptions::default()).await.expect_err("refused");
        assert!(matches!(refused, NetError::Refused | NetError::Reset), "{refused:?}");
    });
}

#[test]
fn a_dropped_socket_with_operations_in_flight_is_closed() {
    on_each_driver(|rt| async move {
        let (listener, address) = listen(&rt);
        let client = std_connect(&address);
        let socket = listener.accept().await.expect("accepted");
        socket.watch();
        // More than the kernel takes: the send stays in flight.
        socket.start_send(Chunk::copy_from(&vec![1; 64 << 20]).into());
        rt.sleep(Duration::from_millis(2)).await;
        assert!(socket.send_in_flight());
        drop(socket);
        rt.sleep(Duration::from_millis(5)).await;
        let mut rest = Vec::new();
        let _reset_or_end = (&client).read_to_end(&mut rest);
        assert!(rest.len() < 64 << 20);
        assert_eq!(rt.sockets_in_use(), 0);
        drop(client);
    });
}

#[test]
fn gathered_sends_of_many_chunks_keep_order() {
    on_each_driver(|rt| async move {
        let (listener, address) = listen(&rt);
        let client = thread::spawn(move || {
            let mut stream = std_connect(&address);
            let mut all = Vec::new();
            stream.read_to_end(&mut all).expect("read");
            all
        });
        let socket = listener.accept().await.expect("accepted");
        let mut chunks = Chunks::new();
        let mut expected = Vec::new();
        for n in 0..100u8 {
            let part = vec![n; usize::from(n) * 97];
            expected.extend_from_slice(&part);
            chunks.push(Chunk::copy_from(&part));
        }
        socket.send(chunks).await.expect("sent");
        drop(socket);
        for _ in 0..3 {
            rt.yield_now().await;
        }
        assert_eq!(client.join().expect("the client is content"), expected);
    });
}

#[test]
fn timers_mailboxes_events_and_panics() {
    on_each_driver(|rt| async move {
        let begun = rt.now();
        rt.sleep(Duration::from_millis(15)).await;
        assert!(rt.now() - begun >= Duration::from_millis(15), "never early");

        let (sender, receiver) = rt.mailbox::<u32>(2);
        let ringer = thread::spawn(move || {
            thread::yield_now();
            sender.send(41).expect("room");
            sender.send(42).expect("room");
            sender
        });
        assert_eq!((receiver.recv().await, receiver.recv().await), (41, 42));
        let sender = ringer.join().expect("rang");
        assert_eq!((sender.send(1), sender.send(2), sender.send(3)), (Ok(()), Ok(()), Err(3)));

        let event = rt.event();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (waiter, log) = (event.clone(), Rc::clone(&seen));
        rt.spawn(async move {
            waiter.wait().await;
            log.borrow_mut().push("woken");
        });
        rt.yield_now().await;
        assert!(seen.borrow().is_empty());
        event.notify();
        rt.yield_now().await;
        assert_eq!(*seen.borrow(), ["woken"]);

        let log = Rc::clone(&seen);
        rt.on_panic(move |text| log.borrow_mut().push(if text == "planted" { "caught" } else { "?" }));
        rt.spawn(async { panic!("planted") });
        rt.yield_now().await;
        assert_eq!((&*seen.borrow(), rt.panics()), (&vec!["woken", "caught"], 1));

        let forever = rt.spawn(std::future::pending());
        rt.yield_now().await;
        rt.abort(forever);
    });
}

#[test]
fn unix_sockets_too() {
    on_each_driver(|rt| async move {
        let path = std::env::temp_dir().join(format!("selvedge-rt-{}.sock", std::process::id()));
        let address = SocketAddress::unix(path.to_str().expect("a path"));
        let options = BindOptions { mode: Some(0o600), ..BindOptions::default() };
        let fd = listen::bind_listen(&address, &options).expect("a socket");
        let listener = rt.adopt_listener(fd).expect("adopted");
        let client = rt.connect(&address, &ConnectOptions::default()).await.expect("connected");
        let server = listener.accept().await.expect("accepted");
        client.send(Chunk::from_static(b"hello").into()).await.expect("sent");
        assert_eq!(&*server.recv().await.expect("bytes").expect("not the end"), b"hello");
        assert_eq!(client.peer_addr(), Some(address));
        drop((client, server));
        std::fs::remove_file(path).expect("removed");
    });
}

/// What one side of a connection saw: the same on every driver.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Saw {
    Bytes(usize, u64),
    End,
    Error,
}

/// A random sequence of operations on a connection, and what both sides saw of it.
fn play(driver: DriverChoice, seed: u64) -> Option<Vec<Saw>> {
    let runtime = Runtime::new(&config(driver)).ok()?;
    let rt = runtime.handle();
    Some(runtime.run(async move {
        let (listener, address) = listen(&rt);
        let a = rt.connect(&address, &ConnectOptions::default()).await.expect("connected");
        let b = listener.accept().await.expect("accepted");
        let (rng, mut saw) = (Rng::new(seed), Vec::new());
        let mut open = [true, true];
        for _ in 0..60 {
            let side = (rng.next() % 2) as usize;
            let (from, to) = if side == 0 { (&a, &b) } else { (&b, &a) };
            match rng.next() % 10 {
                0..=5 if open[side] => {
                    let len = [1, 10, 5_000, 40_000, 300_000][(rng.next() % 5) as usize];
                    let parts = 1 + (rng.next() % 3) as usize;
                    let mut chunks = Chunks::new();
                    for part in 0..parts {
                        chunks.push(Chunk::copy_from(&vec![pattern(len + part); len]));
                    }
                    let total = chunks.bytes();
                    from.start_send(chunks);
                    saw.push(read(to, total).await);
                    from.send(Chunks::new()).await.expect("the whole send is out");
                }
                6 => to.pause_recv(),
                7 => to.set_recv_class(RecvClass::Large),
                8 => to.set_recv_class(RecvClass::Small),
                9 if open[side] && rng.next() % 4 == 0 => {
                    open[side] = false;
                    from.shutdown_write();
                    saw.push(read(to, 1).await);
                }
                _ => rt.yield_now().await,
            }
        }
        if rng.next() % 2 == 0 {
            a.reset_on_close();
            drop(a);
            saw.push(match b.recv().await {
                Ok(Some(_)) => Saw::Bytes(0, 0),
                Ok(None) => Saw::End,
                Err(_) => Saw::Error,
            });
        }
        saw
    }))
}

async fn read(from: &Socket, total: usize) -> Saw {
    let (mut count, mut sum) = (0, 0u64);
    while count < total {
        match from.recv().await {
            Ok(Some(chunk)) => {
                count += chunk.len();
                sum = chunk.iter().fold(sum, |s, &b| s.wrapping_mul(31).wrapping_add(u64::from(b)));
            }
            Ok(None) => return Saw::End,
            Err(_) => return Saw::Error,
        }
    }
    Saw::Bytes(count, sum)
}

#[test]
fn both_drivers_give_the_same_results() {
    for seed in 0..40 {
        let (ring, readiness) = (play(DriverChoice::Uring, seed), play(DriverChoice::Epoll, seed));
        let readiness = readiness.expect("epoll runs everywhere");
        assert!(!readiness.is_empty());
        if let Some(ring) = ring {
            assert_eq!(ring, readiness, "seed {seed}");
        }
    }
}

#[test]
fn a_small_ring_that_runs_dry_grows_and_serves() {
    for driver in [DriverChoice::Uring, DriverChoice::Epoll] {
        let Ok(runtime) = Runtime::new(&Config { small_bufs: 2, ..config(driver) }) else { continue };
        let rt = runtime.handle();
        runtime.run(async move {
            let (listener, address) = listen(&rt);
            let mut clients = Vec::new();
            let mut servers = Vec::new();
            for _ in 0..40 {
                clients.push(std_connect(&address));
                let server = listener.accept().await.expect("accepted");
                server.watch();
                servers.push(server);
            }
            for client in &mut clients {
                client.write_all(b"all at once").expect("sent");
            }
            for server in &servers {
                let chunk = server.recv().await.expect("bytes").expect("not the end");
                assert_eq!(&*chunk, b"all at once");
            }
            assert!(rt.counters().small_dry.get() > 0, "{driver:?}: the ring ran dry");
        });
    }
}
