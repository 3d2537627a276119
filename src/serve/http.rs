//! Connections: taken, bounded, timed, and ended.
//!
//! There are never more than `max_connections`. One more takes the place of one that has shown no
//! token yet: the oldest of the address that has most of them. So thousands of slow connections
//! only push out each other, and a client that sends its request at once is served. Only where
//! all have shown a token and are being answered does a new one have to go.

use super::TlsConfig;
use crate::decode::addr;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto::ring};
use tower::ServiceExt;

/// How long requests that are being answered may go on when the server ends.
const GRACE: Duration = Duration::from_secs(5);
/// Bytes of a request's head, and of what is read ahead.
const HEAD_MAX: usize = 16 << 10;
/// Header lines of a request.
const HEADERS_MAX: usize = 64;
/// How long a handshake, and the head of a first request, may take at most.
const SLOW_MAX: Duration = Duration::from_secs(15);

/// What is needed to take connections.
#[expect(missing_debug_implementations, reason = "TLS cannot be shown")]
pub struct Listening {
    /// Where they come in.
    pub listener: std::net::TcpListener,
    /// How to speak TLS, if so.
    pub tls: Option<TlsAcceptor>,
    /// Who answers.
    pub app: Router,
    /// How many there may be.
    pub max_connections: usize,
    /// How long a part of a request, or of its answer, may take.
    pub timeout: Duration,
    /// Says when to end.
    pub stopped: watch::Receiver<bool>,
}

/// What is known of a connection.
#[derive(Default)]
pub struct Connection {
    proven: AtomicBool,
    busy: AtomicUsize,
    /// Something is to be sent that cannot leave.
    stuck: AtomicBool,
    /// It was reset.
    broken: AtomicBool,
    receipts: Mutex<Vec<Receipt>>,
}

/// What is done once an answer was read.
type Receipt = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("rank", &self.rank()).finish_non_exhaustive()
    }
}

/// A request is being answered.
#[derive(Debug)]
pub struct Busy<'c>(&'c Connection);

