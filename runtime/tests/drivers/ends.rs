//! How connections and listeners end, also with operations in flight.

use super::*;

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

/// There is no event for room in the queue, and nobody waits in a thread of the ring's own.
#[test]
fn a_unix_listener_whose_queue_is_full_refuses_at_once() {
    on_each_driver(|rt| async move {
        let path = std::env::temp_dir().join(format!("selvedge-full-{}.sock", std::process::id()));
        let address = SocketAddress::unix(path.to_str().expect("a path"));
        let options = BindOptions { backlog: 1, ..BindOptions::default() };
        let _listens = listen::bind_listen(&address, &options).expect("a socket");
        let connect = || rt.connect(&address, &ConnectOptions::default());
        let waiting = [connect().await.expect("room"), connect().await.expect("room")];
        assert_eq!(connect().await.expect_err("full"), NetError::Os(libc::EAGAIN));
        // The descriptors are this driver's kind: those that connected work.
        waiting[0].send(Chunk::copy_from(&[1; 10]).into()).await.expect("sent");
        std::fs::remove_file(path).expect("removed");
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
fn an_end_that_comes_with_the_last_of_the_credit_is_the_last_word() {
    on_each_driver(|rt| async move {
        for _ in 0..3 {
            // Two large buffers use the credit up, and the end is already there when they are read.
            let (mut client, server) = UnixStream::pair().expect("a pair");
            client.write_all(&vec![1; limits::LARGE_BYTES + 5_000]).expect("sent");
            drop(client);
            let socket = rt.adopt_stream(server.into()).expect("adopted");
            socket.set_recv_class(RecvClass::Large);
            let mut got = 0;
            while let Some(chunk) = socket.recv().await.expect("bytes") {
                got += chunk.len();
            }
            assert_eq!(got, limits::LARGE_BYTES + 5_000);
            // Its slot is free, and the next round takes it: a second word about it would find a stranger there.
            drop(socket);
        }
    });
}

#[test]
fn what_a_dropped_listener_had_accepted_is_closed() {
    on_each_driver(|rt| async move {
        for _ in 0..3 {
            let (listener, address) = listen(&rt);
            let clients: Vec<TcpStream> = (0..5).map(|_| std_connect(&address)).collect();
            let first = listener.accept().await.expect("accepted");
            rt.yield_now().await;
            drop(listener);
            let waits = thread::spawn(move || {
                for mut client in clients {
                    // An end or a reset, at once: not the read's time-out.
                    let ended = client.read(&mut [0]).map_err(|e| e.kind());
                    assert!(matches!(ended, Ok(0) | Err(ErrorKind::ConnectionReset)), "{ended:?}");
                }
            });
            drop(first);
            until(&rt, || waits.is_finished()).await;
            waits.join().expect("the clients are content");
        }
    });
}

/// Set in the child process that has few descriptors.
const CHILD: &str = "SELVEDGE_TEST_FEW_DESCRIPTORS";

#[test]
fn without_descriptors_accepting_waits_and_goes_on() {
    if std::env::var_os(CHILD).is_some() {
        on_each_driver(|rt| async move { few_descriptors(rt).await });
        return;
    }
    let name = "ends::without_descriptors_accepting_waits_and_goes_on";
    let child = Command::new("sh")
        .args(["-c", "ulimit -n 64; exec \"$0\" --exact \"$1\" --nocapture"])
        .args([std::env::current_exe().expect("this test").as_os_str(), name.as_ref()])
        .env(CHILD, "1")
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

async fn few_descriptors(rt: Rt) {
    let (listener, address) = listen(&rt);
    let clients: Vec<TcpStream> = (0..6).map(|_| std_connect(&address)).collect();
    let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    taken.truncate(taken.len() - 2);
    let mut served = vec![listener.accept().await.expect("room"), listener.accept().await.expect("room")];
    assert_eq!(listener.accept().await.expect_err("no room"), NetError::NoDescriptors);
    // It does not spin: a try a pause, and the turns of this task's own timer.
    let (turns, pauses) = (rt.counters().turns.get(), rt.counters().accept_pauses.get());
    rt.sleep(Duration::from_millis(3 * limits::ACCEPT_PAUSE_MS)).await;
    let (turns, pauses) = (rt.counters().turns.get() - turns, rt.counters().accept_pauses.get() - pauses);
    assert!(turns <= 12 && pauses <= 4, "{turns} turns and {pauses} tries in three pauses");
    // One of ours closes: the next is accepted before the pause is over.
    let begun = rt.now();
    drop(served.pop());
    served.push(accept_patiently(&listener).await);
    assert!(
        (rt.now() - begun).as_millis() < u128::from(limits::ACCEPT_PAUSE_MS) / 2,
        "{:?}",
        rt.now() - begun
    );
    // A stranger's descriptor closes: the next is accepted after a pause.
    taken.pop();
    served.push(accept_patiently(&listener).await);
    drop((served, taken, clients));
}

/// The next connection, over the errors that were queued meanwhile.
async fn accept_patiently(listener: &Listener) -> Socket {
    loop {
        match listener.accept().await {
            Ok(socket) => return socket,
            Err(error) => assert_eq!(error, NetError::NoDescriptors),
        }
    }
}
