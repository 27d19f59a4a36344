//! The scenes of random plays: each a few connections, what is done to them, and what is seen of it.

use std::os::fd::OwnedFd;

use super::*;

/// One play: where its scenes find their choices, and note what was seen.
pub struct Play {
    pub rt: Rt,
    rng: Rng,
    what: String,
    pub noted: Vec<String>,
}

impl Play {
    pub fn new(rt: Rt, rng: Rng, what: String) -> Play {
        Play { rt, rng, what, noted: Vec::new() }
    }

    /// A number below `n`.
    fn below(&self, n: usize) -> usize {
        usize::try_from(self.rng.next() % n as u64).expect("small")
    }

    fn coin(&self) -> bool {
        self.below(2) == 0
    }

    fn size(&self) -> usize {
        [1, 10, 5_000, 40_000, 300_000, 1_500_000][self.below(6)] + self.below(7)
    }

    fn note(&mut self, line: impl Into<String>) {
        self.noted.push(line.into());
    }

    /// A few turns, or a few milliseconds.
    async fn pause(&self) {
        if self.coin() {
            for _ in 0..self.below(5) {
                self.rt.yield_now().await;
            }
        } else {
            self.rt.sleep(Duration::from_millis(1 + self.below(3) as u64)).await;
        }
    }

    /// What a future gives; it fails where it would wait for ever.
    async fn soon<F: Future>(&self, future: F) -> F::Output {
        soon(&self.rt, &self.what, future).await
    }

    /// Two ends of one connection: over TCP, or a Unix pair.
    async fn pair(&self) -> [Rc<Socket>; 2] {
        if self.coin() {
            let (a, b) = UnixStream::pair().expect("a pair");
            return [a, b].map(|s| Rc::new(self.rt.adopt_stream(s.into()).expect("adopted")));
        }
        self.tcp_pair().await
    }

    async fn tcp_pair(&self) -> [Rc<Socket>; 2] {
        let (listener, address) = listen(&self.rt);
        let a = self.rt.connect(&address, &ConnectOptions::default()).await.expect("connected");
        [a, listener.accept().await.expect("accepted")].map(Rc::new)
    }

    /// Something that loses no byte, on a socket that will be read.
    async fn fumble(&self, with: &Socket) {
        for _ in 0..self.below(6) {
            match self.below(6) {
                0 => with.watch(),
                1 => with.pause_recv(),
                2 => with.set_recv_class(RecvClass::Large),
                3 => with.set_recv_class(RecvClass::Small),
                4 => self.pause().await,
                _ => {
                    with.pause_recv();
                    with.watch();
                }
            }
        }
    }
}

async fn soon<F: Future>(rt: &Rt, what: &str, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut patience = rt.sleep(Duration::from_secs(10));
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(cx) {
            return std::task::Poll::Ready(output);
        }
        assert!(patience.poll_due().is_pending(), "{what}: waited for ten seconds");
        std::task::Poll::Pending
    })
    .await
}

/// A period of `pattern`.
const PERIOD: usize = 251;

/// The bytes of a stream from place `from` on: `pattern`, in one to three pieces.
fn bytes(from: usize, len: usize, pieces: usize) -> Chunks {
    let period: Vec<u8> = (from..from + PERIOD).map(pattern).collect();
    let all = period.repeat(len.div_ceil(PERIOD));
    let mut chunks = Chunks::new();
    for piece in all[..len].chunks(len.div_ceil(pieces).max(1)) {
        chunks.push(Chunk::copy_from(piece));
    }
    chunks
}

/// Whether these are the bytes of a stream from place `from` on.
fn are_bytes(chunk: &[u8], from: usize) -> bool {
    let period: Vec<u8> = (from..from + PERIOD).map(pattern).collect();
    chunk.chunks(PERIOD).all(|part| part == &period[..part.len()])
}

/// Reads until `total` bytes are there, or the end or an error comes before: how many, and that they are the right
/// ones.
async fn read(from: &Socket, at: usize, total: usize) -> String {
    let mut count = 0;
    while count < total {
        match from.recv().await {
            Ok(Some(chunk)) => {
                assert!(are_bytes(&chunk, at + count), "bytes in order from {count} of {total} on");
                count += chunk.len();
            }
            Ok(None) => return format!("{count} bytes, end"),
            Err(error) => return format!("{count} bytes, {error:?}"),
        }
    }
    format!("{count} bytes")
}

const TO_THE_END: usize = usize::MAX;

