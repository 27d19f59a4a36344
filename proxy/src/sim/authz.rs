//! A simulated authorization service: hears of requests by their path, and does what their plan says.

use std::rc::Rc;

use super::draw::{Authz, DENIED, FilterPlan, Scenario};
use super::ledger::Ledger;
use super::wire::{Head, Stop, Wire};

pub async fn connection(wire: Wire, scenario: Rc<Scenario>, ledger: Rc<Ledger>) {
    loop {
        match wire.peek().await {
            Ok(true) => {}
            Err(Stop::Stuck) => continue,
            _ => return,
        }
        match question(&wire, &scenario, &ledger).await {
            Ok(true) => {}
            Ok(false) | Err(Stop::Gone | Stop::Stuck) => return,
            Err(Stop::Bad(why)) => return ledger.violation(format!("the authorization service read: {why}")),
        }
    }
}

/// Answers one question; the answer is whether the connection goes on.
async fn question(wire: &Wire, scenario: &Scenario, ledger: &Ledger) -> Result<bool, Stop> {
    let head = wire.head().await?;
    let id = asked_for(&head, scenario)?;
    ledger.asked(id);
    let told = |at: usize, bytes: &[u8]| ledger.check_body("the authorization service", id, false, at, bytes);
    let len = head.framing()?.map_or(Ok(0), |length| length.map_err(|()| Stop::Bad("chunks".to_owned())))?;
    wire.exactly(len, 0, &told).await?;
    let most = scenario.filters.iter().find_map(|filter| match filter {
        FilterPlan::Authz { body, .. } => *body,
        _ => None,
    });
    if len > most.unwrap_or(0).min(scenario.requests[id].body) {
        return Err(Stop::Bad(format!("{len} bytes of the body of {id}, {most:?} at most")));
    }
    let (happens, answer) = match scenario.requests[id].authz {
        Authz::Allow => ("authz allows", format!("200 OK\r\nx-user: {id}")),
        Authz::Deny => ("authz denies", format!("{DENIED} Denied\r\nx-why: {id}")),
        Authz::Error => ("authz fails", "500 Oops".to_owned()),
        Authz::Garbage => ("authz lies", "999999 bytes of\r\nno answer".to_owned()),
        Authz::Hang => ("authz hangs", String::new()),
        Authz::Close => ("authz closes", String::new()),
    };
    ledger.happened(happens);
    match scenario.requests[id].authz {
        Authz::Close => return Ok(false),
        Authz::Hang => {
            let _gives_up = wire.to_end(&|_, _| {}).await;
            return Ok(false);
        }
        _ => {}
    }
    let written = wire.write(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
    written.map(|()| true).map_err(|_| Stop::Gone)
}

/// The request that is meant: the service sees its path behind a prefix.
fn asked_for(head: &Head, scenario: &Scenario) -> Result<usize, Stop> {
    let path = head.first.split(' ').nth(1).unwrap_or("");
    let id = path.rsplit('/').next().and_then(|id| id.parse().ok());
    let Some((id, plan)) = id.and_then(|id: usize| Some((id, scenario.requests.get(id)?))) else {
        return Err(Stop::Bad(format!("a question without a number: {head:?}")));
    };
    let expected = format!("{} /check/c/{}/{id} HTTP/1.1", plan.method, plan.cluster);
    if head.first != expected {
        return Err(Stop::Bad(format!("{:?}, not {expected:?}", head.first)));
    }
    Ok(id)
}
