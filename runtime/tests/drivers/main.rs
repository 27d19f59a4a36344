//! One set of tests, run on every driver that this kernel offers.
//!
//! Peers are plain blocking std sockets on threads of their own, so that the driver under test is the only one.
#![allow(clippy::disallowed_methods, reason = "peers on threads of their own")]

mod accepts;
mod choice;
mod dry;
mod ends;
mod equivalence;
mod executor;
mod flow;
mod scenes;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use selvedge_runtime::rng::Rng;
use selvedge_runtime::*;

fn config(driver: DriverChoice) -> Config {
    Config { driver, seed: 1, ..Config::default() }
}

/// A kernel without io_uring is said loudly, and fails where peers are required.
fn missing(driver: DriverChoice, error: &StartError) {
    eprintln!("SKIPPED on {driver:?}: {error}");
    assert!(std::env::var_os("SELVEDGE_REQUIRE_PEERS").is_none(), "a driver is missing: {error}");
}

/// Runs a test on both drivers.
fn on_each_driver<F: Future<Output = ()> + 'static>(test: impl Fn(Rt) -> F) {
    for driver in [DriverChoice::Uring, DriverChoice::Epoll] {
        let runtime = match Runtime::new(&config(driver)) {
            Ok(runtime) => runtime,
            Err(error) => {
                missing(driver, &error);
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

fn any() -> SocketAddress {
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    any.into()
}

fn listen(rt: &Rt) -> (Listener, SocketAddress) {
    let fd = listen::bind_listen(&any(), &BindOptions::default()).expect("a socket");
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

/// Turns until something is so; fails where it would wait for ever.
async fn until(rt: &Rt, so: impl Fn() -> bool) {
    let deadline = rt.now() + Duration::from_secs(10);
    while !so() {
        assert!(rt.now() < deadline, "waited for ten seconds");
        rt.sleep(Duration::from_millis(1)).await;
    }
}

async fn echo(socket: Socket) {
    while let Ok(Some(chunk)) = socket.recv().await {
        if socket.send(chunk.into()).await.is_err() {
            return;
        }
    }
}
