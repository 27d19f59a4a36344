//! Random sequences of operations give the same results on both drivers.

use super::*;

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