impl Connection {
    /// A token was shown that is known.
    pub fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// A request of it is being answered until the result is dropped.
    pub fn busy(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self)
    }

    /// Has `then` called once the answer that is being given was read, as far as a server can know
    /// that: another request came on the connection, or it ended, with all sent and not by a
    /// reset. If it breaks off, never.
    pub fn when_read(&self, then: impl FnOnce() + Send + 'static) {
        self.receipts().push(Box::new(then));
    }

    /// All answers that were given on it were read.
    pub fn was_read(&self) {
        let receipts = std::mem::take(&mut *self.receipts());
        receipts.into_iter().for_each(|then| then());
    }

    fn receipts(&self) -> MutexGuard<'_, Vec<Receipt>> {
        self.receipts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How dearly it is kept: not at all, if it waits, or while it is answered.
    fn rank(&self) -> u8 {
        match (self.proven.load(Ordering::Relaxed), self.busy.load(Ordering::Relaxed)) {
            (false, _) => 0,
            (true, 0) => 1,
            (true, _) => 2,
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Entry {
    /// Whoever has one address of IPv6 has all of its /64.
    net: IpNet,
    connection: Arc<Connection>,
    task: AbortHandle,
}

/// The connections that are open, by their numbers.
#[derive(Debug, Default)]
struct Open {
    next: u64,
    entries: HashMap<u64, Entry>,
}

impl Open {
    /// Which one has to go for a new one, if one can.
    fn victim(&self) -> Option<u64> {
        let rank = self.entries.values().map(|entry| entry.connection.rank()).min()?;
        if rank == 2 {
            return None;
        }
        let lowest = || self.entries.iter().filter(|(_, entry)| entry.connection.rank() == rank);
        let mut by_net: HashMap<IpNet, usize> = HashMap::new();
        lowest().for_each(|(_, entry)| *by_net.entry(entry.net).or_default() += 1);
        let most = by_net.values().max().copied()?;
        let of_most = |entry: &Entry| by_net.get(&entry.net) == Some(&most);
        lowest().filter(|(_, entry)| of_most(entry)).map(|(number, _)| *number).min()
    }

    /// Ends one for a new one; false if none can go.
    fn make_room(&mut self) -> bool {
        let victim = self.victim().and_then(|number| self.entries.remove(&number));
        victim.inspect(|entry| entry.task.abort()).is_some()
    }
}

type Shared = Arc<Mutex<Open>>;

fn lock(open: &Shared) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes an entry out when its task ends, however that happens.
struct Leaving(Shared, u64);

impl Drop for Leaving {
    fn drop(&mut self) {
        lock(&self.0).entries.remove(&self.1);
    }
}

/// Takes connections until it is told to end.
pub async fn accept(listening: Listening) {
    let Listening { listener, tls, app, max_connections, timeout, mut stopped } = listening;
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("`serve` has ended: {error}");
            return;
        }
    };
    let open = Shared::default();
    let serving = Serving { tls, app, timeout, stopped: stopped.clone() };
    while let Some(accepted) = or_stopped(&mut stopped, listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                let peer = SocketAddr::new(addr::canonical(peer.ip()), peer.port());
                let net = addr::target(peer.ip(), 64).1;
                let mut held = lock(&open);
                if held.entries.len() >= max_connections && !held.make_room() {
                    continue;
                }
                let number = held.next;
                held.next += 1;
                let connection = Arc::<Connection>::default();
                let leaving = Leaving(Arc::clone(&open), number);
                let task = serving.clone().serve(stream, peer, Arc::clone(&connection), leaving);
                let task = tokio::spawn(task).abort_handle();
                held.entries.insert(number, Entry { net, connection, task });
            }
            // One that went away before it was taken is its own affair. Otherwise the process has
            // no descriptor left: one is given back, and time to close it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => {
                lock(&open).make_room();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    drop(listener);
    let over = async {
        while !lock(&open).entries.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(GRACE, over).await.is_err() {
        let left = lock(&open).entries.len();
        tracing::warn!("`serve` ends although {left} connections are still being answered");
    }
}

/// What comes of `future`, or nothing once it is time to end.
async fn or_stopped<F: Future>(
    stopped: &mut watch::Receiver<bool>,
    future: F,
) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut end = pin!(stopped.wait_for(|stop| *stop));
    poll_fn(|context| {
        if end.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(context).map(Some)
    })
    .await
}

#[derive(Clone)]
struct Serving {
    tls: Option<TlsAcceptor>,
    app: Router,
    timeout: Duration,
    stopped: watch::Receiver<bool>,
}

impl Serving {
    async fn serve(
        self,
        stream: tokio::net::TcpStream,
        peer: SocketAddr,
        connection: Arc<Connection>,
        leaving: Leaving,
    ) {
        let _leaving = leaving;
        // An answer is one write: nothing is gained by waiting for more.
        let _refused = stream.set_nodelay(true);
        let (timeout, own) = (self.timeout, Arc::clone(&connection));
        let stream = Timed { inner: stream, timeout, waiting: None, connection: own };
        match &self.tls {
            None => self.speak(stream, peer, connection).await,
            Some(tls) => {
                let slow = self.timeout.min(SLOW_MAX);
                // Whoever cannot do it is told by TLS itself.
                if let Ok(Ok(stream)) = tokio::time::timeout(slow, tls.accept(stream)).await {
                    self.speak(stream, peer, connection).await;
                }
            }
        }
    }