pub async fn any(play: &mut Play) {
    let which = play.below(9);
    match which {
        0 => exchange(play).await,
        1 => half_closes(play).await,
        2 => orphans(play).await,
        3 => burst(play).await,
        4 => refusals(play).await,
        5 => rearmed(play).await,
        6 => resets(play).await,
        7 => credit(play).await,
        _ => crowd(play).await,
    }
}

/// Sends this way and that, read whole each time, with pauses and changes of class in between.
async fn exchange(play: &mut Play) {
    let ends = play.pair().await;
    let mut sent = [0, 0];
    let mut open = [true, true];
    for _ in 0..12 {
        let side = play.below(2);
        let (from, to) = (&ends[side], &ends[1 - side]);
        play.fumble(to).await;
        if open[side] && play.below(8) > 0 {
            let len = play.size();
            from.start_send(bytes(sent[side], len, 1 + play.below(3)));
            let got = play.soon(read(to, sent[side], len)).await;
            play.soon(from.send(Chunks::new())).await.expect("the whole send is out");
            sent[side] += len;
            play.note(format!("exchange: side {side}: {got}"));
        } else if open[side] {
            open[side] = false;
            from.shutdown_write();
            let got = play.soon(read(to, sent[side], TO_THE_END)).await;
            play.note(format!("exchange: side {side} finishes: {got}"));
        }
    }
    play.note("exchange: over");
}

/// Both sides finish while what they sent is still on its way, and both get all of it.
async fn half_closes(play: &mut Play) {
    let ends = play.pair().await;
    let sizes = [play.size(), play.size()];
    for (side, len) in sizes.into_iter().enumerate() {
        let (from, chunks, rt) = (Rc::clone(&ends[side]), bytes(0, len, 1 + play.below(3)), play.rt.clone());
        let turns = play.below(4);
        play.rt.spawn(async move {
            for _ in 0..turns {
                rt.yield_now().await;
            }
            from.send(chunks).await.expect("sent");
            from.shutdown_write();
        });
    }
    play.fumble(&ends[0]).await;
    play.fumble(&ends[1]).await;
    let readers = [0, 1].map(|side| {
        let (to, got, log) = (Rc::clone(&ends[side]), Rc::new(RefCell::new(None)), play.what.clone());
        let (out, rt) = (Rc::clone(&got), play.rt.clone());
        play.rt.spawn(async move {
            let seen = soon(&rt, &log, read(&to, 0, TO_THE_END)).await;
            *out.borrow_mut() = Some(seen);
        });
        got
    });
    until(&play.rt, || readers.iter().all(|got| got.borrow().is_some())).await;
    for (side, got) in readers.iter().enumerate() {
        let got = got.borrow_mut().take().expect("just looked");
        assert_eq!(got, format!("{} bytes, end", sizes[1 - side]), "{}", play.what);
        play.note(format!("half-closes of {sizes:?}: side {side} gets {got}"));
    }
}

/// Owners go while the kernel is at work for them: the peer learns of it, and nothing is left.
async fn orphans(play: &mut Play) {
    let before = play.rt.sockets_in_use();
    let ends = play.pair().await;
    let [a, b] = ends.map(|end| Rc::into_inner(end).expect("nobody else has it"));
    let which = play.below(5);
    let seen = match which {
        // A receive.
        0 => {
            b.watch();
            play.pause().await;
            drop(b);
            play.soon(read(&a, 0, TO_THE_END)).await
        }
        // A send that the peer does not read: it gets the beginning of it.
        1 => {
            const LEN: usize = 16 << 20;
            a.start_send(bytes(0, LEN, 1));
            play.pause().await;
            if play.coin() {
                a.watch();
            }
            drop(a);
            let got = play.soon(read(&b, 0, TO_THE_END)).await;
            let count: usize = got.split(' ').next().expect("a number").parse().expect("a number");
            format!("less than all: {}", count < LEN)
        }
        // A send that is out, and its owner goes at once: the peer gets all of it.
        2 => {
            let len = play.size();
            let chunks = bytes(0, len, 2);
            play.rt.spawn(async move {
                a.send(chunks).await.expect("sent");
            });
            play.soon(read(&b, 0, TO_THE_END)).await
        }
        // Bytes that were never read: the peer is told.
        3 => {
            a.send(bytes(0, 100, 1)).await.expect("sent");
            play.rt.sleep(Duration::from_millis(2)).await;
            drop(b);
            play.soon(read(&a, 0, TO_THE_END)).await
        }
        // A connect, to where nobody answers or to a listener.
        _ => {
            let (_listener, address) = listen(&play.rt);
            let to = if play.coin() { nobody() } else { address };
            let mut connect = play.rt.connect(&to, &ConnectOptions::default());
            if play.coin() {
                let _on_its_way = connect.poll();
                play.pause().await;
            }
            "given up".to_owned()
        }
    };
    play.note(format!("orphans {which}: {seen}"));
    until(&play.rt, || play.rt.sockets_in_use() <= before + 2).await;
}

