//! A filter's question to another service: one request over the pools of its cluster, and the whole answer.
//!
//! It is read by the same strict code as any response, within a time and a size. Dropping the future ends it: the
//! connection is closed, never returned. It retries nothing and follows nothing.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use selvedge_runtime::{Chunk, Chunks, Instant, NetError};

use crate::http::h1::body::{BodyDecoder, BodyEvent};
use crate::http::h1::encode::{decimal, encode_request};
use crate::http::h1::head::HeadGather;
use crate::http::h1::response::{self, DecodedResponse, RequestKind};
use crate::http::message::{Framing, HeaderId, RequestHead, ResponseHead};
use crate::limits;
use crate::shard::Cx;
use crate::stats::names::Cluster as Stat;
use crate::stream::Held;
use crate::upstream::cluster::ClusterTwin;
use crate::upstream::endpoint::EndpointStat;
use crate::upstream::pool::{self, PoolError, UpstreamConn};

/// What a filter asks, and whom.
#[derive(Debug)]
pub struct Question {
    pub cluster: Arc<str>,
    pub head: RequestHead,
    pub body: Chunks,
    pub timeout: Duration,
}

/// What came of it.
#[derive(Debug)]
pub enum Answer {
    /// The pause is over.
    Slept,
    Response(Box<SideResponse>),
    Failed(Failure),
}

#[derive(Debug)]
pub struct SideResponse {
    pub head: ResponseHead,
    pub body: Chunk,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    NoCluster,
    NoEndpoint,
    Overflow,
    Connect,
    Reset,
    Malformed,
    TooLarge,
    Timeout,
}

/// Asks, and waits for the answer or for its deadline.
/// `cluster`: the one that the question names, if it is there.
pub async fn ask(cx: Rc<Cx>, cluster: Option<Rc<ClusterTwin>>, question: Box<Question>) -> Answer {
    let Some(cluster) = cluster else {
        return Answer::Failed(Failure::NoCluster);
    };
    let deadline = if question.timeout.is_zero() { Instant::FAR } else { cx.rt.now() + question.timeout };
    let mut sleep = cx.rt.sleep_until(deadline);
    let answered = Cell::new(false);
    let mut exchange = pin!(exchange(&cx, &cluster, *question, &answered));
    let result = poll_fn(|context| {
        if let Poll::Ready(result) = exchange.as_mut().poll(context) {
            return Poll::Ready(result);
        }
        sleep.poll_due().map(|()| Err(Failure::Timeout))
    })
    .await;
    match result {
        Ok(response) => Answer::Response(Box::new(response)),
        Err(failure) => {
            account(&cluster, failure, answered.get());
            Answer::Failed(failure)
        }
    }
}

/// The status that Envoy's asynchronous client counts where there was none.
fn account(cluster: &ClusterTwin, failure: Failure, answered: bool) {
    let status = match failure {
        Failure::NoCluster => return,
        Failure::Timeout => {
            cluster.stats.inc(Stat::UpstreamRqTimeout);
            504
        }
        Failure::Malformed => {
            cluster.stats.inc(Stat::UpstreamCxProtocolError);
            502
        }
        Failure::NoEndpoint => {
            cluster.stats.inc(Stat::UpstreamCxNoneHealthy);
            503
        }
        Failure::Overflow | Failure::Connect | Failure::Reset | Failure::TooLarge => 503,
    };
    if !answered {
        cluster.stats.code(status, true);
    }
}

/// `answered` tells that a head has come: its status is what counts, whatever becomes of the rest.
async fn exchange(
    cx: &Cx,
    cluster: &Rc<ClusterTwin>,
    question: Question,
    answered: &Cell<bool>,
) -> Result<SideResponse, Failure> {
    let host = cluster.pick().ok_or(Failure::NoEndpoint)?;
    let taken = pool::take(&cx.rt, cluster, &host, 0).await.and_then(pool::admit);
    let conn = taken.map_err(|error| match error {
        PoolError::PendingOverflow | PoolError::RequestOverflow => Failure::Overflow,
        PoolError::ConnectFailed(_) | PoolError::ConnectTimeout | PoolError::Failed => {
            host.inc(EndpointStat::RqError);
            Failure::Connect
        }
    })?;
    let _held = Held::new(cluster, &host, 0);
    cx.rt.pass("side call");
    let bytes = encode(cx, question);
    cluster.stats.add(Stat::UpstreamCxTxBytesTotal, bytes.bytes() as u64);
    conn.socket.start_send(bytes.chunks);
    let begun = cx.rt.now();
    let result = read(cx, cluster, &conn, bytes.head_request, answered).await;
    let (mut response, keep) = match result {
        Ok(found) => found,
        Err(failure) => {
            host.inc(EndpointStat::RqError);
            return Err(failure);
        }
    };
    let good = response.head.status < 500;
    host.inc(if good { EndpointStat::RqSuccess } else { EndpointStat::RqError });
    let took = cx.rt.now().millis_since(begun);
    //= envoy: the router of the asynchronous client says how long it took
    response.head.fields.set(HeaderId::XEnvoyUpstreamServiceTime, decimal(took, &mut [0; 20]));
    let sent = !conn.socket.send_in_flight() || matches!(conn.socket.poll_sent(), Poll::Ready(Ok(())));
    if keep && sent {
        pool::give(conn);
    } else {
        conn.retire();
    }
    Ok(response)
}

