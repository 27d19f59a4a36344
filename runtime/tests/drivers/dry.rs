//! Groups of buffers that run dry.

use super::*;

#[test]
fn a_small_ring_that_runs_dry_grows_and_serves() {
    for driver in [DriverChoice::Uring, DriverChoice::Epoll] {
        let config = Config { small_bufs: 2, ..config(driver) };
        let Ok(runtime) = Runtime::new(&config).inspect_err(|error| missing(driver, error)) else { continue };
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

/// A runtime whose groups cannot grow: four small buffers, one large one, and `spare` bytes for copies.
fn fixed(driver: DriverChoice, spare: usize) -> Option<Runtime> {
    let first = 4 * limits::SMALL_BYTES + limits::LARGE_BYTES;
    let config = Config { small_bufs: 4, large_bufs: 1, budget_bytes: first + spare, ..config(driver) };
    Runtime::new(&config).inspect_err(|error| missing(driver, error)).ok()
}

/// Pairs of connected sockets: the client's and ours.
async fn pairs(rt: &Rt, count: usize) -> Vec<(TcpStream, Socket)> {
    let (listener, address) = listen(rt);
    let mut pairs = Vec::new();
    for _ in 0..count {
        let client = std_connect(&address);
        pairs.push((client, listener.accept().await.expect("accepted")));
    }
    pairs
}

#[test]
fn where_nothing_grows_unread_bytes_are_copied() {
    for driver in [DriverChoice::Uring, DriverChoice::Epoll] {
        let Some(runtime) = fixed(driver, 20_000) else { continue };
        let rt = runtime.handle();
        runtime.run(async move {
            let before = rt.budget().used();
            let mut pairs = pairs(&rt, 30).await;
            for (client, server) in &mut pairs {
                server.watch();
                client.write_all(&[7; 200]).expect("sent");
            }
            // Nobody reads, and yet all 30 arrive: in four buffers and in copies.
            until(&rt, || pairs.iter().all(|(_, server)| server.has_event())).await;
            assert!(rt.counters().small_dry.get() > 0, "{driver:?}");
            let copied = rt.budget().used() - before;
            assert!((26 * 200..20_000).contains(&copied), "{driver:?}: {copied} bytes of copies");
            for (_, server) in &pairs {
                assert_eq!(&*server.recv().await.expect("bytes").expect("not the end"), [7; 200]);
            }
            assert_eq!(rt.budget().used(), before);
        });
    }
}

#[test]
fn where_nothing_can_be_copied_receives_wait_for_a_buffer() {
    for driver in [DriverChoice::Uring, DriverChoice::Epoll] {
        let Some(runtime) = fixed(driver, 0) else { continue };
        let rt = runtime.handle();
        runtime.run(async move {
            let mut pairs = pairs(&rt, 12).await;
            for (client, server) in &mut pairs {
                server.watch();
                client.write_all(&[7; 200]).expect("sent");
            }
            rt.sleep(Duration::from_millis(2 * limits::STARVED_PAUSE_MS)).await;
            let full = |pairs: &[(TcpStream, Socket)]| pairs.iter().filter(|(_, s)| s.has_event()).count();
            assert_eq!(full(&pairs), 4, "{driver:?}: as many as there are buffers");
            let turns = rt.counters().turns.get();
            rt.sleep(Duration::from_millis(5 * limits::STARVED_PAUSE_MS)).await;
            assert!(rt.counters().turns.get() - turns <= 15, "{driver:?}: it does not spin");
            // Each buffer that comes back is used again.
            while !pairs.is_empty() {
                until(&rt, || pairs.iter().any(|(_, server)| server.has_event())).await;
                let at = pairs.iter().position(|(_, server)| server.has_event()).expect("one");
                let (_, server) = pairs.swap_remove(at);
                assert_eq!(&*server.recv().await.expect("bytes").expect("not the end"), [7; 200]);
            }
        });
    }
}

#[test]
fn a_receive_that_waits_for_a_buffer_can_be_paused() {
    for driver in [DriverChoice::Uring, DriverChoice::Epoll] {
        let Some(runtime) = fixed(driver, 0) else { continue };
        let rt = runtime.handle();
        runtime.run(async move {
            let mut pairs = pairs(&rt, 5).await;
            let (mut client, paused) = pairs.pop().expect("five");
            for (client, server) in &mut pairs {
                server.watch();
                client.write_all(&[7; 200]).expect("sent");
            }
            until(&rt, || pairs.iter().all(|(_, server)| server.has_event())).await;
            client.write_all(b"waits").expect("sent");
            paused.watch();
            until(&rt, || rt.counters().small_dry.get() > 0).await;
            paused.pause_recv();
            // The buffers come free, and are not for this one.
            drop(pairs);
            rt.sleep(Duration::from_millis(3 * limits::STARVED_PAUSE_MS)).await;
            assert!(!paused.has_event(), "{driver:?}");
            assert_eq!(&*paused.recv().await.expect("bytes").expect("not the end"), b"waits", "{driver:?}");
        });
    }
}
