//! The admin thread: binds, accepts, reads requests, finds the endpoint, answers.
//!
//! Bounded: connections, the size of a head and of a form, how long a client may take for either and for an answer.
//! When all connections are taken, one more waits until one ends, or is sent away for it (`places.rs`).
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "admin thread")]

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant as StdInstant, SystemTime};

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use envoy_types::pb::envoy::config::core::v3::address::Address;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, ORIGIN};
use hyper::server::conn::http1;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message;
use selvedge_runtime::listen::{BindOptions, bind_listen, bound_address};
use selvedge_runtime::{SocketAddress, WallTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{Instant, Sleep};

use super::access::{AccessLogs, Answered, Asked, Ends};
use super::places::{Place, Places};
use super::query::{Query, normal_path};
use super::reply::Reply;
use super::stats::Counts;
use super::{Admin, AdminState, Endpoint, find, page};
use crate::access_log::dates::http_date;
use crate::{limits, log};

/// Binds the address and serves it on a thread of its own. The answer is the bound address.
pub fn start(address: &SocketAddress, state: AdminState) -> Result<SocketAddress, String> {
    let fail = |what: &str, e: &dyn std::fmt::Display| format!("{what} admin address '{address}': {e}");
    let bootstrap = Bootstrap::decode(&*state.bootstrap_bytes).map_err(|e| fail("no bootstrap for", &e))?;
    let options = BindOptions { mode: pipe_mode(&bootstrap), ..BindOptions::default() };
    let socket = bind_listen(address, &options).map_err(|e| {
        let reason = e.to_string();
        fail("cannot bind", &reason.split(" (os").next().unwrap_or(&reason))
    })?;
    let bound = bound_address(&socket).unwrap_or_else(|| address.clone());
    let admin = Arc::new(Admin::new(state, &bootstrap));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(HEAVY_AT_ONCE)
        .thread_name("admin-heavy")
        .build()
        .map_err(|e| fail("no runtime for", &e))?;
    let listener = {
        let _inside = runtime.enter();
        Listener::new(socket, &bound).map_err(|e| fail("cannot serve", &e))?
    };
    let at = bound.clone();
    std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || runtime.block_on(serve(listener, at, admin)))
        .map_err(|e| fail("no thread for", &e))?;
    log::info("admin", &format!("admin address: {bound}"));
    Ok(bound)
}

/// Dumps and scrapes at once; others wait for their turn.
const HEAVY_AT_ONCE: usize = 2;
const PATIENCE: Duration = Duration::from_secs(limits::ADMIN_PATIENCE_S);
/// How long an accept that failed waits before the next: descriptors may be free by then.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