/// An address that is not routed, or where nobody answers soon.
fn nobody() -> SocketAddress {
    let nobody: std::net::SocketAddr = "[100::1]:9".parse().expect("an address");
    nobody.into()
}

/// A Unix path of this play.
fn path(name: &str) -> String {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("selvedge-{name}-{}-{next}", std::process::id()));
    path.to_str().expect("a path").to_owned()
}

/// More connections than one turn takes; some are accepted, in their order, and then the listener may go.
async fn burst(play: &mut Play) {
    let unix = path("burst");
    let address = if play.below(3) == 0 { SocketAddress::unix(&unix) } else { super::any() };
    let options = BindOptions { reuse_port: play.coin(), ..BindOptions::default() };
    let fd = listen::bind_listen(&address, &options).expect("a socket");
    let address = listen::bound_address(&fd).expect("an address");
    let listener = play.rt.adopt_listener(fd).expect("adopted");
    let count = [3, 70, 150][play.below(3)];
    let taken = play.below(count + 1);
    // Armed from the first one on, or when all have come.
    let waits = play.coin().then(|| std::task::Poll::is_pending(&listener.poll_accept()));
    let mut clients = Vec::new();
    for n in 0..count {
        let client =
            play.soon(play.rt.connect(&address, &ConnectOptions::default())).await.expect("connected");
        client.send(bytes(n, 2, 1)).await.expect("sent");
        clients.push(client);
    }
    let mut served = Vec::new();
    for n in 0..taken {
        let socket = play.soon(listener.accept()).await.expect("accepted");
        assert_eq!(play.soon(read(&socket, n, 2)).await, "2 bytes", "{}: connection {n}", play.what);
        served.push(socket);
    }
    drop(listener);
    for (n, client) in clients.iter().enumerate() {
        if n < taken {
            served[n].shutdown_write();
        }
        let got = play.soon(read(client, 0, TO_THE_END)).await;
        // Those that nobody took are closed, or reset: which one is the kernel's choice.
        assert!(n >= taken || got == "0 bytes, end", "{}: connection {n}: {got}", play.what);
    }
    for _ in 0..20 {
        play.rt.yield_now().await;
    }
    let after = play.soon(play.rt.connect(&address, &ConnectOptions::default())).await.err();
    play.note(format!("burst: {taken} of {count}, {waits:?}, then {after:?}"));
    std::fs::remove_file(unix).ok();
}

/// Connects that cannot succeed.
async fn refusals(play: &mut Play) {
    let file = path("file");
    std::fs::write(&file, "no socket").expect("written");
    for _ in 0..3 {
        let which = play.below(7);
        let mut held = None;
        let mut options = ConnectOptions::default();
        let to = match which {
            0 => {
                let (listener, address) = listen(&play.rt);
                drop(listener);
                address
            }
            1 => SocketAddress::unix(&path("absent")),
            2 => SocketAddress::unix(&file),
            3 => SocketAddress::unix(&"long".repeat(40)),
            4 => {
                options.source = Some("192.0.2.1:0".parse().expect("an address"));
                super::any()
            }
            5 => {
                let unroutable: std::net::SocketAddr = "255.255.255.255:9".parse().expect("an address");
                unroutable.into()
            }
            _ => {
                let full = full_queue();
                let to = listen::bound_address(&full.0).expect("an address");
                held = Some(full);
                to
            }
        };
        let mut connect = play.rt.connect(&to, &options);
        let mut patience = play.rt.sleep(Duration::from_millis(50));
        let refused = std::future::poll_fn(|_| match connect.poll() {
            std::task::Poll::Ready(result) => std::task::Poll::Ready(Some(result.err())),
            std::task::Poll::Pending => patience.poll_due().map(|()| None),
        });
        let refused = refused.await;
        play.note(format!("refusal {which}: {refused:?}"));
        drop(held);
    }
    std::fs::remove_file(file).expect("removed");
}

