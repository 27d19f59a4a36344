//! A simulated client: writes its requests as the scenario says, reads what comes, and tells the ledger.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use selvedge_runtime::{ConnectOptions, Event, NetError, Rt, SocketAddress};

use super::draw::{ConnectionPlan, Framing, LISTENER, PORT, Scenario};
use super::ledger::{Ledger, Seen, body, has_body};
use super::wire::{Pieces, Stop, Wire};

/// What writer and reader of one connection share.
struct Shared {
    scenario: Rc<Scenario>,
    ledger: Rc<Ledger>,
    plan: ConnectionPlan,
    wire: Rc<Wire>,
    /// Responses that were read to their end.
    answered: Cell<usize>,
    /// The reader is done: nothing more need be written.
    over: Cell<bool>,
    /// `100-continue` or a final response has come for the request that is being written.
    turn: Event,
    told_to_go_on: Cell<bool>,
}

impl Shared {
    /// The client has gone away, before the end.
    fn has_left(&self) -> bool {
        self.plan.leaves_after.is_some_and(|after| self.wire.came.get() > after)
    }
}

/// One client: its connections one after another.
pub async fn run(rt: Rt, scenario: Rc<Scenario>, ledger: Rc<Ledger>, number: usize, done: Rc<Cell<usize>>) {
    for plan in scenario.clients[number].clone() {
        rt.sleep(plan.delay).await;
        connection(&rt, &scenario, &ledger, plan).await;
    }
    done.set(done.get() + 1);
}

fn proxy() -> SocketAddress {
    SocketAddr::new(LISTENER.parse().expect("an address"), PORT).into()
}

async fn connection(rt: &Rt, scenario: &Rc<Scenario>, ledger: &Rc<Ledger>, plan: ConnectionPlan) {
    let Ok(socket) = rt.connect(&proxy(), &ConnectOptions::default()).await else { return };
    let mut wire = Wire::new(rt, Rc::new(socket));
    (wire.slow, wire.leaves_after) = (plan.reads_slowly, plan.leaves_after);
    if plan.reads_slowly {
        ledger.happened("slow reader");
    }
    let shared = Rc::new(Shared {
        scenario: Rc::clone(scenario),
        ledger: Rc::clone(ledger),
        plan,
        wire: Rc::new(wire),
        answered: Cell::new(0),
        over: Cell::new(false),
        turn: rt.event(),
        told_to_go_on: Cell::new(false),
    });
    let writer = Rc::clone(&shared);
    let writing = rt.spawn(async move {
        // A failed write is seen by the reader as well.
        let _ends_the_writer = write_all(&writer).await;
    });
    read_all(&shared).await;
    if shared.has_left() {
        shared.ledger.happened("client that leaves");
    }
    shared.over.set(true);
    rt.abort(writing);
}

async fn write_all(shared: &Shared) -> Result<(), NetError> {
    let plan = &shared.plan;
    for (place, id) in plan.requests.iter().enumerate() {
        while !plan.pipelined && shared.answered.get() < place {
            shared.turn.wait().await;
        }
        if shared.over.get() {
            return Ok(());
        }
        if plan.ends_in_garbage && place + 1 == plan.requests.len() {
            shared.ledger.happened("garbage request");
            return shared.wire.write(b"\0\x01 no request at all\r\n\r\n").await;
        }
        write_one(shared, *id).await?;
    }
    if plan.half_closes {
        shared.ledger.happened("half-close");
        shared.wire.socket.shutdown_write();
    }
    Ok(())
}

async fn write_one(shared: &Shared, id: usize) -> Result<(), NetError> {
    let (wire, request) = (&shared.wire, &shared.scenario.requests[id]);
    let mut head =
        format!("{} /c/{}/{id} HTTP/1.1\r\nhost: sim\r\nx-id: {id}\r\n", request.method, request.cluster);
    match request.framing {
        Framing::Length => head.push_str(&format!("content-length: {}\r\n", request.body)),
        Framing::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
        Framing::None | Framing::Close => {}
    }
    if request.expects_continue {
        head.push_str("expect: 100-continue\r\n");
    }
    if let Some(delay) = request.delay {
        head.push_str(&format!("x-envoy-fault-delay-request: {}\r\n", delay.as_millis()));
    }
    if let Some(status) = request.abort {
        head.push_str(&format!("x-envoy-fault-abort-request: {status}\r\n"));
    }
    head.push_str("\r\n");
    shared.ledger.begun(id, wire.rt.now());
    shared.told_to_go_on.set(false);
    // The head may be the whole of it.
    if request.framing == Framing::None || (request.framing == Framing::Length && request.body == 0) {
        shared.ledger.sent(id, wire.rt.now());
    }
    wire.write(head.as_bytes()).await?;
    if request.expects_continue && !shared.plan.pipelined {
        let answered = shared.answered.get();
        while !shared.told_to_go_on.get() && shared.answered.get() == answered {
            shared.turn.wait().await;
        }
    }
    let pieces = Pieces { framing: request.framing, size: request.piece, pause: request.pause };
    if request.body > 0 && !request.pause.is_zero() {
        shared.ledger.happened("slow writer");
    }
    let last = || {
        if request.framing == Framing::Length {
            shared.ledger.sent(id, wire.rt.now());
        }
    };
    wire.write_body(&pieces, request.body, |at, n, to| body(id, false, at, n, to), last).await?;
    match request.framing {
        Framing::Chunked => {
            shared.ledger.sent(id, wire.rt.now());
            let trailers = if request.trailers { "x-trailer: yes\r\n" } else { "" };
            wire.write(format!("0\r\n{trailers}\r\n").as_bytes()).await
        }
        _ => Ok(()),
    }
}

