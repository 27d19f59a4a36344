//! The baseline of decision 0001: a relay on glommio that copies bytes both ways, and does nothing else.
//!
//! It is what glommio's sockets cost before a proxy does any work: no HTTP, no route, no statistics, no log. Each
//! connection that comes in has its own one to the upstream, and one task moves the bytes of both directions, so
//! that neither a lock nor a wake-up between tasks is on the way.
//! Invariant: bytes leave in the order in which they came, and an end is passed on once all before it has left.
//! `glommio-relay LISTEN UPSTREAM`, both as `address:port`.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};

const BUFFER_BYTES: usize = 16 * 1024;

/// Bytes on their way in one direction.
struct Flow {
    bytes: Box<[u8]>,
    /// What has come, and how much of it has left.
    filled: usize,
    sent: usize,
    ended: bool,
}

impl Flow {
    fn new() -> Flow {
        Flow { bytes: vec![0; BUFFER_BYTES].into_boxed_slice(), filled: 0, sent: 0, ended: false }
    }

    /// Moves what it can; ready when this direction has ended.
    fn poll_move(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            while self.sent < self.filled {
                let rest = &self.bytes[self.sent..self.filled];
                match ready!(Pin::new(&mut *to).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    n => self.sent += n,
                }
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            let n = ready!(Pin::new(&mut *from).poll_read(cx, &mut self.bytes))?;
            (self.filled, self.sent) = (n, 0);
            if n == 0 {
                self.ended = true;
                ready!(Pin::new(&mut *to).poll_close(cx))?;
            }
        }
    }
}

/// Serves one connection until both directions have ended, or one of them is broken.
async fn relay(mut down: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    let mut up = TcpStream::connect(upstream).await?;
    down.set_nodelay(true)?;
    up.set_nodelay(true)?;
    let (mut request, mut response) = (Flow::new(), Flow::new());
    poll_fn(|cx| {
        let there = request.poll_move(&mut down, &mut up, cx)?;
        let back = response.poll_move(&mut up, &mut down, cx)?;
        if there.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

async fn serve(listen: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    loop {
        match listener.accept().await {
            Ok(down) => {
                glommio::spawn_local(async move {
                    // A broken connection is its peer's affair; the load generator counts it.
                    let _ended = relay(down, upstream).await;
                })
                .detach();
            }
            Err(error) => eprintln!("glommio-relay: accept: {error}"),
        }
    }
}

fn run() -> Result<(), String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream] = &words[..] else {
        return Err("usage: glommio-relay LISTEN UPSTREAM".to_owned());
    };
    let address = |text: &str| text.parse::<SocketAddr>().map_err(|e| format!("{text:?}: {e}"));
    let (listen, upstream) = (address(listen)?, address(upstream)?);
    LocalExecutorBuilder::new(Placement::Unbound)
        .name("relay")
        .make()
        .map_err(|e| format!("no executor: {e}"))?
        .run(serve(listen, upstream))
        .map_err(|e| e.to_string())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("glommio-relay: {why}");
            ExitCode::FAILURE
        }
    }
}