/// A Unix listener whose queue is full, and who fills it.
fn full_queue() -> (OwnedFd, Vec<UnixStream>) {
    let options = BindOptions { backlog: 1, ..BindOptions::default() };
    let listener = listen::bind_listen(&SocketAddress::unix(&path("full")), &options).expect("a socket");
    let to = listen::bound_address(&listener).expect("an address").to_string();
    // A queue of one holds two.
    let waiting = (0..2).map(|_| UnixStream::connect(&to).expect("room")).collect();
    (listener, waiting)
}

/// The end comes with the last bytes that the credit has room for: the slot's next owner sees nothing of it.
async fn credit(play: &mut Play) {
    for _ in 0..3 {
        let [a, b] = play.pair().await;
        let len = limits::LARGE_BYTES + 1 + play.below(2 * limits::LARGE_BYTES);
        b.set_recv_class(RecvClass::Large);
        if play.coin() {
            b.watch();
        }
        play.rt.spawn(async move { a.send(bytes(0, len, 1)).await.expect("sent") });
        if play.coin() {
            play.pause().await;
        }
        let got = play.soon(read(&b, 0, TO_THE_END)).await;
        assert_eq!(got, format!("{len} bytes, end"), "{}", play.what);
    }
    play.note("credit");
}

/// A receive that is stopped leaves what comes with the kernel, and goes on where it was.
async fn rearmed(play: &mut Play) {
    let [a, b] = play.pair().await;
    let mut at = 0;
    for round in 0..6 {
        b.watch();
        play.fumble(&b).await;
        b.pause_recv();
        // The cancel is through after some turns.
        for _ in 0..4 {
            play.rt.yield_now().await;
        }
        let len = [1, 900, 30_000][play.below(3)];
        play.soon(a.send(bytes(at, len, 1))).await.expect("sent");
        play.rt.sleep(Duration::from_millis(1)).await;
        let early = b.has_event();
        play.fumble(&b).await;
        let got = play.soon(read(&b, at, len)).await;
        at += len;
        play.note(format!("rearmed, round {round}: early {early}, {got}"));
    }
    drop(a);
    let got = play.soon(read(&b, at, TO_THE_END)).await;
    play.note(format!("rearmed: {got}"));
}

/// A reset comes behind what was sent before it, and ends the other way too.
async fn resets(play: &mut Play) {
    let [a, b] = play.tcp_pair().await;
    let len = [0, 1, 3_000][play.below(3)];
    if len > 0 {
        a.send(bytes(0, len, 1)).await.expect("sent");
    }
    play.fumble(&b).await;
    let in_flight = play.coin();
    if in_flight {
        b.start_send(bytes(0, 16 << 20, 1));
        play.pause().await;
    }
    a.reset_on_close();
    drop(a);
    if in_flight {
        // Which of the two gets to know of the reset first is the kernel's choice.
        let failed = play.soon(b.send(Chunks::new())).await.is_err();
        let _got = play.soon(read(&b, 0, TO_THE_END)).await;
        play.note(format!("reset of {len} in flight: {failed}"));
    } else {
        let got = play.soon(read(&b, 0, TO_THE_END)).await;
        let then = play.soon(b.send(bytes(0, 10, 1))).await;
        assert_eq!(got, format!("{len} bytes, Reset"), "{}", play.what);
        play.note(format!("reset after {len}: {got}, then {then:?}"));
    }
}

/// Many connections at once, more than there are buffers where groups are at their limit: all get all.
async fn crowd(play: &mut Play) {
    let mut all = Vec::new();
    for _ in 0..12 {
        let [a, b] = play.pair().await;
        let len = [1, 200, 20_000, 100_000][play.below(4)];
        b.set_recv_class(if play.below(4) == 0 { RecvClass::Large } else { RecvClass::Small });
        b.watch();
        let chunks = bytes(0, len, 1);
        let from = Rc::clone(&a);
        play.rt.spawn(async move { from.send(chunks).await.expect("sent") });
        all.push((a, b, len, 0));
    }
    while all.iter().any(|(_, _, len, got)| got < len) {
        let ready = |all: &[(_, Rc<Socket>, usize, usize)]| all.iter().position(|(_, b, ..)| b.has_event());
        until(&play.rt, || ready(&all).is_some()).await;
        let at = ready(&all).expect("just looked");
        let (_, b, len, got) = &mut all[at];
        let chunk = play.soon(b.recv()).await.expect("bytes").expect("not the end");
        assert!(are_bytes(&chunk, *got), "{}: bytes in order", play.what);
        *got += chunk.len();
        drop(chunk);
        if *got < *len {
            b.watch();
        }
    }
    let lens: Vec<usize> = all.iter().map(|(_, _, len, _)| *len).collect();
    play.note(format!("crowd: {lens:?}"));
}
