//! How bytes pass: in order, whole, bounded.

use super::*;

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
        until(&rt, || client.is_finished()).await;
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

#[test]
fn a_watched_socket_stays_watched_when_its_class_changes() {
    on_each_driver(|rt| async move {
        let (listener, address) = listen(&rt);
        let mut client = std_connect(&address);
        let socket = listener.accept().await.expect("accepted");
        socket.set_recv_class(RecvClass::Large);
        socket.watch();
        rt.yield_now().await;
        socket.set_recv_class(RecvClass::Small);
        rt.yield_now().await;
        rt.yield_now().await;
        client.write_all(b"late").expect("sent");
        until(&rt, || socket.has_event()).await;
        assert_eq!(&*socket.recv().await.expect("bytes").expect("not the end"), b"late");
        // The same, watched anew while the cancel is on its way.
        socket.watch();
        rt.yield_now().await;
        socket.pause_recv();
        socket.watch();
        rt.yield_now().await;
        drop(client);
        until(&rt, || socket.has_event()).await;
        assert!(socket.recv().await.expect("an end").is_none());
    });
}

#[test]
fn a_paused_socket_leaves_the_bytes_with_the_kernel() {
    on_each_driver(|rt| async move {
        let (listener, address) = listen(&rt);
        let mut client = std_connect(&address);
        let socket = listener.accept().await.expect("accepted");
        socket.watch();
        rt.yield_now().await;
        socket.pause_recv();
        for _ in 0..3 {
            rt.yield_now().await;
        }
        client.write_all(b"waits").expect("sent");
        rt.sleep(Duration::from_millis(5)).await;
        assert!(!socket.has_event());
        assert_eq!(&*socket.recv().await.expect("bytes").expect("not the end"), b"waits");
    });
}