    async fn speak<S>(&self, stream: S, peer: SocketAddr, connection: Arc<Connection>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let service = service_fn(|mut request: Request<Incoming>| {
            connection.was_read();
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(Arc::clone(&connection));
            let app = self.app.clone();
            async move {
                let answer: Result<Response<Body>, Infallible> = app.oneshot(request).await;
                answer
            }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.timeout)
            .max_buf_size(HEAD_MAX)
            .max_headers(HEADERS_MAX);
        let mut spoken = pin!(http.serve_connection(TokioIo::new(stream), service));
        let mut stopped = self.stopped.clone();
        let ended = match or_stopped(&mut stopped, spoken.as_mut()).await {
            Some(ended) => ended,
            None => {
                spoken.as_mut().graceful_shutdown();
                spoken.await
            }
        };
        // What breaks off here is the client's affair. One that only asks nothing more has read what it was sent.
        let ended = ended.map_or_else(|error| error.is_timeout(), |()| true);
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if ended && !is(&connection.stuck) && !is(&connection.broken) {
            connection.was_read();
        }
    }
}

/// A stream on which nobody may take his time to read what he has asked for.
struct Timed<S> {
    inner: S,
    timeout: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    connection: Arc<Connection>,
}

impl<S> Timed<S> {
    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.connection.stuck.store(written.is_pending(), Ordering::Relaxed);
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let timeout = self.timeout;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if let Poll::Ready(Err(_)) = read {
            self.connection.broken.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.judge(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(context);
        self.judge(context, shut)
    }
}

/// How TLS is spoken.
///
/// # Errors
/// What is wrong with the certificate, the key or the authorities.
pub fn acceptor(config: &TlsConfig) -> Result<TlsAcceptor, String> {
    let certificates = certificates("cert", &config.cert)?;
    let of_key = |why: String| format!("`serve.tls.key` {}: {why}", config.key.display());
    let key = PrivateKeyDer::from_pem_file(&config.key)
        .map_err(|error| of_key(format!("no private key can be read from it: {error}")))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("`serve.tls`: {error}"))?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let of_ca = |why: String| format!("`serve.tls.client_ca` {}: {why}", path.display());
            let mut roots = RootCertStore::empty();
            for certificate in self::certificates("client_ca", path)? {
                roots.add(certificate).map_err(|error| of_ca(error.to_string()))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| of_ca(error.to_string()))?)
        }
    };
    let mut server = builder
        .with_single_cert(certificates, key)
        .map_err(|error| of_key(format!("it does not fit the certificate: {error}")))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |why: String| format!("`serve.tls.{key}` {}: {why}", path.display());
    let all = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| wrong(format!("no certificate can be read from it: {error}")))?;
    if all.is_empty() {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ip: &str, proven: bool, busy: usize) -> Entry {
        let connection =
            Connection { proven: proven.into(), busy: busy.into(), ..Connection::default() };
        let task = tokio::spawn(std::future::pending::<()>()).abort_handle();
        let connection = Arc::new(connection);
        Entry { net: addr::target(ip.parse().unwrap(), 64).1, connection, task }
    }

    fn victim(entries: &[(&str, bool, usize)]) -> Option<u64> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let entries = entries.iter().map(|(ip, proven, busy)| entry(ip, *proven, *busy));
            Open { next: 0, entries: (0..).zip(entries).collect() }.victim()
        })
    }

    #[test]
    fn who_has_shown_a_token_stays_and_who_has_most_goes_first() {
        let (a, b) = ("203.0.113.7", "203.0.113.8");
        assert_eq!(victim(&[]), None);
        assert_eq!(victim(&[(a, true, 0), (b, false, 0)]), Some(1));
        // The oldest of the address with most.
        assert_eq!(victim(&[(a, false, 0), (b, false, 0), (b, false, 0)]), Some(1));
        let (c, d) = ("2001:db8:1:2::1", "2001:db8:1:2::2");
        assert_eq!(victim(&[(a, false, 0), (c, false, 0), (d, false, 0)]), Some(1));
        assert_eq!(victim(&[(b, false, 0), (a, false, 0)]), Some(0));
        assert_eq!(victim(&[(a, true, 1), (b, true, 0)]), Some(1));
        assert_eq!(victim(&[(a, true, 1), (b, true, 2)]), None);
    }
}