struct Encoded {
    chunks: Chunks,
    /// A response to HEAD has no body.
    head_request: bool,
}

impl Encoded {
    fn bytes(&self) -> usize {
        self.chunks.bytes()
    }
}

//= envoy: the asynchronous client's requests are internal, and say how long they will be waited for
fn encode(cx: &Cx, mut question: Question) -> Encoded {
    let fields = &mut question.head.fields;
    fields.set(HeaderId::XEnvoyInternal, b"true");
    let millis = u64::try_from(question.timeout.as_millis()).unwrap_or(u64::MAX);
    if millis > 0 {
        fields.set(HeaderId::XEnvoyExpectedRqTimeoutMs, decimal(millis, &mut [0; 20]));
    }
    let mut block = cx.rt.block(question.head.byte_size() + 256);
    encode_request(&question.head, Framing::Length(question.body.bytes() as u64), false, &mut block);
    let mut chunks = Chunks::from(block.freeze());
    chunks.append(question.body);
    Encoded { chunks, head_request: question.head.is_method(b"HEAD") }
}

/// The next bytes of the service. A failed send is not told apart: what the service still says comes first.
async fn receive(cluster: &ClusterTwin, conn: &UpstreamConn) -> Result<Option<Chunk>, NetError> {
    let received = conn.socket.recv().await;
    match &received {
        Ok(Some(chunk)) => cluster.stats.add(Stat::UpstreamCxRxBytesTotal, chunk.len() as u64),
        Ok(None) | Err(_) => conn.ended_by_peer(),
    }
    received
}

/// The whole response, and whether its connection may be used again.
async fn read(
    cx: &Cx,
    cluster: &ClusterTwin,
    conn: &UpstreamConn,
    head_request: bool,
    answered: &Cell<bool>,
) -> Result<(SideResponse, bool), Failure> {
    let (response, mut rest) = read_head(cx, cluster, conn, head_request).await?;
    answered.set(true);
    cluster.stats.code(response.head.status, true);
    if !response.keep_alive {
        cluster.stats.inc(Stat::UpstreamCxCloseNotify);
    }
    let mut decoder = BodyDecoder::new(response.framing);
    let mut body = Chunks::new();
    loop {
        match decoder.decode(&mut rest) {
            Err(_) => return Err(Failure::Malformed),
            Ok(BodyEvent::Data(data)) => {
                body.push(data.compact(cx.rt.budget()));
                if body.bytes() > limits::SIDE_CALL_BYTES {
                    return Err(Failure::TooLarge);
                }
            }
            Ok(BodyEvent::End(_)) => {
                let keep = response.keep_alive && rest.is_empty();
                return Ok((SideResponse { head: response.head, body: body.gather(cx.rt.budget()) }, keep));
            }
            Ok(BodyEvent::NeedMore) => match receive(cluster, conn).await {
                Ok(Some(chunk)) => rest = chunk,
                Ok(None) if decoder.ends_with_connection() => {
                    let body = body.gather(cx.rt.budget());
                    return Ok((SideResponse { head: response.head, body }, false));
                }
                //= envoy: in the middle of a message the end is a protocol error
                Ok(None) | Err(_) => return Err(Failure::Malformed),
            },
        }
    }
}

/// The final head, and the bytes behind it.
async fn read_head(
    cx: &Cx,
    cluster: &ClusterTwin,
    conn: &UpstreamConn,
    head_request: bool,
) -> Result<(DecodedResponse, Chunk), Failure> {
    let bounds = cluster.config().response_head_limits();
    let mut gather = HeadGather::default();
    let mut bytes = Chunk::from_static(b"");
    let mut interims = 0;
    loop {
        let end = gather.end(&mut bytes, &bounds, cx.rt.budget()).map_err(|_| Failure::Malformed)?;
        let Some(end) = end else {
            let Ok(Some(more)) = receive(cluster, conn).await else {
                return Err(if gather.has_begun() { Failure::Malformed } else { Failure::Reset });
            };
            bytes = more;
            continue;
        };
        let block = bytes.split_to(end);
        let kind = RequestKind { head: head_request, upgrade: false };
        let response = response::decode_response(block, kind, &bounds).map_err(|_| Failure::Malformed)?;
        //= rfc9110#15.2: an interim response is not the answer
        if response.head.status >= 200 {
            return Ok((response, bytes));
        }
        cluster.stats.code(response.head.status, true);
        interims += 1;
        if interims > limits::INTERIM_RESPONSES {
            return Err(Failure::Malformed);
        }
    }
}
