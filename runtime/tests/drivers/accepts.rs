//! Accepting: bursts, one socket for several shards, ends with connections on their way.

use super::*;

/// How many of `count` connections, one after the other, each of two shards gets from one listening socket.
fn shared_by_two(driver: DriverChoice, count: usize) -> Option<[usize; 2]> {
    let fd = listen::bind_listen(&any(), &BindOptions::default()).expect("a socket");
    let to = listen::bound_address(&fd).expect("an address");
    let (ready, started) = mpsc::channel();
    let shards = [fd.try_clone().expect("a copy"), fd].map(|fd| {
        let ready = ready.clone();
        thread::spawn(move || {
            let runtime = Runtime::new(&config(driver)).inspect_err(|error| missing(driver, error)).ok();
            let (bell, letters) = runtime.as_ref().map(|r| r.handle().mailbox::<()>(1)).unzip();
            ready.send(bell).expect("the test waits");
            let (runtime, letters) = (runtime?, letters?);
            let rt = runtime.handle();
            let taken = Rc::new(Cell::new(0));
            let (own, seen) = (rt.clone(), Rc::clone(&taken));
            runtime.run(async move {
                let listener = own.adopt_listener(fd).expect("adopted");
                let accepting = own.spawn(async move {
                    loop {
                        let socket = listener.accept().await.expect("accepted");
                        seen.set(seen.get() + 1);
                        socket.send(Chunk::from_static(b"!").into()).await.expect("sent");
                    }
                });
                letters.recv().await;
                own.abort(accepting);
            });
            Some(taken.get())
        })
    });
    let bells: Vec<_> = shards.iter().map(|_| started.recv().expect("a shard")).collect();
    if bells.iter().all(Option::is_some) {
        for _ in 0..count {
            std_connect(&to).read_exact(&mut [0]).expect("served");
        }
        bells.iter().flatten().for_each(|bell| bell.send(()).expect("room"));
    }
    let [a, b] = shards.map(|shard| shard.join().expect("the shard is content"));
    Some([a?, b?])
}

/// Who waits longest is woken: with io_uring in turns, with epoll by chance.
#[test]
fn shards_that_share_a_socket_share_the_connections() {
    for (driver, least) in [(DriverChoice::Uring, 60), (DriverChoice::Epoll, 1)] {
        let Some(taken) = shared_by_two(driver, 200) else { continue };
        assert_eq!(taken[0] + taken[1], 200, "{driver:?}");
        assert!(taken.iter().all(|n| *n >= least), "{driver:?}: {taken:?}");
    }
}
