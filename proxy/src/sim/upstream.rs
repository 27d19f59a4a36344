//! A simulated upstream: reads what the proxy forwards with a strict reader, and does what the request's plan says.

use std::rc::Rc;

use selvedge_runtime::NetError;

use super::draw::{Act, Answer, Framing, Scenario};
use super::ledger::{Ledger, body, has_body};
use super::wire::{Head, Pieces, Stop, Wire};

pub async fn connection(wire: Wire, scenario: Rc<Scenario>, ledger: Rc<Ledger>) {
    // An idle connection of a pool waits as long as it likes.
    while let Ok(true) | Err(Stop::Stuck) = wire.peek().await {
        let head = match wire.head().await {
            Ok(head) => head,
            Err(Stop::Bad(why)) => return ledger.violation(format!("an upstream read: {why}")),
            Err(_) => return,
        };
        match request(&wire, &head, &scenario, &ledger).await {
            Ok(true) => {}
            Ok(false) | Err(Stop::Gone | Stop::Stuck) => return,
            Err(Stop::Bad(why)) => return ledger.violation(format!("an upstream read: {why}")),
        }
    }
}

/// Serves one request; the answer is whether the connection goes on.
async fn request(wire: &Wire, head: &Head, scenario: &Scenario, ledger: &Ledger) -> Result<bool, Stop> {
    let Some(id) = head.id().filter(|id| *id < scenario.requests.len()) else {
        return Err(Stop::Bad(format!("a request without a number: {head:?}")));
    };
    ledger.reached(scenario, id, head, wire.rt.now());
    let plan = &scenario.requests[id];
    let expected = format!("{} /c/{}/{id} HTTP/1.1", plan.method, plan.cluster);
    if head.first != expected {
        return Err(Stop::Bad(format!("{:?}, not {expected:?}", head.first)));
    }
    let early = matches!(&plan.act, Act::Answer(answer) if answer.early);
    ledger.happened(plan.act.name());
    if !early {
        read_body(wire, head, id, scenario, ledger).await?;
    }
    let goes_on = match &plan.act {
        Act::Answer(answer) => {
            let said = say(wire, ledger, id, plan.method, answer, None).await;
            let goes_on = said.map_err(|_| Stop::Gone)?;
            if answer.closes && answer.framing != Framing::Close {
                ledger.closes(plan.cluster, wire.rt.now());
            }
            goes_on && !answer.closes && answer.framing != Framing::Close
        }
        Act::Silent => {
            let _gives_up = wire.to_end(&|_, _| {}).await;
            false
        }
        Act::Garbage => {
            let _broken_anyway = wire.write(b"\x16\x03\x01 this is no response\r\n\r\n").await;
            false
        }
        Act::Cut { answer, after, reset } => {
            let _broken_anyway = say(wire, ledger, id, plan.method, answer, Some(*after)).await;
            if *reset {
                wire.socket.reset_on_close();
            }
            false
        }
        Act::Close { reset } => {
            if *reset {
                wire.socket.reset_on_close();
            }
            false
        }
    };
    if early && goes_on {
        read_body(wire, head, id, scenario, ledger).await?;
    }
    Ok(goes_on)
}

async fn read_body(
    wire: &Wire,
    head: &Head,
    id: usize,
    scenario: &Scenario,
    ledger: &Ledger,
) -> Result<(), Stop> {
    let told = |at: usize, bytes: &[u8]| ledger.check_body("the upstream", id, false, at, bytes);
    if head.get("expect").is_some() {
        wire.write(b"HTTP/1.1 100 Continue\r\n\r\n").await.map_err(|_| Stop::Gone)?;
    }
    let len = match head.framing()? {
        None => 0,
        Some(Ok(len)) => {
            wire.exactly(len, 0, &told).await?;
            len
        }
        Some(Err(())) => wire.chunked(&told).await?,
    };
    let planned = scenario.requests[id].body;
    if len != planned {
        return Err(Stop::Bad(format!("a body of {len} bytes for request {id}, its client sent {planned}")));
    }
    Ok(())
}

/// Writes a response, or its beginning: `after` bytes of the body. False: it was cut.
async fn say(
    wire: &Wire,
    ledger: &Ledger,
    id: usize,
    method: &str,
    answer: &Answer,
    after: Option<usize>,
) -> Result<bool, NetError> {
    wire.rt.sleep(answer.delay).await;
    if ledger.is_answered(id) {
        ledger.happened("answer that comes late");
    }
    for _ in 0..answer.interim {
        wire.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await?;
    }
    let mut head = format!("HTTP/1.1 {} Sim\r\nx-id: {id}\r\n", answer.status);
    if wire.ahead.get() {
        head.push_str("x-ahead: yes\r\n");
    }
    match answer.framing {
        Framing::Length => head.push_str(&format!("content-length: {}\r\n", answer.body)),
        Framing::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
        Framing::Close => head.push_str("connection: close\r\n"),
        Framing::None => {}
    }
    head.push_str("\r\n");
    wire.write(head.as_bytes()).await?;
    if has_body(method, answer.status, answer.framing) {
        let end = after.map_or(answer.body, |n| n.min(answer.body));
        let pieces = Pieces { framing: answer.framing, size: answer.piece, pause: answer.pause };
        wire.write_body(&pieces, end, |at, n, to| body(id, true, at, n, to), || {}).await?;
        if after.is_some() {
            return Ok(false);
        }
        if answer.framing == Framing::Chunked {
            wire.write(b"0\r\n\r\n").await?;
        }
    }
    if answer.twice {
        let second = format!("HTTP/1.1 200 Second\r\nx-second: {id}\r\ncontent-length: 0\r\n\r\n");
        wire.write(second.as_bytes()).await?;
        wire.ahead.set(true);
        ledger.said_twice(id, wire.rt.now());
    }
    Ok(true)
}
