//! The simulated driver alone: bytes arrive whole and in order under faults, and one seed is one run.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use selvedge_runtime::sim::{ALWAYS, Faults, World};
use selvedge_runtime::{
    Chunk, Config, ConnectOptions, NetError, RecvClass, Rt, Runtime, Socket, SocketAddress,
};

fn address(port: u16) -> SocketAddress {
    SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), port)).into()
}

fn host(world: &World, faults: Faults) -> Runtime {
    let config = Config { seed: world.draw(u64::MAX), small_bufs: 8, large_bufs: 4, ..Config::default() };
    Runtime::simulated(&config, world, faults).expect("the budget holds the first buffers")
}

fn rough() -> Faults {
    Faults {
        short_read: ALWAYS / 2,
        short_write: ALWAYS / 2,
        late_rate: ALWAYS / 4,
        late: Duration::from_millis(3),
        multishot_ends: ALWAYS / 8,
        partial_turn: ALWAYS / 4,
        no_buffers: ALWAYS / 16,
        room: (1, 5_000),
        ..Faults::none()
    }
}

/// Lets the hosts run until nobody has anything to do, at most to a bound.
fn run(world: &World, hosts: &[&Runtime]) {
    for _ in 0..2_000_000 {
        let next = hosts.iter().filter_map(|h| h.next().map(|at| (at, *h)));
        let Some((at, _)) = next.clone().min_by_key(|(at, _)| *at) else { return };
        world.advance_to(at);
        let ready: Vec<_> = next.filter(|(at, _)| *at <= world.now()).collect();
        let chosen = usize::try_from(world.draw(ready.len() as u64)).expect("small");
        ready[chosen].1.step();
    }
    panic!("the hosts never came to rest");
}

async fn echo(socket: Socket, rt: Rt) {
    let mut turn = 0u32;
    while let Ok(Some(chunk)) = socket.recv().await {
        turn += 1;
        if turn.is_multiple_of(5) {
            socket.pause_recv();
            rt.sleep(Duration::from_millis(1)).await;
        }
        socket.set_recv_class(if turn.is_multiple_of(2) { RecvClass::Large } else { RecvClass::Small });
        if socket.send(chunk.into()).await.is_err() {
            return;
        }
    }
    socket.shutdown_write();
}

/// What came back of what was sent, and the run's trace.
fn echoed(seed: u64, faults: &Faults) -> (Vec<Result<Vec<u8>, NetError>>, u64) {
    let world = World::new(seed);
    let (server, client) = (host(&world, faults.clone()), host(&world, faults.clone()));
    let results = Rc::new(RefCell::new(Vec::new()));
    let listening = world.listen(&address(80));
    let rt = server.handle();
    server.handle().spawn(async move {
        let listener = rt.adopt_listener(listening).expect("a listener");
        loop {
            if let Ok(socket) = listener.accept().await {
                let own = rt.clone();
                rt.spawn(echo(socket, own));
            }
        }
    });
    for n in 0..5u8 {
        let (rt, results) = (client.handle(), Rc::clone(&results));
        client.handle().spawn(async move {
            let result = talk(&rt, n).await;
            results.borrow_mut().push(result);
        });
    }
    run(&world, &[&server, &client]);
    assert_eq!((client.handle().sockets_in_use(), server.handle().sockets_in_use()), (0, 0), "seed {seed}");
    let trace = world.trace();
    (results.take(), trace)
}

async fn talk(rt: &Rt, n: u8) -> Result<Vec<u8>, NetError> {
    let socket = rt.connect(&address(80), &ConnectOptions::default()).await?;
    let socket = Rc::new(socket);
    let (sender, failed) = (Rc::clone(&socket), Rc::new(Cell::new(None)));
    let why = Rc::clone(&failed);
    rt.spawn(async move {
        for part in 0..40u8 {
            let bytes = vec![n.wrapping_mul(40).wrapping_add(part); 1 + usize::from(part) * 37];
            if let Err(error) = sender.send(Chunk::copy_from(&bytes).into()).await {
                why.set(Some(error));
                return;
            }
        }
        sender.shutdown_write();
    });
    let mut got = Vec::new();
    while let Some(chunk) = socket.recv().await? {
        got.extend_from_slice(&chunk);
    }
    failed.get().map_or(Ok(got), Err)
}

fn expected(n: u8) -> Vec<u8> {
    (0..40u8)
        .flat_map(|part| vec![n.wrapping_mul(40).wrapping_add(part); 1 + usize::from(part) * 37])
        .collect()
}

#[test]
fn bytes_arrive_whole_and_in_order_under_every_fault_that_loses_none() {
    for seed in 0..20 {
        let (mut results, _) = echoed(seed, &rough());
        results.sort_by_key(|r| r.as_ref().map_or(0, |b| b[0]));
        let whole: Vec<_> = (0..5).map(|n| Ok(expected(n))).collect();
        assert!(results == whole, "seed {seed}: {:?}", results.iter().map(|r| r.as_ref().map(Vec::len)));
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..5 {
        let (first, again) = (echoed(seed, &rough()).1, echoed(seed, &rough()).1);
        assert_eq!(first, again, "seed {seed}");
    }
    assert_ne!(echoed(1, &rough()).1, echoed(2, &rough()).1);
}

#[test]
fn resets_refusals_and_missing_descriptors_are_said_and_leak_nothing() {
    let harsh = Faults {
        reset: ALWAYS / 2,
        reset_after: 20_000,
        refuse: ALWAYS / 8,
        no_descriptors: ALWAYS / 4,
        ..rough()
    };
    let (mut failed, mut whole) = (0, 0);
    for seed in 0..30 {
        for result in echoed(seed, &harsh).0 {
            match result {
                Ok(bytes) if expected(bytes[0] / 40) == bytes => whole += 1,
                Ok(bytes) => panic!("seed {seed}: {} bytes that nobody sent so", bytes.len()),
                Err(NetError::Reset | NetError::Refused | NetError::BrokenPipe) => failed += 1,
                Err(other) => panic!("seed {seed}: {other}"),
            }
        }
    }
    assert!(failed > 10 && whole > 10, "{failed} failed, {whole} came whole");
}