fn pipe_mode(bootstrap: &Bootstrap) -> Option<u32> {
    match bootstrap.admin.as_ref()?.address.as_ref()?.address.as_ref()? {
        Address::Pipe(pipe) if pipe.mode != 0 => Some(pipe.mode),
        _ => None,
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn new(socket: std::os::fd::OwnedFd, bound: &SocketAddress) -> io::Result<Listener> {
        if matches!(bound, SocketAddress::Ip(_)) {
            let listener = std::net::TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            return TcpListener::from_std(listener).map(Listener::Tcp);
        }
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(Listener::Unix)
    }

    async fn accept(&self, bound: &SocketAddress) -> io::Result<(Box<dyn Stream>, Ends)> {
        match self {
            Listener::Tcp(l) => {
                let (stream, remote) = l.accept().await?;
                stream.set_nodelay(true)?;
                let ends = Ends { id: 0, local: stream.local_addr()?.into(), remote: remote.into() };
                Ok((Box::new(stream), ends))
            }
            Listener::Unix(l) => {
                let ends = Ends { id: 0, local: bound.clone(), remote: SocketAddress::unix("") };
                Ok((Box::new(l.accept().await?.0), ends))
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn serve(listener: Listener, bound: SocketAddress, admin: Arc<Admin>) {
    let places = Places::new();
    let counts = Arc::new(Counts::new(&admin.state.process.registry));
    let logs = Arc::new(AccessLogs::new(&admin.state));
    let mut connections = 0;
    loop {
        match listener.accept(&bound).await {
            Ok((stream, mut ends)) => {
                ends.id = connections;
                connections += 1;
                let place = places.take().await;
                let (admin, counts, logs) = (Arc::clone(&admin), Arc::clone(&counts), Arc::clone(&logs));
                tokio::spawn(async move { converse(stream, &ends, &place, &admin, &counts, &logs).await });
            }
            Err(error) => {
                log::warn("admin", &format!("accept failed: {error}"));
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn converse(
    stream: Box<dyn Stream>,
    ends: &Ends,
    place: &Place,
    admin: &Arc<Admin>,
    counts: &Counts,
    logs: &AccessLogs,
) {
    counts.opened();
    let opened = StdInstant::now();
    let closing = AtomicBool::new(false);
    let stream = Patient { stream, counts, stuck: Box::pin(tokio::time::sleep(PATIENCE)), waiting: false };
    let closing_here = &closing;
    let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
        counts.asked();
        place.asked();
        let asked = asked(&request);
        let close = last(&request);
        let (reply, bytes_received) = answer(request, admin).await;
        counts.answered(reply.status, asked.began.elapsed());
        place.answered();
        let close = close || (reply.local && reply.status != 404);
        closing_here.store(close, Relaxed);
        let answered = Answered {
            status: reply.status,
            content_type: reply.content_type,
            bytes_received,
            bytes_sent: reply.body.len() as u64,
        };
        logs.write(&admin.state, ends, &asked, answered);
        if let Some(command) = reply.then {
            // The task runs after this poll, and in this poll the answer is written.
            let admin = Arc::clone(admin);
            tokio::spawn(async move { (admin.state.commands)(command) });
        }
        Ok::<_, Infallible>(response(reply, close))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(limits::ADMIN_HEAD_BYTES)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = served => if let Err(error) = served {
            log::debug("admin", &format!("connection ended: {error}"));
        },
        () = place.lost() => log::warn("admin", "all connections are taken: one that stood still was closed"),
    }
    counts.closed(!closing.load(Relaxed), opened.elapsed());
}

/// Whether the client wants the connection to end with this request.
fn last(request: &Request<Incoming>) -> bool {
    let mut options = request.headers().get_all(CONNECTION).iter().filter_map(|v| v.to_str().ok());
    options.any(|list| list.split(',').any(|option| option.trim().eq_ignore_ascii_case("close")))
}

fn asked(request: &Request<Incoming>) -> Asked {
    let path = normal_path(request.uri().path());
    Asked {
        method: request.method().to_string(),
        target: request.uri().query().map_or_else(|| path.clone(), |query| format!("{path}?{query}")),
        headers: request.headers().clone(),
        protocol: if request.version() == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" },
        at: SystemTime::now(),
        began: std::time::Instant::now(),
    }
}

/// The reply, and the bytes of the request's body.
async fn answer(request: Request<Incoming>, admin: &Arc<Admin>) -> (Reply, u64) {
    let path = normal_path(request.uri().path());
    let mut query = Query::parse(request.uri().query().unwrap_or_default());
    let method = request.method().clone();
    if let Some(reply) = refusal(&request) {
        return (reply, 0);
    }
    let Some(endpoint) = find(&path) else { return (page::not_found(), 0) };
    if endpoint.mutates && method != Method::POST {
        //= envoy: admin path mutates state
        log::error(
            "admin",
            &format!("admin path \"{path}\" mutates state, method={method} rather than POST"),
        );
        return (Reply::error(405, format!("Method {method} not allowed, POST required.")), 0);
    }
    if endpoint.mutates && is_foreign(&request) {
        log::warn("admin", &format!("a page of another site asked for {path}"));
        return (Reply::error(403, "The request comes from a page of another site.\n"), 0);
    }
    match form(request).await {
        Ok((form, bytes)) => {
            //= envoy: a form counts only without parameters in the path
            if query.pairs().is_empty() {
                query = form;
            }
            (run(endpoint, query, Arc::clone(admin)).await, bytes)
        }
        Err(reply) => (reply, 0),
    }
}

/// What a request is refused for before its endpoint is looked for.
fn refusal(request: &Request<Incoming>) -> Option<Reply> {
    if request.version() < Version::HTTP_11 {
        return Some(Reply::local(426, "Upgrade Required"));
    }
    if !request.headers().contains_key(HOST) {
        return Some(Reply::local(400, ""));
    }
    //= envoy: no route but `/`, and URLs stay whole
    let whole = request.uri().authority().is_some() || !request.uri().path().starts_with('/');
    whole.then(|| Reply::local(404, ""))
}

/// Whether a browser sends it for a page that is not ours: then nobody asked for the change.
fn is_foreign(request: &Request<Incoming>) -> bool {
    let text = |name| request.headers().get(name).map(|v| v.to_str().unwrap_or_default());
    let own = |origin: &str| {
        let (_, authority) = origin.split_once("://").unwrap_or_default();
        text(HOST).is_some_and(|host| host.eq_ignore_ascii_case(authority))
    };
    text(ORIGIN).is_some_and(|origin| !own(origin))
        || text(HeaderName::from_static("sec-fetch-site")) == Some("cross-site")
}

/// The parameters of a form's body; other bodies are read and forgotten.
async fn form(request: Request<Incoming>) -> Result<(Query, u64), Reply> {
    const FORM: &[u8] = b"application/x-www-form-urlencoded";
    let is_form = request.headers().get("content-type").is_some_and(|v| v.as_bytes().starts_with(FORM));
    let body = Limited::new(request.into_body(), limits::ADMIN_BODY_BYTES).collect();
    let body = match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return Err(Reply::local(413, "Payload Too Large")),
        Err(_) => return Err(Reply::local(408, "request timeout")),
    };
    let text = std::str::from_utf8(&body).ok().filter(|_| is_form).unwrap_or_default();
    // A form writes a blank as a plus sign.
    Ok((Query::parse(&text.replace('+', "%20")), body.len() as u64))
}

async fn run(endpoint: &'static Endpoint, query: Query, admin: Arc<Admin>) -> Reply {
    if !endpoint.heavy {
        return (endpoint.answer)(&admin, &query);
    }
    let done = tokio::task::spawn_blocking(move || (endpoint.answer)(&admin, &query)).await;
    done.unwrap_or_else(|_| Reply::error(500, "the command failed; the log says more\n"))
}

fn response(reply: Reply, close: bool) -> Response<Full<Bytes>> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let date = http_date(WallTime(u64::try_from(now.as_nanos()).unwrap_or(0)));
    let body: Bytes = match reply.body {
        std::borrow::Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
        std::borrow::Cow::Owned(text) => Bytes::from(text),
    };
    let length = body.len().to_string();
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let mut add = |name: &'static str, value: &[u8]| {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    };
    //= envoy: headers of the admin server, in this order (faults of /config_dump have one of them twice; not here)
    let empty = reply.local && length == "0";
    if reply.local && !empty {
        add("content-length", length.as_bytes());
    }
    if !empty {
        add("content-type", reply.content_type.as_bytes());
    }
    if !reply.local {
        add("cache-control", b"no-cache, max-age=0");
        add("x-content-type-options", b"nosniff");
    }
    add("date", &date);
    add("server", b"envoy");
    if close {
        add("connection", b"close");
    }
    if empty {
        add("content-length", b"0");
    } else if !reply.local {
        add("transfer-encoding", b"chunked");
    }
    response
}

/// A stream whose peer must take what is written within the patience.
struct Patient<'a> {
    stream: Box<dyn Stream>,
    counts: &'a Counts,
    stuck: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Patient<'_> {
    /// Notes whether a write is stuck, and ends one that was for too long.
    fn judge<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = false;
            return polled;
        }
        if !self.waiting {
            self.waiting = true;
            self.stuck.as_mut().reset(Instant::now() + PATIENCE);
        }
        match self.stuck.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.counts.received(buf.filled().len() - before);
        polled
    }
}

impl AsyncWrite for Patient<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.counts.sent(&polled);
        self.judge(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.counts.sent(&polled);
        self.judge(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, polled)
    }
}