async fn read_all(shared: &Shared) {
    for (place, id) in shared.plan.requests.iter().enumerate() {
        let garbage = shared.plan.ends_in_garbage && place + 1 == shared.plan.requests.len();
        let (more, seen) = match read_one(shared, *id, garbage).await {
            Ok((more, seen)) => (more, Some(seen)),
            Err((Stop::Gone, broken)) => (false, broken),
            Err((Stop::Stuck, broken)) => {
                shared.ledger.violation(format!("request {id} is stuck: nothing comes for it any more"));
                (false, broken)
            }
            Err((Stop::Bad(why), broken)) => {
                shared.ledger.violation(format!("the client of request {id} read: {why}"));
                (false, broken)
            }
        };
        if let Some(seen) = seen.filter(|_| !garbage) {
            // One who leaves has seen nothing that counts.
            if !shared.has_left() || matches!(seen, Seen::Whole { .. }) {
                shared.ledger.seen(
                    &shared.scenario,
                    *id,
                    seen,
                    shared.wire.rt.now(),
                    shared.plan.is_prompt(),
                );
            }
            if !more && matches!(seen, Seen::Whole { upstream: false, .. }) {
                // A reply of the proxy's own may end the connection.
                shared.ledger.excuse(&shared.plan.requests[place + 1..]);
            }
        }
        shared.answered.set(place + 1);
        shared.turn.notify();
        if !more {
            return;
        }
    }
}

type Broken = (Stop, Option<Seen>);

/// Reads one response. Whether the connection goes on, and what was seen.
async fn read_one(shared: &Shared, id: usize, garbage: bool) -> Result<(bool, Seen), Broken> {
    let (wire, request) = (&shared.wire, &shared.scenario.requests[id]);
    let head = loop {
        if !wire.peek().await.map_err(|stop| (stop, None))? {
            return Err((Stop::Gone, None));
        }
        let head = wire.head().await.map_err(|stop| (stop, None))?;
        if !head.first.starts_with("HTTP/1.1 1") {
            break head;
        }
        shared.told_to_go_on.set(true);
        shared.turn.notify();
    };
    let bad = |why: String| (Stop::Bad(why), None);
    let status: u16 = head
        .first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| bad(format!("{:?} is no status line", head.first)))?;
    if let Some(first) = head.get("x-second").and_then(|v| v.parse().ok()) {
        shared.ledger.second(first, id);
        return Err((Stop::Gone, None));
    }
    // An upstream that once answered twice is one answer ahead for ever: no proxy can see that.
    if head.get("x-ahead").is_some() {
        return Err((Stop::Gone, None));
    }
    if let Some(of) = head.get("x-why").filter(|of| of.parse() != Ok(id)) {
        return Err(bad(format!("the refusal of request {of} came for request {id}")));
    }
    let upstream = match head.id() {
        Some(of) if of != id || garbage => {
            return Err(bad(format!("the response of request {of} came for request {id}")));
        }
        Some(_) => true,
        None => false,
    };
    let told = |at: usize, bytes: &[u8]| {
        if upstream {
            shared.ledger.check_body("the client", id, true, at, bytes);
        }
    };
    let closes = head.get("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    let broken = |stop| (stop, Some(Seen::Broken { status }));
    let framing = head.framing().map_err(broken)?;
    let whole = if !has_body(request.method, status, Framing::Length) {
        None
    } else {
        match framing {
            Some(Ok(len)) => {
                wire.exactly(len, 0, &told).await.map_err(broken)?;
                Some(len)
            }
            Some(Err(())) => Some(wire.chunked(&told).await.map_err(broken)?),
            None if closes => Some(wire.to_end(&told).await.map_err(broken)?),
            None => return Err(broken(Stop::Bad("a body without an end".to_owned()))),
        }
    };
    if let (true, Some(len)) = (upstream, whole) {
        check_length(shared, id, len);
    }
    Ok((!closes, Seen::Whole { status, upstream }))
}

/// A whole response is as long as its upstream said.
fn check_length(shared: &Shared, id: usize, len: usize) {
    let planned = match &shared.scenario.requests[id].act {
        super::draw::Act::Answer(answer) => answer.body,
        super::draw::Act::Cut { answer, after, reset } => {
            // One whose end is the close, closed in good order, is as long as it was.
            let cut_shows = answer.framing != Framing::Close || *reset;
            let sent = (*after).min(answer.body);
            if cut_shows && (sent < answer.body || answer.framing == Framing::Chunked) {
                shared.ledger.violation(format!("request {id}: a body that was cut at {sent} came as whole"));
            }
            sent
        }
        other => {
            return shared.ledger.violation(format!("request {id}: a response to {other:?}"));
        }
    };
    if len != planned {
        shared.ledger.violation(format!("request {id}: a body of {len} bytes, the upstream sent {planned}"));
    }
}
